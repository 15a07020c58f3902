"""The slot branch: does a tracked object still stand in this frame, or has it disappeared?

Source: Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries", ECCV 2024; slot
attention after Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.tensors import to_float32
from mlkit_dvis.blocks import init_blocks
from mlkit_dvis.matching import hungarian

if TYPE_CHECKING:
    from torch import Tensor

_FLOOR = 1e-6


def compete(keys: Tensor, queries: Tensor) -> Tensor:
    """Return each slot's weights over the inputs, `[B, n, m]`: every column sums to 1.

    The slots compete for each input (a softmax over slots); then each slot's share is normalised
    over the inputs.

    Source: Locatello et al., NeurIPS 2020, eqs. 1 and 2.

    Args:
        keys: `[B, n, C]`, of the inputs.
        queries: `[B, m, C]`, of the slots.
    """
    scores = keys @ queries.transpose(1, 2) / keys.shape[-1] ** 0.5
    weights = scores.softmax(-1) + _FLOOR
    return weights / weights.sum(1, keepdim=True)


class SlotAttention(nn.Module):
    """One iteration of slot attention, one head, without a recurrent unit.

    Args:
        dim: Width of inputs and slots.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_inputs = nn.LayerNorm(dim)
        self.project_q = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim, bias=False))
        self.project_k = nn.Linear(dim, dim, bias=False)

    def forward(self, inputs: Tensor, values: Tensor, slots: Tensor) -> Tensor:
        """Return what each slot gathers, `[m, B, C]`.

        Args:
            inputs: `[n, B, C]`, what the slots compete for.
            values: `[n, B, C]`, what is gathered; used as they are.
            slots: `[m, B, C]`.
        """
        keys = self.project_k(self.norm_inputs(inputs)).transpose(0, 1)  # [B, n, C]
        queries = self.project_q(slots).transpose(0, 1)  # [B, m, C]
        weights = compete(keys, queries)
        return (weights.transpose(1, 2) @ values.transpose(0, 1)).transpose(0, 1)


class SlotCrossAttentionLayer(nn.Module):
    """Cross-attention whose results the slots share out among themselves; residual, layer norm.

    Args:
        dim: Width of the rows.
        heads: Of the cross-attention; divides `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(dim, heads)
        self.norm = nn.LayerNorm(dim)
        self.slot_attn = SlotAttention(dim)
        init_blocks(self)

    def forward(
        self,
        slots: Tensor,
        memory: Tensor,
        query_pos: Tensor,
        slot_query: Tensor,
        blocked: Tensor | None = None,
    ) -> Tensor:
        """Return the slots `[n, B, C]`.

        Args:
            slots: `[n, B, C]`.
            memory: `[Q, B, C]`, the frame's embeddings.
            query_pos: `[n, B, C]`, added to the slots where they look into the frame.
            slot_query: `[n, B, C]`, by which the slots compete.
            blocked: `[Q]` bool, what no slot may look at.
        """
        mask = None if blocked is None else blocked.expand(len(slots), -1)
        found, _ = self.multihead_attn(
            slots + query_pos, memory, memory, attn_mask=mask, need_weights=False
        )
        return self.norm(slots + self.slot_attn(slots + found, found, slot_query))


@torch.no_grad()
def choose_slots(rows: Tensor, query_feat: Tensor) -> Tensor:
    """Return which of the segmenter's learned queries each row starts from, `[n]`.

    The nearest by cosine; rows that the best assignment of all reaches take theirs instead, so
    that no two of those share one.

    Args:
        rows: `[n, C]`.
        query_feat: `[Q, C]`.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows, query_feat = to_float32((rows, query_feat))
        likeness = _unit(rows) @ _unit(query_feat).T  # [n, Q]
    chosen = likeness.argmax(1)
    assigned, queries = hungarian(1 - likeness)
    chosen[assigned] = queries
    return chosen


def _unit(values: Tensor) -> Tensor:
    return values / (values.norm(dim=-1, keepdim=True) + _FLOOR)


def widest_scores(logits: Tensor) -> Tensor:
    """Return the best class's probability, `[...]`; the last class, "no object", is none.

    Args:
        logits: `[..., K + 1]`.
    """
    return F.softmax(logits, -1)[..., :-1].amax(-1)
