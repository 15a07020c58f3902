"""The segmenter's true cross-attention: where each query looks in each frame.

`output_attentions` of transformers holds only self-attention; the cross-attention's weights are
computed for those who ask.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import torch

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from mlkit_dvis.segmenter.masked_attention import MaskedCrossAttention

_LEVELS = 3


@dataclass
class Captured:
    """What was seen by decoder layer, of the last call; masked attention is zero outside a mask.

    Args:
        weights: Layer to `[R, Q, h * w]`, mean over heads, or `[R, heads, Q, h * w]`; each row
            sums to 1.
        sizes: Layer to the grid's height and width: stride 32, 16 or 8 in turn.
    """

    weights: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)


@contextmanager
def capture_attention(
    segmenter: nn.Module, layers: Sequence[int] = (-1,), *, per_head: bool = False
) -> Iterator[Captured]:
    """Record the cross-attention of decoder layers while frames go through, without gradient.

    Args:
        segmenter: A `Mask2FormerEncoder`, or its `SegmenterParts`.
        layers: Numbers of decoder layers, negative from the end; they are the keys of the result.
        per_head: Whether heads stay apart.

    Raises:
        InputError: There is no such layer.
    """
    transformer = segmenter.get_submodule("transformer")
    decoder = list(transformer.get_submodule("decoder.layers").children())
    for layer in layers:
        if not -len(decoder) <= layer < len(decoder):
            raise InputError(f"layers: there are {len(decoder)} decoder layers, got {layer}")
    captured = Captured()
    sizes: list[tuple[int, int]] = []

    def see_sizes(_module: nn.Module, given: tuple[list[Tensor], Tensor]) -> None:
        sizes[:] = [(maps.shape[-2], maps.shape[-1]) for maps in given[0]]

    def see(
        layer: int, module: nn.Module, _args: object, given: Mapping[str, Tensor], _out: object
    ) -> None:
        attention = cast("MaskedCrossAttention", module)
        with torch.no_grad():
            weights = attention.weights(given["query"], given["key"], given["attn_mask"])
        weights = weights if per_head else weights.mean(1)
        earlier = captured.weights.get(layer, weights[:0])  # of frames of the same call
        captured.weights[layer] = torch.cat([earlier, weights])
        captured.sizes[layer] = sizes[(layer % len(decoder)) % _LEVELS]

    hooks = [
        segmenter.register_forward_pre_hook(lambda _module, _given: captured.weights.clear()),
        transformer.register_forward_pre_hook(see_sizes),
    ]
    for layer in layers:
        attention = decoder[layer].get_submodule("cross_attn")
        hooks.append(attention.register_forward_hook(partial(see, layer), with_kwargs=True))
    try:
        yield captured
    finally:
        for hook in hooks:
            hook.remove()
