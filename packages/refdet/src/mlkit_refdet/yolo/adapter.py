"""The one module that imports ultralytics (AGPL-3.0): YOLOv8's layers before its head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_refdet.yolo.checkpoint import BN_EPS
from mlkit_refdet.yolo.quiet import undisturbed

with undisturbed():
    from ultralytics.nn.tasks import DetectionModel

if TYPE_CHECKING:
    from collections.abc import Collection

VARIANTS = ("n", "s", "m", "l", "x")
LAYERS = 22  # backbone 0..9 and neck 10..21; 22 is the head
__all__ = ["LAYERS", "VARIANTS", "YoloLayers"]


class YoloLayers(nn.Module):
    """Layers of a YOLOv8 up to its head, run without hooks: image to the outputs of chosen layers.

    Args:
        variant: "n", "s", "m", "l" or "x".
        last: Layers after this one are not built.
        folded: Whether BatchNorm is folded into the convolutions.
    """

    def __init__(self, variant: str = "n", last: int = LAYERS - 1, folded: bool = False) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise BuildError(f"variant: YOLOv8 has {', '.join(VARIANTS)}, not {variant!r}")
        state = torch.get_rng_state()
        with undisturbed():
            whole: Any = DetectionModel(f"yolov8{variant}.yaml", verbose=False)
            if folded:
                whole.fuse(verbose=False)
        torch.set_rng_state(state)  # building runs a picture through it
        self.model = nn.ModuleList(whole.model[: last + 1])
        self._sources = [layer.f for layer in self.model]
        _initialised(self)

    def forward(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        """Return layer to output, `[R, C, H / s, W / s]`, of RGB images 0..1 `[R, 3, H, W]`."""
        outputs: list[Tensor] = []
        for layer, source in zip(self.model, self._sources, strict=True):
            if isinstance(source, int):
                given = x if source == -1 else outputs[source]
            else:
                given = [x if index == -1 else outputs[index] for index in source]
            x = layer(given)
            outputs.append(x)
        return {index: outputs[index] for index in wanted}

    def widths(self, wanted: Collection[int]) -> dict[int, int]:
        """Return layer to channels, measured on an empty picture."""
        was = self.training
        self.eval()
        with torch.no_grad():
            found = self(torch.zeros(1, 3, 64, 64), wanted)
        self.train(was)
        return {index: values.shape[1] for index, values in found.items()}


def _initialised(module: nn.Module) -> None:
    """Draw weights from torch's generator as it stands: ultralytics draws some of its own."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            child.reset_parameters()
        elif isinstance(child, nn.BatchNorm2d):
            child.reset_running_stats()
            child.reset_parameters()
            child.eps, child.momentum = BN_EPS, 0.03
