"""Sets of still scenes: products on photos, empty crops, reference views; in the COCO layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mlkit_core.errors import DataError, InputError
from mlkit_refdet.episodes.images import read_rgb
from mlkit_refdet.scenes.compose import compose, render
from mlkit_refdet.scenes.cutouts import read_cut_out, write_reference_views
from mlkit_refdet.scenes.looks import LookRanges, draw_look

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_refdet.scenes.compose import Box, Layer, Pixels

ANNOTATIONS = "annotations.json"
LEAST_SEEN = 0.4  # share of a pasted object that stays visible
_LEAST_SIDE = 4  # of a box, pixels
_TRIES = 25
_CROP = (0.5, 1.0)  # side of a crop as a share of the photo's shorter side
_INSIDE = 0.3  # share of its size by which a centre stays within the picture
_QUALITY = 95
# What a random stream is of; each image has its own, so that none depends on how many there are.
_SCENE, _EMPTY, _VIEW, _TURN = range(4)


@dataclass(frozen=True)
class Scene:
    """A picture and what was pasted.

    Args:
        image: `[S, S, 3]` uint8.
        objects: Name and box, xyxy pixels, of every object.
    """

    image: Pixels
    objects: tuple[tuple[str, Box], ...]


def random_crop(photo: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Return a random square of a photo as `[size, size, 3]`, half of the time mirrored."""
    height, width = photo.shape[:2]
    side = rng.uniform(*_CROP) * min(height, width)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    image = Image.fromarray(photo).resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    crop = np.asarray(image)
    return crop[:, ::-1].copy() if rng.random() < 0.5 else crop


def make_scene(
    background: Pixels,
    cutouts: Sequence[tuple[str, Pixels]],
    ranges: LookRanges,
    rng: np.random.Generator,
) -> Scene:
    """Return a background with cut-outs on it, each of which can be seen to at least 40 %.

    One for which no such place is found is left out; the first one always has a place.

    Args:
        background: `[S, S, 3]` uint8.
        cutouts: Name and RGBA of each, the most wanted first.
        ranges: Of their looks.
        rng: Gives all randomness.
    """
    layers: list[Layer] = []
    names: list[str] = []
    for name, cutout in cutouts:
        look = draw_look(ranges, rng)
        for _ in range(_TRIES):
            margin = _INSIDE * look.longest_px
            centre = tuple(rng.uniform(margin, side - margin) for side in background.shape[1::-1])
            trial = [*layers, render(cutout, look, (centre[0], centre[1]))]
            if _all_seen(background, trial):
                layers = trial
                names.append(name)
                break
    image, seen = compose(background, layers)
    pairs = zip(names, seen, strict=True)
    return Scene(image, tuple((n, s.box_xyxy) for n, s in pairs if s.box_xyxy is not None))


def _all_seen(background: Pixels, layers: Sequence[Layer]) -> bool:
    for seen in compose(background, layers)[1]:
        box = seen.box_xyxy
        if box is None or seen.share < LEAST_SEEN:
            return False
        if min(box[2] - box[0], box[3] - box[1]) < _LEAST_SIDE:
            return False
    return True


class SceneSource:
    """Makes the scenes of a set, each from seed and number alone.

    Args:
        cutouts: Name to photo on white, or RGBA file.
        backgrounds: Photos.
        classes: Which of the names are pasted.
        size: Side of a scene, pixels.
        distractors: Fewest and most objects of other classes beside the first.
        seed: Of everything.
        ranges: Of the objects' looks.

    Raises:
        InputError: A name is unknown, there is no background, or too few classes.
        DataError: A file cannot be read.
    """

    def __init__(
        self,
        cutouts: Mapping[str, Path],
        backgrounds: Sequence[Path],
        *,
        classes: Sequence[str],
        size: int = 320,
        distractors: tuple[int, int] = (1, 2),
        seed: int = 0,
        ranges: LookRanges | None = None,
    ) -> None:
        self.classes = tuple(sorted(classes))
        _check(cutouts, backgrounds, self.classes, distractors)
        self._cutouts = {name: read_cut_out(cutouts[name]) for name in self.classes}
        self._backgrounds, self._size, self._seed = tuple(backgrounds), size, seed
        self._distractors, self._ranges = distractors, ranges or LookRanges()
        self._photo = lru_cache(maxsize=256)(self._read)

    def _read(self, place: int) -> Pixels:
        photo = read_rgb(self._backgrounds[place])
        if min(photo.shape[:2]) < 16:
            raise DataError(f"{self._backgrounds[place]}: expected 16 pixels or more on each side")
        return photo

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, stream, number])

    def scene(self, number: int) -> Scene:
        """Return a scene; every class is the first object of as many of them, to one."""
        rng = self._rng(_SCENE, number)
        turn, place = divmod(number, len(self.classes))
        first = int(self._rng(_TURN, turn).permutation(len(self.classes))[place])
        low, high = self._distractors
        others = [label for label in range(len(self.classes)) if label != first]
        count = int(rng.integers(low, high + 1))
        chosen = [first, *rng.choice(others, count, replace=False)] if count else [first]
        names = [self.classes[int(label)] for label in chosen]
        background = self._crop(rng)
        return make_scene(background, [(n, self._cutouts[n]) for n in names], self._ranges, rng)

    def background(self, number: int) -> Pixels:
        """Return a crop without any object, made as those under objects."""
        return self._crop(self._rng(_EMPTY, number))

    def _crop(self, rng: np.random.Generator) -> Pixels:
        photo = self._photo(int(rng.integers(len(self._backgrounds))))
        return random_crop(photo, self._size, rng)

    def write_references(self, folder: Path) -> None:
        """Write three views of every class, `<folder>/<class>/view_{1,2,3}.png`."""
        for label, name in enumerate(self.classes):
            views = [self._cutouts[name]] * 3
            write_reference_views(folder / name, views, self._rng(_VIEW, label))


def _check(
    cutouts: Mapping[str, Path],
    backgrounds: Sequence[Path],
    classes: Sequence[str],
    distractors: tuple[int, int],
) -> None:
    unknown = sorted(set(classes) - set(cutouts))
    if unknown:
        raise InputError(f"classes: no cut-out is named {unknown[0]!r}")
    odd = [name for name in classes if name != name.strip(". ") or "/" in name or "\\" in name]
    if odd:
        raise InputError(f"classes: {odd[0]!r} cannot be the name of a folder")
    if not backgrounds:
        raise InputError("backgrounds: expected one photo or more, got none")
    low, high = distractors
    if not 0 <= low <= high < max(len(set(classes)), 1) or len(set(classes)) < len(classes):
        got = f"{distractors} of {len(classes)} classes"
        raise InputError(f"distractors: expected fewer than there are distinct classes, got {got}")


def write_scenes(
    out: Path,
    cutouts: Mapping[str, Path],
    backgrounds: Sequence[Path],
    *,
    classes: Sequence[str],
    count: int,
    size: int = 320,
    distractors: tuple[int, int] = (1, 2),
    backgrounds_only: int = 0,
    seed: int = 0,
    ranges: LookRanges | None = None,
) -> Path:
    """Write scenes in the COCO layout, with reference views; return the annotations' path.

    images/{scene,background}_00000.jpg, annotations.json, references/<class>/view_{1,2,3}.png

    Args:
        out: Made.
        cutouts: Name to photo on white, or RGBA file.
        backgrounds: Photos.
        classes: Which of the names are pasted, and become categories.
        count: Scenes with objects.
        size: Side of a scene, pixels.
        distractors: Fewest and most further objects, each of another class and annotated, too.
        backgrounds_only: Crops without any object, beside the scenes.
        seed: Of everything.
        ranges: Of the objects' looks; None: as `LookRanges` says.

    Raises:
        InputError: Names, numbers or backgrounds do not fit.
        DataError: A file cannot be read.
    """
    source = SceneSource(
        cutouts, backgrounds,
        classes=classes, size=size, distractors=distractors, seed=seed, ranges=ranges,
    )  # fmt: skip
    (out / "images").mkdir(parents=True, exist_ok=True)
    file = _CocoFile(source.classes)
    for number in range(count):
        scene = source.scene(number)
        file.add(_save(out, f"scene_{number:05d}.jpg", scene.image), size, scene.objects)
    for number in range(backgrounds_only):
        file.add(_save(out, f"background_{number:05d}.jpg", source.background(number)), size, ())
    source.write_references(out / "references")
    return file.write(out / ANNOTATIONS)


def _save(out: Path, name: str, image: Pixels) -> str:
    Image.fromarray(image).save(out / "images" / name, quality=_QUALITY, subsampling=0)
    return name


class _CocoFile:
    """A COCO JSON as it grows; ids count from 1."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._ids = {name: number for number, name in enumerate(classes, 1)}
        self._images: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []

    def add(self, file_name: str, size: int, objects: Sequence[tuple[str, Box]]) -> None:
        image = {"id": len(self._images) + 1, "file_name": file_name, "width": size, "height": size}
        self._images.append(image)
        for name, (x1, y1, x2, y2) in objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": len(self._rows) + 1, "image_id": image["id"], "iscrowd": 0}
            row |= {"category_id": self._ids[name], "bbox": box, "area": box[2] * box[3]}
            self._rows.append(row)

    def write(self, path: Path) -> Path:
        categories = [{"id": number, "name": name} for name, number in self._ids.items()]
        content = {"images": self._images, "annotations": self._rows, "categories": categories}
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(path)
        return path
