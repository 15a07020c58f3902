"""One image's raw output, prepared for any number of targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mlkit_cluster.kernel.table import EPS
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from mlkit_cluster.kernel.grid import Grid
    from mlkit_cluster.kernel.raw import RawOutput

TOP = 10  # anchors that a target picks
LANES = 16  # anchors that the compiled kernel takes at a time; arrays end in as much padding


@dataclass(frozen=True)
class Row:
    """What every pair of one raw output needs, float32 on one device.

    Args:
        grid: Its anchors.
        planes: `[6, A + LANES]`: corners of the decoded boxes in input pixels, area, angle (arc
            tangent of width over height).
        records: `[A, 8]`: the same in strides, and the anchor's centre in strides.
        roots: `[nc, A]` and padding, flat: square roots of the scores.
        logits: `[nc, A]`.
        log_probs: `[A, 4, reg_max]`, of the bins of the sides' distances.
        background: Classification loss of all anchors without any target, a sum.
        coefs: `[A, M]`, or None.
        protos: `[M, h, w]`, or None.
    """

    grid: Grid
    planes: Tensor
    records: Tensor
    roots: Tensor
    logits: Tensor
    log_probs: Tensor
    background: float
    coefs: Tensor | None
    protos: Tensor | None

    @cached_property
    def proto_sums(self) -> Tensor:
        """`[w * (h + 1), M]`: running sums of the prototypes down each column, from 0.

        float64, because differences of large sums are what is used of them.
        """
        assert self.protos is not None
        wide = torch.float32 if self.protos.device.type == "mps" else torch.float64
        columns = self.protos.permute(2, 1, 0).to(wide).cumsum(1)  # [w, h, M]
        return torch.nn.functional.pad(columns, (0, 0, 1, 0)).flatten(0, 1)


@torch.no_grad()
def prepare_row(raw: RawOutput, grid: Grid) -> Row:
    """Return one image's row, on the device of its raw output.

    Args:
        raw: Of one image.
        grid: Of the detector.

    Raises:
        InputError: The output is of several images, or laid out on another grid.
    """
    _check(raw, grid)
    logits = raw.scores[0].float().contiguous()
    background = _background(logits)
    bins = raw.boxes[0].float().T.reshape(grid.num_anchors, 4, grid.reg_max)
    roots = torch.nn.functional.pad(logits.sigmoid().sqrt_().view(-1), (0, LANES))
    log_probs = bins.log_softmax(2)
    planes, records = _decode(bins, grid)  # last, because most used: still in the caches
    return Row(
        grid=grid,
        planes=planes,
        records=records,
        roots=roots,
        logits=logits,
        log_probs=log_probs,
        background=background,
        coefs=None if raw.coefs is None else raw.coefs[0].float().T.contiguous(),
        protos=None if raw.protos is None else raw.protos[0].float().contiguous(),
    )


def _background(logits: Tensor) -> float:
    # The criterion's own float32 operations: for logits near -11 they differ from exact arithmetic
    # by more than 1e-5 of the loss.
    logits = logits.T.contiguous()
    return float(
        binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum")
    )


def _decode(bins: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Return planes and records of the logits of the sides' distances, `[A, 4, reg_max]`.

    A distance is the mean of its bins' indices (Li et al., "Generalized Focal Loss", NeurIPS 2020).
    """
    index = torch.arange(grid.reg_max, dtype=torch.float32, device=bins.device)
    sides = bins.softmax(2).matmul(index)  # [A, 4]
    centres, strides = (values.to(bins.device) for values in anchor_points(grid))
    boxes = torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], 1)
    pixels = boxes * strides[:, None]
    planes = torch.stack([*pixels.unbind(1), *_extents(pixels)])
    records = torch.cat([boxes, torch.stack(_extents(boxes), 1), centres], 1)
    return torch.nn.functional.pad(planes, (0, LANES)), records


def _extents(boxes: Tensor) -> tuple[Tensor, Tensor]:
    width = boxes[:, 2] - boxes[:, 0]
    height = boxes[:, 3] - boxes[:, 1] + float(EPS)
    return width * height, torch.atan(width / height)


@cache
def anchor_points(grid: Grid) -> tuple[Tensor, Tensor]:
    """Return centres `[A, 2]` (x, y) in strides and strides `[A]` in pixels."""
    centres, strides = [], []
    for stride, side in zip(grid.strides, grid.sides, strict=True):
        middle = torch.arange(side, dtype=torch.float32) + 0.5
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        centres.append(torch.stack([x, y], -1).view(-1, 2))
        strides.append(torch.full((side * side,), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def _check(raw: RawOutput, grid: Grid) -> None:
    wanted = {"boxes": (1, 4 * grid.reg_max, grid.num_anchors)}
    wanted["scores"] = (1, grid.num_classes, grid.num_anchors)
    for name, shape in wanted.items():
        got = tuple(getattr(raw, name).shape)
        if got != shape:
            raise InputError(f"raw output: {name}: expected {list(shape)}, got {list(got)}")
    if raw.protos is not None and tuple(raw.protos.shape[2:]) != (grid.mask_side,) * 2:
        got, side = list(raw.protos.shape[2:]), grid.mask_side
        raise InputError(f"raw output: protos: expected a side of {side}, got {got}")
