"""Frames and photos to inputs; what is random comes from the draw's seed alone."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import DataError
from mlkit_core.training.sampling import derive
from mlkit_core.types import Needs, SampleMeta
from mlkit_refdet.episodes import letterbox
from mlkit_refdet.episodes.augment import STAGES, augment_frame, seeded
from mlkit_refdet.episodes.draws import EpisodeDraw, FrameDraw, PhotoDraw
from mlkit_refdet.episodes.frames import FrameReader
from mlkit_refdet.episodes.keys import FileKeys
from mlkit_refdet.episodes.paste import paste
from mlkit_refdet.episodes.recent import Recent
from mlkit_refdet.episodes.samples import ClassItem, EpisodeSample, FrameItem, TripletItem
from mlkit_refdet.episodes.support import SupportLoader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from mlkit_core.types import Draw, Letterbox, Role
    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.index import Footage, Place
    from mlkit_refdet.episodes.splits import DataSets, Split

_OPEN = 16  # videos that are kept open at a time
_TRIES = 5  # changes of a triplet's frame before it is left as it is, with its object
_MB = 1 << 20


@dataclass(frozen=True)
class _Change:
    """What may be done to a frame of training.

    Args:
        seed: All the randomness.
        ways: Labels one of which may be put onto it.
        keep: Label of which an object must stay visible; None: none.
    """

    seed: int
    ways: Sequence[int] = ()
    keep: int | None = None


class EpisodeLoader:
    """Loads draws.

    Args:
        options: Of the data.
        sets: Its splits.
    """

    def __init__(self, options: ReferenceFramesConfig, sets: DataSets) -> None:
        self._options, self._sets = options, sets
        self._kept: Recent[np.ndarray] = Recent(options.frame_cache_mb * _MB)
        self._readers: OrderedDict[tuple[str, int], FrameReader] = OrderedDict()
        self._keys = FileKeys()
        self.support = SupportLoader(options, self._keys)
        self.bind({})

    def bind(self, needs: Mapping[Role, Needs]) -> None:
        """Take what the model needs.

        Raises:
            BuildError: The encoders take no input of these sizes.
        """
        self.needs = needs.get("query", Needs())
        self.side = letterbox.legal_side(self._options.query_size, self.needs, "query_size")
        self.pad = letterbox.padding(self.needs)
        self.support.bind(needs.get("support", Needs()))

    def load(self, draw: Draw) -> EpisodeSample:
        """Return what a draw names.

        Raises:
            DataError: A file is missing, damaged, or contradicts its annotation.
        """
        if isinstance(draw, EpisodeDraw):
            return self._episode(draw)
        if isinstance(draw, FrameDraw):
            return self._frame(draw)
        if isinstance(draw, PhotoDraw):
            split = self._sets.split(draw.split)
            return EpisodeSample(classes=(self.support.one(split, draw.label, draw.shot),))
        raise DataError(f"draw: expected one of this data's own, got {type(draw).__name__}")

    def _frame(self, draw: FrameDraw) -> EpisodeSample:
        split = self._sets.split(draw.split)
        item = self.item(split, draw.split, draw.place, episode=draw.episode)
        seed = None if draw.episode is None else draw.seed
        classes = tuple(self.support.photos(split, label, seed) for label in draw.asked)
        asked = (draw.asked,) if draw.asked else ()
        return EpisodeSample(classes=classes, frames=(item,), asked=asked)

    def _episode(self, draw: EpisodeDraw) -> EpisodeSample:
        split, generator = self._sets.split("train"), random.Random(draw.seed)
        seeds = [generator.getrandbits(62) for _ in draw.places]
        items = self._items(split, draw, seeds)
        count = len(draw.frames) + len(draw.backgrounds)
        pairs = zip(items[count::2], items[count + 1 :: 2], strict=True)
        return EpisodeSample(
            classes=tuple(
                self.support.photos(split, label, derive(draw.seed, label), changed=True)
                for label in (*draw.ways, *draw.others)
            ),
            frames=tuple(items[:count]),
            triplets=tuple(
                TripletItem(triplet.anchor, *pair, triplet.is_background)
                for triplet, pair in zip(draw.triplets, pairs, strict=True)
            ),
            asked=draw.asked,
            bank=self._bank(split, draw),
        )

    def _items(self, split: Split, draw: EpisodeDraw, seeds: Sequence[int]) -> list[FrameItem]:
        """Return an episode's frames, read in the order in which they lie in their videos."""
        objects = [label for one in draw.triplets for label in (one.anchor, one.other)]
        keep = [*[None] * (len(draw.frames) + len(draw.backgrounds)), *objects]
        empty = range(len(draw.frames), len(draw.frames) + len(draw.backgrounds))
        found: dict[int, FrameItem] = {}
        for place in sorted(range(len(seeds)), key=lambda place: draw.places[place]):
            ways = draw.asked[place] if place in empty else ()
            change = _Change(seeds[place], ways, keep[place])
            found[place] = self.item(split, "train", draw.places[place], change)
        return [found[place] for place in range(len(seeds))]

    def _bank(self, split: Split, draw: EpisodeDraw) -> tuple[ClassItem, ...]:
        if draw.bank_seed is None:
            return ()
        rest = [label for label in split.places if label not in (*draw.ways, *draw.others)]
        seed = draw.bank_seed
        return tuple(self.support.photos(split, label, derive(seed, label)) for label in rest)

    def key(self, footage: Footage, frame: int) -> str:
        """Return a frame's key: its file, its number and all that shapes its pixels."""
        return self._keys.of(footage.files.get(frame, footage.path), frame, self.side, self.pad)

    def item(
        self,
        split: Split,
        name: str,
        place: Place,
        change: _Change | None = None,
        episode: int | None = None,
    ) -> FrameItem:
        """Return one frame.

        Args:
            split: Whose frame it is.
            name: Of the split.
            place: The frame.
            change: Of training: what may be done at random; None: nothing.
            episode: Number of the evaluated episode, for its meta.
        """
        footage, frame = split.footage(place), place.frame
        size = footage.size_of(frame)
        box = letterbox.fit(size, self.side)
        objects = split.objects(place)
        item = FrameItem(
            meta=_meta(footage, frame, box, {"split": name, "episode": episode}),
            boxes_xyxy=letterbox.boxes_to_square(_boxes(objects), box),
            labels=torch.tensor([label for label, _ in objects], dtype=torch.long),
            is_clear=bool(objects) or place in split.clear or not footage.is_video,
            annotated_for=split.annotated_for(place),
            key=self.key(footage, frame) if self.needs.keys else "",
        )
        if self.needs.skip:
            return item
        shown = self._reader(name, place.footage, footage).read(frame)
        if shown.shape[:2] != size:
            got = f"{shown.shape[1]} x {shown.shape[0]}"
            where = footage.files.get(frame, footage.path)
            raise DataError(f"{where}: frame {frame}: expected {size[1]} x {size[0]}, got {got}")
        pixels = letterbox.to_square(shown, box, self.side, self.pad)
        if change is None:
            return replace(item, pixels=pixels)
        with seeded(change.seed):
            return self._changed(replace(item, pixels=pixels), pixels, split, change)

    def _changed(self, item: FrameItem, pixels: Tensor, split: Split, change: _Change) -> FrameItem:
        """Return a frame with an object on it, or changed, as the options say, at random."""
        options, boxes, labels = self._options, item.boxes_xyxy, item.labels
        if change.ways and options.copy_paste and torch.rand(()) < options.copy_paste:
            label, cut = self.support.cut_out(split, change.ways)
            pixels, own = paste(pixels, cut, options.paste_px, hflip=options.hflip)
            boxes, labels = torch.cat([boxes, own[None]]), torch.cat([labels, label])
        plain = replace(item, pixels=pixels, boxes_xyxy=boxes, labels=labels)
        for _ in range(_TRIES if options.query_augment else 0):
            changed, moved, left = augment_frame(
                pixels, boxes, STAGES[options.stage], self.pad, hflip=options.hflip
            )
            if change.keep is None or bool((labels[left] == change.keep).any()):
                seen = {"boxes_xyxy": moved[left], "labels": labels[left]}
                return replace(item, pixels=changed, **seen)
        return plain

    def _reader(self, name: str, number: int, footage: Footage) -> FrameReader:
        """Return a footage's reader; of videos only those used last stay open."""
        if (name, number) not in self._readers:
            self._readers[name, number] = FrameReader.of(footage, self._kept)
        self._readers.move_to_end((name, number))
        for key in [*self._readers][:-_OPEN]:
            self._readers[key].close()
        return self._readers[name, number]


def _boxes(objects: Sequence[tuple[int, tuple[float, float, float, float]]]) -> Tensor:
    return torch.tensor([xyxy for _, xyxy in objects], dtype=torch.float32).reshape(-1, 4)


def _meta(
    footage: Footage, frame: int, box: Letterbox, extra: Mapping[str, int | str | None]
) -> SampleMeta:
    path = footage.files.get(frame, footage.path)
    name = f"{frame:06d}" if footage.is_video else path.name
    return SampleMeta(
        key=f"{footage.name}/{name}",
        size=footage.size_of(frame),
        letterbox=box,
        group=footage.name if footage.is_video else "",
        path=str(path),
        extra={
            "video_id": footage.name,
            "frame": frame,
            "fps": footage.fps,
            "objects": footage.objects(frame),
            **{name: value for name, value in extra.items() if value is not None},
        },
    )
