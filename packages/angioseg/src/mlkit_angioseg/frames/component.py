"""The data component `angio-frames`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_angioseg.config import AngioFramesConfig, AugmentOptions
from mlkit_angioseg.dicom.frames import read_frame
from mlkit_angioseg.frames import letterbox, pixels
from mlkit_angioseg.frames.augment import Augmented, augment
from mlkit_angioseg.frames.labels import class_names
from mlkit_angioseg.frames.opening import open_frames
from mlkit_angioseg.frames.samples import augmented_roles, frame_meta, plain, stack
from mlkit_angioseg.frames.splits import SPLITS
from mlkit_angioseg.frames.tables import read_rows
from mlkit_angioseg.targets import VesselTarget
from mlkit_core.errors import DataError
from mlkit_core.types import Batch, Draw, MaskTarget, Needs, RoleSpec, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from mlkit_angioseg.frames.opening import OpenFrame
    from mlkit_angioseg.frames.rows import FrameRow
    from mlkit_core.types import Letterbox, Role, Target


@dataclass(frozen=True)
class FrameDraw(Draw):
    """A row of the table, and whether it is changed at random."""

    augment: bool = False


class AngioFrames:
    """Angiogram frames with vessel masks and C-arm angles; see `AngioFramesConfig`."""

    roles: Mapping[Role, RoleSpec] = {  # shared by all, never changed
        "image": RoleSpec(shape=(3, None, None), value_range=(0.0, 1.0), unit="RGB 0..1"),
        "view": RoleSpec(shape=(2,), value_range=(-180.0, 180.0), unit="degrees"),
    }
    kinds: Mapping[str, tuple[type[Target], str]] = {"mask": (MaskTarget, "head")}

    def __init__(
        self,
        root: str | Path,
        layout: str = "auto",
        table: str | None = None,
        data_root: str | Path | None = None,
        images: str = "images",
        masks: str = "masks",
        valid_masks: str | None = None,
        mask_source: str = "manual",
        pseudo_weight: float = 1.0,
        classes: Sequence[str] = (),
        val_patients: Sequence[str] = (),
        test_patients: Sequence[str] = (),
        on_missing_angle: str = "error",
        angle_convention: str = "dicom",
        channel: str = "grey",
        window: str = "full",
        bits: int | None = None,
        size: int = 512,
        augment: bool | AugmentOptions | Mapping[str, object] = True,
    ) -> None:
        given = dict(locals())
        del given["self"]
        self.options = AngioFramesConfig.model_validate(given)
        self.classes: tuple[str, ...] = class_names(self.options.classes)
        self._labels = len(self.options.classes)
        changes = self.options.augment
        self._changes = AugmentOptions() if changes is True else changes or None
        self.augments = augmented_roles(self._changes)
        self._needs: Mapping[Role, Needs] | None = None
        self._side = self.options.size
        self._rows: list[FrameRow] | None = None
        self._hashes = pixels.FileHashes()

    def bind(self, needs: Mapping[Role, Needs]) -> None:
        """Take what the model needs of `image` and `view`; a role that is not named is not read.

        Raises:
            BuildError: The encoders accept no input of this `size` or `crop`.
        """
        image = needs.get("image", Needs())
        self._side = letterbox.legal_side(self.options.size, image, name="size", grow=True)
        if self._changes is not None and self._changes.crop is not None:
            crop = self._changes.crop
            letterbox.legal_side(crop, image, name="augment.crop", grow=False)
        self._needs = dict(needs)
        self._rows = None

    def rows(self) -> list[FrameRow]:
        """Return the table's rows; it is read and checked at the first call.

        Raises:
            DataError: All problems of the table.
        """
        if self._rows is None:
            self._rows = read_rows(self.options, needs_angles=self.reads("view"))
        return self._rows

    def units(self, split: str, seed: int) -> list[list[FrameDraw]]:
        """Return one unit for each frame; "train" is shuffled, "cache" holds all splits in order.

        Raises:
            DataError: The table is wrong, or there is no such split.
        """
        if split not in (*SPLITS, "cache"):
            raise DataError(f"split: expected {', '.join(SPLITS)} or cache, got {split!r}")
        chosen = [i for i, row in enumerate(self.rows()) if split in ("cache", row.split)]
        if split != "train":
            return [[FrameDraw(i, seed=0)] for i in chosen]
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(chosen))
        seeds = rng.integers(0, 2**62, len(chosen))
        changes = self._changes is not None
        return [[FrameDraw(chosen[i], int(seeds[i]), augment=changes)] for i in order]

    def load(self, draw: FrameDraw) -> Sample:
        """Return one frame with its target; random only by `draw.seed`.

        Raises:
            DataError: A file cannot be decoded; the table's line and the file are named.
        """
        row = self.rows()[draw.index]
        box = letterbox.fit_letterbox(row.size, self.options.size)
        mask = self._mask(row)
        angles = row.angles or (math.nan, math.nan)
        keys = self._keys(row.image, row.frame, angles)
        target = letterbox.resize_mask(mask.float(), box.size, max(1, self._labels))
        seen = self._valid(row)
        valid = None if seen is None else letterbox.resize_mask(seen.float(), box.size) > 0
        same = plain(target, angles, valid)
        if self._skips():
            return self._sample(row, box, None, same, (mask, seen), keys)
        grey = letterbox.resize_grey(self._grey(row.image, row.frame, row.where), box.size)
        if not draw.augment or self._changes is None:
            return self._sample(row, box, grey, same, (mask, seen), keys)
        rng = np.random.default_rng(draw.seed)
        changed = augment(grey, target, angles, self._changes, rng, max(1, self._labels), valid)
        return self._sample(row, box, changed.grey, changed, None, keys)

    def collate(self, units: Sequence[Sequence[Sample]]) -> list[Batch]:
        """Return one batch of kind "mask"."""
        samples = [sample for unit in units for sample in unit]
        targets = [sample.target for sample in samples if isinstance(sample.target, VesselTarget)]
        weights = [target.weight for target in targets if target.weight is not None]
        target = VesselTarget(
            masks=torch.cat([t.masks for t in targets]),
            valid=torch.cat([t.valid for t in targets if t.valid is not None]),
            weight=torch.cat(weights) if weights else None,
            original=tuple(mask for t in targets for mask in t.original),
            original_valid=tuple(valid for t in targets for valid in t.original_valid),
        )
        return [replace(stack(samples), target=target)]

    def open(self, inputs: Mapping[Role, Path]) -> Iterator[Batch]:
        """Yield one batch for each frame of the user's own files.

        Args:
            inputs: `image`: a picture, an NPY or a DICOM cine, or a folder of pictures and DICOM
                files; `view`: a JSON or CSV file with the angles, or "primary,secondary" in
                degrees; a DICOM file needs none.

        Raises:
            DataError: A file cannot be read, or the model reads the view and no angle is given.
        """
        for frame in open_frames(inputs, self.options, needs_angles=self.reads("view")):
            yield self.batch_of(frame)

    def batch_of(self, frame: OpenFrame) -> Batch:
        """Return a frame without a target as a batch of its own.

        Raises:
            DataError: The frame cannot be decoded.
        """
        box = letterbox.fit_letterbox(frame.size, self.options.size)
        grey = letterbox.resize_grey(self._grey(frame.image, frame.frame, frame.where), box.size)
        angles = frame.angles or (math.nan, math.nan)
        meta = frame_meta(frame.key, frame.image, frame.size, box, frame.angles, cine=frame.cine)
        keys = self._keys(frame.image, frame.frame, angles)
        return stack([Sample(self._inputs(grey, angles), meta, keys=keys)])

    def _mask(self, row: FrameRow) -> Tensor:
        """Return the mask `[1, H, W]`: bool, or uint8 labels."""
        if row.mask is None:
            raise DataError(f"{row.where}: mask is missing")
        if self._labels:
            return torch.from_numpy(pixels.read_labels(row.mask, row.where, self._labels))[None]
        return torch.from_numpy(pixels.read_mask(row.mask, row.where))[None]

    def _valid(self, row: FrameRow) -> Tensor | None:
        """Return which pixels count, `[1, H, W]` bool; None: all."""
        if row.valid is None:
            return None
        valid = pixels.read_mask(row.valid, row.where)
        if not valid.any():
            raise DataError(f"{row.where}: valid mask {row.valid}: no pixel counts")
        return torch.from_numpy(valid)[None]

    def _weight(self, row: FrameRow) -> Tensor | None:
        """Return the frame's worth `[1]`; None where all frames are worth the same."""
        if self.options.pseudo_weight == 1:
            return None
        is_pseudo = row.mask_source == "pseudo"
        return torch.tensor([self.options.pseudo_weight if is_pseudo else 1.0])

    def _grey(self, image: Path, frame: int | None, where: str) -> Tensor:
        if frame is not None and image.suffix.lower() != ".npy":
            return torch.from_numpy(self._dicom(image, frame))[None]
        stored = pixels.read_stored(image, frame, where)
        try:
            options = self.options
            grey = pixels.to_grey(stored, options.bits, options.window, options.channel)
        except ValueError as err:
            raise DataError(f"{where}: {image}: {err}", hint="set data.bits") from err
        return torch.from_numpy(grey)[None]

    def _dicom(self, image: Path, frame: int) -> np.ndarray:
        window = self.options.window
        grey = read_frame(image, frame, window="full" if window == "percentile" else "file")
        return pixels.windowed(grey, window)

    def _sample(
        self,
        row: FrameRow,
        box: Letterbox,
        grey: Tensor | None,
        frame: Augmented,
        original: tuple[Tensor, Tensor | None] | None,
        keys: Mapping[Role, str],
    ) -> Sample:
        side = frame.mask.shape[-1] if original is None and self._cropped() else self._side
        target = VesselTarget(
            masks=letterbox.pad_to(frame.mask, side, (0.0,)),
            valid=letterbox.pad_to(frame.valid, side, (0.0,)),
            weight=self._weight(row),
            original=() if original is None else (original[0][0],),
            original_valid=() if original is None or original[1] is None else (original[1][0],),
        )
        meta = frame_meta(row.key, row.image, row.size, box, row.angles, row)
        return Sample(self._inputs(grey, frame.angles, side), meta, target, keys)

    def _cropped(self) -> bool:
        return self._changes is not None and self._changes.crop is not None

    def _inputs(
        self, grey: Tensor | None, angles: tuple[float, float], side: int | None = None
    ) -> dict[Role, Tensor]:
        view = torch.tensor(angles, dtype=torch.float32)
        if grey is None:
            return {"view": view}
        pad = self._need("image").pad_rgb
        image = letterbox.pad_to(grey.expand(3, -1, -1), side or self._side, pad)
        return {"image": image, "view": view}

    def _keys(self, image: Path, frame: int | None, angles: tuple[float, float]) -> dict[Role, str]:
        keys: dict[Role, str] = {}
        if self._need("image").keys:
            keys["image"] = self._image_key(image, frame)
        if self._need("view").keys:
            keys["view"] = hashlib.sha256(repr(angles).encode()).hexdigest()
        return keys

    def _image_key(self, image: Path, frame: int | None) -> str:
        """Return the SHA-256 of the file's bytes, the frame and all that shapes its pixels."""
        options, need = self.options, self._need("image")
        how = (self._hashes.of(image), frame, options.size, options.window, options.bits)
        shape = (options.channel, self._side, need.pad_rgb)
        return hashlib.sha256(repr((*how, *shape)).encode()).hexdigest()

    def _need(self, role: Role) -> Needs:
        return (self._needs or {}).get(role, Needs())

    def reads(self, role: Role) -> bool:
        """Return whether the model takes this input; all of them before `bind`."""
        return self._needs is None or role in self._needs

    def _skips(self) -> bool:
        return self._need("image").skip
