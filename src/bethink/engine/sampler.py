"""From logits to the next token of every row at once.

Knows temperature, top-k, top-p and min-p (applied in that order, each on what the one before left), and that each row brings its own
uniform number. One number a row is enough: the token is where the cumulative distribution passes it (inverse transform sampling).
The numbers are a pure function of (seed, token index), so a row's draw does not depend on its neighbours; the generator is SplitMix64
(Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). Nothing here sorts a vocabulary unless a filter's
nucleus is wider than its first prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bethink.engine.api import SamplingParams
from bethink.models.fused import operations

_BLOCK = 256
_PREFIXES = (64, 1024)
_COLDEST = 1e-5
"""Below this temperature a draw is greedy: the likeliest token is all that is left, and a little colder fp32 holds no more."""
_CACHED = 2**18
"""Logits worked on at a time on CPU (a megabyte of fp32): all passes over them then stay in the core's cache."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: Sequence[int], indices: Sequence[int]) -> npt.NDArray[np.float64]:
    """One float64 in [0, 1) for each pair (seed, token index), the same wherever it stands."""
    with np.errstate(over="ignore"):
        seed = _mix(np.array([value & 0xFFFFFFFFFFFFFFFF for value in seeds], dtype=np.uint64) + _GAMMA)
        state = seed + (np.array(indices, dtype=np.uint64) + np.uint64(1)) * _GAMMA
        return np.asarray((_mix(state) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@dataclass(frozen=True)
class Rules:
    """The sampling parameters of some of a batch's rows as tensors [R]; made anew only when the rows change.

    rows: which rows of the batch; heat: the temperature, 0 where greedy; plain: indices among them that are drawn from the whole distribution; filtered: those with top-k,
    top-p or min-p. The others are greedy.
    """

    rows: slice
    heat: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    plain: Tensor
    filtered: Tensor

    @classmethod
    def of(cls, params: Sequence[SamplingParams], rows: slice, device: torch.device) -> Rules:
        """The rules of the rows `rows` of a batch with these parameters."""

        def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        params = params[rows]
        plain: list[float] = []
        filtered: list[float] = []
        for row, p in enumerate(params):
            if p.temperature >= _COLDEST:
                is_plain = p.top_p >= 1 and p.top_k <= 0 and p.min_p <= 0
                (plain if is_plain else filtered).append(row)
        return cls(
            rows,
            column([p.temperature if p.temperature >= _COLDEST else 0.0 for p in params]),
            column([p.temperature if p.temperature >= _COLDEST else 1.0 for p in params]),
            column([min(p.top_p, 1.0) for p in params]),
            column([max(p.top_k, 0) for p in params], torch.long),
            column([p.min_p for p in params]),
            column(plain, torch.long),
            column(filtered, torch.long),
        )


def rules_of(params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> tuple[Rules, ...]:
    """The rules of a batch, cut into as many rows as are best worked on together."""
    together = max(1, _CACHED // vocabulary) if device.type == "cpu" else len(params)
    starts = range(0, len(params), together)
    return tuple(Rules.of(params, slice(start, start + together), device) for start in starts)


def draw(
    logits_BV: Tensor, rules: Sequence[Rules], uniform_B: Tensor, forced_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The next token of each row [B] and its log-probability [B] under the model's own distribution (temperature 1, unfiltered).

    logits_BV: any float dtype; uniform_B: float64 in [0, 1), not read for greedy rows; forced_B: a token to take whatever is
    drawn, or -1.
    """
    if operations.usable(logits_BV, logits_BV.shape[1]):
        heat_B, top_k_B, top_p_B, min_p_B = (
            torch.cat(column)
            for column in zip(
                *((part.heat, part.top_k, part.top_p, part.min_p) for part in rules), strict=True
            )
        )
        return operations.draw(logits_BV, heat_B, (top_k_B, top_p_B, min_p_B), uniform_B, forced_B)
    tokens, logprobs = [], []
    for part in rules:
        logits_RV = logits_BV[part.rows].float()
        token_R = _choose(logits_RV, part, uniform_B[part.rows])
        if forced_B is not None:
            forced_R = forced_B[part.rows]
            token_R = torch.where(forced_R >= 0, forced_R, token_R)
        tokens.append(token_R)
        logprobs.append(_logprob(logits_RV, token_R))
    return torch.cat(tokens), torch.cat(logprobs)


def _choose(logits_RV: Tensor, rules: Rules, uniform_R: Tensor) -> Tensor:
    for rows, choose in ((rules.plain, _draw_plain), (rules.filtered, _draw_filtered)):
        if len(rows) == len(logits_RV):
            return choose(logits_RV, rules, rows, uniform_R)
    token_R = _argmax(logits_RV)
    for rows, choose in ((rules.plain, _draw_plain), (rules.filtered, _draw_filtered)):
        if len(rows):
            token_R[rows] = choose(logits_RV[rows], rules, rows, uniform_R[rows])
    return token_R


def _argmax(logits_RV: Tensor) -> Tensor:
    """The first index of each row's largest entry [R]: first the block, then the place in it, as plain maxima are fast on CPU."""
    rows, vocabulary = logits_RV.shape
    if vocabulary % _BLOCK:
        return logits_RV.argmax(-1)
    logits_RNb = logits_RV.view(rows, -1, _BLOCK)
    block_R = logits_RNb.amax(-1).argmax(-1)
    inside_Rb = logits_RNb[torch.arange(rows, device=logits_RV.device), block_R]
    return block_R * _BLOCK + inside_Rb.argmax(-1)


def _logprob(logits_BV: Tensor, token_B: Tensor) -> Tensor:
    # Written out: torch.logsumexp takes ten times as long on CPU.
    highest_B1 = logits_BV.amax(-1, keepdim=True)
    total_B = (logits_BV - highest_B1).exp_().sum(-1)
    chosen_B = logits_BV.gather(-1, token_B[:, None])[:, 0]
    return chosen_B - highest_B1[:, 0] - total_B.log()


def _weights(logits_RV: Tensor, rules: Rules, rows: Tensor) -> Tensor:
    """Unnormalised probabilities [R, V] at each row's temperature; the largest is 1."""
    shifted = logits_RV - logits_RV.amax(-1, keepdim=True)
    return shifted.div_(rules.temperature[rows, None]).exp_()


def _draw_plain(logits_RV: Tensor, rules: Rules, rows: Tensor, uniform_R: Tensor) -> Tensor:
    """Inverse transform sampling in two levels: first the block of the vocabulary, then the token in it."""
    weight_RV = _weights(logits_RV, rules, rows)
    spare = -weight_RV.shape[1] % _BLOCK
    if spare:
        weight_RV = torch.nn.functional.pad(weight_RV, (0, spare))
    weight_RNb = weight_RV.view(len(weight_RV), -1, _BLOCK)
    upto_RN = weight_RNb.sum(-1, dtype=torch.float32).double().cumsum(-1)
    target_R1 = uniform_R[:, None] * upto_RN[:, -1:]
    block_R1 = _passing(upto_RN, target_R1)
    before_R1 = torch.where(block_R1 > 0, upto_RN.gather(-1, (block_R1 - 1).clamp_min(0)), 0.0)
    inside_Rb = weight_RNb[torch.arange(len(rows), device=rows.device), block_R1[:, 0]].double().cumsum(-1)
    place_R1 = _passing(inside_Rb, target_R1 - before_R1)
    return (block_R1 * _BLOCK + place_R1)[:, 0]


def _passing(upto_RN: Tensor, target_R1: Tensor) -> Tensor:
    """The first index [R, 1] whose running sum passes the target; always one with a weight of its own."""
    # Rounding can put the target at or past the last sum: pull it just below, so that no weightless entry is chosen.
    last_R1 = upto_RN[:, -1:]
    target_R1 = torch.minimum(target_R1, torch.nextafter(last_R1, torch.zeros_like(last_R1)))
    return torch.searchsorted(upto_RN, target_R1, right=True)


def _draw_filtered(logits_RV: Tensor, rules: Rules, rows: Tensor, uniform_R: Tensor) -> Tensor:
    """Sampling within top-k, top-p and min-p, from the shortest sorted prefix that holds all of them that is kept."""
    weight_RV = _weights(logits_RV, rules, rows)
    total_R1 = weight_RV.sum(-1, keepdim=True)
    token_R = torch.empty_like(rows)
    left = torch.arange(len(rows), device=rows.device)
    vocabulary = weight_RV.shape[1]
    for length in (*(n for n in _PREFIXES if n < vocabulary), vocabulary):
        some = left if len(left) < len(rows) else slice(None)
        prefix_LN, id_LN = weight_RV[some].topk(length, dim=-1)
        kept_LN = _kept(prefix_LN, total_R1[some], rules, rows[some])
        # A prefix is long enough when the filters end inside it, and top-p's mass is that of a top-k inside it.
        top_k_L = rules.top_k[rows[some]]
        enough_L = (top_k_L <= length) & (~kept_LN[:, -1] | (top_k_L == length)) | (length == vocabulary)
        upto_LN = (prefix_LN * kept_LN).double().cumsum(-1)
        place_L1 = _passing(upto_LN, uniform_R[some][:, None] * upto_LN[:, -1:])
        chosen_L = id_LN.gather(-1, place_L1)[:, 0]
        token_R[left] = torch.where(enough_L, chosen_L, token_R[left])
        left = left[~enough_L]
        if not len(left):
            break
    return token_R


def _kept(prefix_LN: Tensor, total_L1: Tensor, rules: Rules, rows: Tensor) -> Tensor:
    """Which entries of a prefix sorted downwards pass the filters [L, N]: always a run from the first entry on."""
    top_k_L1, top_p_L1 = rules.top_k[rows, None], rules.top_p[rows, None]
    rank_N = torch.arange(prefix_LN.shape[1], device=prefix_LN.device)
    in_top_k_LN = (rank_N < top_k_L1) | (top_k_L1 == 0)
    before_LN = prefix_LN.double().cumsum(-1) - prefix_LN
    mass_L1 = torch.where(
        top_k_L1 > 0, (prefix_LN * in_top_k_LN).double().sum(-1, keepdim=True), total_L1.double()
    )
    in_top_p_LN = (before_LN < top_p_L1 * mass_L1) | (top_p_L1 >= 1)
    in_min_p_LN = prefix_LN >= rules.min_p[rows, None] * prefix_LN[:, :1]
    kept_LN = in_top_k_LN & in_top_p_LN & in_min_p_LN
    kept_LN[:, 0] = True
    return kept_LN
