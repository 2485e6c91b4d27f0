"""The rows being decoded together, and the step that moves them all one token on.

One step: seat waiting rows in free slots, prefill each new prompt once, draw the first tokens; then one token for every seated row. Rows
that finish leave their slot to the next. No threads here, and no text but what a row's watch reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bethink.engine.api import SamplingParams
from bethink.engine.kv_cache import STEP
from bethink.engine.runner import Job, Runner
from bethink.engine.sampler import Rules, draw, rules_of, uniforms
from bethink.engine.scheduler import Admission, Prefix, PromptIds, Row, Scheduler

_IDLE = SamplingParams(max_tokens=1)

Drawn = tuple[Row, int]
"""A row and the token it has just got; the row's `finish` says whether it is done."""


class Batch:
    """A runner, its cache and who sits in it. `max_cache_tokens`: the most slots × capacity there is memory for.

    temperature: the model's logits are divided by it before anything else is done with them.
    """

    def __init__(
        self, runner: Runner, slots: int, max_cache_tokens: int | None, temperature: float = 1.0
    ) -> None:
        self._runner, self._temperature = runner, temperature
        self._scheduler = Scheduler(slots, max_cache_tokens, share_prefixes=runner.cuts_freely)
        self._max_cache_tokens = max_cache_tokens
        self._logits: dict[PromptIds, Tensor] = {}
        self._rules: tuple[Rules, ...] | None = None

    @property
    def active(self) -> int:
        """How many rows are being decoded."""
        return self._scheduler.active

    @property
    def waiting(self) -> int:
        """How many rows wait for a slot."""
        return self._scheduler.waiting

    def fits(self, need: int) -> bool:
        """Whether a row that comes to `need` tokens can be served at all."""
        return self._max_cache_tokens is None or self._scheduler.least_tokens(need) <= self._max_cache_tokens

    def add(self, row: Row) -> None:
        """Queue a row."""
        self._scheduler.add(row)

    def drop(self, unwanted: Callable[[Row], bool]) -> list[Row]:
        """Take rows out, waiting or seated; returns them."""
        self._rules = None
        dropped = self._scheduler.drop(unwanted)
        self._rest()
        return dropped

    def _rest(self) -> None:
        """When nothing is left to do: the weights may change before the next work, and the memory be wanted elsewhere."""
        if not self._scheduler.active and not self._scheduler.waiting:
            self._scheduler.forget_idle()
            self._runner.cache.clear()
            self._logits.clear()

    @torch.no_grad()
    def step(self) -> list[Drawn]:
        """Every seated row's next token, and a new row's first; in the order drawn."""
        with _evaluating(self._runner.model):
            drawn = self._begin(self._scheduler.admit())
            for source, target in self._scheduler.compact():
                self._runner.cache.copy(source, [target], self._runner.cache.capacity)
                self._rules = None
            if self._scheduler.active:
                drawn += self._decode()
        self._rest()
        return drawn

    def _begin(self, admissions: list[Admission]) -> list[Drawn]:
        if not admissions:
            return []
        self._rules = None
        self._make_room()
        self._prefill(admissions)
        rows: list[tuple[int, Row]] = []
        logits: list[Tensor] = []
        for admission in admissions:
            length = len(admission.prompt_ids)
            if admission.copies:
                self._runner.cache.copy(admission.holder, admission.copies, length)
            rows += admission.rows
            logits += [self._logits[admission.prompt_ids]] * len(admission.rows)
            if not self._scheduler.awaited(admission.prompt_ids):
                del self._logits[admission.prompt_ids]
        rules = self._rules_of([row.request.sampling for _, row in rows])
        return self._draw(rows, range(len(rows)), torch.stack(logits), rules)

    def _prefill(self, admissions: list[Admission]) -> None:
        cache = self._runner.cache
        jobs: list[Job] = []
        later: list[Admission] = []
        for admission in admissions:
            prompt_ids, prefix = admission.prompt_ids, admission.prefix
            if prefix is not None and prefix.fresh:
                later.append(admission)
            elif prefix is not None and prefix.slot < cache.slots:
                self._take_over(admission, prefix)
                jobs.append(Job(prompt_ids, admission.holder, prefix.length))
            elif not admission.known:
                jobs.append(Job(prompt_ids, admission.holder))
            elif prompt_ids not in self._logits:
                jobs.append(Job(prompt_ids, admission.holder, len(prompt_ids) - 1))
        self._run(jobs)
        while later:
            unready = {admission.holder for admission in later}
            ready = [(a, a.prefix) for a in later if a.prefix and a.prefix.slot not in unready]
            for admission, prefix in ready:
                self._take_over(admission, prefix)
            self._run([Job(a.prompt_ids, a.holder, prefix.length) for a, prefix in ready])
            later = [admission for admission in later if all(admission is not a for a, _ in ready)]

    def _take_over(self, admission: Admission, prefix: Prefix) -> None:
        if prefix.slot != admission.holder:
            self._runner.cache.copy(prefix.slot, [admission.holder], prefix.length)

    def _run(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        logits_PV = self._runner.prefill(jobs)
        for job, logits_V in zip(jobs, logits_PV, strict=True):
            # A copy where it is kept: a row of the whole would keep the whole alive.
            awaited = self._scheduler.awaited(job.prompt_ids)
            self._logits[job.prompt_ids] = logits_V.clone() if awaited else logits_V

    def _decode(self) -> list[Drawn]:
        self._make_room()
        width = self._scheduler.width
        rows = list(self._scheduler.rows())
        tokens = [0] * width
        # An idle slot's write goes past the prompt it may still hold for a row to come.
        positions = [self._scheduler.held(slot) for slot in range(width)]
        for slot, row in rows:
            tokens[slot], positions[slot] = row.token_ids[-1], row.position
        device = self._runner.device
        logits_BV = self._runner.decode(
            torch.tensor(tokens, device=device), torch.tensor(positions, device=device)
        )
        if self._rules is None:
            params = [_IDLE] * width
            for slot, row in rows:
                params[slot] = row.request.sampling
            self._rules = self._rules_of(params)
        return self._draw(rows, [slot for slot, _ in rows], logits_BV, self._rules)

    def _draw(
        self,
        rows: Sequence[tuple[int, Row]],
        places: Sequence[int],
        logits_BV: Tensor,
        rules: Sequence[Rules],
    ) -> list[Drawn]:
        """One token for each row; `places`: where the rows stand in `logits_BV` and `rules`."""
        if self._temperature != 1:
            logits_BV = logits_BV / self._temperature
        count = len(logits_BV)
        seeds, indices, forced = [0] * count, [0] * count, [-1] * count
        for place, (_, row) in zip(places, rows, strict=True):
            seeds[place], indices[place] = row.request.sampling.seed, len(row.token_ids)
            forced[place] = row.due[0] if row.due else -1
        device = self._runner.device
        token_B, logprob_B = draw(
            logits_BV,
            rules,
            torch.from_numpy(uniforms(seeds, indices)).to(device),
            torch.tensor(forced, device=device) if any(token >= 0 for token in forced) else None,
        )
        tokens, logprobs = token_B.tolist(), logprob_B.tolist()
        drawn = []
        for place, (slot, row) in zip(places, rows, strict=True):
            row.accept(tokens[place], logprobs[place])
            drawn.append((row, tokens[place]))
            if row.finish is not None:
                self._scheduler.release(slot)
                self._rules = None
        return drawn

    def _rules_of(self, params: Sequence[SamplingParams]) -> tuple[Rules, ...]:
        return rules_of(params, self._runner.vocabulary, self._runner.device)

    def _make_room(self) -> None:
        """Fit the cache to the seated rows' next tokens: all of it is read at every step."""
        cache = self._runner.cache
        width = self._scheduler.width
        # A row that has just been seated has no token yet; its first one stands right after the prompt.
        longest = max(row.position for _, row in self._scheduler.rows()) + 1
        capacity = self._scheduler.capacity_for(longest)
        if width <= cache.slots and capacity <= cache.capacity <= capacity + max(STEP, capacity // 4):
            return
        slots = max(width, cache.slots)
        if self._max_cache_tokens is not None and slots * capacity > self._max_cache_tokens:
            slots = width
            self._scheduler.forget_idle()
        self._scheduler.forget_idle(beyond=capacity)
        cache.resize(slots, capacity)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off while sampling from a model that is being trained."""
    training = [module for module in model.modules() if module.training] if model.training else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
