"""Small rows in the Llama-Nemotron format with one labelled defect each, for tests: deterministic, a few hundred bytes a row.

`DEFECTS` says for each defect by which reason the pipeline must drop such a row.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_SUBJECTS = ("The farmer", "A young clerk", "My neighbour", "The old captain", "Our teacher", "The baker")
_DEEDS = (
    "counts the boxes",
    "carries the water",
    "sells the bread",
    "measures the field",
    "packs the apples",
)
_TIMES = ("in the morning", "before lunch", "after the rain", "once every week", "until the evening")
_GERMAN = "Zuerst zählen wir die Kisten im Lager und danach prüfen wir noch einmal, ob die Rechnung wirklich stimmt."
_RUSSIAN = (
    "Сначала нужно посчитать все ящики на складе, а затем ещё раз проверить, что решение действительно верно."
)

Spoil = Callable[[Row, random.Random], Row | bytes]


def _set(**values: Any) -> Spoil:
    return lambda row, _: {**row, **values}


def _without(*names: str) -> Spoil:
    return lambda row, _: {name: value for name, value in row.items() if name not in names}


def _output(change: Callable[[str], str]) -> Spoil:
    return lambda row, _: {**row, "output": change(row["output"])}


def _bytes(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda row, _: change(json.dumps(row).encode())


def _asked_in(text: str) -> Spoil:
    return lambda row, _: {**row, "input": [{"role": "user", "content": text}]}


DEFECTS: dict[str, tuple[str, str, Spoil]] = {
    # name: (what the row must be before: on | off | any, the reason it is dropped for, what is done to it)
    "truncated": ("any", "bad_json", _bytes(lambda line: line[: len(line) // 2])),
    "not json": ("any", "bad_json", _bytes(lambda _: b"<<<<<<< HEAD")),
    "deep": ("any", "bad_json", _bytes(lambda _: b'{"input":' + b"[" * 100_000)),
    "endless number": ("any", "bad_json", _bytes(lambda _: b'{"input":' + b"9" * 5000 + b"}")),
    "blank": ("any", "blank_line", _bytes(lambda _: b"   ")),
    "broken utf8": ("any", "bad_utf8", _bytes(lambda line: line[:60] + b"\xff\xfe" + line[60:])),
    "half a surrogate": ("any", "bad_utf8", _set(output="half of a pair: \ud83d")),
    "half a surrogate in a tag": ("any", "bad_utf8", _set(used_in_training=["Nano", "\ud83d"])),
    "half a surrogate in a label": ("any", "bad_utf8", _set(license="\ud83d")),
    "array": ("any", "not_an_object", _bytes(lambda line: b"[" + line + b"]")),
    "string": ("any", "not_an_object", _bytes(lambda _: b'"a row"')),
    "no output": ("any", "missing_field", _without("output")),
    "no reasoning": ("any", "missing_field", _without("reasoning")),
    "message without content": ("any", "missing_field", _set(input=[{"role": "user"}])),
    "null output": ("any", "null_field", _set(output=None)),
    "null input": ("any", "null_field", _set(input=None)),
    "input a number": ("any", "wrong_type", _set(input=7)),
    "output a list": ("any", "wrong_type", _set(output=["a", "b"])),
    "reasoning maybe": ("any", "wrong_type", _set(reasoning="maybe")),
    "message a string": ("any", "wrong_type", _set(input=["hello"])),
    "unknown role": ("any", "wrong_type", _set(input=[{"role": "wizard", "content": "hello"}])),
    "category an object": ("any", "wrong_type", _set(category={"a": 1})),
    "no messages": ("any", "empty_input", _set(input=[])),
    "blank question": ("any", "empty_input", _asked_in(" \n ")),
    "nothing but a toggle asked": ("off", "empty_input", _asked_in("/no_think")),
    "other model": ("any", "trained_by", _set(used_in_training=["Super", "Ultra"])),
    "no model": ("any", "trained_by", _set(used_in_training=[])),
    "other mode said": ("on", "mode_mismatch", _set(system_prompt="detailed thinking off")),
    "slash says off": ("on", "mode_mismatch", _asked_in("How many boxes are there in all? /no_think")),
    "tag with off": ("off", "think_pair", _output(lambda text: f"<think>\nyes\n</think>\n\n{text}")),
    "no tags with on": ("on", "think_pair", _output(lambda text: text.partition("</think>\n\n")[2])),
    "unclosed": ("on", "think_pair", _output(lambda text: text.partition("</think>")[0])),
    "two pairs": ("on", "think_pair", _output(lambda text: text + "<think>again</think>")),
    "tags crossed": ("on", "think_pair", _output(lambda text: "</think>" + text.replace("</think>", ""))),
    "empty block": ("on", "empty_thinking", _output(lambda text: "<think></think>" + _answer(text))),
    "blank block": (
        "on",
        "empty_thinking",
        _output(lambda text: "<think> \n\n\n </think>\n" + _answer(text)),
    ),
    "no box": ("off", "boxed", _output(lambda text: text.replace("\\boxed", ""))),
    "empty box": ("off", "boxed", _output(lambda _: "The final answer of the count is \\boxed{ }.")),
    "open box": ("off", "boxed", _output(lambda _: "The final answer of the count is \\boxed{12.")),
    "box in the thinking": (
        "on",
        "boxed",
        _output(
            lambda text: text.replace("</think>", "\\boxed{1}</think>").replace(
                "answer is \\boxed", "answer is "
            )
        ),
    ),
    "box before the thinking": (
        "on",
        "boxed",
        _output(lambda text: "So \\boxed{5} it is. " + text.replace("answer is \\boxed", "answer is ")),
    ),
    "no answer": ("on", "boxed", _output(lambda text: text.partition("</think>")[0] + "</think>\n \n")),
    "no chat answer": (
        "chat on",
        "empty_answer",
        _output(lambda text: text.partition("</think>")[0] + "</think>\n \n"),
    ),
    "answer before the thinking": (
        "chat on",
        "empty_answer",
        _output(lambda text: "It is \\boxed{5}. " + text.partition("</think>")[0] + "</think>\n \n"),
    ),
    "german question": ("any", "language", _asked_in(_GERMAN)),
    "russian output": ("off", "language", _output(lambda text: f"{_RUSSIAN} {_RUSSIAN} {text}")),
    "control token": ("off", "template", _output(lambda text: "So it is.<|im_end|>\n" + text)),
    "control token asked": ("any", "template", _asked_in("What does <|im_end|> mean in a chat template?")),
    "too long": (
        "off",
        "max_completion_tokens",
        _output(lambda text: "All the boxes are full. " * 300 + text),
    ),
    "long word": ("off", "max_completion_tokens", _output(lambda text: f"{text} {'ha' * 10_000}")),
    "long question": ("any", "max_tokens", _asked_in("How many boxes are there in all? " * 6000)),
}


def _answer(text: str) -> str:
    return text.partition("</think>\n\n")[2]


def row(number: int, kind: str = "any", seed: int = 0) -> Row:
    """A row without fault. kind: "on", "off", "chat on" or "any"."""
    draw = random.Random(f"{seed}/{number}")
    mode = {"on": "on", "off": "off", "chat on": "on"}.get(kind) or draw.choice(["on", "off"])
    a, b = draw.randint(2, 99), draw.randint(2, 99)
    sentences = [
        f"{draw.choice(_SUBJECTS)} {draw.choice(_DEEDS)} {draw.choice(_TIMES)}."
        for _ in range(draw.randint(1, 9))
    ]
    question = f"Row {number}: there are {a} red boxes and {b} blue boxes. How many boxes are there in all?"
    answer = f"There are {a} red ones and {b} blue ones. The final answer is \\boxed{{{a + b}}}."
    thinking = f"First I look at the boxes. {' '.join(sentences)} So I add {a} and {b}, which gives {a + b}."
    return {
        "input": [{"role": "user", "content": question}],
        "output": f"<think>\n{thinking}\n</think>\n\n{answer}"
        if mode == "on"
        else answer + " " + sentences[0],
        "reasoning": mode,
        "system_prompt": f"detailed thinking {mode}",
        "category": "chat" if kind == "chat on" else "math",
        "license": "cc-by-4.0",
        "generator": "by hand",
        "used_in_training": draw.choice([["Ultra", "Nano"], ["Nano"], "['Super', 'Nano']", "Nano"]),
        "version": "v1.1",
        "rating": draw.randint(1, 50) / 10,
    }


def make_rows(count: int, *, defective: float = 0.4, seed: int = 0) -> list[tuple[bytes, str]]:
    """`count` lines, each with its label: "clean", "duplicate" or a name in DEFECTS. Every defect occurs if there is room."""
    draw = random.Random(seed)
    names = list(DEFECTS)
    lines: list[tuple[bytes, str]] = []
    repeatable: list[bytes] = []
    for number in range(count):
        if repeatable and draw.random() < 0.04:
            lines.append((draw.choice(repeatable), "duplicate"))
            continue
        label = draw.choice(names) if draw.random() < defective else "clean"
        kind, reason, spoil = DEFECTS.get(label, ("any", "", _set()))
        spoiled = spoil(row(number, kind, seed), draw)
        line = spoiled if isinstance(spoiled, bytes) else json.dumps(spoiled).encode()
        if label == "clean" or reason in {"template", "max_tokens", "max_completion_tokens"}:
            repeatable.append(line)
        lines.append((line, label))
    return lines


def write_rows(
    directory: Path, count: int, *, defective: float = 0.4, seed: int = 0, files: int = 2
) -> dict[str, str]:
    """Write `count` rows to directory/part-K.jsonl; returns the label of each by its source, "part-K.jsonl:LINE"."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = make_rows(count, defective=defective, seed=seed)
    labels: dict[str, str] = {}
    size = -(-count // files)
    for part in range(files):
        name = f"part-{part}.jsonl"
        own = lines[part * size : (part + 1) * size]
        (directory / name).write_bytes(b"".join(line + b"\n" for line, _ in own))
        labels |= {f"{name}:{number}": label for number, (_, label) in enumerate(own, 1)}
    return labels


def expected_reason(label: str) -> str | None:
    """The reason a row with this label is dropped for; None when it is kept."""
    if label == "clean":
        return None
    return "duplicate" if label == "duplicate" else DEFECTS[label][1]
