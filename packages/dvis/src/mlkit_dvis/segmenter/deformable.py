"""Multi-scale deformable self-attention of the pixel decoder, quick on processors too.

transformers reads the maps by `grid_sample`, whose neighbouring channels lie far apart in memory.
Where no gradient is wanted, a processor reads each pixel's channels as one row of a table instead:
a bag of 4 corners x levels x points, summed with weights. The formula is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as DeformableAttention,
)

from mlkit_core.types import tracing
from mlkit_dvis.vit_adapter.deformable import compass

if TYPE_CHECKING:
    from collections.abc import Sequence

Size = tuple[int, int]  # height, width


class PyramidAttention(DeformableAttention):
    """Each pixel of three maps reads all of them at a few points near its own place.

    Source: Zhu et al., "Deformable DETR", ICLR 2021, eq. 3 and appendix A.4 (how it is drawn);
    parameters, names and the road of training are transformers'.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__(dim, heads, levels, points)
        _look_around(self)

    def forward(  # transformers' own signature
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        reference_points: Tensor | None = None,
        spatial_shapes_list: Sequence[Size] | None = None,
        level_start_index: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the pixels read, `[R, S, C]`, and the weights where the slow road was taken.

        The attention mask blocks nothing, since frames are padded before the backbone, not after.
        """
        if self._quick(hidden_states) and not output_attentions:
            given = (hidden_states, encoder_hidden_states, reference_points, spatial_shapes_list)
            return self._read(*given, position_embeddings), None
        return super().forward(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            position_embeddings=position_embeddings,
            reference_points=reference_points,
            spatial_shapes_list=spatial_shapes_list,
        )

    def _quick(self, states: Tensor) -> bool:
        learns = states.requires_grad or any(p.requires_grad for p in self.parameters())
        if learns and torch.is_grad_enabled():
            return False
        return states.device.type == "cpu" and not tracing()

    def _read(
        self,
        states: Tensor,
        memory: Tensor | None,
        places: Tensor | None,
        sizes: Sequence[Size] | None,
        positions: Tensor | None,
    ) -> Tensor:
        if memory is None or places is None or sizes is None:
            raise TypeError("the pixel decoder's encoder gives memory, places and sizes")
        queries = states if positions is None else states + positions
        shape = (*queries.shape[:2], self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:3], -1).softmax(-1)
        table = self.value_proj(memory).unflatten(-1, (self.n_heads, -1))
        x, y = (
            offsets[..., axis] + _pixels(places[..., axis], sizes, axis, self.n_points)
            for axis in (0, 1)
        )
        return self.output_proj(read_bags(table, sizes, x, y, weights.view(shape)))


def _pixels(places: Tensor, sizes: Sequence[Size], axis: int, points: int) -> Tensor:
    """Return places 0..1 `[R, S, L]` in pixels of each level, `[R, S, 1, L, P]`."""
    lengths = places.new_tensor([size[1 - axis] for size in sizes])
    pixels = (places * lengths - 0.5)[:, :, None, :, None]
    return pixels.expand(-1, -1, -1, -1, points).contiguous()


def read_bags(
    values: Tensor, sizes: Sequence[Size], x: Tensor, y: Tensor, weights: Tensor
) -> Tensor:
    """Return weighted sums of bilinear readings of maps; zero is read outside.

    As `grid_sample` with `align_corners=False` and zeros does; it passes no gradient to places.

    Args:
        values: `[R, S, heads, D]`, the levels' pixels one after the other.
        sizes: Height and width of each level.
        x: `[R, Q, heads, levels, points]`, in pixels of the level; 0 is the first one's centre.
        y: Likewise.
        weights: Likewise.

    Returns:
        `[R, Q, heads * D]`.
    """
    rows, queries, heads, levels, points = x.shape
    each = levels * points
    table = _with_border(values.flatten(2), sizes)
    heights, widths = (
        [size[axis] for size in sizes for _ in range(points)] * heads for axis in (0, 1)
    )
    left, right = _low_and_fraction(x.flatten(2), widths)
    top, bottom = _low_and_fraction(y.flatten(2), heights)
    first, down = _addresses(sizes, heads, points, x.device)
    index = top.int().mul_(down).add_(left.int().mul_(heads)).add_(first)
    index += torch.arange(rows, dtype=torch.int32, device=x.device)[:, None, None] * (
        table.shape[1] * heads
    )
    step = down[:each]
    corners = torch.stack([0 * step, 0 * step + heads, step, step + heads])
    share = weights.reshape(-1, each)
    right, bottom = right.view(-1, each), bottom.view(-1, each) * share
    across, along = torch.stack([1 - right, right], 1), torch.stack([share - bottom, bottom], 1)
    read = F.embedding_bag(
        (index.view(-1, 1, each) + corners).flatten(1),
        table.view(-1, values.shape[-1]),
        per_sample_weights=(along[:, :, None] * across[:, None]).flatten(1),
        mode="sum",
    )
    return read.view(rows, queries, -1)


def _with_border(values: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Return the levels' pixels `[R, S, C]` with a border of zeros, one pixel wide, around each."""
    wider = [(height + 2) * (width + 2) for height, width in sizes]
    table = values.new_zeros(len(values), sum(wider), values.shape[-1])
    parts = values.split([height * width for height, width in sizes], 1)
    for part, target, size in zip(parts, table.split(wider, 1), sizes, strict=True):
        inner = target.unflatten(1, (size[0] + 2, size[1] + 2))[:, 1:-1, 1:-1]
        inner.copy_(part.unflatten(1, size))
    return table


def _low_and_fraction(places: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return the pixel before each place, border included, and how far on the place lies."""
    limits = places.new_tensor(lengths)
    # fmax and fmin take the limit where a place is not a number, whose index would be anything.
    inside = torch.fmin(torch.fmax(places, places.new_tensor(-1.0)), limits)
    low = torch.minimum(inside.floor(), limits - 1)
    return low, inside - low


def _addresses(
    sizes: Sequence[Size], heads: int, points: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the address of each level's first pixel, and how far the next row of it lies.

    Both are int32 `[heads * levels * points]`, counted in rows of one head's channels.
    """
    start, starts = 0, list[int]()
    for height, width in sizes:
        starts.append(start + width + 3)
        start += (height + 2) * (width + 2)
    first = [at * heads + head for head in range(heads) for at in starts for _ in range(points)]
    down = [(width + 2) * heads for _, width in sizes for _ in range(points)] * heads
    whole = torch.tensor([first, down], dtype=torch.int32, device=device)
    return whole[0], whole[1]


@torch.no_grad()
def _look_around(attention: DeformableAttention) -> None:
    """Let each head look its own way, and everywhere alike."""
    ways = compass(attention.n_heads, attention.n_points)[:, None]
    ways = ways.expand(-1, attention.n_levels, -1, -1)  # [heads, levels, points, 2]
    attention.sampling_offsets.bias.copy_(ways.flatten())
    nn.init.zeros_(attention.sampling_offsets.weight)
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
    for layer in (attention.value_proj, attention.output_proj):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
