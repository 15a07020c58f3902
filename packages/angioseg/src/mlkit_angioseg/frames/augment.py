"""Random changes of a training frame that leave the view what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from mlkit_angioseg.frames.labels import channels, labels_of

if TYPE_CHECKING:
    import numpy as np

    from mlkit_angioseg.config import AugmentOptions

_COARSE = 4  # cells per side of the added shading
_WARP = 6  # control points per side of the elastic warp


@dataclass(frozen=True)
class Augmented:
    """A changed frame: grey and mask `[1, H, W]`, valid `[1, H, W]` bool, angles in degrees."""

    grey: Tensor
    mask: Tensor
    valid: Tensor
    angles: tuple[float, float]


def augment(
    grey: Tensor,
    mask: Tensor,
    angles: tuple[float, float],
    options: AugmentOptions,
    rng: np.random.Generator,
    classes: int = 1,
    valid: Tensor | None = None,
) -> Augmented:
    """Return a random version of a frame; all randomness comes from `rng`.

    Args:
        grey: `[1, H, W]`, 0..1.
        mask: `[1, H, W]`, 0 or 1, or a label map.
        angles: Primary and secondary, degrees.
        options: How much of what; `crop` is the side of the result, None for `[H, W]`.
        rng: The frame's own generator.
        classes: Of the label map.
        valid: `[1, H, W]` bool, the pixels that count; None: all.
    """
    height, width = grey.shape[-2:]
    size = (options.crop, options.crop) if options.crop else (height, width)
    mirrored = (False, False)
    if options.flips:
        mirrored = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
    where = _sampling_points((height, width), size, options, mirrored, rng)  # [h, w, 2] pixels
    inside = ((where >= -0.5) & (where <= torch.tensor([width - 0.5, height - 0.5]))).all(-1)
    grid = (2 * where + 1) / torch.tensor([width, height]) - 1
    sample = {"padding_mode": "border", "align_corners": False}
    warped = functional.grid_sample(grey[None], grid[None], mode="bilinear", **sample)[0]
    shares = functional.grid_sample(
        channels(mask, classes)[None], grid[None], mode="bilinear", **sample
    )[0]
    counts = inside[None]
    if valid is not None:
        seen = functional.grid_sample(valid[None].float(), grid[None], mode="bilinear", **sample)
        counts = counts & (seen[0] >= 0.5)
    return Augmented(
        grey=change_grey(warped, options, rng),
        mask=labels_of(shares * inside),
        valid=counts,
        angles=_change_angles(angles, mirrored, options, rng),
    )


def _change_angles(
    angles: tuple[float, float],
    mirrored: tuple[bool, bool],
    options: AugmentOptions,
    rng: np.random.Generator,
) -> tuple[float, float]:
    jitter = rng.normal(0.0, 1.0, 2) * options.view_jitter_deg
    signs = [-1.0 if flip else 1.0 for flip in mirrored]
    primary, secondary = (s * a + float(j) for s, a, j in zip(signs, angles, jitter, strict=True))
    return primary, secondary


def _sampling_points(
    source: tuple[int, int],
    size: tuple[int, int],
    options: AugmentOptions,
    mirrored: tuple[bool, bool],
    rng: np.random.Generator,
) -> Tensor:
    """Return the source pixel `(column, row)` that each pixel of the result shows, `[h, w, 2]`."""
    turn = math.radians(_between(rng, options.rotation_deg))
    zoom = math.exp(_between(rng, options.log_scale))
    centre = []
    for whole, part in ((source[1], size[1]), (source[0], size[0])):
        room = max(0.0, (whole - part * zoom) / 2) + options.shift * whole
        centre.append((whole - 1) / 2 + _between(rng, room))
    rows, columns = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    columns, rows = (
        columns * (zoom if not mirrored[0] else -zoom),
        rows * (zoom if not mirrored[1] else -zoom),
    )
    cos, sin = math.cos(turn), math.sin(turn)
    points = torch.stack(
        (cos * columns - sin * rows + centre[0], sin * columns + cos * rows + centre[1]), -1
    )
    if options.elastic_px:
        push = torch.from_numpy(rng.normal(0.0, options.elastic_px, (1, 2, _WARP, _WARP))).float()
        points = points + functional.interpolate(push, size, mode="bicubic")[0].permute(1, 2, 0)
    return points


def change_grey(grey: Tensor, options: AugmentOptions, rng: np.random.Generator) -> Tensor:
    """Return `[1, H, W]` with random gamma, contrast, brightness, shading, blur and noise, 0..1."""
    grey = grey.clamp(1e-3, 1) ** math.exp(_between(rng, options.gamma))
    mean = grey.mean()
    grey = (grey - mean) * math.exp(_between(rng, options.contrast)) + mean
    grey = grey + _between(rng, options.brightness)
    if options.shading:
        shade = torch.from_numpy(rng.normal(0.0, options.shading, (1, 1, _COARSE, _COARSE))).float()
        grey = grey + functional.interpolate(shade, grey.shape[-2:], mode="bicubic")[0]
    if options.blur_px and rng.random() < options.blur_chance:
        grey = _blur(grey, max(0.1, float(rng.uniform(0, options.blur_px))))
    if options.noise and rng.random() < 0.5:
        deviation = float(rng.uniform(0, options.noise))
        noise = rng.standard_normal(tuple(grey.shape), dtype="float32")
        grey = grey + deviation * torch.from_numpy(noise)
    return grey.clamp(0, 1)


def _between(rng: np.random.Generator, bound: float) -> float:
    return float(rng.uniform(-bound, bound)) if bound else 0.0


def _blur(grey: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, dtype=grey.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(grey[None], (radius,) * 4, mode="replicate")
    across = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1))[0]
