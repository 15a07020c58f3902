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

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # as the encoder calls it
        self,
        hidden_states: Tensor,
        *,
        encoder_hidden_states: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes_list: Sequence[Size],
        **_unused: object,
    ) -> tuple[Tensor, None]:
        """Return what the pixels read, `[R, S, C]`.

        The attention masks that transformers passes block nothing: frames are padded before the
        backbone, not after.

        Args:
            hidden_states: `[R, S, C]`, the levels' pixels one after the other.
            encoder_hidden_states: The same.
            position_embeddings: `[R, S, C]`, added to the queries.
            reference_points: `[R, S, L, 2]`, x and y of each pixel in 0..1 of each level.
            spatial_shapes_list: Height and width of each level.
        """
        if not self._quick(hidden_states):
            read, _ = super().forward(
                hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                position_embeddings=position_embeddings,
                reference_points=reference_points,
                spatial_shapes_list=spatial_shapes_list,
            )
            return read, None
        queries = hidden_states + position_embeddings
        shape = (*queries.shape[:2], self.n_heads, self.n_levels, self.n_points)
        weights = self.attention_weights(queries).unflatten(-1, (self.n_heads, -1)).softmax(-1)
        x, y = self._places(queries, reference_points, spatial_shapes_list)
        values = self.value_proj(encoder_hidden_states).unflatten(-1, (self.n_heads, -1))
        read = read_bags(values, spatial_shapes_list, x, y, weights.view(shape))
        return self.output_proj(read), None

    def _places(
        self, queries: Tensor, centres: Tensor, sizes: Sequence[Size]
    ) -> tuple[Tensor, Tensor]:
        """Return x and y of what is read, in pixels of each level, `[R, S, heads, L, P]`."""
        shape = (*queries.shape[:2], self.n_heads, self.n_levels, self.n_points, 2)
        offsets = self.sampling_offsets(queries).view(shape)
        lengths = centres.new_tensor([(width, height) for height, width in sizes])
        pixels = (centres * lengths - 0.5)[:, :, None, :, None]  # [R, S, 1, L, 1, 2]
        # Whole copies, since sums of a few elements at a time are slow.
        pixels = pixels.expand(shape).contiguous()
        places = (offsets + pixels).unbind(-1)
        return places[0], places[1]

    def _quick(self, states: Tensor) -> bool:
        learns = states.requires_grad or any(p.requires_grad for p in self.parameters())
        if learns and torch.is_grad_enabled():
            return False
        return states.device.type == "cpu" and not tracing()


def read_bags(
    values: Tensor, sizes: Sequence[Size], x: Tensor, y: Tensor, weights: Tensor
) -> Tensor:
    """Return weighted sums of bilinear readings of maps; zero is read outside.

    As `grid_sample` with `align_corners=False` and zeros does; made for where no gradient flows.

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
