"""Feature blobs: `b"ML"`, a `<H` header length, a compact JSON header, the numbers.

Header `{"d": "<f4", "l": {"p3": [64], …}}`: dtype, and the shape of each level; the payload holds
the levels in this order. With `"f"` (file from the run's folder), `"o"` (offset in numbers) and
`"c"` (crc32 of the payload) the numbers lie in a side file instead.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAGIC = b"ML"
Dtype = Literal["<f4", "<f2"]


@dataclass(frozen=True)
class SideFile:
    """Where the numbers of a blob lie: file from the run's folder, offset in numbers, crc32."""

    name: str
    offset: int
    crc32: int


@dataclass(frozen=True)
class Header:
    """What a blob says of itself: dtype, shape of each level, and where its payload starts."""

    dtype: str
    shapes: Mapping[str, tuple[int, ...]]
    side: SideFile | None
    start: int

    @property
    def count(self) -> int:
        """How many numbers the levels hold together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def flat(levels: Mapping[str, np.ndarray], dtype: Dtype) -> bytes:
    """Return the levels' numbers one after the other, little endian."""
    arrays = (np.ascontiguousarray(values, np.dtype(dtype)) for values in levels.values())
    return b"".join(values.tobytes() for values in arrays)


def pack_features(
    levels: Mapping[str, np.ndarray], dtype: Dtype = "<f4", side: SideFile | None = None
) -> bytes:
    """Return the blob of a mapping from level to array.

    Args:
        levels: Arrays of any rank; order is kept.
        dtype: What numbers are stored as.
        side: Where `flat` of the levels lies; None: in the blob itself.
    """
    header: dict[str, object] = {"d": dtype, "l": {k: list(v.shape) for k, v in levels.items()}}
    if side is not None:
        header |= {"f": side.name, "o": side.offset, "c": side.crc32}
    text = json.dumps(header, separators=(",", ":")).encode()
    payload = b"" if side is not None else flat(levels, dtype)
    return MAGIC + struct.pack("<H", len(text)) + text + payload


def read_header(blob: bytes) -> Header:
    """Return what a blob says of itself.

    Raises:
        MlkitError: It is no feature blob.
    """
    try:
        if blob[:2] != MAGIC:
            raise ValueError(f"it starts with {blob[:2]!r}")
        start = 4 + struct.unpack_from("<H", blob, 2)[0]
        header = json.loads(blob[4:start])
        shapes = {str(k): tuple(int(n) for n in v) for k, v in header["l"].items()}
        side = SideFile(header["f"], header["o"], header["c"]) if "f" in header else None
        found = Header(np.dtype(header["d"]).str, shapes, side, start)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as err:
        raise MlkitError(f"feature blob: its header cannot be read: {err}") from err
    if any(size < 0 for shape in shapes.values() for size in shape):
        raise MlkitError(f"feature blob: negative shape: {shapes}")
    return found


def unpack_features(blob: bytes, folder: Path | None = None) -> dict[str, np.ndarray]:
    """Return the levels of a blob, each of its own shape and dtype.

    Args:
        blob: As `pack_features` made it.
        folder: The run's, where its side files are.

    Raises:
        MlkitError: The blob or its side file is damaged, or needs a folder.
    """
    header = read_header(blob)
    dtype = np.dtype(header.dtype)
    payload = blob[header.start :] if header.side is None else _read_side(header, folder)
    if len(payload) != header.count * dtype.itemsize:
        expected = header.count * dtype.itemsize
        raise MlkitError(f"feature blob: expected {expected} bytes of numbers, got {len(payload)}")
    numbers = np.frombuffer(payload, dtype)
    levels, start = {}, 0
    for level, shape in header.shapes.items():
        end = start + math.prod(shape)
        levels[level] = numbers[start:end].reshape(shape)
        start = end
    return levels


def _read_side(header: Header, folder: Path | None) -> bytes:
    side = header.side
    if side is None or folder is None:
        raise MlkitError("feature blob: its numbers lie in a side file, and no folder is given")
    path = folder / side.name
    # A name from a database must not lead out of the run's folder.
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MlkitError(f"feature blob: {side.name!r} lies outside the run's folder")
    try:
        array = np.load(path, mmap_mode="r").reshape(-1)
    except (OSError, ValueError) as err:
        raise MlkitError(f"{path}: cannot be read: {err}") from err
    payload = array[side.offset : side.offset + header.count].tobytes()
    if zlib.crc32(payload) != side.crc32:
        raise MlkitError(f"{path}: feature maps at {side.offset}: crc32 differs")
    return payload


def features_json(blob: bytes, folder: Path | None = None) -> str:
    """Return a blob as JSON text: level to nested lists; a bare f4 embedding as one list.

    Raises:
        MlkitError: It is neither.
    """
    if blob[:2] == MAGIC:
        levels = unpack_features(blob, folder)
        return json.dumps({level: values.tolist() for level, values in levels.items()})
    if len(blob) % 4:
        raise MlkitError(f"blob of {len(blob)} bytes: neither features nor an f4 embedding")
    return json.dumps(np.frombuffer(blob, "<f4").tolist())
