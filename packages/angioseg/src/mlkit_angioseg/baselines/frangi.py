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

    from numpy.typing import NDArray

    from mlkit_core.types import Prediction, Role, SampleMeta

_LEAST = 1e-6  # of vesselness: a logit must stay finite


class Frangi(nn.Module):
    """Vesselness of dark ridges, the greatest over widths, as the probability `v / (v + level)`.

    It has no parameters. scikit-image's `frangi` does the work, on the CPU, with its own alpha and
    beta.

    Source: Frangi et al., "Multiscale vessel enhancement filtering", MICCAI 1998.

    Args:
        inputs: Role to spec.
        num_classes: Must be 1.
        on: Role to read; its map "s1" holds grey values 0..1.
        widths_px: Standard deviations of the ridges, input pixels.
        shutter: Rows and columns from the border inward whose median is below this share of all
            rows' or columns' median are under a collimator, or padding: they, and twice the widest
            ridge behind them, hold no vessel and are not filtered. 0: the whole image is.
        gamma: Strength of structure, in grey values, that counts as half; None: half of each
            image's greatest at the first width, as scikit-image has it.
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
        widths_px: Sequence[float] = (3.0, 4.0, 5.0),
        shutter: float = 0.8,
        gamma: float | None = 0.02,
        level: float = 0.005,
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        if check_maps(self.on, inputs).channels != {LEVEL: 1} or num_classes != 1:
            raise BuildError(
                f"frangi reads the encoder grey and marks one class, got {num_classes} and role "
                f"{self.on!r} with {dict(inputs[self.on].channels)}",
                hint="encoders: {image: {name: grey}}",
            )
        self.widths_px, self.gamma, self.level = tuple(widths_px), gamma, level
        self.shutter = shutter

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

        grey, found = image.numpy(), np.zeros(tuple(image.shape), dtype=np.float32)
        lit = lit_area(grey, self.shutter, round(2 * max(self.widths_px)))
        found[lit] = frangi(
            grey[lit],
            sigmas=self.widths_px,  # pyright: ignore[reportArgumentType]  # any iterable will do
            gamma=self.gamma,
            black_ridges=True,
        )
        return found

    def decode(self, output: MaskLogits, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return one mask of probabilities for each row, in original pixels."""
        return decode_masks(output, meta)


def lit_area(grey: NDArray[np.floating], share: float, margin: int) -> tuple[slice, slice]:
    """Return the rows and columns that no collimator hides.

    A shutter's blurred edge is a dark ridge to the filter, and the strongest one of the image.

    Args:
        grey: `[H, W]`.
        share: Of the usual median grey, below which a row or column from the border is dark.
        margin: Pixels left out behind dark ones.
    """
    rows, columns = (_lit(np.median(grey, axis=axis), share, margin) for axis in (1, 0))
    return rows, columns


def _lit(profile: NDArray[np.floating], share: float, margin: int) -> slice:
    bright = np.flatnonzero(profile >= share * np.median(profile))
    first, last = int(bright[0]), int(bright[-1]) + 1
    start = first + margin if first else 0
    stop = last - margin if last < len(profile) else last
    return slice(start, stop) if stop - start > margin else slice(first, last)


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
