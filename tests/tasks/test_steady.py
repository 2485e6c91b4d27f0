"""Work in a process of its own: what comes back, what goes wrong, and what is left behind."""

import os
import signal
import threading

import pytest

from bethink.core.errors import ConfigError, DataError
from bethink.tasks import steady


def identity():
    return os.getpid()


def salted(text):
    print("noise")
    return hash(text)


def refuse():
    raise ConfigError("not like this", where="here", fix="like that")


def fail():
    raise KeyError("inner")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_process_with_fixed_hashes_serves_all_calls(capfd):
    assert steady.call(identity) == steady.call(identity) != os.getpid()
    assert steady.call(salted, "text") == steady.call(salted, text="text")
    found = []
    threads = [threading.Thread(target=lambda: found.append(steady.call(identity))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {steady.call(identity)}
    assert "noise" not in capfd.readouterr().out


def test_errors_come_back_as_they_are():
    with pytest.raises(ConfigError, match="not like this") as caught:
        steady.call(refuse)
    assert (caught.value.where, caught.value.fix) == ("here", "like that")
    with pytest.raises(RuntimeError, match="KeyError: 'inner'"):
        steady.call(fail)


def test_a_process_that_dies_is_said_and_replaced():
    before = steady.call(identity)
    with pytest.raises(DataError, match="exit status -9"):
        steady.call(die)
    assert steady.call(identity) != before


def test_a_fork_has_a_process_of_its_own():
    parents = steady.call(identity)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(steady.call(identity)).encode())
        steady._end()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 20)) != parents
    assert steady.call(identity) == parents
