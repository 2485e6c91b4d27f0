"""The compiled operations against plain ones in float64, models made of them against their originals, and life without a compiler."""

from __future__ import annotations

import copy
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bethink.models.attention import causal
from bethink.models.branches import Branches, Segment, branched
from bethink.models.fused import autograd, build, operations
from bethink.models.fused.layers import fuse_
from bethink.models.fused.segments import cached_segments
from bethink.models.lora import LoRAConfig, add_lora, lora_layers
from bethink.models.lora_product import FrozenWeights, adapted_product
from bethink.models.prepacked import prepack_, rearrange_frozen, sampling_weights
from engine.tiny import tiny

compiled = pytest.mark.skipif(build.library() is None, reason=str(build.why_not()))
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def random() -> Callable[..., Tensor]:
    """Normal numbers from a fresh seed, which a failure shows."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype | None = None) -> None:
    """Within the format's tolerance (the found tensor's, or the one it was computed in) of the largest number expected."""
    bound = TOLERANCE[dtype or found.dtype] * max(expected.abs().max().item(), 1.0)
    difference = (found.double() - expected.double()).abs().max().item()
    assert difference <= bound, f"{difference} > {bound}"


def check(
    ours: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor
) -> None:
    """Output and gradients of both, the plain ones in float64."""
    mine = [tensor.clone().requires_grad_() for tensor in inputs]
    theirs = [tensor.double().requires_grad_() for tensor in inputs]
    found, expected = ours(*mine), plain(*theirs)
    close(found, expected)
    (found * weight.to(found.dtype)).sum().backward()
    (expected * weight.to(found.dtype).double()).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        close(one.grad, other.grad, found.dtype)


def test_where_a_compiler_is_there_the_operations_are() -> None:
    if shutil.which("c++"):
        assert build.library() is not None, build.why_not()


@compiled
@dtypes
def test_rms_norm(dtype: torch.dtype, random: Callable[..., Tensor]) -> None:
    x, weight = random(2, 5, 48).to(dtype), random(48).to(dtype)

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    check(lambda x, w: autograd.rms_norm(x, w, 1e-5), plain, [x, weight], random(2, 5, 48))


@compiled
@dtypes
def test_swiglu(dtype: torch.dtype, random: Callable[..., Tensor]) -> None:
    both = (random(7, 2 * 80) * 6).to(dtype)
    check(autograd.swiglu, lambda b: F.silu(b[:, :80]) * b[:, 80:], [both], random(7, 80))


@compiled
def test_swiglu_far_out() -> None:
    gate = torch.tensor([-1e30, -200.0, -90.0, -87.0, 0.0, 87.0, 200.0, 1e30, *[1.0] * 8])
    found = operations.swiglu(torch.cat([gate, torch.ones(16)]))
    torch.testing.assert_close(found, F.silu(gate), rtol=1e-5, atol=1e-35)
    assert operations.swiglu(torch.full((32,), float("nan"))).isnan().all()


ALONE: tuple[Segment, ...] = (37, 1, 64, 13, 300)
SHARED: tuple[Segment, ...] = (
    5,
    Branches(37, (3, 64, 1)),
    14,
    Branches(1, (2, 300)),
    Branches(33, (40,)),
    Branches(270, (7, 7)),
)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos[:, None] + turned * sin[:, None]


@compiled
@dtypes
@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize(("heads", "groups", "size"), [(6, 2, 64), (3, 3, 32), (4, 1, 96), (8, 2, 128)])
@pytest.mark.parametrize("segments", [ALONE, SHARED], ids=["alone", "shared"])
def test_packed_attention(
    segments: tuple[Segment, ...],
    heads: int,
    groups: int,
    size: int,
    window: int | None,
    dtype: torch.dtype,
    random: Callable[..., Tensor],
) -> None:
    tokens = sum(part.tokens if isinstance(part, Branches) else part for part in segments)
    joint = random(tokens, (heads + 2 * groups) * size).to(dtype)
    angle = random(tokens, size // 2).repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def ours(joint: Tensor) -> Tensor:
        return autograd.packed_attention(joint * 1, cos, sin, segments, (heads, groups), size**-0.5, window)

    def plain(joint: Tensor) -> Tensor:
        q, k, v = joint.view(tokens, -1, size).split((heads, groups, groups), dim=1)
        q, k = (rotated(x, cos.double(), sin.double()) for x in (q, k))
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return branched(q, k, v, segments, size**-0.5, window, causal)[0].flatten(1)

    check(ours, plain, [joint], random(tokens, heads * size))


@compiled
@dtypes
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("heads", "groups", "size"), [(6, 2, 64), (8, 2, 128), (5, 5, 32), (2, 1, 96)])
def test_the_next_token_attends_to_its_slot(
    heads: int, groups: int, size: int, window: int | None, dtype: torch.dtype, random: Callable[..., Tensor]
) -> None:
    slots, capacity = 5, 64
    keys, values = (random(slots + 1, groups, capacity, size).to(dtype) for _ in range(2))
    position = torch.tensor([0, 63, 7, 31, 32])
    new = random(slots, (heads + 2 * groups) * size).to(dtype).view(slots, -1, size)
    q, k, v = new.split((heads, groups, groups), dim=1)
    found = operations.attend_next(q, k, v, keys, values, position, size**-0.5, window)
    for slot, place in enumerate(position.tolist()):
        assert torch.equal(keys[slot, :, place], k[slot])
        assert torch.equal(values[slot, :, place], v[slot])
        seen = slice(max(0, place + 1 - window) if window else 0, place + 1)
        k_KLD, v_KLD = (
            x[slot, :, seen].double().repeat_interleave(heads // groups, 0) for x in (keys, values)
        )
        weight_HL = (torch.einsum("hd,hld->hl", q[slot].double(), k_KLD) * size**-0.5).softmax(-1)
        close(found[slot], torch.einsum("hl,hld->hd", weight_HL, v_KLD))


@compiled
@dtypes
def test_a_query_does_not_depend_on_how_a_prompt_is_cut(
    dtype: torch.dtype, random: Callable[..., Tensor]
) -> None:
    heads, groups, size, tokens = 6, 2, 64, 90
    q = random(tokens, heads, size).to(dtype)
    keys, values = (random(1, groups, 128, size).to(dtype) for _ in range(2))

    def attended(cuts: list[int]) -> Tensor:
        out = torch.empty_like(q)
        starts = [0, *cuts]
        lengths = [stop - start for start, stop in zip(starts, [*cuts, tokens], strict=True)]
        rows = cached_segments(lengths, [0] * len(starts), starts)
        operations.attend(q, keys, values, (size, 128 * size), out, rows, groups, 0.125, None)
        return out

    whole = attended([])
    for cuts in ([1], [45], [13, 14, 80], [89]):
        assert torch.equal(attended(cuts), whole), cuts


@compiled
@dtypes
def test_log_probabilities_and_their_gradient(dtype: torch.dtype, random: Callable[..., Tensor]) -> None:
    logits = (random(9, 320) * 4).to(dtype)
    target, weight = torch.randint(320, (9,)), random(9)
    logprob, log_total, entropy = operations.log_softmax(logits, target, entropy=True)
    plain = logits.double().requires_grad_()
    expected = plain.log_softmax(-1)
    torch.testing.assert_close(
        logprob.double(), expected.gather(1, target[:, None])[:, 0], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(entropy.double(), -(expected.exp() * expected).sum(-1), rtol=1e-5, atol=1e-5)
    (expected.gather(1, target[:, None])[:, 0] * weight).sum().backward()
    operations.log_softmax_backward_(logits, target, log_total, weight)
    close(logits, plain.grad)


needs_pairs = pytest.mark.skipif(
    build.library() is None or not operations.usable_products(torch.zeros(1, dtype=torch.bfloat16)),
    reason="no compiled operations, or a processor that does not multiply pairs of bfloat16 in vector registers",
)


@needs_pairs
@pytest.mark.parametrize(
    ("rows", "size", "out"), [(1, 32, 32), (7, 64, 96), (150, 576, 64), (300, 1536, 32), (141, 4512, 96)]
)
def test_products(rows: int, size: int, out: int, random: Callable[..., Tensor]) -> None:
    x, weight, bias = random(rows, size).bfloat16(), random(out, size).bfloat16(), random(out).bfloat16()
    tiles = operations.tiles(weight)
    expected = x.double() @ weight.double().T
    close(operations.product(x, tiles), expected)
    close(operations.product(x, tiles, bias), expected + bias.double())
    # As a view of wider rows, in other company, and with other threads.
    wide = torch.cat([x, x], dim=1)[:, :size]
    assert torch.equal(operations.product(wide, tiles), operations.product(x, tiles))
    assert torch.equal(operations.product(x[-3:], tiles), operations.product(x, tiles)[-3:])
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    other = operations.product(x, tiles)
    torch.set_num_threads(before)
    assert torch.equal(operations.product(x, tiles), other)


@needs_pairs
@pytest.mark.parametrize(
    ("rows", "size", "outs", "ranks"),
    [
        (37, 64, (96, 32, 64), (8, 12, 3)),
        (1, 32, (32,), (1,)),
        (6, 96, (64,), (33,)),
        (301, 64, (96, 32), (16, 64)),
    ],
)
def test_adapters(
    rows: int, size: int, outs: tuple[int, ...], ranks: tuple[int, ...], random: Callable[..., Tensor]
) -> None:
    """Against the formula in float64; what is rounded on the way is rounded to bfloat16."""
    x, weight = random(rows, size).bfloat16(), random(sum(outs), size).bfloat16() / size**0.5
    each_a = [random(rank, size) / size**0.5 for rank in ranks]
    each_b = [random(out, rank) / rank**0.5 for out, rank in zip(outs, ranks, strict=True)]
    scales = [2.0, 0.5, 1.7][: len(outs)]

    def ours(x: Tensor, *flat: Tensor) -> Tensor:
        pairs = list(zip(flat[: len(outs)], flat[len(outs) :], strict=True))
        product = adapted_product(x, FrozenWeights(weight.split(outs), [None] * len(outs)), pairs, scales)
        assert "Compiled" in str(next(iter(product.grad_fn.next_functions))[0])
        return product

    def plain(x: Tensor, *flat: Tensor) -> Tensor:
        parts = [
            scale * (x @ a.T) @ b.T
            for a, b, scale in zip(flat[: len(outs)], flat[len(outs) :], scales, strict=True)
        ]
        return x @ weight.double().T + torch.cat(parts, dim=1)

    check(ours, plain, [x, *each_a, *each_b], random(rows, sum(outs)))


@needs_pairs
def test_adapters_do_not_depend_on_threads_or_neighbours(random: Callable[..., Tensor]) -> None:
    x, weight, grad = random(301, 64).bfloat16(), random(96, 64).bfloat16(), random(301, 96).bfloat16()
    pair = (random(16, 64).requires_grad_(), random(96, 16).requires_grad_())
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        input_ = x.clone().requires_grad_()
        y = adapted_product(input_, FrozenWeights([weight], [None]), [pair], [2.0])
        results.append((y, *torch.autograd.grad(y, (input_, *pair), grad)))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
    inner = operations.adapt_(x[:7], torch.zeros(7, 96).bfloat16(), *([[p.detach()] for p in pair]), [2.0])
    assert torch.equal(
        inner,
        operations.adapt_(x, torch.zeros(301, 96).bfloat16(), *([[p.detach()] for p in pair]), [2.0])[:7],
    )


@compiled
def test_threads_change_nothing(random: Callable[..., Tensor]) -> None:
    joint, angle = random(80, 6 * 64), random(80, 32).repeat(1, 2)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        x = joint.clone().requires_grad_()
        out = autograd.packed_attention(x * 1, angle.cos(), angle.sin(), (50, 30), (4, 1), 0.125, None)
        out.square().sum().backward()
        results.append((out.detach(), x.grad))
    torch.set_num_threads(before)
    for out, grad in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(grad, results[0][1])


KINDS = [
    ("llama", {}),
    ("qwen2", {"num_key_value_heads": 4}),
    ("qwen3", {"head_dim": 64}),
    ("mistral", {"sliding_window": 16}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
]


def twins(kind: str, **changes: Any) -> tuple[Any, Any]:
    """A model and its fused copy."""
    plain = tiny(kind, **{"head_dim": 32, "initializer_range": 0.08, **changes})
    fused = copy.deepcopy(plain)
    assert fuse_(fused) >= 2 * 4 + 1, (
        "two norms, an MLP and an attention in each of two layers, and the last norm"
    )
    return plain, fused


def loss_of(model: Any, segments: tuple[int, ...]) -> Tensor:
    tokens = sum(segments)
    ids = torch.arange(tokens).mul(37).remainder(290)[None]
    positions = torch.cat([torch.arange(length) for length in segments])[None]
    logits = model(ids, position_ids=positions, segments=segments, use_cache=False).logits[0]
    return -logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None]).mean()


@compiled
@pytest.mark.parametrize("training", ["all", "adapters", "adapters in blocks", "some adapters"])
@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_a_fused_model_learns_what_the_plain_one_does(kind: str, changes: dict, training: str) -> None:
    # How far one drawing of weights carries the rounding of its first layer is chance, for either model: the middle of five is not.
    drawn = [gradient_errors(kind, changes, training) for _ in range(5)]
    for name in drawn[0]:
        errors = [errors[name] for errors in drawn]
        assert median(ours / max(1e-6, theirs) for theirs, ours in errors) < 6, f"{name}: {errors}"


def gradient_errors(kind: str, changes: dict, training: str) -> dict[str, tuple[float, float]]:
    """Of each parameter of a freshly drawn model: how far the plain and the fused one's gradients are from those in double precision."""
    plain, fused = twins(kind, **changes)
    models = (copy.deepcopy(plain).double(), plain, fused)
    for model in models:
        if training != "all":
            targets = ("q_proj", "v_proj", "up_proj") if training == "some adapters" else "all-linear"
            add_lora(model, LoRAConfig(rank=4, targets=targets), seed=0)
            for number, layer in enumerate(lora_layers(model).values()):
                generator = torch.Generator().manual_seed(number)
                layer.lora_B.data = torch.randn(layer.lora_B.shape, generator=generator) * 0.1
        model.train()
    if training in ("adapters in blocks", "some adapters"):
        assert rearrange_frozen(fused)
    losses = [loss_of(model, (30, 41, 9)) for model in models]
    for loss in losses:
        loss.backward()
    assert abs(losses[2] - losses[0]) < 1e-5 * abs(losses[0])
    exact, theirs, ours = (
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None} for model in models
    )
    assert exact.keys() == theirs.keys() == ours.keys()
    return {
        name: (
            float((theirs[name] - grad).norm() / grad.norm()),
            float((ours[name] - grad).norm() / grad.norm()),
        )
        for name, grad in exact.items()
    }


@compiled
@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_a_fused_model_saves_and_samples_as_the_plain_one(kind: str, changes: dict) -> None:
    plain, fused = twins(kind, **changes)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in fused.state_dict().items())
    ids = torch.arange(40).view(2, 20)
    with torch.inference_mode():
        expected = plain(ids, use_cache=False).logits
        torch.testing.assert_close(fused(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        add_lora(fused, LoRAConfig(rank=4), seed=0)
        with sampling_weights(fused):
            torch.testing.assert_close(fused(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fused(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        prepack_(plain)
        torch.testing.assert_close(plain(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
        _, again = twins(kind, **changes)
        again.load_state_dict(_unpacked(expected, kind, changes, fused))
        prepack_(again)
        torch.testing.assert_close(again(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def _unpacked(_: Tensor, kind: str, changes: dict, adapted: Any) -> dict[str, Tensor]:
    """The plain weights of a model that carries adapters."""
    state = {name.replace(".base.", "."): tensor for name, tensor in adapted.state_dict().items()}
    return {name: tensor for name, tensor in state.items() if "lora_" not in name}


@compiled
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("gemma3_text", {"head_dim": 32}), ("gpt_neox", {}), ("phi3", {}), ("llama", {"head_dim": 24})],
)
def test_what_computes_otherwise_is_left_as_it_is(kind: str, changes: dict) -> None:
    model = tiny(kind, **changes)
    classes = {name: type(module) for name, module in model.named_modules()}
    ids = torch.arange(24)[None]
    with torch.inference_mode():
        expected = model(ids, use_cache=False).logits
        fuse_(model)
        torch.testing.assert_close(model(ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)
    attention = [name for name, module in model.named_modules() if "Attention" in type(module).__name__]
    assert all(type(model.get_submodule(name)) is classes[name] for name in attention)


def probe(environment: dict[str, str]) -> str:
    """What a fresh process says of the operations."""
    code = "from bethink.models.fused import build; print(build.library() is not None, build.why_not())"
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=True
    )
    return done.stdout.strip()


def test_without_a_compiler_or_switched_off_there_are_none(tmp_path: Path) -> None:
    assert probe({"BETHINK_FUSED": "0"}) == "False switched off by BETHINK_FUSED=0"
    assert probe({"PATH": str(tmp_path)}).startswith("False no C++ compiler")
    broken = tmp_path / "c++"
    broken.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'cpu.cpp:1: error: no' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    told = probe({"PATH": str(tmp_path), "BETHINK_CACHE": str(tmp_path / "cache")})
    assert told == f"False {broken} failed: cpu.cpp:1: error: no"
