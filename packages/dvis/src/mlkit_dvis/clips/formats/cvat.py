"""CVAT's export "CVAT for video 1.1": an XML file of tracks, each with shapes at frames.

A shape is shown until the next one of its track, or until one that is marked `outside`. CVAT
writes every frame of a track, so that what it draws between keyframes is read as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

import defusedxml
from defusedxml import ElementTree

from mlkit_core.errors import DataError
from mlkit_dvis.clips.dataset import ClipSet, Instance, Video
from mlkit_dvis.clips.formats.cvat_shapes import SHAPES, mask_of
from mlkit_dvis.clips.masks import to_rle
from mlkit_dvis.clips.problems import Problems
from mlkit_dvis.video import open_source
from mlkit_dvis.video.images import list_images

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from mlkit_dvis.clips.masks import Segmentation

_EXPORT = 'export the task again as "CVAT for video 1.1"'


@dataclass(frozen=True)
class _Task:
    """What the file says of the video.

    Args:
        length: Number of frames.
        start: Number of the first one.
        step: How far numbers go up from frame to frame.
        labels: Names, in CVAT's order.
        size: Height and width in pixels; None where it is not told.
    """

    length: int
    start: int
    step: int
    labels: tuple[str, ...]
    size: tuple[int, int] | None


def read_cvat(
    path: Path,
    source: Path,
    classes: Sequence[str] | None = None,
    *,
    boxes: bool = False,
) -> ClipSet:
    """Return the one video of an export; every problem at once.

    Args:
        path: The XML.
        source: The video file, or the folder of its frames.
        classes: Names by label; None: the labels of the task, in their order.
        boxes: Turn boxes into rectangular masks, which otherwise are a problem.

    Raises:
        DataError: The file is no such export, or does not fit the frames.
    """
    root = _parse(path)
    problems = Problems(path)
    task = _task(path, root)
    known = open_source(source)
    is_folder = source.is_dir()
    frames = tuple(list_images(source)) if is_folder else ()
    length = len(frames) if is_folder else known.frames
    if length != task.length:
        problems.add("meta.size", f"the task has {task.length} frames, {source} has {length}")
    if task.size is not None and task.size != known.size:
        problems.add("meta.original_size", f"is {task.size}, frames of {source} are {known.size}")
    if task.step != 1 and not is_folder:
        what = f"every {task.step}th frame of the video: export with images, and name their folder"
        problems.add("meta.frame_filter", what)
    names = task.labels if classes is None else tuple(classes)
    instances = _instances(root, task, known.size, names, problems, boxes=boxes)
    problems.raise_any()
    video = Video(
        id=1,
        name=source.stem if not is_folder else source.name,
        size=known.size,
        length=task.length,
        frames=frames,
        file=None if is_folder else source,
        instances=instances,
    )
    return ClipSet((video,), names, source.parent)


def _parse(path: Path) -> Element:
    try:
        root = ElementTree.parse(str(path), forbid_dtd=True).getroot()
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except defusedxml.DefusedXmlException as err:
        raise DataError(f"{path}: has a document type or entities, which are refused") from err
    except (ParseError, OSError, UnicodeDecodeError, ValueError) as err:
        raise DataError(f"{path}: not a readable XML file: {err}") from err
    if root is None or root.tag != "annotations":
        got = "nothing" if root is None else f"<{root.tag}>"
        raise DataError(f"{path}: not a CVAT export: expected <annotations>, got {got}")
    return root


def _task(path: Path, root: Element) -> _Task:
    tasks = root.findall("meta/task") + root.findall("meta/project/tasks/task")
    tasks += root.findall("meta/job")
    if len(tasks) > 1:
        raise DataError(f"{path}: holds {len(tasks)} tasks", hint="export one task at a time")
    if root.find("image") is not None or not tasks:
        kind = "tracks no objects" if root.find("image") is not None else "does not say its task"
        raise DataError(f"{path}: {kind}: it is no export of a video", hint=_EXPORT)
    task = tasks[0]
    labels = [*task.findall("labels/label/name"), *root.findall("meta/project/labels/label/name")]
    size = task.find("original_size")
    if size is None:
        size = root.find("meta/original_size")
    try:
        told = _Task(
            length=int(task.findtext("size") or ""),
            start=int(task.findtext("start_frame") or 0),
            step=int((task.findtext("frame_filter") or "").removeprefix("step=") or 1),
            labels=tuple(dict.fromkeys(name.text or "" for name in labels)),
            size=None if size is None else (_side(size, "height"), _side(size, "width")),
        )
    except ValueError as err:
        raise DataError(f"{path}: meta: size, start_frame, frame_filter: {err}") from err
    if min(told.length, told.step) < 1:
        what = f"expected a size and a step above 0, got {told.length} and {told.step}"
        raise DataError(f"{path}: meta: {what}")
    return told


def _side(size: Element, name: str) -> int:
    return int(size.findtext(name) or "")


def _instances(
    root: Element,
    task: _Task,
    size: tuple[int, int],
    names: Sequence[str],
    problems: Problems,
    *,
    boxes: bool,
) -> tuple[Instance, ...]:
    found: list[Instance] = []
    for number, track in enumerate(root.findall("track"), start=1):
        where = f"track {track.get('id', number)}"
        label = track.get("label", "")
        if label not in names:
            problems.add(where, f"its label {label!r} is none of the classes {', '.join(names)}")
            continue
        with problems.at(where):
            shown = _shown(track, task, size, boxes=boxes)
            found.append(Instance(number, names.index(label), tuple(shown)))
    if root.find("track") is None:
        problems.add("annotations", "it holds no track")
    return tuple(found)


def _shown(
    track: Element, task: _Task, size: tuple[int, int], *, boxes: bool
) -> list[Segmentation | None]:
    """Return the mask of each frame: a shape is shown until the next one of the track."""
    shapes: dict[int, Element] = {}
    for shape in track:
        number = shape.get("frame", "")
        frame, off = divmod(int(number) - task.start, task.step) if number.isdigit() else (-1, 0)
        if off or not 0 <= frame < task.length:
            raise DataError(f"<{shape.tag}> at frame {number!r}: the task has no such frame")
        if shape.tag not in SHAPES:
            raise DataError(f"frame {number}: expected {', '.join(SHAPES)}, got <{shape.tag}>")
        if shape.tag == "box" and not boxes:
            raise DataError(f"frame {number}: a box is no mask; `--boxes` takes it as a rectangle")
        shapes[frame] = shape
    shown: list[Segmentation | None] = []
    current: Segmentation | None = None
    for frame in range(task.length):
        shape = shapes.get(frame)
        if shape is not None:
            current = None if shape.get("outside") == "1" else _mask(shape, size)
        shown.append(current)
    return shown


def _mask(shape: Element, size: tuple[int, int]) -> Segmentation | None:
    try:
        return to_rle(mask_of(shape, size), size)
    except DataError as err:
        raise DataError(f"frame {shape.get('frame')}: <{shape.tag}>: {err}") from err
