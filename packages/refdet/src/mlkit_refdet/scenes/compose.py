"""Cut-outs pasted onto a picture, each with the exact box of what can be seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlkit_refdet.scenes.looks import Cover, Look

    Pixels = npt.NDArray[np.uint8]  # [h, w, 3] RGB, or [h, w, 4] with straight alpha
    Floats = npt.NDArray[np.float32]

Box = tuple[int, int, int, int]  # xyxy, pixels, the ends excluded

_VISIBLE = 0.5  # share of an object's greatest opacity from which a pixel belongs to its box
_RIM = 2  # transparent pixels around a source, so that its border is smoothed, too


@dataclass(frozen=True)
class Layer:
    """A cut-out as it lies over a picture; it may reach beyond.

    Args:
        colours: `[h, w, 3]`, 0..255, multiplied by alpha.
        alpha: `[h, w]`, 0..1.
        left: Column of its first pixel.
        top: Row of its first pixel.
        whole: Sum of alpha before anything hid a part of it.
    """

    colours: Floats
    alpha: Floats
    left: int
    top: int
    whole: float


@dataclass(frozen=True)
class Seen:
    """What can be seen of a layer.

    Args:
        box_xyxy: Around pixels of at least half of its greatest opacity; None: it is hidden.
        share: Of its opacity, 0..1.
    """

    box_xyxy: Box | None
    share: float


def render(cutout: Pixels, look: Look, centre: tuple[float, float]) -> Layer:
    """Return a cut-out in a look.

    Args:
        cutout: `[h, w, 4]` RGBA, straight alpha.
        look: Size, turn, perspective, blur and light.
        centre: Where its middle comes to lie, x and y, pixels of the picture.
    """
    height, width = cutout.shape[:2]
    quad = _quad(height, width, look) + np.asarray(centre)
    reach = 3 * look.blur_px + 1
    low = np.floor(quad.min(0) - reach).astype(int)
    size = np.ceil(quad.max(0) + reach).astype(int) - low
    source, corners = _reduced(cutout, look.longest_px)
    coefficients = homography(quad - low, corners)
    canvas = source.transform(
        (int(size[0]), int(size[1])),
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BICUBIC,
    )
    premultiplied = np.asarray(canvas, np.float32)  # [h, w, 4], 0..255
    if look.blur_px > 0:
        sigma = (look.blur_px, look.blur_px, 0)
        blurred = ndimage.gaussian_filter(premultiplied, sigma, mode="constant")
        premultiplied = np.asarray(blurred, np.float32)
    alpha = np.asarray(premultiplied[..., 3] / 255, np.float32)
    colours = _lit(premultiplied[..., :3], alpha, look)
    whole = float(alpha.sum())
    if look.cover is not None:
        shown = uncovered(alpha, look.cover)
        colours, alpha = colours * shown[..., None], alpha * shown
    return Layer(colours, alpha, int(low[0]), int(low[1]), whole)


def _quad(height: int, width: int, look: Look) -> npt.NDArray[np.float64]:
    """Return where the corners come to lie, `[4, 2]`, around 0: clockwise from the upper left."""
    scale = look.longest_px / max(height, width)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [
        width * scale / 2,
        height * scale / 2,
    ]
    corners = corners + np.asarray(look.corners).reshape(4, 2) * look.longest_px
    turn = np.deg2rad(look.angle_deg)
    return corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _reduced(cutout: Pixels, longest: float) -> tuple[Image.Image, npt.NDArray[np.float64]]:
    """Return the premultiplied source, no larger than needed, and its corners `[4, 2]`."""
    height, width = cutout.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    source = Image.fromarray(cutout).convert("RGBa")
    if size != source.size:
        source = source.resize(size, Image.Resampling.BOX)
    padded = np.pad(np.asarray(source), ((_RIM, _RIM), (_RIM, _RIM), (0, 0)))
    ends = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    framed = Image.frombytes("RGBa", (size[0] + 2 * _RIM, size[1] + 2 * _RIM), padded.tobytes())
    return framed, ends + float(_RIM)


def homography(
    target: npt.NDArray[np.float64], source: npt.NDArray[np.float64]
) -> tuple[float, ...]:
    """Return Pillow's eight coefficients of the map from target to source corners, `[4, 2]`."""
    rows, values = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(float(value) for value in np.linalg.solve(np.array(rows), np.array(values)))


def _lit(colours: Floats, alpha: Floats, look: Look) -> Floats:
    """Return premultiplied colours with contrast around their mean, and each channel's gain."""
    opacity = alpha[..., None]
    mean = colours.sum((0, 1)) / max(float(alpha.sum()), 1e-6)
    changed = (colours - mean * opacity) * look.contrast + mean * opacity
    changed = changed * np.asarray(look.gains, np.float32)
    return np.clip(changed, 0, 255 * opacity).astype(np.float32)


def uncovered(alpha: Floats, cover: Cover) -> Floats:
    """Return which share of each pixel a cover leaves, `[h, w]`."""
    solid = alpha >= _VISIBLE * alpha.max()
    rows, columns = np.indices(alpha.shape, np.float32)
    turn = np.deg2rad(cover.angle_deg)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    low, high = along[solid].min(), along[solid].max()
    length = max(float(high - low), 1.0)
    wave = cover.wave * length * np.sin(2 * np.pi * cover.turns * across / length + cover.phase)
    return np.clip(high - cover.share * length + wave - along + 0.5, 0, 1).astype(np.float32)


def compose(background: Pixels, layers: Sequence[Layer]) -> tuple[Pixels, list[Seen]]:
    """Return the picture with all layers over it, first ones lowest, and what is seen of each.

    Args:
        background: `[H, W, 3]` uint8; it is not changed.
        layers: From the lowest to the highest.
    """
    canvas = background.astype(np.float32)
    height, width = canvas.shape[:2]
    open_sky = np.ones((height, width), np.float32)  # what no higher layer hides
    seen: list[Seen] = []
    windows = [_window(layer, height, width) for layer in layers]
    for layer, window in zip(layers, windows, strict=True):
        if window is not None:
            place, part = window
            alpha = layer.alpha[part][..., None]
            canvas[place] = canvas[place] * (1 - alpha) + layer.colours[part]
    for layer, window in zip(reversed(layers), reversed(windows), strict=True):
        seen.append(_seen(layer, window, open_sky))
        if window is not None:
            open_sky[window[0]] *= 1 - layer.alpha[window[1]]
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8), seen[::-1]


_Window = tuple[tuple[slice, slice], tuple[slice, slice]]


def _window(layer: Layer, height: int, width: int) -> _Window | None:
    """Return rows and columns of the picture, and of the layer, that they share."""
    own_height, own_width = layer.alpha.shape
    top, left = max(layer.top, 0), max(layer.left, 0)
    bottom, right = min(layer.top + own_height, height), min(layer.left + own_width, width)
    if bottom <= top or right <= left:
        return None
    part = (
        slice(top - layer.top, bottom - layer.top), slice(left - layer.left, right - layer.left)
    )  # fmt: skip
    return (slice(top, bottom), slice(left, right)), part


def _seen(layer: Layer, window: _Window | None, open_sky: Floats) -> Seen:
    if window is None or layer.whole <= 0:
        return Seen(None, 0.0)
    place, part = window
    visible = layer.alpha[part] * open_sky[place]
    box = visible_box(visible, float(layer.alpha.max()))
    if box is not None:
        left, top = place[1].start, place[0].start
        box = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    return Seen(box, float(visible.sum()) / layer.whole)


def visible_box(visible: Floats, peak: float) -> Box | None:
    """Return the box around the pixels of at least half of `peak`, or None.

    Args:
        visible: `[h, w]`, 0..1.
        peak: The object's greatest opacity, 0..1.
    """
    solid = visible >= max(_VISIBLE * peak, 1e-3)
    columns, rows = np.flatnonzero(solid.any(0)), np.flatnonzero(solid.any(1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
