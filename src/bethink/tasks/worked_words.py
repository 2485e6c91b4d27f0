"""Step-by-step solutions of reasoning-gym's problems about letters, words and lists; same form as `worked_numbers`."""

from __future__ import annotations

from typing import Any

from bethink.tasks.worked_numbers import Working


def letter_counting(item: dict[str, Any]) -> Working | None:
    """Word by word, spelled out, with a running count."""
    letter, total, lines = item["target_letter"], 0, []
    for word in item["span"]:
        found = word.lower().count(letter)
        lines.append(f"{' '.join(word.lower())}: {total} + {found} = {total + found}")
        total += found
    return lines, str(total)


def spell_backward(item: dict[str, Any]) -> Working | None:
    """The letters apart, then from the last to the first."""
    word = item["word"]
    return [
        f"The letters: {' '.join(word)}",
        f"From the last to the first: {' '.join(reversed(word))}",
    ], word[::-1]


def word_sequence_reversal(item: dict[str, Any]) -> Working | None:
    """The words numbered, then from the last to the first."""
    words = item["words"]
    lines = [f"{place}. {word}" for place, word in enumerate(words, 1)]
    return [*lines, f"There are {len(words)} words; from the last to the first:"], ", ".join(reversed(words))


def leg_counting(item: dict[str, Any]) -> Working | None:
    """Legs of each kind of animal, with a running total."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total, lines = 0, []
    for animal, count in item["animals"].items():
        legs = count * ANIMALS[animal]
        lines.append(
            f"{animal}: {count} * {ANIMALS[animal]} = {legs}, together {total} + {legs} = {total + legs}"
        )
        total += legs
    return lines, str(total)


def number_sorting(item: dict[str, Any]) -> Working | None:
    """Selection: the next in order out of what is left, again and again."""
    left = [str(float(number)) for number in item["original_numbers"]]
    which, pick = ("smallest", min) if item["direction"] == "ascending" else ("largest", max)
    ordered, lines = [], []
    while left:
        chosen = pick(left, key=float)
        lines.append(f"Of {', '.join(left)} the {which} is {chosen}")
        left.remove(chosen)
        ordered.append(chosen)
    return lines, str(ordered)


def number_filtering(item: dict[str, Any]) -> Working | None:
    """Each number compared with the limit, and kept or not."""
    action, _, side = item["operation"].partition("_")
    limit, kept, lines = item["filter_value"], [], []
    for number in item["original_numbers"]:
        a, b = float(number), float(limit)
        relation = "larger than" if a > b else "smaller than" if a < b else "equal to"
        keep = relation.startswith(side) == (action == "keep")
        lines.append(f"{number} is {relation} {limit}: {'keep' if keep else 'remove'}")
        kept += [number] if keep else []
    return lines, str(kept)
