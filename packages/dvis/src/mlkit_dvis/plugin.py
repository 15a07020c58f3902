"""mlkit-dvis's plugin: it lists no component yet."""

from __future__ import annotations

MLKIT_API = 1
