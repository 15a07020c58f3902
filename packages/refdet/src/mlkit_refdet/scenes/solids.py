"""Solids with painted faces, seen in perspective: crates, barrels, backpacks, tents and more."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlkit_refdet.scenes.compose import homography

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from mlkit_refdet.scenes.compose import Pixels
    from mlkit_refdet.scenes.textures import Floats

    Points = npt.NDArray[np.float64]

_DISTANCE = 5.0  # of the camera, in object sizes
_FINER = 2  # samples per pixel and direction


@dataclass(frozen=True)
class Face:
    """A flat side: `corners [4, 3]`, clockwise from the upper left seen from outside; a texture."""

    corners: Points
    texture: Floats


@dataclass(frozen=True)
class Pose:
    """From where a solid is seen, and how it is lit.

    Args:
        yaw_deg: Turn around the vertical.
        elevation_deg: Of the camera above the ground.
        light_deg: Direction of the sun, around the vertical, against the camera's.
        ambient: Share of light that comes from everywhere, 0..1.
    """

    yaw_deg: float
    elevation_deg: float
    light_deg: float = 40.0
    ambient: float = 0.5


def block(
    size: tuple[float, float, float],
    sides: Sequence[Floats],
    top: Floats,
    *,
    taper: tuple[float, float] = (1.0, 1.0),
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> list[Face]:
    """Return the five faces of a box or frustum that stands on the ground.

    Args:
        size: Width (x), depth (y) and height (z).
        sides: Textures of front (towards -y), right, back and left.
        top: Its texture.
        taper: Width and depth at the top as shares of those at the bottom.
        offset: Of the middle of its bottom.
    """
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.asarray(size[:2]) / 2
    low = np.column_stack([half, np.zeros(4)]) + offset
    high = np.column_stack([half * taper, np.full(4, size[2])]) + offset
    faces = [
        Face(np.stack([high[i], high[(i + 1) % 4], low[(i + 1) % 4], low[i]]), sides[i])
        for i in range(4)
    ]
    return [*faces, Face(high[[3, 2, 1, 0]], top)]


def lathe(
    profile: Sequence[tuple[float, float]], wrap: Floats, cap: Floats, segments: int = 20
) -> list[Face]:
    """Return the faces of a body of revolution around the vertical.

    Args:
        profile: Radius and height, from the bottom upwards.
        wrap: Texture that goes once around.
        cap: Texture of its top.
        segments: Of the circle, an even number.
    """
    turn = 2 * np.pi * (np.arange(segments + 1) + 0.5) / segments
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    rings = [np.column_stack([circle * r, np.full(len(turn), z)]) for r, z in profile]
    height, width = wrap.shape[:2]
    total = profile[-1][1] - profile[0][1]
    faces: list[Face] = []
    for low, high in pairwise(rings):
        rows = [round((1 - (ring[0, 2] - profile[0][1]) / total) * height) for ring in (high, low)]
        for i in range(segments):
            columns = [round(j / segments * width) for j in (i, i + 1)]
            part = wrap[rows[0] : max(rows[1], rows[0] + 1), columns[0] : columns[1]]
            corners = np.stack([high[i], high[i + 1], low[i + 1], low[i]])
            faces.append(Face(corners, part))
    reach = profile[-1][0]
    if reach > 0:
        faces += _disc(rings[-1][:-1], cap, reach)
    return faces


def _disc(ring: Points, cap: Floats, reach: float) -> list[Face]:
    """Return a lid as strips between opposite chords, each with its part of the texture."""
    side = len(cap)
    columns = np.round((ring[:, 0] / reach + 1) / 2 * side).astype(int)
    faces: list[Face] = []
    for i in range(len(ring) // 2 - 1):
        # Vertices i and -1 - i mirror each other; angles grow, so strips run from right to left.
        quad = np.stack([ring[i + 1], ring[i], ring[-1 - i], ring[-2 - i]])
        faces.append(Face(quad, cap[:, columns[i + 1] : max(columns[i], columns[i + 1] + 1)]))
    return faces


def draw_solid(faces: Sequence[Face], pose: Pose, longest_px: int) -> Pixels:
    """Return a solid seen in perspective, `[h, w, 4]` RGBA, tight, its edge smooth.

    Args:
        faces: Of the solid, about one unit large, on the ground at the origin.
        pose: Camera and light.
        longest_px: Longer side of the result.
    """
    corners = np.stack([face.corners for face in faces])  # [F, 4, 3]
    middle = (corners.reshape(-1, 3).max(0) + corners.reshape(-1, 3).min(0)) / 2
    seen = (corners - middle) @ _axes(pose).T  # x right, y down, z away
    screen = seen[..., :2] / (seen[..., 2:] + _DISTANCE)
    low, high = screen.reshape(-1, 2).min(0), screen.reshape(-1, 2).max(0)
    scale = longest_px * _FINER / (high - low).max()
    screen = (screen - low) * scale
    width, height = (int(np.ceil(side / _FINER)) for side in (high - low) * scale)
    canvas = Image.new("RGBA", (max(width, 1) * _FINER, max(height, 1) * _FINER))
    shades = _shades(seen, pose)
    for i in np.argsort(-seen[..., 2].mean(1)):
        if _faces_camera(screen[i]):
            _put(canvas, screen[i], faces[i].texture * shades[i])
    return np.asarray(canvas.reduce(_FINER))


def _axes(pose: Pose) -> Points:
    """Return the camera's axes as rows."""
    yaw, up = np.deg2rad(pose.yaw_deg), np.deg2rad(pose.elevation_deg)
    away = np.array([-np.sin(yaw) * np.cos(up), np.cos(yaw) * np.cos(up), -np.sin(up)])
    right = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    return np.stack([right, np.cross(away, right), away])


def _shades(seen: Points, pose: Pose) -> Points:
    """Return Lambert's brightness of each face, in the camera's axes, `[F]`."""
    across = np.cross(seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1])
    normals = -across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    turn = np.deg2rad(pose.light_deg)
    light = np.array([np.sin(turn) * 0.6, -0.7, -0.4 * np.cos(turn)])
    lit = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    return pose.ambient + (1.15 - pose.ambient) * lit


def _faces_camera(quad: Points) -> bool:
    """Return whether corners run clockwise on the screen, y downwards."""
    x, y = quad[:, 0], quad[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) > 1e-6


def _put(canvas: Image.Image, quad: Points, texture: Points) -> None:
    low = np.floor(quad.min(0)).astype(int)
    width, height = (int(side) for side in np.ceil(quad.max(0)).astype(int) - low)
    if not width or not height:
        return
    colours = np.clip(texture, 0, 255).astype(np.uint8)
    source = Image.fromarray(np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)]))
    ends = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * source.size
    target = quad - low
    if _is_triangle(target):
        return
    part = source.transform(
        (width, height), Image.Transform.PERSPECTIVE, homography(target, ends),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    canvas.alpha_composite(part, (max(int(low[0]), 0), max(int(low[1]), 0)))


def _is_triangle(quad: Points) -> bool:
    """Return whether three corners lie on a line, so that no perspective maps onto it."""
    for i in range(4):
        a, b, c = (quad[(i + j) % 4] for j in range(3))
        if abs((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]) < 1e-3:
            return True
    return False
