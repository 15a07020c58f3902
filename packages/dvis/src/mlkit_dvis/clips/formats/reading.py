"""Any annotation source, by its format or by what it looks like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from mlkit_core.errors import DataError, InputError
from mlkit_dvis.clips.formats.coco_video import read_coco_video
from mlkit_dvis.clips.formats.cvat import read_cvat
from mlkit_dvis.clips.formats.davis import davis_folders, read_davis
from mlkit_dvis.clips.formats.rows import read_object
from mlkit_dvis.clips.formats.ytvis import read_ytvis

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_dvis.clips.dataset import ClipSet

Format = Literal["auto", "ytvis", "coco-vid", "davis", "cvat"]

_CVAT_FILE = "annotations.xml"
_FRAMES = ("frames", "JPEGImages", "images", "train/JPEGImages")  # beside an annotation file
_NONE_OF_THEM = (
    "name a JSON (YouTube-VIS, COCO-VID), an XML (CVAT for video 1.1), or a folder with `frames` "
    "and `masks`"
)


def read_source(
    source: Path,
    kind: Format = "auto",
    *,
    frames: Path | None = None,
    class_file: Path | None = None,
    boxes: bool = False,
) -> ClipSet:
    """Return the annotated videos of a source, all masks read and checked.

    Args:
        source: File or folder.
        kind: Its format; "auto" looks at it.
        frames: Folder that its frames start from, and of CVAT's the video or the folder of its
            frames; None: `frames`, `JPEGImages` or `images` beside the annotations.
        class_file: Names of classes: of DAVIS' instances, see `read_class_map`; of the others a
            list, JSON or one a line, that says which there are and in which order.
        boxes: Take CVAT's boxes as rectangular masks.

    Raises:
        DataError: The source is wrong; every problem at once.
        InputError: An argument does not suit the format.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    kind = detect(source) if kind == "auto" else kind
    if boxes and kind != "cvat":
        raise InputError(f"--boxes: only CVAT's are taken as masks, {source} is {kind}")
    if kind == "davis":
        if frames is not None:
            hint = "leave out --frames"
            raise InputError(f"--frames: of {source} they lie in its own folder", hint=hint)
        return read_davis(source, class_file)
    classes = read_names(class_file) if class_file is not None else None
    file = source / _CVAT_FILE if kind == "cvat" and source.is_dir() else source
    root = frames if frames is not None else _beside(file)
    if not root.exists():
        raise DataError(f"{root}: no such file or folder", hint="name it by --frames")
    if kind == "cvat":
        return read_cvat(file, root, classes, boxes=boxes)
    if kind == "coco-vid":
        return read_coco_video(file, root, classes)
    return read_ytvis(file, root, classes, whole=True)


def _beside(file: Path) -> Path:
    """Return the folder of frames beside an annotation file."""
    found = [file.parent / name for name in _FRAMES if (file.parent / name).is_dir()]
    if found:
        return found[0]
    hint = "name it by --frames"
    raise DataError(f"{file}: no folder {', '.join(_FRAMES[:3])} beside it", hint=hint)


def detect(source: Path) -> Format:
    """Return the format that a source looks like.

    Raises:
        DataError: It looks like none.
    """
    if source.is_dir():
        if davis_folders(source) is not None:
            return "davis"
        if (source / _CVAT_FILE).is_file():
            return "cvat"
        raise DataError(f"{source}: a folder of no known layout", hint=_NONE_OF_THEM)
    suffix = source.suffix.lower()
    if suffix == ".xml":
        return "cvat"
    if suffix == ".zip":
        raise DataError(f"{source}: an archive", hint="unpack it, and name the folder")
    if suffix != ".json":
        raise DataError(f"{source}: a file of no known format", hint=_NONE_OF_THEM)
    content = read_object(source, (), "annotation file")
    if _any_has(content, "images", "video_id"):
        return "coco-vid"
    if isinstance(content.get("images"), list):
        hint = "images alone become pseudo-videos: name the file as data.pseudo_annotations"
        raise DataError(f"{source}: COCO JSON whose images have no `video_id`", hint=hint)
    if isinstance(content.get("videos"), list):
        return "ytvis"
    raise DataError(f"{source}: a JSON of no known format", hint=_NONE_OF_THEM)


def _any_has(content: dict[str, Any], key: str, field: str) -> bool:
    rows = content.get(key)
    return isinstance(rows, list) and any(isinstance(row, dict) and field in row for row in rows)


def read_names(path: Path) -> list[str]:
    """Return names from a JSON list, or one a line.

    Raises:
        DataError: The file cannot be read, is empty, or a name comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        listed = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.splitlines()
    except FileNotFoundError as err:
        raise DataError(f"{path}: no such file") from err
    except (OSError, ValueError) as err:
        raise DataError(f"{path}: not a list of names: {err}") from err
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise DataError(f"{path}: expected a list of names, JSON or one a line")
    names = [name.strip() for name in listed if name.strip()]
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: holds no names, or one of them twice")
    return names
