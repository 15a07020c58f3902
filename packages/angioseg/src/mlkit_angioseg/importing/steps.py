"""An import as a whole: find, check, split by patient, write."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlkit_angioseg.dicom.header import is_dicom
from mlkit_angioseg.frames.rows import Problems
from mlkit_angioseg.importing import writing
from mlkit_angioseg.importing.arcade import coco_files, find_arcade
from mlkit_angioseg.importing.dicoms import find_dicoms, refuse_named_paths
from mlkit_angioseg.importing.found import Found, FoundFrame, Wish, check_names
from mlkit_angioseg.importing.pictures import find_pictures, has_xcad_names
from mlkit_angioseg.phantom.layout import split_patients
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

_FINDERS = {
    "dicom": find_dicoms,
    "xcad": find_pictures,
    "pairs": find_pictures,
    "arcade": find_arcade,
}
FORMATS = ("auto", *_FINDERS)


@dataclass(frozen=True, kw_only=True)
class Output:
    """How an import is written.

    Args:
        linked: Whether the table points to DICOM files where they lie, instead of copies of frames.
        split: Shares of train, val and test, by patient; None: as the source says, else all train.
        seed: Of the split.
        mask_source: "manual", or "pseudo" for masks that a program made.
        skips_wrong: Whether wrong files are left out instead of ending the import.
        told: Called with frames done and frames in all.
    """

    linked: bool = False
    split: tuple[float, float, float] | None = None
    seed: int = 0
    mask_source: str = "manual"
    skips_wrong: bool = False
    told: Callable[[int, int], None] = lambda _done, _all: None


def import_set(source: Path, out: Path, kind: str, wish: Wish, output: Output) -> dict[str, object]:
    """Import a source into a folder; return what is said of it. It can be run again after a break.

    Raises:
        DataError: All wrong files, or a folder that holds something else.
        InputError: Nothing to import, or options that do not fit the source.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    source = source.resolve()
    kind = detect(source) if kind == "auto" else kind
    if output.linked and kind != "dicom":
        raise InputError(f"--link: points to DICOM files only, this is {kind}")
    problems = Problems()
    found = _FINDERS[kind](source, wish, problems)
    check_names(found.frames, problems)
    _settle(problems, found, output)
    if not found.frames:
        raise InputError(f"{source}: nothing to import as {kind}", hint=_advice(found))
    if output.linked:
        hint = "leave --link out: frames are then copied"
        refuse_named_paths([frame.image for frame in found.frames], hint)
    frames = split_frames(found.frames, output.split, output.seed)
    record = _record(kind, frames, found, output)
    if not writing.begin(out, record):
        how = {"linked": output.linked, "is_binary": not found.classes}
        frames = writing.write_frames(out, frames, problems, told=output.told, **how)
        _settle(problems, found, output)
        writing.finish(out, frames, record)
    return _said(out, frames, found, kind)


def _record(
    kind: str, frames: Sequence[FoundFrame], found: Found, output: Output
) -> dict[str, object]:
    """Return what `import.json` says of an import; the same again gives the same."""
    record: dict[str, object] = {
        "format": kind,
        "mask_source": output.mask_source,
        "linked": output.linked,
        "classes": list(found.classes),
        "split": list(output.split) if output.split else None,
        "seed": output.seed,
    }
    return record | {"fingerprint": writing.fingerprint(frames, record)}


def detect(source: Path) -> str:
    """Return the layout of a source: COCO files, DICOM files, angles in names, or pairs.

    Raises:
        InputError: It holds none of them.
    """
    if source.is_file():
        if is_dicom(source):
            return "dicom"
        if coco_files(source):
            return "arcade"
        raise InputError(f"{source}: neither a DICOM nor a COCO file", hint="give its folder")
    if coco_files(source):
        return "arcade"
    if any(path.is_file() and is_dicom(path) for path in sorted(source.rglob("*"))):
        return "dicom"
    return "xcad" if has_xcad_names(source) else "pairs"


def split_frames(
    frames: Sequence[FoundFrame], fractions: tuple[float, float, float] | None, seed: int
) -> list[FoundFrame]:
    """Return the frames with their split, drawn over patients; None leaves the source's own.

    Raises:
        InputError: The shares do not sum to 1, or there are fewer patients than splits.
    """
    if fractions is None:
        return list(frames)
    patients = sorted({frame.patient for frame in frames})
    try:
        names = split_patients(len(patients), fractions, np.random.default_rng(seed))
    except ValueError as err:
        raise InputError(f"--split: {err}") from err
    chosen = dict(zip(patients, names, strict=True))
    return [replace(frame, split=chosen[frame.patient]) for frame in frames]


def _settle(problems: Problems, found: Found, output: Output) -> None:
    """Raise all problems, or note that their files are left out."""
    if not problems.lines:
        return
    if not output.skips_wrong:
        problems.raise_any()
    for line in problems.lines:
        log.warning("left out: %s", line)
    found.leave_out("wrong files", len(problems.lines))
    problems.lines.clear()


def _advice(found: Found) -> str:
    if found.left_out:
        left = ", ".join(f"{count} {what}" for what, count in found.left_out.items())
        return f"left out: {left}; --frames all takes frames without masks"
    return "--format says what SOURCE is"


def _said(out: Path, frames: Sequence[FoundFrame], found: Found, kind: str) -> dict[str, object]:
    notes = list(found.notes)
    if not found.knows_patients:
        notes.append(
            "the source does not say which frames are of one patient: each counts as a patient of "
            "its own, and a split may put one patient into two"
        )
    unlabelled = sum(not frame.is_labelled for frame in frames)
    if unlabelled:
        notes.append(f"{unlabelled} frames have no mask: `mlkit angioseg pseudo-label` makes them")
    unknown = sum(frame.angles is None for frame in frames)
    if unknown and kind != "dicom":
        notes.append(f"{unknown} frames have no angles")
    return {
        "written": str(out),
        "format": kind,
        "frames": len(frames),
        "labelled": len(frames) - unlabelled,
        "cines": len({frame.cine for frame in frames}),
        "patients": len({frame.patient for frame in frames}),
        "splits": dict(Counter(frame.split or "train" for frame in frames)),
        "classes": list(found.classes),
        "left_out": dict(found.left_out),
        "notes": notes,
        "data": _data(out, found, has_all_angles=not unknown),
    }


def _data(out: Path, found: Found, *, has_all_angles: bool) -> dict[str, object]:
    """Return the run file's `data`."""
    data: dict[str, object] = {"name": "angio-frames", "root": str(out)}
    if found.classes:
        data["classes"] = list(found.classes)
    if not has_all_angles:
        data["on_missing_angle"] = "learned"
    return data
