"""A conversation in the terminal, with a tiny real model: through pipes, and on a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bethink.chat.toggle import Mode, ThinkFormat
from bethink.core.errors import EndpointError
from bethink.engine.dialogue import Dialogue, open_dialogue
from bethink.serve.terminal import Chat, ChatOptions


@pytest.fixture(scope="module")
def dialogue(tiny_model_dir: Path) -> Dialogue:
    # A random model does not think by itself: the prompt opens the block, the budget closes it.
    think = ThinkFormat(prefilled=True)
    return open_dialogue(str(tiny_model_dir), slots=1, dtype="float32", device="cpu", think=think)


def talk(dialogue: Dialogue, lines: str, **options: object) -> tuple[Chat, str, str]:
    """The conversation afterwards, its stdout and its stderr."""
    out, err = io.StringIO(), io.StringIO()
    settings = ChatOptions(max_tokens=24, max_thinking_tokens=6, seed=1, temperature=1.0, **options)  # type: ignore[arg-type]
    chat = Chat(dialogue, settings, stdin=io.StringIO(lines), stdout=out, stderr=err)
    chat.run()
    return chat, out.getvalue(), err.getvalue()


def test_answers_go_to_stdout_and_thinking_to_stderr(dialogue: Dialogue) -> None:
    chat, out, err = talk(dialogue, "What is 17 plus 25?\n")
    (asked, answered) = chat.turns
    assert asked == {"role": "user", "content": "What is 17 plus 25?"}
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", answered["content"])
    assert out.strip() == clean.strip() != ""
    assert re.search(
        r"\[\d+ thinking \+ \d+ answer tokens, [\d.]+ s, \d+ tokens/s, cut off at the token limit\]", err
    )
    assert "<think>" not in out + err


def test_the_same_seed_gives_the_same_conversation(dialogue: Dialogue) -> None:
    lines = "Hello\nAnd then?\n"
    assert talk(dialogue, lines)[1] == talk(dialogue, lines)[1]
    assert talk(dialogue, lines)[0].turns[2]["content"] == "And then?"


def test_the_toggle_holds_from_then_on_or_for_one_message(dialogue: Dialogue) -> None:
    thinking = "thinking + "
    assert talk(dialogue, "/no_think\nHello\n", mode=Mode.ON)[2].count(thinking) == 0
    assert talk(dialogue, "/think\nHello\nAgain\n", mode=Mode.OFF)[2].count(thinking) == 2
    chat, _, err = talk(dialogue, "Hello /think\nAgain\n", mode=Mode.OFF)
    assert err.count(thinking) == 1
    assert chat.turns[0]["content"] == "Hello"


def test_commands(dialogue: Dialogue) -> None:
    chat, out, err = talk(dialogue, "/help\n/system Be brief.\n/system\n/clera\n/exit\nNever said\n")
    assert out == ""
    assert "Be brief." in err
    assert "did you mean /clear?" in err
    assert chat.system == "Be brief."
    assert chat.turns == []
    chat, *_ = talk(dialogue, "Hello\n/clear\n")
    assert chat.turns == []


def test_the_system_prompt_is_asked_with(dialogue: Dialogue) -> None:
    assert (
        talk(dialogue, "Hello\n", system="Answer in one short sentence.")[1] != talk(dialogue, "Hello\n")[1]
    )


def test_an_error_ends_the_turn_and_not_the_conversation(dialogue: Dialogue) -> None:
    chat, _, err = talk(dialogue, "word " * 3000 + "\nHello\n")
    assert "error: the prompt has" in err
    assert chat.failures == 1
    assert err.count("tokens/s") == 1


def test_what_a_model_writes_cannot_drive_the_terminal(dialogue: Dialogue) -> None:
    """Random text is full of control characters."""
    _, out, err = talk(dialogue, "Hello\n" * 6)
    assert "\ufffd" in out + err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", out + err)


def test_a_dead_endpoint_is_one_line() -> None:
    with pytest.raises(EndpointError):
        open_dialogue(None, "http://127.0.0.1:9/v1")


def chat_command(model: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bethink.cli.main", "chat", "--model", str(model), *options]


def test_a_piped_conversation_leaves_the_answers_alone(tiny_model_dir: Path) -> None:
    command = chat_command(tiny_model_dir, "--max-tokens", "8", "--seed", "1")
    done = subprocess.run(
        command, input="Hello\n/no_think\nHello\n", capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "thinking off" in done.stderr
    assert "tokens/s" not in done.stdout


@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "POSIX"])
def test_bytes_that_are_no_text_cost_their_own_line_only(tiny_model_dir: Path, locale: str) -> None:
    done = subprocess.run(
        chat_command(tiny_model_dir, "--max-tokens", "4"),
        input=b"/no_think\nHello\n\xff\xfe there\nGr\xc3\xbc\xc3\x9fe\n",
        capture_output=True,
        env={**os.environ, "LC_ALL": locale},
        timeout=120,
    )
    said = done.stderr.decode()
    assert done.returncode == 1
    assert said.count("tokens/s]") + said.count("token limit]") + said.count("tokens/s,") >= 2
    assert said.count("is not UTF-8") == 1
    assert "Traceback" not in said


def test_ctrl_c_stops_the_answer_and_not_the_program(tiny_model_dir: Path) -> None:
    """On a real pseudo-terminal: a long answer is interrupted, the next one comes."""
    parent, child = pty.openpty()
    command = chat_command(tiny_model_dir, "--device", "cpu", "--max-tokens", "1900", "--temperature", "0")
    program = subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, start_new_session=True, preexec_fn=_own_terminal
    )
    os.close(child)
    seen = ""

    def wait_for(text: str) -> None:
        nonlocal seen
        deadline = time.monotonic() + 100
        while text not in seen and time.monotonic() < deadline:
            seen += os.read(parent, 4096).decode(errors="replace")
        assert text in seen, seen[-500:]

    try:
        wait_for("\x1b[1m>")
        seen = ""
        os.write(parent, b"Hello\r")
        wait_for("Hello")
        time.sleep(0.4)
        os.write(parent, b"\x03")
        wait_for("stopped]")
        seen = ""
        os.write(parent, b"/exit\r")
        assert program.wait(30) == 0
    finally:
        program.kill()
        os.close(parent)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
