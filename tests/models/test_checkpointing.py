"""Recomputing changes memory and nothing else: gradients are the same to the bit, products are not computed twice."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from bethink.core.errors import ModelError
from bethink.models.checkpointing import enable
from bethink.models.lora import LoRAConfig, add_lora, lora_layers
from bethink.models.recompute import Recompute, choose, kept_values
from engine.tiny import tiny

SEGMENTS = (37, 1, 90)
LEVELS = [level for level in Recompute if level is not Recompute.NOTHING]


def model_in(dtype: torch.dtype, kind: str = "llama", *, full: bool = False, **changes: Any) -> Any:
    seed = random.SystemRandom().randrange(2**31)
    print(f"model of seed {seed}")
    torch.manual_seed(seed)
    model = tiny(kind, **changes).to(dtype)
    if full:
        return model.requires_grad_(True)
    add_lora(model, LoRAConfig(rank=4), seed=0)
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_(std=0.2)
    return model


def loss_of(model: Any) -> Tensor:
    tokens = sum(SEGMENTS)
    model.train()
    torch.manual_seed(7)  # of what is dropped out
    hidden = model.get_decoder()(
        input_ids=(torch.arange(tokens) * 7 % 300)[None],
        position_ids=torch.cat([torch.arange(n) for n in SEGMENTS])[None],
        segments=SEGMENTS,
        use_cache=False,
    ).last_hidden_state
    weight = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    return (hidden.float() * weight).sum()


def gradients(model: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss_of(model), [p for p in model.parameters() if p.requires_grad]))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "full"), [("llama", False), ("qwen2", False), ("gemma3_text", True)])
def test_gradients_are_the_same_to_the_bit(
    level: Recompute, dtype: torch.dtype, kind: str, full: bool
) -> None:
    more = {"head_dim": 16, "sliding_window": 20} if kind == "gemma3_text" else {}
    model = model_in(dtype, kind, full=full, **more)
    expected = gradients(model)
    enable(model, level)
    for found, wanted in zip(gradients(model), expected, strict=True):
        assert torch.equal(found, wanted)


def test_dropout_is_repeated_as_it_was() -> None:
    torch.manual_seed(random.SystemRandom().randrange(2**31))
    model = tiny()
    add_lora(model, LoRAConfig(rank=4, dropout=0.3), seed=0)
    expected = gradients(model)
    for level in LEVELS:
        assert enable(model, level) is level
        assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))


def test_switched_off_again_nothing_is_repeated() -> None:
    model = model_in(torch.float64)
    enable(model, Recompute.LAYERS)
    assert enable(model, Recompute.NOTHING) is Recompute.NOTHING
    assert flops(model) == flops(model_in(torch.float64))


def flops(model: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        gradients(model)
    return int(counter.get_total_flops())


def test_products_are_computed_once() -> None:
    """In float64, for which there are only torch's own operations, as on a GPU."""
    model = model_in(torch.float64)
    once = flops(model)
    for level in (Recompute.CHEAP, Recompute.ATTENTION):
        assert enable(model, level) is level
        assert flops(model) == once
    enable(model, Recompute.LAYERS)
    assert flops(model) > 1.2 * once


class Living(TorchDispatchMode):
    """Bytes of what operators have made inside the block and is still there; a model's weights and views of them are not."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._weights:
                    self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def bytes(self) -> int:
        return sum(size for reference, size in self._made.values() if not reference.expired())


def waiting_for_backward(model: Any) -> int:
    with Living(model) as living:
        loss = loss_of(model)
    waiting = living.bytes()
    del loss
    return waiting


def test_the_more_is_recomputed_the_less_memory_waits_and_never_more_than_estimated() -> None:
    model = model_in(torch.float64, num_hidden_layers=6, hidden_size=128, intermediate_size=384)
    sizes = {"layers": 6, "hidden": 128, "feed_forward": 384, "queries": 128, "keys": 64}
    waiting = []
    for level in Recompute:
        assert enable(model, level) is level
        waiting.append(waiting_for_backward(model))
        assert waiting[-1] < 8 * sum(SEGMENTS) * kept_values(level, **sizes)
    assert waiting == sorted(waiting, reverse=True)
    assert waiting[1] < 0.7 * waiting[0]
    assert waiting[3] < 0.1 * waiting[0]


class ChangedUnseen(nn.Module):
    """A product that is doubled where torch does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y.detach().numpy()[:] *= 2
        return y.tanh() * y


class ChangedAfterReading(ChangedUnseen):
    """A product that is changed after something was made of what it was."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        before = y.detach().tanh()
        return y.mul_(2).tanh() * before


@pytest.mark.parametrize("strange", [ChangedUnseen, ChangedAfterReading])
def test_where_products_cannot_be_kept_whole_layers_are_recomputed(
    strange: type[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny()
    model.model.layers[1].mlp = strange()
    model.requires_grad_(False).model.layers.requires_grad_(True)
    expected = gradients(model)
    assert enable(model, Recompute.CHEAP) is Recompute.LAYERS
    assert "cannot be kept" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(gradients(model), expected, strict=True))


def test_trying_leaves_the_model_as_it_was() -> None:
    model = model_in(torch.float32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.eval()
    state = torch.get_rng_state()
    enable(model, Recompute.CHEAP)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_model_without_such_layers_is_refused() -> None:
    model = tiny()
    model.model.layers = nn.ModuleList()
    assert enable(model, Recompute.NOTHING) is Recompute.NOTHING
    with pytest.raises(ModelError, match="cannot be recomputed"):
        enable(model, Recompute.CHEAP)


def test_no_more_is_recomputed_than_memory_asks_for() -> None:
    needed = dict(zip(Recompute, (100.0, 60.0, 50.0, 20.0), strict=True)).__getitem__
    assert choose(None, needed, 100) is Recompute.NOTHING
    assert choose(None, needed, 99) is Recompute.CHEAP
    assert choose(None, needed, 55) is Recompute.ATTENTION
    assert choose(None, needed, 49) is Recompute.LAYERS
    assert choose(None, needed, 1) is Recompute.LAYERS
    assert choose(False, needed, 1) is Recompute.NOTHING
    assert choose(True, needed, 1000) is Recompute.CHEAP
    assert choose(True, needed, 30) is Recompute.LAYERS
