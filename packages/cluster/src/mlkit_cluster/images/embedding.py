"""The extractor `embedding`: the pooled vector of any encoder, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlkit_cluster.images.device import torch_device
from mlkit_cluster.images.example import example_batches
from mlkit_cluster.images.records import described
from mlkit_core.errors import BuildError, InputError
from mlkit_core.types import Example, ImageRecord, Needs
from mlkit_core.weights import load_pretrained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import nn

    from mlkit_core.types import Batch


class EmbeddingExtractor:
    """Reads out an encoder's pooled vector.

    The values of a record: `width`, `height`, `ratio`, `pad_x`, `pad_y`, `sha` and `embedding`,
    `[D]` float32. `needs` says what the data must be bound to; `provenance` where the weights are
    from.

    Args:
        encoder: For RGB images 0..1, with a pooled vector.
        weights: "auto" (published ones), a path, "hf:owner/repo/file" or "none" (random); None:
            "auto" where the encoder has published ones.
        device: As torch names it; "auto" takes a GPU where there is one.
        batch_size: Images in one forward pass.

    Raises:
        BuildError: The encoder gives no vector.
        WeightsError: The weights are not to be had or do not fit.
    """

    def __init__(
        self,
        encoder: Any,  # noqa: ANN401  # the Encoder protocol, and a module
        weights: str | None = None,
        device: str = "auto",
        batch_size: int = 16,
    ) -> None:
        if encoder.spec.vector_dim is None:
            raise BuildError("encoder: gives no pooled vector", hint="choose one that has one")
        self.provenance = load_pretrained("extractor.encoder", encoder, weights)
        self.device = torch_device(device)
        self.encoder: nn.Module = encoder.requires_grad_(False).eval().to(self.device)
        self.batch_size = batch_size
        sizes, multiple = getattr(encoder, "sizes", None), getattr(encoder, "size_multiple", 1)
        pad = getattr(encoder, "pad_rgb", (0.0, 0.0, 0.0))
        self.needs = Needs(size_multiple=multiple, sizes=sizes, pad_rgb=pad)

    def extract(self, batches: Iterable[Batch]) -> Iterator[ImageRecord]:
        """Yield one record for each image.

        Raises:
            InputError: The encoder does not take images of this size, or a vector is not finite.
        """
        for batch in batches:
            images = batch.inputs["image"]
            for start in range(0, len(images), self.batch_size):
                vectors = self._vectors(images[start : start + self.batch_size])
                for offset, vector in enumerate(vectors):
                    meta = batch.meta[start + offset]
                    if not np.isfinite(vector).all():
                        raise InputError(f"{meta.key}: the encoder's vector is not finite")
                    yield ImageRecord(meta.key, {**described(meta), "embedding": vector})

    @torch.inference_mode()
    def _vectors(self, images: torch.Tensor) -> np.ndarray:
        self.encoder.eval()
        return self.encoder(images.to(self.device)).vector.float().cpu().numpy()


def example(folder: Path) -> Example:
    """Return options with a tiny timm encoder of random weights, and two batches."""
    encoder = {"name": "timm", "model": "test_resnet"}
    options = {"encoder": encoder, "weights": "none", "device": "cpu"}
    return Example(options=options, args=(example_batches(folder),))
