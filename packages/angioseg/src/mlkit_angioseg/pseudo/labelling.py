"""Labelling frames by a trained run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_angioseg.cines.predicting import chosen_threshold
from mlkit_angioseg.cines.reading import inside_of
from mlkit_angioseg.config import AngioFramesConfig
from mlkit_angioseg.frames.angles import parse_angle, to_dicom
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.frames.opening import OpenFrame
from mlkit_angioseg.importing.writing import TABLE, fingerprint, write_table
from mlkit_angioseg.pseudo.record import MASKS, PROVENANCE, Record, measure_mask
from mlkit_angioseg.pseudo.sources import find_frames
from mlkit_core.errors import BuildError, InputError
from mlkit_core.run import load_run
from mlkit_core.tensors import to_device
from mlkit_core.training.checkpoint import MODEL
from mlkit_core.training.evaluation import evaluating, stream
from mlkit_core.types import MaskPrediction
from mlkit_core.weights import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mlkit_angioseg.importing.found import FoundFrame
    from mlkit_core.training.engine import Engine
    from mlkit_core.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How frames are labelled.

    Args:
        checkpoint: "best", "last", a checkpoint's name or path.
        threshold: Probability that is vessel; None: the run's own best on split val, else 0.5.
        min_confidence: Masks below are not kept.
        frames: Which; see `find_frames`.
        masks: Folder of a data set's own masks (folder layout).
        view: "primary,secondary" in degrees for all frames; None: the frames' own.
        told: Called with frames done and frames in all.
    """

    checkpoint: str = "best"
    threshold: float | None = None
    min_confidence: float = 0.0
    frames: str = "all"
    masks: str = "masks"
    view: str | None = None
    told: Callable[[int, int], None] = lambda _done, _all: None


def label_frames(run_folder: Path, source: Path, out: Path, wanted: Labelling) -> dict[str, object]:
    """Write masks, a table for `angio-frames` and `provenance.json`; return what is said of them.

    It can be run again after a break: masks that are there are not made anew.

    Raises:
        InputError: Run or source cannot be used, or `out` holds something else.
    """
    if not run_folder.is_dir():
        raise InputError(f"{run_folder}: not the folder of a run", hint="train one: `mlkit train`")
    run = load_run(run_folder)
    stage, engine, path = run.ready(wanted.checkpoint)
    frames = _frames(stage, source, wanted)
    threshold, origin = chosen_threshold(run_folder, wanted.threshold)
    about: dict[str, object] = {
        "run": run.config.name,
        "checkpoint": path.resolve().name,
        "checkpoint_sha256": file_sha256(path / MODEL),
        "stage": stage.config.name,
        "weights": dict(stage.weights),
        "threshold": threshold,
        "threshold_from": origin,
        "min_confidence": wanted.min_confidence,
        "frames": wanted.frames,
        "view": wanted.view,
        "software": f"mlkit-angioseg {version('mlkit-angioseg')}",
    }
    about["source_sha256"] = fingerprint(frames, {})
    record = Record(out, about)
    _label(stage, engine, frames, record, threshold, wanted)
    _write_table(out, frames, record)
    record.close()
    return _said(out, frames, record)


def _frames(stage: Stage, source: Path, wanted: Labelling) -> list[FoundFrame]:
    if not isinstance(stage.data, AngioFrames):
        raise InputError("pseudo-label: the run's data is not angio-frames")
    own = stage.data.options
    options = AngioFramesConfig.model_validate(
        {
            "root": source,
            "masks": wanted.masks,
            "mask_source": "prefer_manual",
            "on_missing_angle": own.on_missing_angle,
        }
    )
    needed = stage.data.reads("view") and wanted.view is None
    frames = find_frames(source, wanted.frames, options, needs_angles=needed)
    if wanted.view is None:
        return frames
    try:
        values = [parse_angle(part.strip(), "view") for part in wanted.view.split(",")]
        primary, secondary = (math.nan if value is None else value for value in values)
        angles = to_dicom((primary, secondary), own.angle_convention)
    except ValueError as err:
        raise InputError(f"--view {wanted.view!r}: expected PRIMARY,SECONDARY: {err}") from err
    return [replace(frame, angles=angles) for frame in frames]


def _label(
    stage: Stage,
    engine: Engine,
    frames: Sequence[FoundFrame],
    record: Record,
    threshold: float,
    wanted: Labelling,
) -> None:
    todo = [frame for frame in frames if frame.name not in record.masks]
    done = len(frames) - len(todo)
    for frame, probabilities in zip(todo, _probabilities(stage, engine, todo), strict=True):
        mask = probabilities >= threshold
        open_area = inside_of(frame.collimator, mask.shape)
        if open_area is not None:
            mask &= open_area
            probabilities = probabilities * open_area
        record.add(measure_mask(frame.name, probabilities, mask, wanted.min_confidence), mask)
        done += 1
        wanted.told(done, len(frames))


def _probabilities(
    stage: Stage, engine: Engine, frames: Sequence[FoundFrame]
) -> Iterator[NDArray[np.float32]]:
    """Yield `[H, W]` probabilities of each frame in original pixels."""
    data = stage.data
    assert isinstance(data, AngioFrames)  # `_frames` has refused others
    headers = Headers()
    batches = (to_device(data.batch_of(_opened(f, headers)), engine.device) for f in frames)
    with evaluating(stage.model), engine.autocast():
        for _, predictions in stream(stage.model, batches):
            (prediction,) = predictions
            if not isinstance(prediction, MaskPrediction) or prediction.probabilities.ndim != 2:
                raise BuildError("pseudo-label: the run's model gives no binary masks")
            yield prediction.probabilities.to(torch.float32).numpy()


def _opened(frame: FoundFrame, headers: Headers) -> OpenFrame:
    return OpenFrame(
        where=frame.where,
        key=frame.name,
        image=frame.image,
        frame=frame.frame,
        size=frame.size,
        angles=frame.angles,
        cine=headers.image(frame.image).cine,
    )


def _write_table(out: Path, frames: Sequence[FoundFrame], record: Record) -> None:
    """Write all frames that have a mask, their own or one that was kept."""
    rows = [
        _row(out, frame, record)
        for frame in frames
        if frame.mask is not None or record.masks[frame.name].is_kept
    ]
    if not rows:
        best = max(mask.confidence for mask in record.masks.values())
        hint = f"the most confident has {best}"
        raise InputError("--min-confidence: no mask reaches it", hint=hint)
    write_table(out / TABLE, rows)


def _row(out: Path, frame: FoundFrame, record: Record) -> dict[str, object]:
    mask = record.masks[frame.name]
    own = _relative(frame.mask, out) if frame.mask is not None else ""
    primary, secondary = frame.angles or ("", "")
    return {
        "cine_path": _relative(frame.image, out),
        "frame_index": "" if frame.frame is None else frame.frame,
        "vessel_mask_actual_path": own,
        "deepsa_pseudo_label_path": f"{MASKS}/{frame.name}.png" if mask.is_kept else "",
        "mask_source": (frame.mask_source or "manual") if own else "pseudo",
        "primary_angle": primary,
        "secondary_angle": secondary,
        "patient": frame.patient,
        "cine": frame.cine,
        "split": frame.split or "train",
        "confidence": mask.confidence,
        "expected_dice": mask.expected_dice,
        "collimator": " ".join(map(str, frame.collimator or ())),
        "provenance": PROVENANCE,
    }


def _relative(path: Path, out: Path) -> str:
    return os.path.relpath(path.resolve(), out.resolve())


def _said(out: Path, frames: Sequence[FoundFrame], record: Record) -> dict[str, object]:
    masks = [record.masks[frame.name] for frame in frames]
    kept = [mask for mask in masks if mask.is_kept]
    own = sum(frame.mask is not None for frame in frames)
    unsaid = sum(frame.mask is not None and not frame.mask_source for frame in frames)
    note = f"{unsaid} masks of the source's own count as manual: its table does not say"
    return {
        "written": str(out),
        "frames": len(frames),
        "kept": len(kept),
        "below_min_confidence": len(masks) - len(kept),
        "with_own_mask": own,
        "mean_confidence": round(float(np.mean([m.confidence for m in masks])), 4),
        "mean_expected_dice": round(float(np.mean([m.expected_dice for m in masks])), 4),
        "notes": [note] if unsaid else [],
        "made_by": record.about,
        "data": {
            "name": "angio-frames",
            "root": str(out),
            "mask_source": "prefer_manual" if own else "pseudo",
            "pseudo_weight": 0.5,
        },
    }
