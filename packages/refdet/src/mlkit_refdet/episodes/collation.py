"""Episodes to batches, one for each kind."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlkit_core.types import Batch, SampleMeta
from mlkit_refdet.episodes.support import padded
from mlkit_refdet.targets import ReferenceTarget, TripletOnlyTarget, TripletTarget

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlkit_refdet.episodes.samples import ClassItem, EpisodeSample, FrameItem, TripletItem

_NAMED = 64  # classes of a support whose names fit into a caption


@dataclass(frozen=True)
class Table:
    """The classes of a batch's support.

    Args:
        items: One for each row.
        rows: For each sample, label to row: its own classes first, then those of the others.
    """

    items: tuple[ClassItem, ...]
    rows: tuple[Mapping[int, int], ...]

    @classmethod
    def of(cls, samples: Sequence[EpisodeSample], *, by_label: bool) -> Table:
        """Return the table of all samples' classes, then of the bank's that are in none of them.

        Args:
            samples: Of one batch.
            by_label: One row for each class, whichever photos the samples drew; else classes with
                other photos are rows of their own.
        """
        rows: dict[object, int] = {}
        items: list[ClassItem] = []
        first: dict[int, int] = {}

        def place(item: ClassItem) -> int:
            name = item.label if by_label else (item.label, item.keys)
            if name not in rows:
                rows[name] = len(items)
                items.append(item)
                first.setdefault(item.label, rows[name])
            return rows[name]

        own = [{item.label: place(item) for item in sample.classes} for sample in samples]
        for sample in samples:
            for item in sample.bank:
                if item.label not in first:
                    place(item)
        return cls(tuple(items), tuple({**first, **mapping} for mapping in own))


@dataclass(frozen=True)
class Row:
    """One image of a batch: its frame, its sample's number, and the labels asked of it."""

    item: FrameItem
    sample: int
    asked: tuple[int, ...]


class Collation:
    """Makes batches.

    Args:
        names: Of the data's classes.
        categories: Label to number of its category.
        joint: Detection items and triplets share a batch.
        with_detection: Triplets' frames give detection losses, too.
        by_label: The support has one row for each class; see `Table.of`.
        with_keys: Inputs whose keys the batch must carry.
    """

    def __init__(
        self,
        names: Sequence[str],
        categories: Sequence[int],
        *,
        joint: bool,
        with_detection: bool,
        by_label: bool,
        with_keys: frozenset[str],
    ) -> None:
        self._names, self._categories = names, torch.tensor(categories)
        self._joint, self._with_detection = joint, with_detection
        self._by_label, self._with_keys = by_label, with_keys

    def batches(self, samples: Sequence[EpisodeSample]) -> list[Batch]:
        """Return one batch for each kind, and one for each input where only a cache is filled."""
        if not any(sample.asked for sample in samples):
            return self._bare(samples)
        plain, pairs = list(_detection_rows(samples)), list(_triplet_rows(samples))
        triplets = [one for sample in samples for one in sample.triplets]
        table = Table.of(samples, by_label=self._by_label)
        base = self._support(table.items)
        if triplets and plain and self._joint and self._with_detection:
            target = self._target(plain + pairs, table)
            return [self._batch(base, plain + pairs, table, "mixed", target, triplets)]
        found = []
        if plain:
            target = self._target(plain, table)
            found.append(self._batch(base, plain, table, "detection", target, []))
        if triplets:
            target = self._target(pairs, table)
            found.append(self._batch(base, pairs, table, "triplet", target, triplets))
        return found

    def _bare(self, samples: Sequence[EpisodeSample]) -> list[Batch]:
        """Return frames and photos of a cache."""
        frames = [item for sample in samples for item in sample.frames]
        classes = [item for sample in samples for item in sample.classes]
        found = [self._query([Row(item, 0, ()) for item in frames])] if frames else []
        if classes:
            meta = tuple(SampleMeta(key=self._names[item.label]) for item in classes)
            found.append(replace(self._support(classes), meta=meta))
        return found

    def _support(self, items: Sequence[ClassItem]) -> Batch:
        pixels, masks, valid, keys = padded(items)
        inputs = {} if pixels is None else {"support": pixels}
        named = {"support": keys} if "support" in self._with_keys else {}
        return Batch(
            inputs, (), valid={"support": valid}, masks={"support": masks.float()}, keys=named
        )

    def _query(self, rows: Sequence[Row]) -> Batch:
        shown = [row.item.pixels for row in rows if row.item.pixels is not None]
        inputs = {"query": torch.stack(shown).float().div_(255)} if shown else {}
        keys = {"query": tuple(row.item.key for row in rows)}
        named = keys if "query" in self._with_keys else {}
        return Batch(inputs, tuple(row.item.meta for row in rows), keys=named)

    def _batch(
        self,
        base: Batch,
        rows: Sequence[Row],
        table: Table,
        kind: str,
        target: ReferenceTarget,
        triplets: Sequence[TripletItem],
    ) -> Batch:
        query, upto, made = self._query(rows), "head", target
        if triplets:
            kinds = TripletTarget if self._with_detection else TripletOnlyTarget
            made = kinds(**vars(target), **_triplets(rows, triplets, table))
            upto = "head" if self._with_detection else "features"
        asked = torch.full((len(rows), max(len(row.asked) for row in rows)), -1.0)
        for place, row in enumerate(rows):
            own = [float(table.rows[row.sample][label]) for label in row.asked]
            asked[place, : len(own)] = torch.tensor(own)
        return replace(
            base,
            inputs={**query.inputs, **base.inputs, "asked": asked},
            meta=self._named(query, table),
            target=made,
            kind=kind,
            upto=upto,
            keys={**query.keys, **base.keys},
        )

    def _named(self, query: Batch, table: Table) -> tuple[SampleMeta, ...]:
        """Return the rows' meta with the names of the support's classes, in its order."""
        if len(table.items) > _NAMED:
            return query.meta
        names = json.dumps([self._names[item.label] for item in table.items], ensure_ascii=False)
        return tuple(
            replace(meta, extra={**meta.extra, "references": names}) for meta in query.meta
        )

    def _target(self, rows: Sequence[Row], table: Table) -> ReferenceTarget:
        class_ids = torch.tensor([item.label for item in table.items])
        category_ids = self._categories[class_ids]
        most = max(1, *(len(row.item.labels) for row in rows))
        boxes, labels = torch.zeros(len(rows), most, 4), torch.full((len(rows), most), -1)
        background = torch.zeros(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows):
            own = table.rows[row.sample]
            known = [(own[int(one)], i) for i, one in enumerate(row.item.labels) if int(one) in own]
            for column, (label, i) in enumerate(known):
                labels[place, column], boxes[place, column] = label, row.item.boxes_xyxy[i]
            background[place] = not known and self._is_background(row.item, class_ids)
        return ReferenceTarget(boxes, labels, class_ids, category_ids, background)

    def _is_background(self, item: FrameItem, class_ids: Tensor) -> bool:
        """Return whether a frame without a box is known to show none of the support's classes.

        A video of one backpack is not annotated for another backpack.
        """
        if not item.is_clear or item.annotated_for is None:
            return item.is_clear
        own = {int(self._categories[label]) for label in item.annotated_for}
        unknown = [int(one) for one in class_ids if int(one) not in item.annotated_for]
        return not any(int(self._categories[label]) in own for label in unknown)


def _detection_rows(samples: Sequence[EpisodeSample]) -> Iterable[Row]:
    for number, sample in enumerate(samples):
        for item, asked in zip(sample.frames, sample.asked, strict=False):
            yield Row(item, number, asked)


def _triplet_rows(samples: Sequence[EpisodeSample]) -> Iterable[Row]:
    """Yield positive and negative of every triplet, one after the other."""
    for number, sample in enumerate(samples):
        items = [item for one in sample.triplets for item in (one.positive, one.negative)]
        asked = sample.asked[len(sample.frames) :]
        for item, own in zip(items, asked, strict=True):
            yield Row(item, number, own)


def _triplets(
    rows: Sequence[Row], triplets: Sequence[TripletItem], table: Table
) -> dict[str, Tensor]:
    """Return the triplets' fields of the target; their frames are the batch's last rows."""
    first = len(rows) - 2 * len(triplets)
    positives = torch.arange(first, len(rows), 2)
    samples = [rows[int(place)].sample for place in positives]
    return {
        "anchors": torch.tensor(
            [table.rows[s][one.anchor] for s, one in zip(samples, triplets, strict=True)]
        ),
        "positives": positives,
        "negatives": positives + 1,
        "is_background": torch.tensor([one.is_background for one in triplets]),
    }
