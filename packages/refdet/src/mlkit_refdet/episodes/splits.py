"""Which classes and frames are trained on, and which are kept for validation and test."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.index import Footage, Place
from mlkit_refdet.episodes.reading import read_index

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.index import Photo, ReferenceIndex

SPLITS = ("train", "val", "test")


class Split:
    """One split of a data set: its classes, their photos, the frames and what they show.

    Args:
        index: The data set.
        names: All classes of the run; a class's label is its place in there.
        wanted: Names of the split's classes.
        frames: Footage to the frames that belong to the split, ascending.
        guard: Frames beside a labelled one that are no background.
    """

    def __init__(
        self,
        index: ReferenceIndex,
        names: Sequence[str],
        wanted: Collection[str],
        frames: Mapping[int, Sequence[int]],
        guard: int,
    ) -> None:
        self.index, self.frames, self._guard = index, frames, guard
        self._labels = {name: label for label, name in enumerate(names)}
        classes = [one for one in index.classes if one.name in wanted]
        self.labels = tuple(self._labels[one.name] for one in classes)
        self._photos = {self._labels[one.name]: one.photos for one in classes}
        self.categories = {self._labels[one.name]: one.category for one in index.classes}

    def photos(self, label: int) -> tuple[Photo, ...]:
        """Return a class's reference photos."""
        return self._photos[label]

    def footage(self, place: Place) -> Footage:
        """Return the footage that a frame is of."""
        return self.index.footage[place.footage]

    def objects(self, place: Place) -> list[tuple[int, tuple[float, float, float, float]]]:
        """Return label and box of every object of a frame whose class has photos."""
        boxes = self.footage(place).boxes.get(place.frame, ())
        return [(self._labels[box.name], box.xyxy) for box in boxes]

    def shown(self, place: Place) -> set[int]:
        """Return the labels of a frame's objects."""
        return {label for label, _ in self.objects(place)}

    def annotated_for(self, place: Place) -> tuple[int, ...] | None:
        """Return which labels a frame was annotated for; None: for all."""
        classes = self.footage(place).classes
        return tuple(self._labels[name] for name in classes) if classes else None

    def shows_any(self, place: Place, categories: Collection[str]) -> bool:
        """Return whether a frame shows an object of one of the categories, as far as is known."""
        return any(self.categories[label] in categories for label in self.shown(place))

    @cached_property
    def places(self) -> dict[int, tuple[Place, ...]]:
        """Label to the frames that show it, for classes of which there are any."""
        found: defaultdict[int, list[Place]] = defaultdict(list)
        for place in self.every:
            for label in sorted(self.shown(place) & {*self.labels}):
                found[label].append(place)
        return {label: tuple(found[label]) for label in self.labels if label in found}

    @cached_property
    def every(self) -> tuple[Place, ...]:
        """All frames of the split, footage by footage, in order."""
        return tuple(Place(number, f) for number, own in self.frames.items() for f in own)

    @cached_property
    def labelled(self) -> tuple[Place, ...]:
        """Frames that show a class of the split."""
        return tuple(sorted({place for own in self.places.values() for place in own}))

    @cached_property
    def backgrounds(self) -> dict[int, tuple[Place, ...]]:
        """Footage to its frames without any object, those beside labelled ones left out."""
        found = {}
        for number, own in self.frames.items():
            clear = {*self.index.footage[number].background(self._guard)}
            found[number] = tuple(Place(number, frame) for frame in own if frame in clear)
        return found

    @cached_property
    def clear(self) -> frozenset[Place]:
        """Frames that are known to show no object at all."""
        return frozenset(place for own in self.backgrounds.values() for place in own)

    @cached_property
    def usable(self) -> tuple[Place, ...]:
        """Frames that training may show: those beside labelled ones are left out."""
        known = {*self.labelled} | self.clear
        return tuple(p for p in self.every if p in known or not self.footage(p).is_video)

    @cached_property
    def guarded(self) -> int:
        """How many frames without a label are no background, because they lie beside one."""
        bare = sum(not self.footage(place).objects(place.frame) for place in self.every)
        return bare - len(self.clear)

    def footage_of(self, label: int) -> tuple[int, ...]:
        """Return the videos that were annotated for a class alone; of image sets none."""
        return tuple(
            number
            for number in self.frames
            if (own := self.index.footage[number].classes)
            and label in {self._labels[name] for name in own}
        )


class DataSets:
    """The splits of a run; folders are read when first asked for.

    Args:
        options: Of the data.
    """

    def __init__(self, options: ReferenceFramesConfig) -> None:
        self._options = options
        self._splits: dict[str, Split] = {}

    def has(self, split: str) -> bool:
        """Return whether the options name such a split."""
        options = self._options
        named = {
            "train": True,
            "val": bool(options.val_classes or options.val_fold or options.val_root),
            "test": bool(options.test_classes or options.test_root),
        }
        return named.get(split, False)

    @cached_property
    def indexes(self) -> dict[str, ReferenceIndex]:
        """Split to the data set that it is of.

        Raises:
            DataError: A folder is wrong; every problem of it at once.
        """
        options = self._options
        roots: dict[str, Path] = {"train": options.root}
        roots |= {"val": options.val_root or options.root} if self.has("val") else {}
        roots |= {"test": options.test_root or options.root} if self.has("test") else {}
        read = {root: read_index(root, options) for root in dict.fromkeys(roots.values())}
        return {split: read[root] for split, root in roots.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All classes of all splits, sorted: a class's label is its place."""
        return tuple(sorted({one.name for index in self.indexes.values() for one in index.classes}))

    @cached_property
    def category_ids(self) -> tuple[int, ...]:
        """Label to number of its category."""
        categories = {o.name: o.category for index in self.indexes.values() for o in index.classes}
        numbers = {name: number for number, name in enumerate(sorted({*categories.values()}))}
        return tuple(numbers[categories[name]] for name in self.names)

    @cached_property
    def held_out(self) -> dict[str, frozenset[str]]:
        """Of `val` and `test` the classes of root that are kept from training."""
        options, own = self._options, [one.name for one in self.indexes["train"].classes]
        named = {"val": options.val_classes, "test": options.test_classes}
        if options.val_fold is not None:
            which, of = options.val_fold
            named["val"] = tuple(name for i, name in enumerate(own) if i % of == which)
        for split, names in named.items():
            unknown = sorted({*names} - {*own})
            if unknown:
                have = ", ".join(own)
                raise DataError(f"data.{split}_classes: no class {unknown[0]!r}; there are {have}")
        both = sorted({*named["val"]} & {*named["test"]})
        if both:
            raise DataError(f"data.test_classes: {both[0]!r} is one of val's classes, too")
        return {split: frozenset(names) for split, names in named.items()}

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            DataError: The options name no such split, or its data set is wrong.
        """
        if name not in SPLITS:
            raise DataError(f"split: expected {', '.join(SPLITS)} or cache, got {name!r}")
        if not self.has(name):
            hint = f"set data.{name}_classes or data.{name}_root"
            raise DataError(f"data: has no split {name!r}", hint=hint)
        if name not in self._splits:
            self._splits[name] = self._make(name)
        return self._splits[name]

    def _make(self, name: str) -> Split:
        index, held = self.indexes[name], self.held_out
        own = {one.name for one in index.classes}
        roots = {"val": self._options.val_root, "test": self._options.test_root}
        is_apart = roots.get(name) is not None
        out = {c for classes in held.values() for c in classes} if name == "train" else set()
        wanted = own if is_apart else (own - out if name == "train" else {*held[name]})
        if not wanted:
            raise DataError(f"data: no class is left for the split {name!r}")
        stride = self._options.stride if name == "train" else self._options.eval_stride
        turn = None if is_apart else self._turn(name, len(own))
        frames = {
            number: _frames(footage, wanted, out, turn, stride)
            for number, footage in enumerate(index.footage)
        }
        frames = {number: found for number, found in frames.items() if found}
        split = Split(index, self.names, wanted, frames, self._options.guard)
        if not split.places:
            raise DataError(f"{index.root}: no frame shows a class of the split {name!r}")
        return split

    def _turn(self, name: str, classes: int) -> tuple[frozenset[int], int] | None:
        """Return which of how many images without any class a split gets; None: all."""
        held = {split: len(names) for split, names in self.held_out.items() if names}
        if not held:
            return None
        every = max(len(held) + 1, round(classes / sum(held.values())))
        place = {split: i for i, split in enumerate(held)}
        if name != "train":
            return frozenset({place[name]}), every
        return frozenset(range(every)) - frozenset(place.values()), every


def _frames(
    footage: Footage,
    wanted: Collection[str],
    out: Collection[str],
    turn: tuple[frozenset[int], int] | None,
    stride: int,
) -> list[int]:
    """Return a footage's frames that belong to a split.

    Args:
        footage: A video belongs to the split of its class as a whole, an image to that of the
            objects that it shows.
        wanted: The split's classes.
        out: Classes that no frame of the split may show.
        turn: Of the images that show no class, which places modulo how many; None: all.
        stride: Of videos every n-th frame.
    """
    if footage.classes:
        return list(footage.frames)[::stride] if {*footage.classes} & {*wanted} else []
    chosen, bare = list[int](), 0
    for frame in footage.frames:
        shown = {box.name for box in footage.boxes.get(frame, ())}
        if not shown:
            if turn is None or bare % turn[1] in turn[0]:
                chosen.append(frame)
            bare += 1
        elif shown & {*wanted} and not shown & {*out}:
            chosen.append(frame)
    return chosen
