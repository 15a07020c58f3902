"""Arrays as text for the page: little-endian bytes in base64, and JSON that HTML cannot end."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

Packed = dict[str, Any]
_HALF_MAX = 65000.0
_KINDS = {"f4": "<f4", "i4": "<i4", "u2": "<u2", "u1": "u1"}


def pack(values: npt.ArrayLike, kind: str) -> Packed:
    """Return an array flattened: `kind` f4, i4, u2 or u1, and its bytes in base64."""
    raw = np.ascontiguousarray(values, np.dtype(_KINDS[kind])).tobytes()
    return {"t": kind, "b": base64.b64encode(raw).decode()}


def pack_half(values: npt.NDArray[np.float32]) -> Packed:
    """Return floats in half precision, scaled where they would not fit; NaN stays NaN."""
    finite = np.abs(values[np.isfinite(values)])
    scale = max(float(finite.max(initial=0.0)) / _HALF_MAX, 1.0)
    raw = np.ascontiguousarray(values / scale, "<f2").tobytes()
    return {"t": "f2", "s": scale, "b": base64.b64encode(raw).decode()}


def json_text(value: object) -> str:
    """Return JSON that is safe inside an HTML element: ASCII, and no `<`, `>`, `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def plain(value: object) -> object:
    """Return nested values as JSON has them: no NaN, no numpy, keys of text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
