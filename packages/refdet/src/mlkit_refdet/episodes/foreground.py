"""Reference photos as squares, and the object's mask in them where it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlkit_core.errors import DataError
from mlkit_refdet.episodes import letterbox
from mlkit_refdet.episodes.images import image_size, read_mask, read_rgba

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.episodes.index import Photo, Size

_MARGIN = 0.1  # of context around a cut-out object, as a share of its longer side
_ALPHA = 127  # from which a pixel belongs to the object


@dataclass(frozen=True)
class View:
    """How a photo becomes an input.

    Args:
        side: Of the square, pixels.
        pad: Its colour, 0..255.
        longest: Longer side of the content, pixels; None: all of the square.
        cut: Whether the photo is cut to the object first, where it is known.
    """

    side: int
    pad: tuple[int, int, int]
    longest: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class Square:
    """A photo as input: `pixels [3, S, S]` uint8, and `bits`, its mask packed; None: unknown."""

    pixels: Tensor | None
    bits: NDArray[np.uint8] | None
    side: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        pixels = 0 if self.pixels is None else self.pixels.numel()
        return pixels + (0 if self.bits is None else self.bits.nbytes)

    @property
    def mask(self) -> Tensor:
        """The foreground `[S, S]` bool; nothing but False: unknown."""
        if self.bits is None:
            return torch.zeros(self.side, self.side, dtype=torch.bool)
        values = np.unpackbits(self.bits, count=self.side**2).reshape(self.side, self.side)
        return torch.from_numpy(values.astype(bool))


def read_photo(photo: Photo) -> tuple[Pixels, NDArray[np.bool_] | None, Pixels | None]:
    """Return a photo as RGB, the object's mask where it is known, and its alpha if it has one.

    Raises:
        DataError: A file is damaged, or mask and photo differ in size.
    """
    rgb, alpha = read_rgba(photo.path)
    if alpha is not None:
        if not (alpha > _ALPHA).any():
            raise DataError(f"{photo.path}: its alpha channel hides all of it")
        return rgb, alpha > _ALPHA, alpha
    if photo.mask is not None:
        mask = read_mask(photo.mask)
        if mask.shape != rgb.shape[:2] or not mask.any():
            raise DataError(
                f"{photo.mask}: is no mask of {photo.path.name}: empty, or another size"
            )
        return rgb, mask, None
    return rgb, _of_box(photo, (rgb.shape[0], rgb.shape[1])), None


def _of_box(photo: Photo, size: Size) -> NDArray[np.bool_] | None:
    if photo.box_xyxy is None:
        return None
    mask = np.zeros(size, bool)
    x1, y1, x2, y2 = photo.box_xyxy
    mask[int(y1) : max(int(np.ceil(y2)), int(y1) + 1), int(x1) : int(np.ceil(x2))] = True
    return mask


def known_without_pixels(photo: Photo) -> bool:
    """Return whether a photo is known to have no mask from its name and header alone."""
    if photo.mask is not None or photo.box_xyxy is not None:
        return False
    if photo.path.suffix.lower() in (".jpg", ".jpeg"):
        return True
    with Image.open(photo.path) as image:
        return image.mode in ("RGB", "L", "1") and "transparency" not in image.info


def photo_square(photo: Photo, view: View) -> Square:
    """Return a photo as input; what its alpha hides has the padding's colour.

    Raises:
        DataError: A file is damaged.
    """
    rgb, mask, alpha = read_photo(photo)
    if alpha is not None:
        share = alpha[..., None].astype(np.float32) / 255
        flat = rgb * share + np.asarray(view.pad, np.float32) * (1 - share)
        rgb = flat.round().astype(np.uint8)
    if view.cut and mask is not None:
        window = _around(mask)
        rgb, mask = rgb[window], mask[window]
    box = letterbox.fit((rgb.shape[0], rgb.shape[1]), view.side, view.longest)
    pixels = letterbox.to_square(rgb, box, view.side, view.pad)
    if mask is None:
        return Square(pixels, None, view.side)
    bits = np.packbits(letterbox.mask_to_square(mask, box, view.side).numpy())
    return Square(pixels, bits, view.side)


def mask_square(photo: Photo, view: View) -> Square:
    """Return a photo's mask without its pixels; the file is decoded only where it has one.

    Raises:
        DataError: A file is damaged.
    """
    if known_without_pixels(photo):
        return Square(None, None, view.side)
    whole = photo_square(photo, view)
    return Square(None, whole.bits, view.side)


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return rows and columns of the object with a margin."""
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    margin = round(_MARGIN * max(span[-1] - span[0] + 1 for span in spans))
    rows, columns = (
        slice(max(0, int(span[0]) - margin), int(span[-1]) + 1 + margin) for span in spans
    )
    return rows, columns


@dataclass(frozen=True)
class CutOut:
    """An object without its surroundings: `rgb [h, w, 3]` uint8 and `alpha [h, w]`, 0..1."""

    rgb: Pixels
    alpha: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.rgb.nbytes + self.alpha.nbytes


def cut_out(photo: Photo, longest: int) -> CutOut:
    """Return a photo's object, its longer side `longest` pixels at most.

    Raises:
        DataError: The photo has neither alpha nor mask, or is damaged.
    """
    rgb, mask, alpha = read_photo(photo)
    if mask is None or (alpha is None and photo.mask is None):
        raise DataError(f"{photo.path}: nothing says which of its pixels are the object")
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    window = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    shares = (alpha if alpha is not None else mask * np.uint8(255))[window]
    picture, shadow = Image.fromarray(rgb[window]), Image.fromarray(shares)
    picture.thumbnail((longest, longest), Image.Resampling.BILINEAR)
    shadow = shadow.resize(picture.size, Image.Resampling.BILINEAR)
    return CutOut(np.asarray(picture), np.asarray(shadow, np.float32) / np.float32(255))


def has_cut_out(photo: Photo) -> bool:
    """Return whether something says which of a photo's pixels are the object; nothing is decoded.

    Raises:
        DataError: The file is no image.
    """
    if photo.mask is not None:
        return True
    image_size(photo.path)
    with Image.open(photo.path) as image:
        return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
