"""The distance matrix as files: blocks of rows, written by any process, read by memory map.

`dist/{component}-{row0:08d}.npy` holds `[rows, N]` float32; `dist/block-{row0:08d}.json`, written
last, names the files with their crc32 and a digest of each row. `dist[i][j]` is the loss of image
i's raw output with the predictions of image j as targets: rows and columns are not alike, the
diagonal is not 0, and box, dfl and seg are NaN where image j has no targets.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlkit_cluster.store.files import disk_errors, write_file
from mlkit_core.errors import MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FOLDER = "dist"
DIGEST_SIZE = 8  # bytes for each row
_OPEN_BLOCKS = 64  # memory maps keep a file descriptor each
Kind = Literal["block", "edges"]
PREFIX: Mapping[Kind, str] = {"block": "", "edges": "edges-"}


def block_file(kind: Kind, component: str, row0: int) -> str:
    """Return the name of a component's file, from the run's folder."""
    return f"{FOLDER}/{PREFIX[kind]}{component}-{row0:08d}.npy"


def manifest_file(kind: Kind, row0: int) -> str:
    """Return the name of a block's manifest, from the run's folder."""
    return f"{FOLDER}/{kind}-{row0:08d}.json"


def row_digests(array: np.ndarray, component: str, row0: int, fingerprint: str) -> bytes:
    """Return 8 bytes for each row, which bind its numbers to its place in this matrix.

    Args:
        array: `[rows, ...]`.
        component: Whose.
        row0: Index of its first row.
        fingerprint: Of the matrix.
    """
    found = bytearray()
    for place, row in enumerate(np.ascontiguousarray(array)):
        head = f"{fingerprint}:{component}:{row0 + place}:".encode()
        found += hashlib.blake2b(head + row.tobytes(), digest_size=DIGEST_SIZE).digest()
    return bytes(found)


def write_block(
    folder: Path, row0: int, row1: int, arrays: Mapping[str, np.ndarray], fingerprint: str
) -> None:
    """Write a block's files, then its manifest; needs no database.

    Args:
        folder: The run's.
        row0: First row.
        row1: One past the last.
        arrays: Component to `[row1 - row0, N]`, stored as float32.
        fingerprint: Of the matrix.

    Raises:
        MlkitError: A shape is wrong, or the disk is full.
    """
    as_f4 = {name: np.ascontiguousarray(values, "<f4") for name, values in arrays.items()}
    write_arrays(folder, "block", (row0, row1), as_f4, fingerprint)


def write_arrays(
    folder: Path,
    kind: Kind,
    rows: tuple[int, int],
    arrays: Mapping[str, np.ndarray],
    fingerprint: str,
) -> None:
    """Write arrays of one width as files, then the manifest that makes them a block."""
    (row0, row1), files = rows, {}
    shapes = {values.shape for values in arrays.values()}
    if len(shapes) != 1 or next(iter(shapes))[0] != row1 - row0:
        raise MlkitError(f"block {row0}: expected {row1 - row0} rows alike, got {sorted(shapes)}")
    with disk_errors(folder / FOLDER):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        write_file(folder / block_file(kind, name, row0), [buffer.getbuffer()])
        files[name] = {
            "dtype": values.dtype.str,
            "shape": list(values.shape),
            "crc32": zlib.crc32(buffer.getbuffer()),
            "rows": row_digests(values, name, row0, fingerprint).hex(),
        }
    manifest = {"fingerprint": fingerprint, "row0": row0, "row1": row1, "files": files}
    text = json.dumps(manifest, separators=(",", ":")).encode()
    write_file(folder / manifest_file(kind, row0), [text])


class Block:
    """A registered file of a component: rows `row0` to `row1` of it.

    Args:
        path: Of the file.
        row0: First row.
        row1: One past the last.
        crc32: Of the whole file.
    """

    def __init__(self, path: Path, row0: int, row1: int, crc32: int) -> None:
        self.path, self.row0, self.row1, self.crc32 = path, row0, row1, crc32

    def load(self) -> np.ndarray:
        """Return the block as a memory map, read-only.

        Raises:
            MlkitError: It is missing or damaged.
        """
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, SyntaxError) as err:
            raise MlkitError(f"{self.path}: cannot be read: {err}", hint=_REMAKE) from err
        if array.ndim != 2 or len(array) != self.row1 - self.row0:
            raise MlkitError(f"{self.path}: shape {array.shape} is not as noted", hint=_REMAKE)
        return array

    def verify(self) -> None:
        """Read the whole file and compare its crc32.

        Raises:
            MlkitError: It is missing or damaged.
        """
        with disk_errors(self.path):
            found = zlib.crc32(self.path.read_bytes())
        if found != self.crc32:
            message = f"{self.path}: crc32: expected {self.crc32:08x}, got {found:08x}"
            raise MlkitError(message, hint=_REMAKE)


_REMAKE = "`mlkit cluster distances` makes damaged blocks again"


class Matrix:
    """Rows of one component over its blocks, read when asked for.

    Args:
        component: "box", "cls", "dfl" or "seg" (or another array of the blocks).
        blocks: In order of their rows; together all rows.
        width: Columns.
        dtype: Of the numbers.
    """

    def __init__(
        self, component: str, blocks: Sequence[Block], width: int, dtype: str = "<f4"
    ) -> None:
        self.component, self.blocks, self.dtype = component, list(blocks), np.dtype(dtype)
        self.shape = (self.blocks[-1].row1 if self.blocks else 0, width)
        self._starts = [block.row0 for block in self.blocks]
        self._load = lru_cache(_OPEN_BLOCKS)(self._open)

    def _open(self, number: int) -> np.ndarray:
        array = self.blocks[number].load()
        if array.shape[1] != self.shape[1] or array.dtype != self.dtype:
            path = self.blocks[number].path
            raise MlkitError(f"{path}: {array.dtype} {array.shape} is not as noted", hint=_REMAKE)
        return array

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> np.ndarray:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                raise IndexError("rows are read in order: a step must be 1")
            return self.rows(start, max(start, stop))
        row = key + len(self) if key < 0 else key
        if not 0 <= row < len(self):
            raise IndexError(f"row {key} of {len(self)}")
        return self.rows(row, row + 1)[0]

    def _parts(self, row0: int, row1: int) -> Iterator[np.ndarray]:
        first = int(np.searchsorted(self._starts, row0, side="right")) - 1
        for number in range(max(first, 0), len(self.blocks)):
            block = self.blocks[number]
            if block.row0 >= row1:
                return
            low, high = max(row0, block.row0), min(row1, block.row1)
            yield self._load(number)[low - block.row0 : high - block.row0]

    def rows(self, row0: int, row1: int) -> np.ndarray:
        """Return rows `row0` to `row1` (exclusive), `[rows, N]`, a copy; NaN is kept."""
        parts = list(self._parts(row0, row1))
        return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.dtype)

    def array(self) -> np.ndarray:
        """Return the whole matrix in memory."""
        return self.rows(0, len(self))

    def columns(self, columns: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return some columns, `[N, K]`, reading block by block."""
        wanted = np.asarray(columns, np.int64)
        parts = [part[:, wanted] for part in self._parts(0, len(self))]
        return np.concatenate(parts) if parts else np.empty((0, len(wanted)), self.dtype)

    def value(self, row: int, column: int) -> float:
        """Return one number."""
        return float(next(self._parts(row, row + 1))[0, column])

    def verify(self) -> None:
        """Read all files and compare their crc32.

        Raises:
            MlkitError: One is missing or damaged.
        """
        for block in self.blocks:
            block.verify()
