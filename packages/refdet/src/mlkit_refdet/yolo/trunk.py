"""The trunk of both YOLO encoders: which layers are read, and one fixed scale for all channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError, WeightsError
from mlkit_core.types import Features, FeatureSpec, tracing
from mlkit_refdet.features import STRIDES
from mlkit_refdet.yolo.adapter import YoloLayers
from mlkit_refdet.yolo.calibration import calibration_images
from mlkit_refdet.yolo.checkpoint import fold_batchnorm

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
_DEAD = 1e-6


class YoloTrunk(nn.Module):
    """YOLOv8's maps at strides 8, 16 and 32, of RGB images 0..1 `[R, 3, H, W]`.

    A detector's neck forgets which object it sees, and keeps what kind of thing it is. The taps
    "identity" therefore join early layers, pooled to the next stride, with the neck's: [2, 4, 15],
    [4, 6, 18] and [6, 9, 21]. "pan" takes the neck alone. Channels are brought to one scale by a
    fixed mean and deviation, which `calibrate` finds.

    Args:
        variant: "n", "s", "m", "l" or "x".
        taps: Which layers are read.
        folded: Whether BatchNorm is folded into the convolutions; a file that has it apart is
            folded when it is loaded.
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

    def load_calibrated(self, state_dict: Mapping[str, Tensor], folder: Path | None) -> None:
        """Load weights and find the channels' scale by the photos of a folder.

        Args:
            state_dict: See `load`.
            folder: None: by pictures that come with scikit-image, with low deviations raised.
        """
        self.load(state_dict)
        self.calibrate(calibration_images(folder), least=0.0 if folder else 1.0)

    @torch.no_grad()
    def calibrate(self, images: Iterable[Tensor], least: float = 0.0) -> None:
        """Set each channel's mean and deviation to those over images `[3, H, W]`, RGB 0..1.

        Args:
            images: They should be like those that will be seen.
            least: Lower deviations are raised to this share of their level's median: pictures of
                another kind leave channels still that will move much.
        """
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
            deviation = deviation.clamp_min(least * deviation.median())
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
        if self.folded:
            given = fold_batchnorm(given)
        wrong = [f"{key} is missing" for key in own if key not in given]
        wrong += [
            f"{key} is {tuple(given[key].shape)}, not {tuple(value.shape)}"
            for key, value in own.items()
            if key in given and given[key].shape != value.shape
        ]
        if wrong:
            apart = self.folded or any(".bn." in key for key in given)
            hint = "check that they belong to this `variant`"
            if not apart:
                hint = "this file has BatchNorm folded: say `folded: true`"
            raise WeightsError(f"yolo: the weights do not fit: {'; '.join(wrong[:3])}", hint=hint)
        self.layers.load_state_dict({key: given[key].float() for key in own})
