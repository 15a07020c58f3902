"""The data component `reference-frames`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import Batch, Draw, Needs, RoleSpec
from mlkit_refdet.episodes.collation import Collation
from mlkit_refdet.episodes.config import ReferenceFramesConfig
from mlkit_refdet.episodes.draws import FrameDraw, PhotoDraw
from mlkit_refdet.episodes.evaluation import episodes, every_frame
from mlkit_refdet.episodes.loading import EpisodeLoader
from mlkit_refdet.episodes.opening import open_frames
from mlkit_refdet.episodes.sampling import EpisodeSampler
from mlkit_refdet.episodes.splits import SPLITS, DataSets
from mlkit_refdet.targets import ReferenceTarget, TripletOnlyTarget, TripletTarget

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import Role, Target
    from mlkit_refdet.episodes.index import Place
    from mlkit_refdet.episodes.samples import EpisodeSample
    from mlkit_refdet.episodes.splits import Split

LOG = logging.getLogger("mlkit.refdet")
Kinds = dict[str, "tuple[type[Target], str]"]


class ReferenceFrames:
    """Episodes of frames and the photos of what to find in them; see `ReferenceFramesConfig`.

    Inputs are `query [B, 3, S, S]`, `support [N, K, 3, S', S']` with its foreground masks, and
    `asked [B, W]`, the support's classes that each image is searched for. A unit of training is one
    episode with its share of triplets; of evaluation one frame.

    Args:
        options: As `ReferenceFramesConfig` names them.
    """

    def __init__(self, **options: object) -> None:
        self.options = ReferenceFramesConfig.model_validate(options)
        self.roles: Mapping[Role, RoleSpec] = {
            "query": RoleSpec(shape=(3, None, None), value_range=(0.0, 1.0), unit="RGB 0..1"),
            "support": RoleSpec(
                shape=(3, None, None),
                lead=("class", "shot"),
                value_range=(0.0, 1.0),
                unit="RGB 0..1",
            ),
            "asked": RoleSpec(shape=(None,), unit="index of the support's class, -1 for none"),
        }
        self.kinds: Mapping[str, tuple[type[Target], str]] = _kinds(self.options)
        self.augments: frozenset[Role] = _augmented(self.options)
        self._sets = DataSets(self.options)
        self._loader = EpisodeLoader(self.options, self._sets)
        self._keyed: frozenset[str] = frozenset()
        self._by_label = True  # what a frame is asked for is not known to be read
        self._told = False

    @property
    def loader(self) -> EpisodeLoader:
        """What loads frames and photos, bound to the model's sizes."""
        return self._loader

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes of all splits, sorted.

        Raises:
            DataError: The data set is wrong; every problem at once.
        """
        return self._sets.names

    def bind(self, needs: Mapping[Role, Needs]) -> None:
        """Take the model's sizes and padding.

        Raises:
            BuildError: The encoders take no such size, or there is a bank and nobody asks.
        """
        if self.options.bank and "asked" not in needs:
            hint = "add `asked: {name: asked-classes}` to model.encoders, or say `bank: false`"
            message = "data.bank: without an encoder of `asked` every class would be searched for"
            raise BuildError(message, hint=hint)
        self._loader.bind(needs)
        self._by_label = self.options.bank or "asked" not in needs
        self._keyed = frozenset(role for role, need in needs.items() if need.keys)

    def units(self, split: str, seed: int) -> Sequence[Sequence[Draw]]:
        """Return episodes to train on, frames of "val" and "test", all files of "cache".

        Raises:
            DataError: The data set is wrong, or has no such split.
        """
        if split == "cache":
            return self._cached()
        chosen = self._sets.split(split)
        if split == "train":
            if self.options.copy_paste:
                self._loader.support.check_cut_outs(chosen)
            units = EpisodeSampler(chosen, self.options).units(seed)
            self._tell(chosen, {place for (draw,) in units for place in draw.places})
            return units
        if self.options.eval_episodes:
            return episodes(chosen, split, self.options)
        return every_frame(chosen, split, self.options)

    def _cached(self) -> list[list[Draw]]:
        """Return every frame that may be shown, and every photo in every view, each once."""
        units: dict[object, list[Draw]] = {}
        for name in (split for split in SPLITS if self._sets.has(split)):
            split = self._sets.split(name)
            for place in split.usable if name == "train" else split.every:
                if "query" in self._keyed:
                    footage = split.footage(place)
                    key = (footage.files.get(place.frame, footage.path), place.frame)
                    units.setdefault(key, [FrameDraw(0, 0, name, place)])
            for label in split.labels if "support" in self._keyed else ():
                for shot, key in enumerate(self._loader.support.shots(split.photos(label))):
                    units.setdefault(key, [PhotoDraw(0, 0, name, label, shot)])
        return [*units.values()]

    def _tell(self, split: Split, shown: Collection[Place]) -> None:
        """Say once how many frames an epoch shows, and how many none ever will."""
        if self._told:
            return
        self._told = True
        objects = {*split.labelled}
        LOG.info(
            "training frames: an epoch shows %d of %d with objects and %d of %d without; "
            "%d beside labelled ones are never shown",
            len(objects & {*shown}),
            len(objects),
            len({*shown} - objects),
            len({*split.usable} - objects),
            split.guarded,
        )

    def load(self, draw: Draw) -> EpisodeSample:
        """Return what a draw names; its only randomness is the draw's seed.

        Raises:
            DataError: A file is missing, damaged, or contradicts its annotation.
        """
        return self._loader.load(draw)

    def collate(self, units: Sequence[Sequence[EpisodeSample]]) -> list[Batch]:
        """Return one batch for each kind."""
        return self._collation().batches([sample for unit in units for sample in unit])

    def _collation(self) -> Collation:
        options = self.options
        return Collation(
            self._sets.names,
            self._sets.category_ids,
            joint=options.joint,
            with_detection=options.triplet_detection,
            by_label=self._by_label,
            with_keys=self._keyed,
        )

    def open(self, inputs: Mapping[Role, Path]) -> Iterator[Batch]:
        """Yield one batch for each frame of the user's own files.

        Args:
            inputs: `query`: an image, a folder of images, a video, or a stream's address;
                `support`: a folder of photos of one object, a folder of such folders, or a
                `.refset` file.

        Raises:
            DataError: One is missing, or a file of it cannot be read.
        """
        unknown = sorted({*inputs} - {"query", "support"})
        if unknown or len(inputs) < 2:
            given = ", ".join(sorted(inputs)) or "nothing"
            raise DataError(f"inputs: expected query and support, got {given}")
        return open_frames(inputs["query"], inputs["support"], self._loader)


def _kinds(options: ReferenceFramesConfig) -> Kinds:
    detection: Kinds = {"detection": (ReferenceTarget, "head")}
    if options.triplet_ratio == 0:
        return detection
    triplet: Kinds = {
        "triplet": (TripletTarget, "head")
        if options.triplet_detection
        else (TripletOnlyTarget, "features")
    }
    if options.triplet_ratio == 1:
        return triplet
    if options.joint and options.triplet_detection:
        return {"mixed": (TripletTarget, "head")}
    return detection | triplet


def _augmented(options: ReferenceFramesConfig) -> frozenset[str]:
    changed = {"query": options.query_augment or options.copy_paste > 0}
    changed["support"] = options.support_augment != "none"
    return frozenset(role for role, random in changed.items() if random)
