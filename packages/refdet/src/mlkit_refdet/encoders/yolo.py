"""Encoders `yolo-query` and `yolo-reference`: one trunk, two ways to finish it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.types import Example, Features
from mlkit_refdet.encoders.foreground import project_photos
from mlkit_refdet.encoders.projection import Projection
from mlkit_refdet.features import EmbedSpec, QueryFeatures, SupportFeatures
from mlkit_refdet.yolo.checkpoint import read_yolo_state
from mlkit_refdet.yolo.trunk import Taps, YoloTrunk

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OPTIONS = ("variant", "taps", "folded", "calibration")


class YoloQuery(nn.Module):
    """Maps of query images, and their embeddings `[B, dim, h, w]` by level.

    Args:
        variant: Of YOLOv8.
        taps: "identity" or "pan".
        folded: Whether BatchNorm is folded into convolutions.
        dim: Width of the embeddings.
        calibration: Folder of photos that channels are scaled by; None: pictures that
            come with scikit-image.
    """

    input_shape = (3, None, None)
    size_multiple, pad_rgb = 32, (114 / 255,) * 3
    trunk_options = _OPTIONS

    def __init__(
        self,
        variant: str = "n",
        taps: Taps = "identity",
        folded: bool = False,
        dim: int = 256,
        calibration: Path | None = None,
    ) -> None:
        super().__init__()
        self.trunk, self.calibration = YoloTrunk(variant, taps, folded), calibration
        self.projection = Projection(self.trunk.spec.channels, dim)
        self.spec = EmbedSpec(
            channels=self.trunk.spec.channels,
            strides=self.trunk.spec.strides,
            type=QueryFeatures,
            embed_dim=dim,
        )

    def forward(self, x: Tensor) -> QueryFeatures:
        """Return the features of RGB images 0..1, `[B, 3, H, W]`."""
        return self.finish(self.trunk(x))

    def finish(self, features: Features) -> QueryFeatures:
        """Return the query's features of what the trunk gave."""
        return QueryFeatures(maps=features.maps, embed=self.projection(features.maps))

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """Return the weights of a file: plain tensors, or an ultralytics checkpoint."""
        return read_yolo_state(path)

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a YOLOv8's weights and find the channels' scale."""
        self.trunk.load_calibrated(state_dict, self.calibration)


class YoloReference(nn.Module):
    """Prototypes and tokens of reference photos, by level, from the same trunk as the query's.

    Args:
        variant: Of YOLOv8.
        taps: "identity" or "pan".
        folded: Whether BatchNorm is folded into convolutions.
        dim: Width of prototypes and tokens.
        calibration: Folder of photos that channels are scaled by; None: pictures that
            come with scikit-image.
        tokens: A photo gives this squared.
    """

    input_shape = (3, None, None)
    size_multiple, pad_rgb = 32, (114 / 255,) * 3
    trunk_options = _OPTIONS
    uses_mask = True

    def __init__(
        self,
        variant: str = "n",
        taps: Taps = "identity",
        folded: bool = False,
        dim: int = 256,
        calibration: Path | None = None,
        tokens: int = 4,
    ) -> None:
        super().__init__()
        self.trunk, self.calibration = YoloTrunk(variant, taps, folded), calibration
        self.projection, self.tokens = Projection(self.trunk.spec.channels, dim), tokens
        last = list(self.trunk.spec.channels)[-1]
        self.spec = EmbedSpec(
            channels=self.trunk.spec.channels,
            strides=self.trunk.spec.strides,
            vector_dim=self.trunk.spec.channels[last],
            type=SupportFeatures,
            embed_dim=dim,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> SupportFeatures:
        """Return the features of RGB photos 0..1, `[R, 3, H, W]`.

        Args:
            x: Photos.
            mask: `[R, H, W]`, 1 on the object; zeros or None where its place is not known.
        """
        return self.finish(self.trunk(x), mask)

    def finish(self, features: Features, mask: Tensor | None = None) -> SupportFeatures:
        """Return the photos' features of what the trunk gave."""
        protos, tokens = project_photos(self.projection, features.maps, mask, self.tokens)
        last = list(features.maps)[-1]
        return SupportFeatures(
            maps=features.maps,
            vector=features.maps[last].mean((2, 3)),
            mask=mask,
            protos=protos,
            level_tokens=tokens,
        )

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """Return the weights of a file: plain tensors, or an ultralytics checkpoint."""
        return read_yolo_state(path)

    def load_pretrained(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a YOLOv8's weights and find the channels' scale."""
        self.trunk.load_calibrated(state_dict, self.calibration)


def query_example(folder: Path) -> Example:
    """Return two images for a small embedding."""
    del folder
    return Example(options={"dim": 8}, args=(torch.rand(2, 3, 64, 64),))


def reference_example(folder: Path) -> Example:
    """Return two photos for a small embedding."""
    del folder
    return Example(options={"dim": 8, "tokens": 2}, args=(torch.rand(2, 3, 64, 64),))
