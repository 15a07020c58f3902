"""Post-norm attention blocks that the tracker and the refiner are built of, sequence first.

Source: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR
2022, whose decoder layers they are; the parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def init_blocks(*modules: nn.Module) -> None:
    """Draw every parameter of two or more dimensions from Xavier's uniform distribution."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


def _with_position(x: Tensor, position: Tensor | None) -> Tensor:
    return x if position is None else x + position


class SelfAttentionLayer(nn.Module):
    """Self-attention, residual, layer norm: `LN(x + MHA(x + p, x + p, x))`.

    Args:
        dim: Width of the rows.
        heads: Divides `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads)
        self.norm = nn.LayerNorm(dim)
        init_blocks(self)

    def forward(self, x: Tensor, query_pos: Tensor | None = None) -> Tensor:
        """Return the rows `[L, B, C]` after they attended to each other.

        Args:
            x: `[L, B, C]`.
            query_pos: `[L, B, C]`, added to queries and keys.
        """
        placed = _with_position(x, query_pos)
        attended, _ = self.self_attn(placed, placed, x, need_weights=False)
        return self.norm(x + attended)


class CrossAttentionLayer(nn.Module):
    """Cross-attention, residual, layer norm: `LN(x + MHA(x + p, m + q, m))`.

    Args:
        dim: Width of the rows.
        heads: Divides `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(dim, heads)
        self.norm = nn.LayerNorm(dim)
        init_blocks(self)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        query_pos: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """Return the rows `[L, B, C]` after they attended to `memory`.

        Args:
            x: `[L, B, C]`.
            memory: `[M, B, C]`.
            query_pos: `[L, B, C]`, added to the queries.
            pos: `[M, B, C]`, added to the keys.
        """
        attended, _ = self.multihead_attn(
            _with_position(x, query_pos), _with_position(memory, pos), memory, need_weights=False
        )
        return self.norm(x + attended)

    def weights(
        self,
        x: Tensor,
        memory: Tensor,
        query_pos: Tensor | None = None,
        pos: Tensor | None = None,
    ) -> Tensor:
        """Return how much each row looks at each of `memory`, mean over heads, `[B, L, M]`.

        The arguments are those of the layer's own call; each row of weights sums to 1.
        """
        keys = _with_position(memory, pos)
        _, weights = self.multihead_attn(_with_position(x, query_pos), keys, memory)
        return weights


class FFNLayer(nn.Module):
    """Feed-forward network, residual, layer norm: `LN(x + W2 relu(W1 x))`.

    Args:
        dim: Width of the rows.
        hidden: Width in between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        init_blocks(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows, `[..., C]`."""
        return self.norm(x + self.linear2(self.linear1(x).relu()))


class MLP(nn.Module):
    """Linear layers with a ReLU between each two.

    Args:
        inputs: Width of the input.
        hidden: Width in between.
        outputs: Width of the output.
        layers: Number of linear layers, at least 1.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, `[..., outputs]`."""
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        return last(x)
