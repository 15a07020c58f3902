"""The trunk of both YOLO encoders: which layers are read, and one fixed scale for all channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError, DataError, WeightsError
from mlkit_core.types import Features, FeatureSpec, tracing
from mlkit_refdet.features import STRIDES
from mlkit_refdet.yolo.adapter import YoloLayers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Taps = Literal["identity", "pan"]
# Layers by level, those of twice the resolution first: they are pooled.
_IDENTITY: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "p3": ((2,), (4, 15)),
    "p4": ((4,), (6, 18)),
    "p5": ((6,), (9, 21)),
}
_PAN: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "p3": ((), (15,)),
    "p4": ((), (18,)),
    "p5": ((), (21,)),
}
_SIDE, _IMAGES = 320, 24
_DEAD = 1e-6


class YoloTrunk(nn.Module):
    """YOLOv8's maps at strides 8, 16 and 32, of RGB images 0..1 `[R, 3, H, W]`.

    A detector's neck forgets which object it sees: of twelve products, nearest neighbours over
    layer 4 find 82 %, over layer 21 12 %. The taps "identity" therefore join early layers, pooled
    to the next stride, with the neck's: [2, 4, 15], [4, 6, 18] and [6, 9, 21]. "pan" takes the neck
    alone. Channels are brought to one scale by a fixed mean and deviation, which `calibrate` finds.

    Args:
        variant: "n", "s", "m", "l" or "x".
        taps: Which layers are read.
        folded: Whether the weights' file has BatchNorm folded into convolutions.
    """

    def __init__(self, variant: str = "n", taps: Taps = "identity", folded: bool = False) -> None:
        super().__init__()
        if taps not in ("identity", "pan"):
            raise BuildError(f"taps: identity or pan, not {taps!r}")
        self.taps = _IDENTITY if taps == "identity" else _PAN
        self.layers = YoloLayers(variant, folded=folded)
        self.folded = folded
        self.wanted = sorted({i for pair in self.taps.values() for part in pair for i in part})
        widths = self.layers.widths(self.wanted)
        channels = {
            level: sum(widths[i] for i in (*finer, *own))
            for level, (finer, own) in self.taps.items()
        }
        self.spec = FeatureSpec(channels=channels, strides=STRIDES)
        for level, count in channels.items():
            self.register_buffer(f"mean_{level}", torch.zeros(1, count, 1, 1))
            self.register_buffer(f"deviation_{level}", torch.ones(1, count, 1, 1))

    def forward(self, x: Tensor) -> Features:
        """Return the standardised maps.

        Raises:
            BuildError: The size is no multiple of 32.
        """
        legal = x.ndim == 4 and x.shape[1] == 3 and not (x.shape[2] % 32 or x.shape[3] % 32)
        if not tracing() and not legal:
            got = tuple(x.shape)
            raise BuildError(f"yolo takes images [R, 3, H, W], multiples of 32, got {got}")
        maps = {level: self._scaled(level, values) for level, values in self._joined(x).items()}
        return Features(maps=maps)

    def _scaled(self, level: str, values: Tensor) -> Tensor:
        return (values - getattr(self, f"mean_{level}")) / getattr(self, f"deviation_{level}")

    def _joined(self, x: Tensor) -> dict[str, Tensor]:
        found = self.layers(x, self.wanted)
        return {
            level: torch.cat(
                [functional.avg_pool2d(found[i], 2) for i in finer] + [found[i] for i in own], 1
            )
            for level, (finer, own) in self.taps.items()
        }

    @torch.no_grad()
    def calibrate(self, images: Iterable[Tensor]) -> None:
        """Set each channel's mean and deviation to those over images `[3, H, W]`, RGB 0..1."""
        was = self.training
        self.eval()
        sums: dict[str, list[Tensor]] = {level: [] for level in self.taps}
        for image in images:
            for level, values in self._joined(image[None]).items():
                flat = values.flatten(2)[0].double()  # [C, h * w]
                sums[level].append(torch.stack((flat.mean(1), flat.square().mean(1))))
        self.train(was)
        for level, parts in sums.items():
            mean, square = torch.stack(parts).mean(0)
            deviation = (square - mean.square()).clamp_min(0).sqrt()
            deviation[deviation < _DEAD] = 1  # a channel that never moves stays as it is
            getattr(self, f"mean_{level}").copy_(mean.view(1, -1, 1, 1))
            getattr(self, f"deviation_{level}").copy_(deviation.view(1, -1, 1, 1))

    def load(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a YOLOv8's weights: keys `model.0.…` to `model.21.…`; its head is left out.

        Raises:
            WeightsError: Keys are missing, or of another shape or variant.
        """
        own = self.layers.state_dict()
        given = {key.removeprefix("model.model."): value for key, value in state_dict.items()}
        given = {k if k.startswith("model.") else f"model.{k}": v for k, v in given.items()}
        wrong = [f"{key} is missing" for key in own if key not in given]
        wrong += [
            f"{key} is {tuple(given[key].shape)}, not {tuple(value.shape)}"
            for key, value in own.items()
            if key in given and given[key].shape != value.shape
        ]
        if wrong:
            folded = not any(".bn." in key for key in given)
            hint = (
                f"this file has BatchNorm {'folded' if folded else 'apart'}: "
                f"say `folded: {str(folded).lower()}`"
                if folded != self.folded
                else "check that they belong to this `variant`"
            )
            raise WeightsError(f"yolo: the weights do not fit: {'; '.join(wrong[:3])}", hint=hint)
        self.layers.load_state_dict({key: given[key].float() for key in own})


def calibration_images(folder: Path | None) -> list[Tensor]:
    """Return images `[3, 320, 320]`, RGB 0..1, that channels are brought to one scale by.

    Args:
        folder: Of photos, the first 24 in order of names; None: pictures of dead leaves, whose
            statistics are near those of photos.

    Raises:
        DataError: The folder holds no picture that can be read.
    """
    if folder is None:
        return [dead_leaves(seed) for seed in range(_IMAGES)]
    from PIL import Image, UnidentifiedImageError

    endings = {".jpg", ".jpeg", ".png"}
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in endings)[:_IMAGES]
    if not files:
        raise DataError(f"calibration: {folder}: holds no pictures")
    found: list[Tensor] = []
    for file in files:
        try:
            picture = Image.open(file).convert("RGB").resize((_SIDE, _SIDE))
        except (UnidentifiedImageError, OSError) as err:
            raise DataError(f"calibration: {file}: cannot be read: {err}") from err
        found.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255)
    return found


def dead_leaves(seed: int, side: int = _SIDE, leaves: int = 600) -> Tensor:
    """Return a picture of discs that hide each other, `[3, side, side]`, 0..1.

    Source: Lee, Mumford and Huang, "Occlusion Models for Natural Images", IJCV 2001: radii with a
    density of r^-3 give the scale invariance of photos.
    """
    rng = np.random.default_rng(seed)
    picture = np.full((side, side, 3), rng.uniform(0.2, 0.8, 3), np.float32)
    rows, columns = np.mgrid[:side, :side]
    least, most = 3.0, side / 3
    shares = rng.uniform(size=leaves)
    radii = 1 / np.sqrt((1 - shares) / least**2 + shares / most**2)
    for radius in radii:
        y, x = rng.uniform(0, side, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        picture[disc] = rng.uniform(0, 1, 3) + rng.normal(0, 0.04, (int(disc.sum()), 1))
    return torch.from_numpy(np.clip(picture, 0, 1)).permute(2, 0, 1).float().contiguous()
