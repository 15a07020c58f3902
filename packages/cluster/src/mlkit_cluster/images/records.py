"""What records of any extractor say of an image file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlkit_core.types import SampleMeta

Described = dict[str, int | float | str | bool | None]


def described(meta: SampleMeta) -> Described:
    """Return `width`, `height`, `ratio`, `pad_x`, `pad_y` and `sha`, the content's hash."""
    height, width = meta.size or (0, 0)
    box = meta.letterbox
    top, left = box.offset if box is not None else (0, 0)
    return {
        "width": width,
        "height": height,
        "ratio": box.scale if box is not None else 1.0,
        "pad_x": left,
        "pad_y": top,
        "sha": meta.extra.get("sha"),
    }
