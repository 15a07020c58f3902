"""Binary masks as run lengths: what the store keeps and what targets carry."""

from __future__ import annotations

import struct

import numpy as np

from mlkit_core.errors import InputError

_SIZE = struct.Struct("<HH")


def encode_mask(mask: np.ndarray) -> bytes:
    """Return a mask as height and width (`<HH`) and COCO's uncompressed run lengths (`<u4`).

    Runs go down the columns, left to right; the first counts zeros and may be 0.

    Args:
        mask: `[h, w]`, bool.

    Raises:
        InputError: Not two dimensions, or a side above 65,535.
    """
    if mask.ndim != 2 or max(mask.shape) > 65_535:
        raise InputError(f"mask: expected [h, w] with sides up to 65535, got {mask.shape}")
    pixels = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    bounds = np.concatenate([[0], changes, [pixels.size]])
    runs = np.diff(bounds) if pixels.size else np.zeros(0, np.int64)
    if pixels.size and pixels[0]:
        runs = np.concatenate([[0], runs])
    return _SIZE.pack(*mask.shape) + runs.astype("<u4").tobytes()


def mask_runs(blob: bytes) -> tuple[tuple[int, int], np.ndarray]:
    """Return a blob's (height, width) and its run lengths, `[R]` int64.

    Raises:
        InputError: The blob is cut short, or its runs do not fill the mask.
    """
    if len(blob) < _SIZE.size or (len(blob) - _SIZE.size) % 4:
        raise InputError(f"mask: expected 4 bytes and whole runs of 4, got {len(blob)} bytes")
    height, width = _SIZE.unpack_from(blob)
    runs = np.frombuffer(blob, "<u4", offset=_SIZE.size).astype(np.int64)
    if runs.sum() != height * width:
        raise InputError(
            f"mask: expected runs of {height} x {width} pixels in all, got {runs.sum()}"
        )
    return (height, width), runs


def decode_mask(blob: bytes) -> np.ndarray:
    """Return the mask `[h, w]`, bool, of a blob that `encode_mask` made.

    Raises:
        InputError: The blob is cut short, or its runs do not fill the mask.
    """
    (height, width), runs = mask_runs(blob)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T.copy()
