"""Head `frangi`: dark ridges by Frangi's vesselness, the bar that needs no training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mlkit_angioseg.encoders.grey import LEVEL
from mlkit_angioseg.heads.masks import check_maps, decode_masks
from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_on
from mlkit_core.types import Example, Features, FeatureSpec, MaskLogits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import Prediction, Role, SampleMeta

_LEAST = 1e-6  # of vesselness: a logit must stay finite


class Frangi(nn.Module):
    """Vesselness of dark ridges, the greatest over widths, as the probability `v / (v + level)`.

    It has no parameters. scikit-image's `frangi` does the work, on the CPU, with its own alpha,
    beta and, for each image, gamma.

    Source: Frangi et al., "Multiscale vessel enhancement filtering", MICCAI 1998.

    Args:
        inputs: Role to spec.
        num_classes: Must be 1.
        on: Role to read; its map "s1" holds grey values 0..1.
        widths_px: Standard deviations of the ridges, input pixels.
        level: Vesselness that counts as one half; choose it on data that is not reported.

    Raises:
        BuildError: The role has no grey map, or there are several classes.
    """

    output_type = MaskLogits

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        num_classes: int = 1,
        on: Role | None = None,
        *,
        widths_px: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
        level: float = 0.1,
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        if check_maps(self.on, inputs).channels != {LEVEL: 1} or num_classes != 1:
            raise BuildError(
                f"frangi reads the encoder grey and marks one class, got {num_classes} and role "
                f"{self.on!r} with {dict(inputs[self.on].channels)}",
                hint="encoders: {image: {name: grey}}",
            )
        self.widths_px, self.level = tuple(widths_px), level

    @torch.no_grad()
    def forward(self, scope: Mapping[Role, Features]) -> MaskLogits:
        """Return logits `[R, 1, H, W]`."""
        images = scope[self.on].maps[LEVEL][:, 0]
        found = [torch.from_numpy(self.vesselness(image)) for image in images.float().cpu()]
        values = torch.stack(found).to(images.device).clamp_min(_LEAST)
        return MaskLogits((values / self.level).log()[:, None])

    def vesselness(self, image: Tensor) -> np.ndarray:
        """Return the vesselness of one image `[H, W]`, float32."""
        from skimage.filters import frangi

        found = frangi(image.numpy(), sigmas=self.widths_px, black_ridges=True)
        return np.asarray(found, dtype=np.float32)

    def decode(self, output: MaskLogits, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return one mask of probabilities for each row, in original pixels."""
        return decode_masks(output, meta)


def example(folder: Path) -> Example:
    """Return two images with a dark line each."""
    del folder
    images = torch.full((2, 1, 24, 32), 0.8)
    images[0, 0, 10:13], images[1, 0, :, 15:18] = 0.3, 0.3
    return Example(
        options={"widths_px": (1.0, 2.0)},
        args=({"image": Features(maps={LEVEL: images})},),
        context={
            "inputs": {"image": FeatureSpec(channels={LEVEL: 1}, strides={LEVEL: 1})},
            "num_classes": 1,
            "on": "image",
        },
    )
