"""Objects cut out of photos on white, and reference views of them with their masks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.images import read_rgba
from mlkit_refdet.scenes.compose import render
from mlkit_refdet.scenes.looks import LookRanges, draw_look

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from mlkit_refdet.scenes.compose import Pixels

WHITE = 238  # a photo's ground: all channels are at least this
_PURE_WHITE = 250  # likewise, where the object itself is of white cardboard
_FRINGE, _THIN = 1, 3  # pixels that compression has soiled; half the width of a sliver
_EDGE = 2  # pixels into which a lens mixes the ground
CANVAS = 160
GREY = 114
VIEW_SIZES = ((32.0, 48.0), (60.0, 84.0), (104.0, 130.0))
VIEWS = LookRanges(
    angle_deg=(-12.0, 12.0),
    perspective=0.08,
    blur_px=(0.0, 0.5),
    gain=(0.85, 1.1),
    tint=0.03,
    contrast=(0.9, 1.05),
    cover_chance=0.0,
)
_LEAST_PX = 8


def read_cut_out(path: Path) -> Pixels:
    """Return an object without its surroundings, `[h, w, 4]` RGBA, tight around it.

    The file's alpha channel says what the object is; without one, it is what is not white.

    Raises:
        DataError: It cannot be read, or shows nothing but white.
    """
    rgb, alpha = read_rgba(path)
    if alpha is None:
        return cut_from_white(rgb, str(path))
    return _tight(np.dstack([rgb, alpha]), alpha > 127, str(path))


def cut_from_white(photo: Pixels, name: str = "photo") -> Pixels:
    """Return the object of a photo on white, `[h, w, 4]` RGBA, with a soft edge.

    The edge's colours are freed of the white that is mixed into them.

    Args:
        photo: `[H, W, 3]` RGB.
        name: For the error.

    Raises:
        DataError: There is no such region of 8 pixels or more on both sides.
    """
    mask = white_mask(photo)
    inner = ndimage.binary_erosion(mask)
    alpha = np.clip(ndimage.gaussian_filter(inner.astype(np.float32), 0.7), 0, 1) * mask
    rgba = np.dstack([_without_white(photo, mask), np.round(255 * alpha).astype(np.uint8)])
    return _tight(rgba, mask, name)


def _without_white(photo: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Return the photo with the colours of the object's edge replaced by those behind it.

    What is thinner than the edge, such as a stem, keeps its own.
    """
    core = np.asarray(ndimage.binary_erosion(mask, iterations=_EDGE), bool)
    if not core.any():
        return photo
    nearest = np.asarray(
        ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    )
    rows, columns = np.indices(core.shape)
    edge = np.hypot(nearest[0] - rows, nearest[1] - columns) <= _EDGE + 1.5
    return np.where(edge[..., None], photo[nearest[0], nearest[1]], photo)


def white_mask(photo: Pixels) -> npt.NDArray[np.bool_]:
    """Return where the largest object of a photo on white is, `[H, W]`, its holes filled.

    It is the largest connected region whose least channel is below `WHITE`. White packaging loses
    whole sides by that; what is broad and below 250 belongs to the object, too.
    """
    least = photo.min(-1)
    plain = _largest(least < WHITE)
    pale = ndimage.binary_fill_holes(least < _PURE_WHITE)
    pale = ndimage.binary_erosion(pale, iterations=_FRINGE)
    broad = np.asarray(ndimage.binary_opening(pale, iterations=_THIN), bool)
    return _largest(plain | broad)


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    regions = np.zeros(mask.shape, np.int32)
    if not ndimage.label(mask, output=regions):
        return mask
    largest = 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(regions == largest), bool)


def _tight(rgba: Pixels, mask: npt.NDArray[np.bool_], name: str) -> Pixels:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if min(len(rows), len(columns)) < _LEAST_PX:
        raise DataError(
            f"{name}: shows no object of {_LEAST_PX} pixels or more",
            hint="expected a photo on white, or one whose alpha channel is the object",
        )
    window = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ascontiguousarray(window)


def reference_view(
    cutout: Pixels,
    sizes: tuple[float, float],
    rng: np.random.Generator,
    canvas: int = CANVAS,
    ranges: LookRanges = VIEWS,
) -> Pixels:
    """Return a view on a square of grey, `[S, S, 4]`; alpha is the object's mask.

    Colours are straight: only where nothing of the object is, they are grey.

    Args:
        cutout: `[h, w, 4]` RGBA.
        sizes: Smallest and largest longer side in pixels.
        rng: Gives the randomness.
        canvas: Side of the square.
        ranges: Of everything but the size.
    """
    look = draw_look(replace(ranges, longest_px=sizes), rng)
    layer = render(cutout, look, (canvas / 2, canvas / 2))
    view = np.full((canvas, canvas, 4), GREY, np.float32)
    view[..., 3] = 0
    top, left = max(layer.top, 0), max(layer.left, 0)
    rows = slice(top - layer.top, min(layer.alpha.shape[0], canvas - layer.top))
    columns = slice(left - layer.left, min(layer.alpha.shape[1], canvas - layer.left))
    alpha, colours = layer.alpha[rows, columns], layer.colours[rows, columns]
    window = view[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    shown = alpha > 1 / 255
    window[shown, :3] = colours[shown] / alpha[shown, None]
    window[..., 3] = 255 * alpha * shown
    return np.clip(view + 0.5, 0, 255).astype(np.uint8)


def write_reference_views(
    folder: Path,
    cutouts: Sequence[Pixels],
    rng: np.random.Generator,
    name: str = "view_{}.png",
) -> list[Path]:
    """Write one view of each size of `VIEW_SIZES` as RGBA PNG; return their paths.

    Args:
        folder: Made.
        cutouts: `[h, w, 4]` RGBA, one for each view: the same or as seen from three sides.
        rng: Gives the randomness.
        name: Of the files, with a place for the number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for number, (cutout, sizes) in enumerate(zip(cutouts, VIEW_SIZES, strict=True), 1):
        paths.append(folder / name.format(number))
        Image.fromarray(reference_view(cutout, sizes, rng)).save(paths[-1])
    return paths
