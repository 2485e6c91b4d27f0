"""The forward pass of every trainer: packed rows through the decoder, the head (head.py) on completion positions only.

Any loss that is a sum over tokens of a function of each token's log-probability fits: cross-entropy here, clipped policy-gradient
objectives elsewhere. Knows nothing of optimizers or data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bethink.core.errors import ModelError
from bethink.models.lora_layer import frozen_weights
from bethink.models.lora_product import FrozenWeights
from bethink.train.batch import PackedBatch
from bethink.train.head import TokenLoss, head_loss


@dataclass(frozen=True, slots=True)
class Forward:
    """loss: the sum over the batch's tokens, differentiable. logprob_N: each completion token's, detached, float32.

    entropy_N: of the distribution each completion token was predicted by, in nats, detached, float32; None unless asked for.
    """

    loss: Tensor
    logprob_N: Tensor
    entropy_N: Tensor | None = None


def forward(
    model: PreTrainedModel,
    batch: PackedBatch,
    token_loss: TokenLoss | Callable[[Tensor], TokenLoss],
    *,
    entropy: bool = False,
    needs_all: bool = False,
    temperature: float = 1.0,
) -> Forward:
    """Loss sum and log-probabilities of the batch's completion tokens, and their distributions' entropies when asked for.

    temperature: the distributions are those of the logits divided by it. Raises ModelError where the head has a bias, which that does not fit.

    needs_all: the loss of a token depends on the log-probabilities of others; `token_loss` then makes the loss from all of them [N,
    detached], which takes the head's product once more.
    """
    hidden_ND = hidden_states(model, batch).index_select(0, batch.predictor_index_N)
    head = frozen_weights([model.get_output_embeddings()])
    hidden_ND = _cooled(hidden_ND, head, temperature)
    target_N = batch.token_ids_T[batch.target_index_N]
    if needs_all:
        with torch.no_grad():
            _, logprob_N, _ = head_loss(hidden_ND.detach(), head, target_N, _nothing, entropy=False)
        token_loss = cast(Callable[[Tensor], TokenLoss], token_loss)(logprob_N)
    return Forward(*head_loss(hidden_ND, head, target_N, cast(TokenLoss, token_loss), entropy=entropy))


def _cooled(hidden_ND: Tensor, head: FrozenWeights, temperature: float) -> Tensor:
    """What the head makes logits of that are divided by the temperature."""
    if temperature == 1:
        return hidden_ND
    if head.biases[0] is not None:
        raise ModelError(
            "the model's head has a bias, so it is trained at temperature 1 only",
            fix="leave --temperature out",
        )
    return hidden_ND / temperature


def logprobs(
    model: PreTrainedModel, batches: Iterable[PackedBatch], count: int, *, temperature: float = 1.0
) -> Tensor:
    """The log-probability of each of a step's `count` completion tokens, in the order of `source_N`; float32 [count] on the CPU."""
    device = next(model.parameters()).device
    logprob_M = torch.zeros(count)
    with torch.no_grad():
        for batch in batches:
            found = forward(model, batch.to(device), _nothing, temperature=temperature)
            logprob_M[batch.source_N] = found.logprob_N.cpu()
    return logprob_M


def _nothing(logprob_C: Tensor, part: slice) -> Tensor:
    return torch.zeros_like(logprob_C)


def hidden_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The decoder's last hidden states of a packed row [T, D]; no token sees another segment."""
    output = model.get_decoder()(
        input_ids=batch.token_ids_T[None],
        position_ids=batch.position_ids_T[None],
        segments=batch.segments,
        use_cache=False,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def prove_head(model: PreTrainedModel, tolerance: float = 0.02) -> None:
    """Check that decoder + head are all the model does: some models scale or cap their logits afterwards.

    Compares the log-probabilities of a few tokens with the model's own forward. Raises ModelError when they differ.
    """
    device = next(model.parameters()).device
    token_ids_T = torch.arange(8, device=device)
    batch = PackedBatch(
        token_ids_T=token_ids_T,
        position_ids_T=token_ids_T,
        segments=(8,),
        target_index_N=token_ids_T[1:],
        predictor_index_N=token_ids_T[:-1],
        source_N=token_ids_T[:-1],
        loss_weight_N=torch.ones(7),
        thinking_N=torch.zeros(7, dtype=torch.bool),
        tokens=8,
    )
    with torch.no_grad():
        ours_N = forward(model, batch, lambda logprob_C, _: logprob_C).logprob_N
        logits_TV = model(
            input_ids=token_ids_T[None], position_ids=token_ids_T[None], segments=(8,), use_cache=False
        ).logits[0]
    theirs_N = logits_TV[:-1].float().log_softmax(-1).gather(1, token_ids_T[1:, None])[:, 0]
    if not torch.allclose(ours_N, theirs_N, rtol=tolerance, atol=tolerance):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the head (scaling or capping), which this trainer does not do",
            fix="use a model whose logits are the head's output",
        )
