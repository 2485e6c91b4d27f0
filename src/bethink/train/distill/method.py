"""Distillation as the training loop sees it: which samples a step takes, and how far the student is from the teacher on them.

The algorithm, in the order of `updates`: take the step's rows and prompts, let the student complete the prompts, pack both together, and give
the micro-batches to the loop. The loss of each asks the teacher (teacher.py), or what it said before (store.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.console import note, warn
from bethink.train.batch import PackedBatch, packed_batches
from bethink.train.distill.loss import UNHEARD, Compared, Objective, compare
from bethink.train.distill.mixture import Mixture
from bethink.train.distill.own import Completed, Student
from bethink.train.distill.store import learned_starts
from bethink.train.distill.teacher import Told
from bethink.train.loop import Stateless
from bethink.train.sft.samples import SamplePair
from bethink.train.token_store import Sample, TokenStore

FloorSeconds = Callable[[list[int], int], float]
"""(tokens of each sample, how many of all are learned) → the least seconds that learning from them takes."""

_MANY_CUT, _MANY_UNHEARD = 0.5, 0.01


@dataclass(frozen=True, slots=True)
class DistillBatch:
    """A micro-batch. place_N: where each learned token stands among those of all rows, -1 for the student's own."""

    packed: PackedBatch
    place_N: Tensor

    def to(self, device: torch.device) -> DistillBatch:
        """The same on another device."""
        return DistillBatch(self.packed.to(device), self.place_N.to(device))


class Lessons:
    """A teacher, and the rows it is asked about; without a store only of what the student writes."""

    def __init__(self, teacher: Told, store: TokenStore | None = None) -> None:
        self.teacher, self.store = teacher, store
        self._starts = learned_starts(store) if store is not None else np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.store) if self.store is not None else 0

    def rows(self, chosen: Sequence[int]) -> list[Sample]:
        """These rows as samples."""
        return [self.store[row] for row in chosen] if self.store is not None else []

    def batches(self, chosen: Sequence[int], own: Sequence[Sample], capacity: int) -> list[DistillBatch]:
        """These rows and the student's own samples, packed together."""
        samples = [*self.rows(chosen), *own]
        of_rows = [np.arange(self._starts[row], self._starts[row + 1]) for row in chosen]
        of_own = [np.full(len(sample.completion_ids), -1) for sample in own]
        place_M = np.concatenate([*of_rows, *of_own]) if samples else np.zeros(0, np.int64)
        return [
            DistillBatch(batch, torch.from_numpy(place_M[batch.source_N.numpy()]))
            for batch in packed_batches(samples, capacity)
        ]


class DistillMethod(Stateless):
    """A `loop.Method`.

    lessons, held_out: what is learned from, and what is only looked at. student: completes prompts, where the mixture has any. capacity:
    tokens in a packed row; mode_seeking: whether the divergence weighs tokens by the student's probability for them (reverse and jsd); samples:
    the pair of outputs shown at each evaluation, or None; floor: what a step's learning takes at least, or None where the device's speed is
    not known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        mixture: Mixture,
        lessons: Lessons,
        held_out: Lessons,
        objective: Objective,
        *,
        student: Student | None,
        capacity: int,
        device: torch.device,
        mode_seeking: bool = False,
        samples: SamplePair | None = None,
        floor: FloorSeconds | None = None,
    ) -> None:
        self.model, self.mixture, self.objective = model, mixture, objective
        self.lessons, self.held_out, self.student = lessons, held_out, student
        self.capacity, self.device, self.samples, self.floor = capacity, device, samples, floor
        self.mode_seeking = mode_seeking
        self._completed = Completed([], 0)
        self._lengths: list[int] = []
        self._learned = 1
        self._sampling_floor = 0.0

    def updates(self, step: int) -> Iterator[Sequence[DistillBatch]]:
        """The step's rows and the student's completions, packed: one update."""
        draw = self.mixture.of(step)
        self._completed, self._sampling_floor = Completed([], 0), 0.0
        if self.student is not None and draw.asked:
            before = self.student.floor_seconds()
            self._completed = self.student.complete(step, draw.asked)
            self._sampling_floor = self.student.floor_seconds() - before
            self._warn_of_cuts(step, len(draw.asked))
        own = self._completed.samples
        self.model.train()
        batches = self.lessons.batches(draw.rows, own, self.capacity)
        self._lengths = [len(sample) for sample in [*self.lessons.rows(draw.rows), *own]]
        self._learned = max(sum(len(batch.place_N) for batch in batches), 1)
        yield batches

    def _warn_of_cuts(self, step: int, asked: int) -> None:
        if step == 0 and self._completed.truncated > _MANY_CUT * asked:
            warn(
                f"{self._completed.truncated} of the student's first {asked} completions were cut at the limit: "
                "it may not know how to end; --completion-tokens says where they are cut"
            )

    def _warn_of_unheard(self, step: int, share: float) -> None:
        if step == 0 and self.mode_seeking and share > _MANY_UNHEARD:
            warn(
                f"of the teacher's choices {share:.1%} have less than {UNHEARD:.1%} of the student's probability: reverse and jsd weigh "
                "tokens by that, and hardly teach these; --divergence forward does, or `bethink sft` on some rows first"
            )

    def loss(self, batch: DistillBatch) -> tuple[Tensor, Mapping[str, float]]:
        """The micro-batch's sum over learned tokens, divided by those of the whole step."""
        found, sums = self._compare(batch, self.lessons.teacher)
        return found.loss / self._learned, sums

    def _compare(self, batch: DistillBatch, teacher: Told) -> tuple[Compared, dict[str, float]]:
        batch = batch.to(self.device)
        of_row_N = batch.place_N >= 0
        targets = teacher.targets(batch.packed, batch.place_N)
        found = compare(self.model, batch.packed, targets, self.objective, of_row_N)
        return found, _sums(found, batch.packed, of_row_N)

    def summary(self, step: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """Mean losses and divergences, token counts, how far in the data the run is, and what the step takes at least."""
        row: dict[str, Any] = {}
        if self.floor is not None:
            least = self.floor(self._lengths, self._learned) if self._lengths else 0.0
            row["floor_seconds"] = least + self._sampling_floor
        row |= _means(sums)
        self._warn_of_unheard(step, row["unheard"])
        if self.student is not None:
            own = len(self._completed.samples)
            row |= {
                "own": own,
                "own_tokens_mean": round(sums["own"] / own, 2) if own else None,
                "truncated": round(self._completed.truncated / own, 4) if own else None,
            }
        return {
            **row,
            "tokens": int(sums["tokens"]),
            "completion_tokens": int(sums["on"] + sums["off"]),
            "samples": self.mixture.seen(step + 1),
            "epoch": self.mixture.epoch(step + 1),
        }

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The divergence, and how often both would choose the same token."""
        return {"divergence": f"{row['divergence']:.4f}", "agreement": f"{row['agreement']:.1%}"}

    def evaluate(self, step: int) -> dict[str, Any]:
        """Held-out figures as eval_loss, eval_divergence, …; writes the pair of outputs."""
        self.model.eval()
        found: dict[str, Any] = {}
        if len(self.held_out):
            found = {f"eval_{name}": value for name, value in self.on_held_out().items()}
            note(
                f"step {step}, held out: divergence {found['eval_divergence']:.4f}, agreement {found['eval_agreement']:.1%}"
            )
        if self.samples is not None:
            self.samples.write(self.model, step)
        return found

    @torch.inference_mode()
    def on_held_out(self) -> dict[str, float | None]:
        """The means of `summary` on rows that are not trained on."""
        sums: Counter[str] = Counter()
        for batch in self.held_out.batches(range(len(self.held_out)), [], self.capacity):
            sums.update(self._compare(batch, self.held_out.teacher)[1])
        return _means(sums)


def _sums(found: Compared, batch: PackedBatch, of_row_N: Tensor) -> dict[str, float]:
    thinking_N, count = batch.thinking_N, len(of_row_N)
    on, of_rows = int(thinking_N.sum()), int(of_row_N.sum())
    return {
        "loss_on": float(found.loss_N[thinking_N].sum()),
        "loss_off": float(found.loss_N[~thinking_N].sum()),
        "on": on,
        "off": count - on,
        "divergence_rows": float(found.divergence_N[of_row_N].sum()),
        "divergence_own": float(found.divergence_N[~of_row_N].sum()),
        "cross_entropy": -float(found.logprob_N[of_row_N].sum()),
        "rows": of_rows,
        "own": count - of_rows,
        "entropy": float(found.entropy_N.sum()),
        "agreement": float(found.agrees_N.sum()),
        "unheard": float(found.unheard_N.sum()),
        "tokens": batch.tokens,
    }


def _means(sums: Mapping[str, float]) -> dict[str, float | None]:
    """Means over tokens; None over nothing. The two sources are told apart where there are both."""
    on, off, rows, own = sums["on"], sums["off"], sums["rows"], sums["own"]
    count = max(on + off, 1)
    means = {
        "loss": (sums["loss_on"] + sums["loss_off"]) / count,
        "loss_on": sums["loss_on"] / on if on else None,
        "loss_off": sums["loss_off"] / off if off else None,
        "divergence": (sums["divergence_rows"] + sums["divergence_own"]) / count,
        "cross_entropy": sums["cross_entropy"] / rows if rows else None,
        "entropy": sums["entropy"] / count,
        "agreement": sums["agreement"] / count,
        "unheard": sums["unheard"] / count,
    }
    if rows and own:
        means |= {
            "divergence_rows": sums["divergence_rows"] / rows,
            "divergence_own": sums["divergence_own"] / own,
        }
    return means
