"""What a frame carries into a batch: its meta, its unchanged target, and how rows are stacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlkit_angioseg.dicom.header import is_dicom
from mlkit_angioseg.frames.angles import view_bin
from mlkit_angioseg.frames.augment import Augmented
from mlkit_core.types import Batch, Sample, SampleMeta

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from mlkit_angioseg.config import AugmentOptions
    from mlkit_angioseg.dicom.header import CineHeader
    from mlkit_angioseg.frames.rows import FrameRow
    from mlkit_core.types import Letterbox, Role


def augmented_roles(changes: AugmentOptions | None) -> frozenset[Role]:
    """Return the inputs that these random changes alter."""
    if changes is None:
        return frozenset()
    moves_view = changes.flips or changes.view_jitter_deg > 0
    return frozenset({"image", "view"} if moves_view else {"image"})


def plain(mask: Tensor, angles: tuple[float, float], valid: Tensor | None = None) -> Augmented:
    """Return an unchanged frame: its mask `[1, H, W]` is valid everywhere, or where `valid` is."""
    everywhere = torch.ones_like(mask, dtype=torch.bool)
    return Augmented(mask, mask, everywhere if valid is None else valid, angles)


def frame_meta(
    key: str,
    image: Path,
    size: tuple[int, int],
    box: Letterbox,
    angles: tuple[float, float] | None,
    row: FrameRow | None = None,
    cine: CineHeader | None = None,
) -> SampleMeta:
    """Return what is known of a frame; of a DICOM file neither name nor path."""
    primary, secondary = angles or (None, None)
    extra: dict[str, str | float | int | bool | None] = {
        "primary_angle_deg": primary,
        "secondary_angle_deg": secondary,
        "view": view_bin(angles),
    }
    if row is not None:
        extra |= {"cine": row.cine, "split": row.split}
        extra |= {"mask_source": row.mask_source} if row.mask_source else {}
    # A hospital's file names may name a patient: of a DICOM file only the hash goes on.
    path = "" if cine is not None or is_dicom(image) else str(image)
    return SampleMeta(
        key=key,
        size=size,
        letterbox=box,
        group=row.patient if row is not None else "",
        path=path,
        extra=extra,
    )


def stack(samples: Sequence[Sample]) -> Batch:
    """Return a batch of kind "mask" without its target."""
    first = samples[0]
    return Batch(
        inputs={role: torch.stack([s.inputs[role] for s in samples]) for role in first.inputs},
        meta=tuple(sample.meta for sample in samples),
        kind="mask",
        keys={role: tuple(s.keys[role] for s in samples) for role in first.keys},
    )
