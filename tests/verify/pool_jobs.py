"""Jobs that do what jobs should not."""

import os
import sys
import time


def double(number: int) -> int:
    return 2 * number


def slow_double(number: int) -> int:
    time.sleep(0.02 if number % 3 == 0 else 0)
    return 2 * number


def spin() -> None:
    while True:
        pass


def sleep() -> None:
    time.sleep(3600)


def big_power() -> int:
    return len(str(7 ** (10**9)))


def eat_memory() -> int:
    hoard = []
    while True:
        hoard.append(bytearray(200 * 2**20))


def leave(code: int) -> None:
    os._exit(code)


def abort() -> None:
    os.abort()


def fail() -> None:
    raise ValueError("as it should")


def recurse() -> int:
    return 1 + recurse()


def unsendable() -> object:
    return lambda: None


def chatter() -> str:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    return "done"


def imported_modules() -> list[str]:
    return sorted(sys.modules)


def sympified_while_scoring(text: str) -> str:
    import sympy

    from bethink.verify import gym_worker

    with gym_worker._tame_sympy():
        return str(sympy.sympify(text))


def evaluators_of_reasoning_gym() -> dict[str, dict[str, str]]:
    """Module of reasoning-gym → name in it → where that comes from, once the scorers are loaded."""
    import bethink.verify.gym_worker  # noqa: F401

    found = {}
    for name, module in sys.modules.items():
        if name.startswith("reasoning_gym."):
            names = dict(vars(module))
            for alias in {"sympy", "sp"} & names.keys():
                names.setdefault("parse_expr", names[alias].parse_expr)
            found[name.partition(".")[2]] = {
                key: getattr(value, "__module__", "") for key, value in names.items() if callable(value)
            }
    return found
