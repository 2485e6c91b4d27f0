"""Learning from preferences as the training loop sees it: which pairs a step takes, their loss, and what is watched of them.

Leaves the losses to objective.py, packing and scores to scores.py, and everything that outlives a step to loop.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bethink.chat.toggle import Mode
from bethink.core.console import Progress, note
from bethink.core.seeds import derive_seed
from bethink.train.floor import StepFloor
from bethink.train.loop import Stateless
from bethink.train.prefer.choices import Objective
from bethink.train.prefer.objective import differences, pair_losses, score_gradient
from bethink.train.prefer.scores import Pair, ScoreBatch, Scorer, pair_batches, scores_of
from bethink.train.prefer.store import PairStore
from bethink.train.prefer.watch import Watch
from bethink.train.schedule import Schedule

_BLOCK_PAIRS = 64


@dataclass(frozen=True, slots=True)
class Order:
    """Which pairs a step takes: all of them once in an order of its own in every pass over the data, drawn by the seed."""

    schedule: Schedule
    seed: int

    def of(self, step: int) -> list[int]:
        """The pairs of step `step` (0-based)."""
        rows = self.schedule.rows
        places = range(step * self.schedule.batch_size, self.schedule.seen(step + 1))
        passes = {number: self._pass(number) for number in {place // rows for place in places}}
        return [int(passes[place // rows][place % rows]) for place in places]

    def used(self) -> list[int]:
        """The pairs that the whole run takes, in the order of the store."""
        if self.schedule.samples >= self.schedule.rows:
            return list(range(self.schedule.rows))
        return sorted(int(pair) for pair in self._pass(0)[: self.schedule.samples])

    def _pass(self, number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng(derive_seed(self.seed, "pass", number)).permutation(self.schedule.rows)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of some pairs beforehand: tokens of each completion, score before training (None: no reference), and the modes."""

    length_S: Tensor
    reference_S: Tensor | None
    on_P: Tensor

    @classmethod
    def of(cls, pairs: Sequence[Pair], reference_P2: Tensor | None) -> Facts:
        """reference_P2: of these pairs."""
        return cls(
            torch.tensor([float(len(sample.completion_ids)) for pair in pairs for sample in pair]),
            None if reference_P2 is None else reference_P2.flatten(),
            torch.tensor([chosen.mode is Mode.ON for chosen, _ in pairs]),
        )

    def to(self, device: torch.device) -> Facts:
        """The same on another device."""
        reference_S = None if self.reference_S is None else self.reference_S.to(device)
        return Facts(self.length_S.to(device), reference_S, self.on_P.to(device))


Batch = tuple[ScoreBatch, Facts]


class PreferMethod(Stateless):
    """A `loop.Method`.

    reference_P2, held_out_P2: the scores before training of all pairs and of those held out, None where there is no reference. capacity:
    tokens in a packed row; floor: what a step takes at least, or None where that is not known.
    """

    def __init__(
        self,
        scorer: Scorer,
        store: PairStore,
        held_out: PairStore,
        order: Order,
        objective: Objective,
        *,
        capacity: int,
        device: torch.device,
        watch: Watch | None = None,
        reference_P2: Tensor | None = None,
        held_out_P2: Tensor | None = None,
        floor: StepFloor | None = None,
    ) -> None:
        self.scorer, self.store, self.held_out, self.order = scorer, store, held_out, order
        self.objective, self.capacity, self.device, self.watch = objective, capacity, device, watch
        self.reference_P2, self.held_out_P2, self.floor = reference_P2, held_out_P2, floor
        self._pairs: list[Pair] = []

    def updates(self, step: int) -> Iterator[Sequence[Batch]]:
        """The step's pairs, packed: one update."""
        self.scorer.module.train()
        chosen = self.order.of(step)
        pairs = self._pairs = [self.store[i] for i in chosen]
        reference_P2 = None if self.reference_P2 is None else self.reference_P2[chosen]
        batches: list[Batch] = []
        for batch, held in pair_batches(self.scorer, pairs, self.capacity, self.device):
            of_held = None if reference_P2 is None else reference_P2[held]
            batches.append((batch, Facts.of([pairs[i] for i in held], of_held)))
        yield batches

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
        """The micro-batch's share of the mean over the step's pairs, and sums over its own."""
        scores, facts = batch[0].to(self.device), batch[1].to(self.device)

        def weigh(score_S: Tensor) -> Tensor:
            gradient_S = score_gradient(score_S, facts.length_S, facts.reference_S, self.objective)
            return gradient_S / len(self._pairs)

        loss, score_S = self.scorer.loss(scores, weigh)
        sums = (
            figures(score_S, facts, self.objective, by_token=self.scorer.by_token) if scores.counted else {}
        )
        return loss, {**sums, "tokens": scores.packed.tokens}

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """Means over the step's pairs, how far in the data the run is, and what the step takes at least."""
        seen = self.order.schedule.seen(step + 1)
        row = {
            **means(sums),
            "tokens": int(sums["tokens"]),
            "pairs": len(self._pairs),
            "samples": seen,
            "epoch": round(seen / self.order.schedule.pass_rows, 6),
        }
        if self.watch is not None:
            self.watch.see(step + 1, row)
        if self.floor is not None:
            groups = [
                (len(a.prompt_ids), [len(a.completion_ids), len(b.completion_ids)]) for a, b in self._pairs
            ]
            row["floor_seconds"] = self.floor.shared_seconds(groups)
        return row

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """What a person watches."""
        return {
            "loss": f"{row['loss']:.4f}",
            "accuracy": f"{row['accuracy']:.0%}",
            "margin": f"{row['margin']:.3f}",
        }

    def evaluate(self, step: int) -> dict[str, Any]:
        """The same figures on the held-out pairs, as eval_…."""
        if not len(self.held_out):
            return {}
        sums = self.held_out_sums()
        found = {f"eval_{name}": value for name, value in means(sums).items()}
        note(
            f"step {step}, held out: loss {found['eval_loss']:.4f}, accuracy {found['eval_accuracy']:.1%}, "
            f"margin {found['eval_margin']:.3f}"
        )
        return found

    def held_out_sums(self) -> Mapping[str, float]:
        """Sums over the held-out pairs."""
        self.scorer.module.eval()
        score_P2 = store_scores(self.scorer, self.held_out, self.capacity, self.device)
        sums: Counter[str] = Counter()
        for start in range(0, len(self.held_out), _BLOCK_PAIRS):
            part = range(start, min(start + _BLOCK_PAIRS, len(self.held_out)))
            reference_P2 = None if self.held_out_P2 is None else self.held_out_P2[part.start : part.stop]
            facts = Facts.of([self.held_out[i] for i in part], reference_P2)
            score_S = score_P2[part.start : part.stop].flatten()
            sums.update(figures(score_S, facts, self.objective, by_token=self.scorer.by_token))
        return sums


def store_scores(
    scorer: Scorer,
    store: PairStore,
    capacity: int,
    device: torch.device,
    chosen: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The scores of the pairs of a store [P, 2], without a gradient; where only some are `chosen`, NaN for the rest."""
    wanted = range(len(store)) if chosen is None else chosen
    found_P2 = torch.full((len(store), 2), float("nan"))
    scorer.module.eval()
    for start in range(0, len(wanted), _BLOCK_PAIRS):
        block = list(wanted[start : start + _BLOCK_PAIRS])
        found_P2[block] = scores_of(scorer, [store[i] for i in block], capacity, device)
        if progress is not None:
            progress.advance(len(block))
    return found_P2


def figures(score_S: Tensor, facts: Facts, objective: Objective, *, by_token: bool) -> dict[str, float]:
    """Sums over pairs, by mode: `on`, `off` pairs, and of each figure FIGURE_on and FIGURE_off.

    margin: beta times the difference of what the two completions gained; accuracy: 1 where it is above 0, a half where it is 0.
    chosen, rejected: the scores, of a token on average if `by_token`; chosen_change, rejected_change: by how much a token moved since
    before training.
    """
    difference_P = differences(score_S, facts.length_S, facts.reference_S, objective)
    shown_S = score_S / facts.length_S if by_token else score_S
    found = {
        "loss": pair_losses(score_S, facts.length_S, facts.reference_S, objective),
        "margin": objective.beta * difference_P,
        "accuracy": (difference_P.sign() + 1) / 2,
        "chosen": shown_S[0::2],
        "rejected": shown_S[1::2],
    }
    if facts.reference_S is not None:
        change_S = (score_S - facts.reference_S) / facts.length_S
        found |= {"chosen_change": change_S[0::2], "rejected_change": change_S[1::2]}
    sums = {}
    for name, of_mode_P in (("on", facts.on_P), ("off", ~facts.on_P)):
        sums[name] = float(of_mode_P.sum())
        sums |= {f"{figure}_{name}": float(value_P[of_mode_P].sum()) for figure, value_P in found.items()}
    return sums


def means(sums: Mapping[str, float]) -> dict[str, Any]:
    """Means over pairs from the sums of `figures`: of all, and of loss, margin and accuracy in each mode, None where there was no pair."""
    on, off = sums["on"], sums["off"]
    names = [name.removesuffix("_on") for name in sums if name.endswith("_on")]
    found: dict[str, Any] = {name: (sums[f"{name}_on"] + sums[f"{name}_off"]) / (on + off) for name in names}
    for name in ("loss", "margin", "accuracy"):
        found[f"{name}_on"] = sums[f"{name}_on"] / on if on else None
        found[f"{name}_off"] = sums[f"{name}_off"] / off if off else None
    return found
