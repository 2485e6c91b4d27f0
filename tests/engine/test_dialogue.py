"""From messages to replies on a tiny model with a real tokenizer and template."""

from pathlib import Path

import pytest

from bethink.chat.parse import Status
from bethink.chat.render import Renderer
from bethink.chat.toggle import Mode, ThinkFormat
from bethink.core.errors import BethinkError, ConfigError
from bethink.engine.api import Completion, FinishReason
from bethink.engine.dialogue import LocalDialogue, Question, Reply, Sampling, default_sampling, open_dialogue


@pytest.fixture(scope="module")
def dialogue(tiny_model_dir: Path) -> LocalDialogue:
    opened = open_dialogue(str(tiny_model_dir), slots=4, dtype="float32", device="cpu")
    assert isinstance(opened, LocalDialogue)
    return opened


def question(id_: str, mode: Mode | None, **sampling: object) -> Question:
    return Question(
        id_,
        ({"role": "user", "content": f"What is {len(id_)} + 4?"},),
        mode,
        Sampling(**{"max_tokens": 40, **sampling}),
    )


def completed(dialogue: LocalDialogue, text: str, *, end: bool = True) -> Reply:
    tokenizer = dialogue.renderer.tokenizer
    ids = (*tokenizer.encode(text), *(tokenizer.stop_ids[:1] if end else ()))
    prompt = dialogue.renderer.prompt([{"role": "user", "content": "Hi"}], Mode.ON)
    return dialogue.reply(Completion("a", ids, (0.0,) * len(ids), FinishReason.STOP), prompt)


def test_a_reply_is_taken_apart_and_its_tokens_counted(dialogue) -> None:
    count = lambda text: len(dialogue.renderer.tokenizer.encode(text))  # noqa: E731
    thought, answer = "<think>\n3 + 4 = 7\n</think>", "\n\nThe final answer is 7."
    reply = completed(dialogue, thought + answer)
    assert reply.text == thought + answer
    assert reply.parsed.thinking == "3 + 4 = 7"
    assert reply.parsed.answer == "The final answer is 7."
    assert reply.thinking_tokens == count(thought)
    assert reply.thinking_tokens + reply.answer_tokens == len(reply.token_ids) - 1

    plain = completed(dialogue, "7")
    assert (plain.parsed.status, plain.thinking_tokens, plain.answer_tokens) == (Status.ABSENT, 0, count("7"))

    cut = completed(dialogue, "<think>\n3 + 4", end=False)
    assert (cut.parsed.status, cut.parsed.answer) == (Status.UNCLOSED, "")
    assert (cut.thinking_tokens, cut.answer_tokens) == (count("<think>\n3 + 4"), 0)


def test_streamed_pieces_are_the_replys_parts(dialogue) -> None:
    questions = [
        question(f"{mode}{n}", mode, temperature=1.0, seed=n) for mode in (Mode.ON, None) for n in range(3)
    ]
    heard = {q.id: {"thinking": "", "answer": ""} for q in questions}

    def hear(id_: str, piece) -> None:
        heard[id_][piece.kind] += piece.text

    replies = list(dialogue.answer(questions, on_text=hear))
    assert sorted(reply.id for reply in replies) == sorted(q.id for q in questions)
    for reply in replies:
        assert heard[reply.id]["answer"].strip() == reply.parsed.answer.strip()
        assert heard[reply.id]["thinking"].strip() == (reply.parsed.thinking or "")


def test_the_prompt_carries_the_toggle_and_is_reported(dialogue) -> None:
    for mode in Mode:
        (reply,) = dialogue.answer([question("a", mode)])
        assert f"detailed thinking {mode}" in reply.prompt
        assert reply.prompt_tokens == len(dialogue.renderer.tokenizer.encode(reply.prompt))
    (bare,) = dialogue.answer([question("a", None)])
    assert "detailed thinking" not in bare.prompt


def test_text_ends_before_a_stop_string(dialogue) -> None:
    (free,) = dialogue.answer([question("a", None, temperature=1.0)])
    stop = free.text[10:13]
    (stopped,) = dialogue.answer([question("a", None, temperature=1.0, stop=(stop,))])
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason is FinishReason.STOP


def test_a_thinking_budget_does_not_touch_replies_without_thinking(dialogue) -> None:
    for mode in (Mode.OFF, Mode.ON):
        (free,) = dialogue.answer([question("a", mode)])
        (kept,) = dialogue.answer([question("a", mode, max_thinking_tokens=3)])
        assert kept.token_ids == free.token_ids


def test_a_block_the_prompt_opened_is_closed_at_the_budget(dialogue) -> None:
    opening = Renderer(dialogue.renderer.tokenizer, think=ThinkFormat(prefilled=True))
    opened = LocalDialogue(dialogue.engine, opening)
    (reply,) = opened.answer([question("a", Mode.ON, max_tokens=60, max_thinking_tokens=5, temperature=1.0)])
    assert reply.opened
    assert reply.parsed.status is Status.CLOSED
    assert reply.thinking_tokens <= 5 + len(opening.close_ids)
    assert reply.answer_tokens > 0


def test_samples_of_one_question_differ_by_seed_alone(dialogue) -> None:
    questions = [question("abc"[n], Mode.ON, temperature=1.0, seed=n) for n in range(3)]
    first = {reply.id: reply.token_ids for reply in dialogue.answer(questions)}
    assert {reply.id: reply.token_ids for reply in dialogue.answer(questions)} == first
    assert len(set(first.values())) == 3


def test_the_recipes_sampling_defaults() -> None:
    on, off = (default_sampling(mode, max_tokens=100, seed=3) for mode in Mode)
    assert (on.temperature, on.top_p, on.seed) == (0.6, 0.95, 3)
    assert off.temperature == default_sampling(None, max_tokens=1).temperature == 0.0


def test_faults_are_said_before_any_work(dialogue, tiny_model_dir, tmp_path) -> None:
    with pytest.raises(ConfigError, match="unknown number format"):
        open_dialogue(str(tiny_model_dir), dtype="float33")
    with pytest.raises(BethinkError):
        open_dialogue(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="positions"):
        long = Question("a", ({"role": "user", "content": "word " * 3000},), None, Sampling(max_tokens=5))
        list(dialogue.answer([long]))
