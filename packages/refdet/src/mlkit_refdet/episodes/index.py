"""What a data set holds: classes with reference photos, footage with boxes. No pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Size = tuple[int, int]  # height and width, pixels
Xyxy = tuple[float, float, float, float]


def category_of(name: str) -> str:
    """Return the kind of thing that a class is: `Backpack_0` and `Backpack_1` are backpacks."""
    return re.sub(r"_?\d+$", "", name) or name


@dataclass(frozen=True)
class Photo:
    """A reference photo.

    Args:
        path: The file; an alpha channel of it is its foreground.
        mask: A file whose bright pixels are the foreground.
        box_xyxy: Around the object, in the photo's pixels, where no mask is known.
    """

    path: Path
    mask: Path | None = None
    box_xyxy: Xyxy | None = None


@dataclass(frozen=True)
class ObjectClass:
    """One object to find, or a kind of object.

    Args:
        name: Its id.
        photos: At least one.
    """

    name: str
    photos: tuple[Photo, ...]

    @property
    def category(self) -> str:
        """The kind of thing; classes of one category are no negatives of each other."""
        return category_of(self.name)


@dataclass(frozen=True)
class ObjectBox:
    """An annotated object: its class and its box in the frame's pixels."""

    name: str
    xyxy: Xyxy


@dataclass(frozen=True)
class Footage:
    """A video, a folder of its frames, or a set of images.

    Args:
        name: Of the video, or of the set.
        path: The video file, or the folder.
        frames: Numbers of the frames that exist, ascending.
        size: Of every frame; images may have their own in `sizes`.
        boxes: Frame to its objects; frames without any are left out.
        classes: What it is annotated for; empty: for every class.
        files: Frame to image file; empty for a video file.
        sizes: Frame to size, of an image set.
        unlisted: Frame to the number of its objects that belong to no class.
        is_video: Whether neighbouring numbers are neighbours in time.
        fps: Frames a second, where known.
    """

    name: str
    path: Path
    frames: Sequence[int]
    size: Size
    boxes: Mapping[int, tuple[ObjectBox, ...]]
    classes: tuple[str, ...] = ()
    files: Mapping[int, Path] = field(default_factory=dict)
    sizes: Mapping[int, Size] = field(default_factory=dict)
    unlisted: Mapping[int, int] = field(default_factory=dict)
    is_video: bool = True
    fps: float | None = None

    def size_of(self, frame: int) -> Size:
        """Return a frame's height and width in pixels."""
        return self.sizes.get(frame, self.size)

    def objects(self, frame: int) -> int:
        """Return how many annotated objects a frame shows, of any class."""
        return len(self.boxes.get(frame, ())) + self.unlisted.get(frame, 0)

    def background(self, guard: int) -> list[int]:
        """Return frames without any object.

        Args:
            guard: In a video, how many frames before and after a labelled one are left out, too:
                they often still show the object.
        """
        taken = {frame for frame in (*self.boxes, *self.unlisted) if self.objects(frame)}
        if self.is_video:
            reach = range(-guard, guard + 1)
            taken = {frame + step for frame in taken for step in reach}
        return [frame for frame in self.frames if frame not in taken]


class Place(NamedTuple):
    """A frame: which footage of its data set, and its number in there."""

    footage: int
    frame: int


@dataclass(frozen=True)
class ReferenceIndex:
    """One data set.

    Args:
        root: Its folder.
        classes: Sorted by name.
        footage: Sorted by name.
    """

    root: Path
    classes: tuple[ObjectClass, ...]
    footage: tuple[Footage, ...]
