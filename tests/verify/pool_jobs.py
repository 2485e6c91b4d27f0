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
