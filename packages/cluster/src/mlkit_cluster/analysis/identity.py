"""Short names for results, from what made them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def settings_id(name: str, params: Mapping[str, object]) -> str:
    """Return the first 8 hex digits of SHA-1 of the name and its parameters as sorted JSON."""
    text = name + json.dumps(params, sort_keys=True)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:8]
