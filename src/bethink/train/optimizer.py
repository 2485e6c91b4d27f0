"""AdamW over float32 master weights, the learning-rate schedule and gradient clipping.

What is trained is kept in float32. A parameter that computes in bfloat16 has a float32 master beside it: its gradients are added up in
float32 as each micro-batch delivers them, the optimizer moves the master, and the parameter becomes its rounded copy.
AdamW: Loshchilov & Hutter 2019; vectors (norms, biases) are not decayed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def learning_rate(step: int, steps: int, peak: float, warmup: float, floor: float = 0.0) -> float:
    """The learning rate of optimizer step `step` (0-based) of `steps`.

    Linear warm-up over max(1, warmup × steps) steps, the first step already moving; then a cosine from `peak` that would reach
    floor × peak one step after the last.
    """
    warm = max(1, round(warmup * steps))
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


@torch.no_grad()
def round_compute_copies(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Turn the model's float32 trained parameters into `dtype` copies; returns their float32 masters by name (none for float32)."""
    masters: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype == torch.float32 and dtype != torch.float32:
            masters[name] = parameter.data.requires_grad_()
            parameter.data = parameter.data.to(dtype)
    return masters


class MasterAdamW:
    """The optimizer of everything that requires a gradient.

    named: the trained parameters and their names, which name the tensors of `state_dict`; masters: the float32 masters of those that
    have one already (others of a narrower type get one); clip: the largest gradient norm (0: off); beta2: decay of the second moment.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        weight_decay: float,
        clip: float,
        masters: Mapping[str, Tensor] | None = None,
        beta2: float = 0.999,
    ) -> None:
        self.parameters = dict(named)
        given = masters or {}
        self.masters = {name: self._master(p, given.get(name)) for name, p in self.parameters.items()}
        self.clip = clip
        decayed = [master for master in self.masters.values() if master.ndim > 1]
        rest = [master for master in self.masters.values() if master.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, betas=(0.9, beta2), fused=True
        )

    @staticmethod
    def _master(parameter: nn.Parameter, given: Tensor | None) -> Tensor:
        if parameter.dtype == torch.float32:
            return parameter
        master = given if given is not None else parameter.detach().float().requires_grad_()

        def collect(delivered: Tensor) -> None:
            assert delivered.grad is not None
            if master.grad is None:
                master.grad = delivered.grad.float()
            else:
                master.grad += delivered.grad
            delivered.grad = None

        parameter.register_post_accumulate_grad_hook(collect)
        return master

    def step(self, rate: float) -> float:
        """Clip, move the weights at learning rate `rate`, clear the gradients; returns the gradient norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(
            list(self.masters.values()), self.clip if self.clip > 0 else math.inf
        )
        for group in self._adam.param_groups:
            group["lr"] = rate
        if torch.isfinite(norm):
            self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._publish()
        return float(norm)

    @torch.no_grad()
    def _publish(self) -> None:
        for name, parameter in self.parameters.items():
            if parameter is not self.masters[name]:
                parameter.copy_(self.masters[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Master weights and moments as a flat mapping of tensors."""
        state = {f"weight.{name}": master.detach() for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self._adam.state.get(master, {}).items():
                state[f"{key}.{name}"] = value
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` gave. Raises KeyError when a trained parameter is missing."""
        for name, master in self.masters.items():
            master.copy_(state[f"weight.{name}"])
            if f"exp_avg.{name}" in state:
                self._adam.state[master] = {
                    key: state[f"{key}.{name}"].to(master.device, copy=True)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self._publish()
