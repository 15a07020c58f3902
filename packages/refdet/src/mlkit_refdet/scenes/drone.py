"""Sets of drone clips in the AeroEyes layout, of generated things or of products."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_core.errors import InputError
from mlkit_refdet.episodes.images import read_rgb
from mlkit_refdet.scenes.clips import ClipPlan, draw_clip
from mlkit_refdet.scenes.cutouts import read_cut_out, write_reference_views
from mlkit_refdet.scenes.film import write_film
from mlkit_refdet.scenes.objects import KINDS, make_object
from mlkit_refdet.scenes.solids import Pose, draw_solid
from mlkit_refdet.scenes.terrain import bush, from_photo, ground

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_refdet.scenes.clips import Clip
    from mlkit_refdet.scenes.compose import Box, Pixels
    from mlkit_refdet.scenes.solids import Face

FPS = 10.0
_ROOM = 2.6  # the generated ground's sides by the frames'
_PHOTO_ROOM = 3.0  # most that a photo's width is by the frames'
_SPRITE_PX = 160
_OBJECT, _VIEWS, _CLIP, _OTHERS = range(4)  # what a random stream is of


def write_drone_set(
    out: Path,
    *,
    videos: int,
    frames: int,
    size: tuple[int, int] = (360, 640),
    seed: int = 0,
    first: int = 0,
    others: tuple[int, int] = (2, 4),
    object_px: tuple[float, float] = (20.0, 80.0),
    share: float = 0.25,
) -> Path:
    """Write clips of generated ground and things; return the annotations' path.

    Names count through the kinds, `Crate_0`, `Barrel_0`, ..., `Crate_1`: each is one individual
    with its own clip. Nothing else in any clip is one of them.

    Args:
        out: Made; the AeroEyes layout.
        videos: How many, each of another individual.
        frames: Of each.
        size: Height and width in pixels, even numbers.
        seed: Of everything; a clip depends on it and on the clip's number alone.
        first: Number of the first individual, so that two sets of one seed share none.
        others: Fewest and most other things in each clip.
        object_px: Smallest and largest longer side of things.
        share: Of the frames that show the object.

    Raises:
        InputError: Sizes or numbers do not fit.
    """
    plan = ClipPlan(frames, size, share, object_px, cover_chance=0.0)
    file = _Annotations(out)
    for number in range(first, first + videos):
        round_of, kind = divmod(number, len(KINDS))
        folder = file.folder(f"{KINDS[kind]}_{round_of}")
        faces = make_object(KINDS[kind], _rng(seed, _OBJECT, number))
        rng = _rng(seed, _CLIP, number)
        clip = draw_clip(
            plan,
            ground((round(_ROOM * size[0]), round(_ROOM * size[1])), rng),
            _from_above(faces, rng),
            list(_strangers(_rng(seed, _OTHERS, number), others)),
            rng,
            above=[bush(rng)] if rng.random() < 0.4 else (),
        )
        _write_views_of(faces, folder, _rng(seed, _VIEWS, number))
        file.add(folder, clip)
    return file.write()


def _rng(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(list(numbers))


def _from_above(faces: Sequence[Face], rng: np.random.Generator) -> Pixels:
    pose = Pose(
        rng.uniform(0, 360), rng.uniform(35, 70), rng.uniform(-60, 60), rng.uniform(0.45, 0.7)
    )
    return draw_solid(faces, pose, _SPRITE_PX)


def _strangers(rng: np.random.Generator, limits: tuple[int, int]) -> Iterator[Pixels]:
    """Yield individuals that no clip is of: their streams are their own."""
    for _ in range(int(rng.integers(limits[0], limits[1] + 1))):
        kind = KINDS[int(rng.integers(len(KINDS)))]
        yield _from_above(make_object(kind, rng), rng)


def _write_views_of(faces: Sequence[Face], folder: Path, rng: np.random.Generator) -> None:
    """Write three photos from three sides, each lit in another way."""
    start = rng.uniform(0, 360)
    poses = [
        Pose(
            start + 120 * i + rng.uniform(-30, 30), rng.uniform(12, 55),
            rng.uniform(-70, 70), rng.uniform(0.45, 0.75),
        )
        for i in range(3)
    ]  # fmt: skip
    views = [draw_solid(faces, pose, _SPRITE_PX) for pose in poses]
    write_reference_views(folder / "object_images", views, rng, "img_{}.png")


def write_product_clips(
    out: Path,
    cutouts: Mapping[str, Path],
    backgrounds: Sequence[Path],
    *,
    videos: int,
    frames: int = 200,
    size: tuple[int, int] = (360, 640),
    seed: int = 0,
    classes: Sequence[str] | None = None,
    others: tuple[int, int] = (2, 4),
    object_px: tuple[float, float] = (20.0, 80.0),
    share: float = 0.25,
) -> Path:
    """Write clips of products over real photos; return the annotations' path.

    Clip `<name>_<k>` is the k-th of a product. Other things in it are products that no clip is of,
    as long as there are any, else those that this clip is not of.

    Args:
        out: Made; the AeroEyes layout.
        cutouts: Name to photo on white, or RGBA file.
        backgrounds: Photos, larger than the frames; each clip flies over one.
        videos: How many clips.
        frames: Of each.
        size: Height and width in pixels, even numbers.
        seed: Of everything.
        classes: Products to find; None: all.
        others: Fewest and most other things in each clip.
        object_px: Smallest and largest longer side of things.
        share: Of the frames that show the object.

    Raises:
        InputError: Names, sizes or numbers do not fit.
        DataError: A file cannot be read.
    """
    names = sorted(cutouts if classes is None else classes)
    rest = sorted(set(cutouts) - set(names)) or names
    if not names or not backgrounds or set(names) - set(cutouts):
        raise InputError("write_product_clips: expected known classes and at least one background")
    plan, file = ClipPlan(frames, size, share, object_px), _Annotations(out)
    order = _rng(seed, _OBJECT).permutation(len(backgrounds))
    for number in range(videos):
        name, rng = names[number % len(names)], _rng(seed, _CLIP, number)
        folder = file.folder(f"{name}_{number // len(names)}")
        target = read_cut_out(cutouts[name])
        able = [other for other in rest if other != name]
        count = min(int(rng.integers(others[0], others[1] + 1)), len(able))
        chosen = (
            [able[int(i)] for i in rng.choice(len(able), count, replace=False)] if count else []
        )
        photo = read_rgb(backgrounds[int(order[number % len(order)])])
        world = from_photo(photo, round(_PHOTO_ROOM * size[1]))
        clip = draw_clip(plan, world, target, [read_cut_out(cutouts[o]) for o in chosen], rng)
        views = [target] * 3
        write_reference_views(
            folder / "object_images", views, _rng(seed, _VIEWS, number), "img_{}.png"
        )
        file.add(folder, clip)
    return file.write()


class _Annotations:
    """The AeroEyes folder as it grows."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._entries: list[dict[str, Any]] = []

    def folder(self, name: str) -> Path:
        """Make a video's folder.

        Raises:
            InputError: The name would leave the set.
        """
        if not name or "/" in name or "\\" in name or name[0] == ".":
            raise InputError(f"video: {name!r} cannot be the name of a folder")
        path = self._out / "samples" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def add(self, folder: Path, clip: Clip) -> None:
        """Write a clip's film, and note its boxes."""
        boxes: list[Box | None] = []

        def pictures() -> Iterator[Pixels]:
            for picture, box in clip.frames():
                boxes.append(box)
                yield picture

        write_film(folder / "drone_video.mp4", pictures(), clip.flight.size, FPS)
        self._entries.append({"video_id": folder.name, "annotations": intervals(boxes)})

    def write(self) -> Path:
        path = self._out / "annotations" / "annotations.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(json.dumps(self._entries), encoding="utf-8")
        aside.replace(path)
        return path


def intervals(boxes: Sequence[Box | None]) -> list[dict[str, Any]]:
    """Return one entry for each run of frames with a box.

    Args:
        boxes: xyxy pixels of each frame, or None.
    """
    found: list[dict[str, Any]] = []
    last = -2
    for frame, box in enumerate(boxes):
        if box is None:
            continue
        if frame != last + 1:
            found.append({"bboxes": []})
        sides = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
        found[-1]["bboxes"].append({"frame": frame, **sides})
        last = frame
    return found
