"""Reference photos of classes as inputs: which of them, in which views, changed or not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import DataError
from mlkit_core.types import Needs
from mlkit_refdet.episodes import letterbox
from mlkit_refdet.episodes.augment import augment_photo, seeded
from mlkit_refdet.episodes.foreground import (
    CutOut,
    Square,
    View,
    cut_out,
    has_cut_out,
    mask_square,
    photo_square,
)
from mlkit_refdet.episodes.recent import Recent
from mlkit_refdet.episodes.samples import ClassItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from mlkit_refdet.episodes.config import ReferenceFramesConfig
    from mlkit_refdet.episodes.index import Photo
    from mlkit_refdet.episodes.keys import FileKeys
    from mlkit_refdet.episodes.splits import Split

Shot = tuple["Photo", View]
_MB = 1 << 20


class SupportLoader:
    """Loads photos; those used last are kept as inputs.

    Args:
        options: Of the data.
        keys: Of files.
    """

    def __init__(self, options: ReferenceFramesConfig, keys: FileKeys) -> None:
        self._options, self._file_keys = options, keys
        self._squares: Recent[Square] = Recent(options.photo_cache_mb * _MB)
        self._cuts: Recent[CutOut] = Recent(options.photo_cache_mb * _MB // 4)
        self.bind(Needs())

    def bind(self, needs: Needs) -> None:
        """Take what the model needs of photos.

        Raises:
            BuildError: The encoders take no photos of this size.
        """
        self.needs = needs
        self.side = letterbox.legal_side(self._options.support_size, needs, "support_size")
        self.pad = letterbox.padding(needs)

    def shots(self, photos: Sequence[Photo]) -> list[Shot]:
        """Return photos in all their views; the first ones differ in photo and in view."""
        cut, own = self._options.support_crop == "object", self._options.support_views or (None,)
        views = [View(self.side, self.pad, longest, cut) for longest in own]
        return [
            (photo, views[(number + turn) % len(views)])
            for turn in range(len(views))
            for number, photo in enumerate(photos)
        ]

    def photos(
        self, split: Split, label: int, seed: int | None, *, changed: bool = False
    ) -> ClassItem:
        """Return up to `shots` photos of a class.

        Args:
            split: Whose class it is.
            label: The class.
            seed: Chooses among them; None: the first ones.
            changed: Whether they are changed at random, where the options say so.

        Raises:
            DataError: A file is damaged.
        """
        every, count = self.shots(split.photos(label)), self._options.shots
        chosen = list(range(len(every)))[:count]
        if seed is not None:
            chosen = random.Random(seed).sample(range(len(every)), min(count, len(every)))
        changes = changed and self._options.support_augment != "none" and not self.needs.skip
        return self.item(label, [every[place] for place in chosen], seed if changes else None)

    def one(self, split: Split, label: int, shot: int) -> ClassItem:
        """Return one photo of a class in one view, as a cache wants it."""
        return self.item(label, [self.shots(split.photos(label))[shot]], None)

    def item(self, label: int, shots: Sequence[Shot], seed: int | None) -> ClassItem:
        """Return photos as one class; they are changed by the seed, if there is one."""
        squares = [self._square(*shot) for shot in shots]
        pixels, masks = [one.pixels for one in squares], [one.mask for one in squares]
        keys = tuple(self.key(*shot) for shot in shots)
        if seed is not None:
            with seeded(seed):
                both = [self._augmented(*pair) for pair in zip(pixels, masks, strict=True)]
            pixels, masks = [pair[0] for pair in both], [pair[1] for pair in both]
            keys = tuple(f"{key}|{seed}" for key in keys)
        shown = [one for one in pixels if one is not None]
        return ClassItem(label, torch.stack(masks), keys, torch.stack(shown) if shown else None)

    def _augmented(self, pixels: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        if pixels is None:
            raise DataError("support: skipped photos cannot be changed")
        options = self._options
        strong = options.support_augment == "strong"
        return augment_photo(pixels, mask, self.pad, strong=strong, hflip=options.hflip)

    def _square(self, photo: Photo, view: View) -> Square:
        make = mask_square if self.needs.skip else photo_square
        return self._squares.get((photo, view, self.needs.skip), lambda: make(photo, view))

    def key(self, photo: Photo, view: View) -> str:
        """Return a photo's key: its files and all that shapes its pixels."""
        mask = "" if photo.mask is None else self._file_keys.of(photo.mask)
        return self._file_keys.of(photo.path, mask, photo.box_xyxy, view)

    def check_cut_outs(self, split: Split) -> None:
        """Raise DataError where a class that is trained on has no photo to cut the object out of.

        Raises:
            DataError: All such classes.
        """
        lacking = [
            split.photos(label)[0].path.parent
            for label in split.places
            if not any(has_cut_out(photo) for photo in split.photos(label))
        ]
        if lacking:
            names = ", ".join(map(str, lacking))
            hint = "give photos an alpha channel or `<name>_mask.png`, or say `copy_paste: 0`"
            raise DataError(f"data.copy_paste: no photo has a mask in {names}", hint=hint)

    def cut_out(self, split: Split, ways: Sequence[int]) -> tuple[Tensor, CutOut]:
        """Return label `[1]` and cut-out of a random one of the ways, by torch's generator.

        Raises:
            DataError: A photo is damaged.
        """
        fit = [
            (label, photo)
            for label in sorted(ways)
            for photo in split.photos(label)
            if has_cut_out(photo)
        ]
        label, photo = fit[int(torch.randint(len(fit), ()))]
        longest = 2 * self._options.paste_px[1]
        cut = self._cuts.get((photo, longest), lambda: cut_out(photo, longest))
        return torch.tensor([label]), cut


def padded(items: Sequence[ClassItem]) -> tuple[Tensor | None, Tensor, Tensor, tuple[str, ...]]:
    """Return pixels `[N, K, 3, S, S]`, masks `[N, K, S, S]`, valid `[N, K]` and N * K keys.

    A class with fewer photos repeats its first one; `valid` says which are real.
    """
    most = max(len(item.keys) for item in items)
    order = [[k if k < len(item.keys) else 0 for k in range(most)] for item in items]
    valid = torch.tensor([[k < len(item.keys) for k in range(most)] for item in items])
    pairs = list(zip(items, order, strict=True))
    masks = torch.stack([item.masks[own] for item, own in pairs])
    keys = tuple(item.keys[k] for item, own in pairs for k in own)
    shown = [item.pixels[own] for item, own in pairs if item.pixels is not None]
    pixels = torch.stack(shown).float().div_(255) if shown else None
    return pixels, masks, valid, keys
