"""Frames and photos to inputs; what is random comes from the draw's seed alone."""

from __future__ import annotations

import random
from collections import OrderedDict
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
from mlkit_refdet.episodes.samples import EpisodeSample, FrameItem, TripletItem
from mlkit_refdet.episodes.support import SupportLoader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from torch import Tensor

    from mlkit_core.types import Draw, Role
    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.index import Footage, Place
    from mlkit_refdet.episodes.splits import DataSets, Split

_OPEN = 16  # videos that are kept open at a time
_MB = 1 << 20


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
        item = self.item(split, draw.split, draw.place, extra={"episode": draw.episode})
        seed = None if draw.episode is None else draw.seed
        classes = tuple(self.support.photos(split, label, seed) for label in draw.asked)
        asked = (draw.asked,) if draw.asked else ()
        return EpisodeSample(classes=classes, frames=(item,), asked=asked)

    def _episode(self, draw: EpisodeDraw) -> EpisodeSample:
        split, generator = self._sets.split("train"), random.Random(draw.seed)
        seeds = [generator.getrandbits(62) for _ in draw.places]
        asked = tuple(tuple(generator.sample(draw.ways, len(draw.ways))) for _ in draw.places)
        order = sorted(range(len(seeds)), key=lambda place: draw.places[place])  # decoded in order
        found: dict[int, FrameItem] = {}
        empty = range(len(draw.frames), len(draw.frames) + len(draw.backgrounds))
        for place in order:
            ways = draw.ways if place in empty else ()
            found[place] = self.item(split, "train", draw.places[place], seeds[place], ways)
        items = [found[place] for place in range(len(seeds))]
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
            asked=asked,
            bank=self._bank(split, draw),
            in_training=True,
        )

    def _bank(self, split: Split, draw: EpisodeDraw) -> tuple:
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
        seed: int | None = None,
        ways: Sequence[int] = (),
        extra: Mapping[str, int | None] | None = None,
    ) -> FrameItem:
        """Return one frame.

        Args:
            split: Whose frame it is.
            name: Of the split.
            place: The frame.
            seed: Of training: what may be changed at random is; None: nothing is.
            ways: Labels one of which may be put onto it.
            extra: Further values of its meta; None is left out.
        """
        footage, frame = split.footage(place), place.frame
        size = footage.size_of(frame)
        box = letterbox.fit(size, self.side)
        objects = split.objects(place)
        item = FrameItem(
            meta=_meta(footage, frame, box, {**(extra or {}), "split": name}),
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
        return self._changed(item, pixels, split, seed, ways)

    def _changed(
        self,
        item: FrameItem,
        pixels: Tensor,
        split: Split,
        seed: int | None,
        ways: Sequence[int],
    ) -> FrameItem:
        options, boxes, labels = self._options, item.boxes_xyxy, item.labels
        if seed is not None:
            with seeded(seed):
                if ways and options.copy_paste and torch.rand(()) < options.copy_paste:
                    label, cut = self.support.cut_out(split, ways)
                    pixels, own = paste(pixels, cut, options.paste_px, hflip=options.hflip)
                    boxes, labels = torch.cat([boxes, own[None]]), torch.cat([labels, label])
                if options.query_augment:
                    strength = STAGES[options.stage]
                    pixels, boxes, left = augment_frame(
                        pixels, boxes, strength, self.pad, hflip=options.hflip
                    )
                    boxes, labels = boxes[left], labels[left]
        return FrameItem(
            item.meta, boxes, labels, item.is_clear, item.annotated_for, pixels, item.key
        )

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
    footage: Footage, frame: int, box: letterbox.Letterbox, extra: Mapping[str, int | str | None]
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
