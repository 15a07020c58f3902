"""The frames to label: those of a data set's table, of DICOM or NPY cines, or pictures."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from mlkit_angioseg.cines.contrast import best_frame, contrast_score
from mlkit_angioseg.cines.reading import inside_of
from mlkit_angioseg.dicom.frames import read_frame
from mlkit_angioseg.dicom.header import is_dicom
from mlkit_angioseg.frames import pixels
from mlkit_angioseg.frames.headers import Headers
from mlkit_angioseg.frames.rows import Problems
from mlkit_angioseg.frames.tables import read_rows
from mlkit_angioseg.importing.dicoms import find_dicoms, refuse_named_paths
from mlkit_angioseg.importing.found import FoundFrame, Wish, check_names
from mlkit_angioseg.importing.pictures import file_name, find_pictures
from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mlkit_angioseg.config import AngioFramesConfig
    from mlkit_angioseg.frames.rows import FrameRow

CHOICES = ("all", "best", "labelled", "unlabelled")


def find_frames(
    source: Path, choice: str, options: AngioFramesConfig, *, needs_angles: bool
) -> list[FoundFrame]:
    """Return the frames of a source.

    Args:
        source: A data set (a folder with a table or with images, or the table), or cines or
            pictures, or a folder of them.
        choice: "all"; "best": of each cine the one with most contrast; "labelled" or "unlabelled":
            those with or without a mask of their own.
        options: Of the source, if it is a data set; of missing angles in any case.
        needs_angles: Whether frames without angles are a problem.

    Raises:
        DataError: All wrong files or rows, or DICOM files whose paths name a patient.
        InputError: There is nothing to label.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    source = source.resolve()
    problems = Problems()
    if _is_table(source, options):
        rows = read_rows(options, needs_angles=needs_angles, needs_masks=False)
        frames = [_of_row(row, file_name(row.key.replace("#", "-"))) for row in rows]
    else:
        frames = _of_files(source, problems)
        _need_angles(frames, problems, needed=needs_angles and options.on_missing_angle == "error")
    check_names(frames, problems)
    problems.raise_any()
    refuse_named_paths(
        [frame.image for frame in frames], "`mlkit angioseg import` copies the frames first"
    )
    chosen = _choose(frames, choice)
    if not chosen:
        raise InputError(f"{source}: no frame is {choice}")
    return chosen


def grey_of(frame: FoundFrame) -> NDArray[np.float32]:
    """Return a frame as grey 0..1 `[H, W]`, vessels dark.

    Raises:
        DataError: It cannot be decoded.
    """
    if frame.frame is not None and is_dicom(frame.image):
        return read_frame(frame.image, frame.frame)
    return pixels.to_grey(pixels.read_stored(frame.image, frame.frame, frame.where))


def _is_table(source: Path, options: AngioFramesConfig) -> bool:
    if source.is_file():
        return source.suffix.lower() == ".csv"
    return any(source.glob("*.csv")) or (source / options.images).is_dir()


def _of_row(row: FrameRow, name: str) -> FoundFrame:
    return FoundFrame(
        where=row.where,
        name=name,
        image=row.image,
        frame=row.frame,
        size=row.size,
        patient=row.patient,
        cine=row.cine,
        mask=row.mask,
        mask_source=row.mask_source,
        split=row.split,
        angles=row.angles,
        collimator=row.collimator,
    )


def _of_files(source: Path, problems: Problems) -> list[FoundFrame]:
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    if any(is_dicom(path) for path in files):
        return find_dicoms(source, Wish(frames="all"), problems).frames
    cines = [path for path in files if path.suffix.lower() == ".npy"]
    if cines:
        root = source.parent if source.is_file() else source
        return [frame for path in cines for frame in _of_array(path, root, problems)]
    if source.is_dir():
        return find_pictures(source, Wish(frames="all"), problems).frames
    with problems.at(str(source)):
        header = Headers().image(source)
        name = file_name(source.stem)
        size = (header.height, header.width)
        where = str(source)
        return [
            FoundFrame(
                where=where, name=name, image=source, frame=None, size=size, patient=name, cine=name
            )
        ]
    return []


def _of_array(path: Path, root: Path, problems: Problems) -> list[FoundFrame]:
    name = file_name(path.relative_to(root).with_suffix("").as_posix())
    with problems.at(str(path)):
        header = Headers().image(path)
        return [
            FoundFrame(
                where=f"{path}: frame {index}",
                name=f"{name}-{index:05d}",
                image=path,
                frame=index,
                size=(header.height, header.width),
                patient=name,
                cine=name,
            )
            for index in range(header.frames or 0)
        ]
    return []


def _need_angles(frames: Sequence[FoundFrame], problems: Problems, *, needed: bool) -> None:
    if not needed:
        return
    hint = "--view P,S says what they are, in degrees"
    for path in dict.fromkeys(frame.image for frame in frames if frame.angles is None):
        problems.add(str(path), "its angles are missing, and the model reads them", hint)


def _choose(frames: list[FoundFrame], choice: str) -> list[FoundFrame]:
    if choice == "best":
        return _best(frames)
    if choice in ("labelled", "unlabelled"):
        return [frame for frame in frames if frame.is_labelled == (choice == "labelled")]
    return frames


def _best(frames: list[FoundFrame]) -> list[FoundFrame]:
    """Return of each cine the frame with most contrast."""
    cines: defaultdict[str, list[FoundFrame]] = defaultdict(list)
    for frame in frames:
        cines[frame.cine].append(frame)
    chosen = []
    for own in cines.values():
        scores = [contrast_score(grey_of(f), inside_of(f.collimator, f.size)) for f in own]
        chosen.append(own[best_frame(scores)])
    return chosen
