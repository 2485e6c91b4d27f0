"""A reward model: a decoder, and one number read off the last token of a completion.

The number is a linear map of the decoder's last hidden state there, without a bias (a pair's loss does not see one), computed in float32.
Source: Ouyang et al. 2022 (arXiv 2203.02155, section 3.5); initial weights as in Stiennon et al. 2020 (arXiv 2009.01325, appendix B.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from bethink.core.seeds import derive_seed
from bethink.train.batch import PackedBatch
from bethink.train.forward import hidden_states


class RewardModel(nn.Module):
    """model: the decoder, with what of it is trained marked so; value: the map [1, D], trained always."""

    def __init__(self, model: PreTrainedModel, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        width, device = model.get_input_embeddings().weight.shape[1], next(model.parameters()).device
        generator = torch.Generator().manual_seed(derive_seed(seed, "value head"))
        initial_1D = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
        self.value = nn.Parameter(initial_1D.to(device))

    def forward(self, batch: PackedBatch, position_L: Tensor) -> Tensor:
        """The value at each of these positions of a packed row [L], float32."""
        hidden_LD = hidden_states(self.model, batch).index_select(0, position_L)
        return F.linear(hidden_LD.float(), self.value)[:, 0]
