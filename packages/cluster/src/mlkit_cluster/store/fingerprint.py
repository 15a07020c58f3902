"""One short name for all settings that numbers depend on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def canonical_json(value: object) -> str:
    """Return JSON that is the same for equal values: sorted keys, no spaces, no NaN.

    Raises:
        ValueError: A number is not finite.
        TypeError: A value is no JSON.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(parts: Mapping[str, object]) -> str:
    """Return 32 hex digits, blake2b over the canonical JSON of the parts.

    Args:
        parts: What changes results: the model's sha256, imgsz, conf, iou, target_conf, max_det,
            components, gains and the like; versions are recorded beside it, never in it.
    """
    text = canonical_json(dict(parts)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()
