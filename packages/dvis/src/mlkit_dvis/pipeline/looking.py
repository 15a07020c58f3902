"""Where the segmenter's queries look, and what it says of each, for every frame."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mlkit_dvis.results import QueryTable
from mlkit_dvis.segmenter.attention import capture_attention

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from mlkit_dvis.features import Window
    from mlkit_dvis.pipeline.session import Parts
    from mlkit_dvis.pipeline.spill import Spill


class QueryLog:
    """Keeps scores in memory and attention maps in files.

    Args:
        spill: Where the maps lie, as float16.
        layers: Decoder layers, negative from the end.
    """

    def __init__(self, spill: Spill, layers: Sequence[int]) -> None:
        self.layers, self._spill = tuple(layers), spill
        self._files = {
            layer: spill.file(f"attention{layer}", torch.float16) for layer in self.layers
        }
        self._scores: list[torch.Tensor] = []

    @contextmanager
    def capturing(self, parts: Parts) -> Iterator[None]:
        """Record the cross-attention of what the segmenter is given within."""
        with capture_attention(parts.model.encoders[parts.frames], self.layers) as captured:
            yield
        for layer in self.layers:
            weights, (height, width) = captured.weights[layer], captured.sizes[layer]
            for frame in weights:  # [Q, h * w]
                self._files[layer].append(frame.reshape(-1, height, width))

    def add(self, window: Window) -> None:
        """Take what the segmenter says of a window's queries."""
        self._scores += list(window.pred_logits[0].softmax(-1).float().cpu())

    def table(self) -> QueryTable:
        """Return everything by frame."""
        probabilities = torch.stack(self._scores)  # [T, Q, K + 1]
        scores, labels = probabilities[..., :-1].max(-1)

        def attention(frame: int, layer: int) -> npt.NDArray[np.float32]:
            return self._files[layer].read(frame).float().numpy()

        return QueryTable(
            scores=scores.numpy(),
            labels=labels.numpy(),
            no_object=probabilities[..., -1].numpy(),
            attention=attention,
            layers=self.layers,
            close=self._spill.close,
        )
