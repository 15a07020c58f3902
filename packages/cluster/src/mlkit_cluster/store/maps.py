"""Side files of whole feature maps: 256 images each, `features/maps-00000000.npy` [256, E] f2.

A file is made at once with room for its images; a batch is written into free room and brought to
the disk before its rows are committed. Room without a row is free: a killed batch leaves nothing.
"""

from __future__ import annotations

import io
import os
import zlib
from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.store.blobs import SideFile, flat, pack_features
from mlkit_cluster.store.files import disk_errors, sync_folder
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

IMAGES_PER_FILE = 256


def write_maps(folder: Path, slot: int, maps: Sequence[Mapping[str, np.ndarray]]) -> list[bytes]:
    """Bring the maps to the disk from a slot on, and return the blob of each.

    Args:
        folder: The run's.
        slot: How many images' maps are committed so far: the first free room.
        maps: Level to `[C, h, w]`, of one size for all images of a run.

    Raises:
        MlkitError: The disk is full, or sizes differ within a file.
    """
    (folder / "features").mkdir(exist_ok=True)
    blobs: list[bytes] = []
    while len(blobs) < len(maps):
        first = slot + len(blobs)
        room = IMAGES_PER_FILE - first % IMAGES_PER_FILE
        blobs += _fill(folder, first, maps[len(blobs) : len(blobs) + room])
    return blobs


def _fill(folder: Path, slot: int, maps: Sequence[Mapping[str, np.ndarray]]) -> list[bytes]:
    """Write maps into one file, and return their blobs."""
    number = slot - slot % IMAGES_PER_FILE
    name = f"features/maps-{number:08d}.npy"
    path = folder / name
    payloads = [flat(levels, "<f2") for levels in maps]
    count = len(payloads[0]) // 2
    if any(len(payload) != 2 * count for payload in payloads):
        raise MlkitError(f"{path}: feature maps differ in size within one run")
    header = _header(count)
    with disk_errors(path):
        _make_room(path, header, len(header) + 2 * count * IMAGES_PER_FILE, new=slot == number)
        with path.open("r+b") as file:
            file.seek(len(header) + 2 * count * (slot - number))
            file.writelines(payloads)
            file.flush()
            os.fsync(file.fileno())
    offsets = [count * (slot - number + place) for place in range(len(maps))]
    return [
        pack_features(levels, "<f2", SideFile(name, offset, zlib.crc32(payload)))
        for levels, offset, payload in zip(maps, offsets, payloads, strict=True)
    ]


def _header(count: int) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f2", "fortran_order": False, "shape": (IMAGES_PER_FILE, count)}
    )
    return buffer.getvalue()


def _make_room(path: Path, header: bytes, size: int, *, new: bool) -> None:
    """Make the file with room for all its images, where it is not there yet."""
    if not new:
        if not path.is_file() or path.stat().st_size != size:
            raise MlkitError(f"{path}: missing, or made for feature maps of another size")
        return
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        file.write(header)
        file.truncate(size)  # sparse: room costs nothing until it is used
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)
