"""What this plugin offers. Importing it loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core import ComponentSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

MLKIT_API = 1


@hookimpl
def mlkit_components() -> Iterator[ComponentSpec]:
    """Yield the encoder and the loss."""
    yield ComponentSpec(
        kind="encoder",
        name="haar-pyramid",
        target="mlkit_example.encoder:HaarPyramid",
        config="mlkit_example.config:HaarPyramidConfig",
        example="mlkit_example.encoder:example",
        summary="Haar wavelets of every scale, mixed by 1x1 convolutions.",
        source="https://doi.org/10.1109/34.192463",
    )
    yield ComponentSpec(
        kind="loss",
        name="tversky",
        target="mlkit_example.loss:TverskyLoss",
        config="mlkit_example.config:TverskyLossConfig",
        example="mlkit_example.loss:example",
        summary="Dice with a price of its own for missed and for false pixels.",
        source="https://arxiv.org/abs/1706.05721",
    )
