"""Sizes of frames as inputs: what they are scaled to, and what they are padded to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlkit_core.types import Needs

    Size = tuple[int, int]  # height and width in pixels


def resized(size: Size, short: int, longest: int) -> Size:
    """Return the size whose shorter side is `short`, or whose longer side is `longest` if less."""
    scale = min(short / min(size), longest / max(size))
    return scaled(size, scale)


def fitted(size: Size, frame: Size) -> Size:
    """Return the size, scaled down where it exceeds a frame's height or width."""
    return scaled(size, min(1.0, frame[0] / size[0], frame[1] / size[1]))


def scaled(size: Size, scale: float) -> Size:
    """Return the size times a scale, rounded, at least 1."""
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def legal(size: Size, needs: Needs) -> Size:
    """Return the size, scaled down where it exceeds the largest that the model takes."""
    if needs.sizes is None:
        return size
    return fitted(size, (max(needs.sizes), max(needs.sizes)))


def padded(sizes: Iterable[Size], needs: Needs, least: Size = (1, 1)) -> Size:
    """Return the smallest size that the model takes and that holds all sizes.

    Args:
        sizes: Of contents that `legal` has seen.
        needs: Sizes that the model takes.
        least: What it holds at least.
    """
    height, width = (max(sides) for sides in zip(least, *sizes, strict=True))
    if needs.sizes is not None:
        side = min((s for s in needs.sizes if s >= max(height, width)), default=max(needs.sizes))
        return side, side
    multiple = needs.size_multiple
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def check_fixed(size: Size | None, needs: Needs) -> None:
    """Raise BuildError where a model does not take a fixed size of training clips."""
    if size is not None and padded([size], needs) != size:
        told = needs.sizes or f"multiples of {needs.size_multiple}"
        raise BuildError(f"data.train_size: the encoders take {told}, got {list(size)}")
