"""Files that are whole or absent, and errors of a disk in the user's words."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LEAST = 64 * 1024  # bytes; opening a database in WAL mode alone takes 32 KiB
_KEPT = "what was committed is kept: the same command goes on from there"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk or SQLite cannot do in the block into one error that names `path`.

    Raises:
        InputError: The file is no database, or may not be written.
        MlkitError: The disk is full, the database is locked or damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as err:
        if isinstance(err, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
            raise
        raise _from_sqlite(path, err) from err
    except OSError as err:
        if err.errno in FULL_ERRORS:
            raise _full(path) from err
        raise MlkitError(f"{path}: {err.strerror or err}") from err


def _full(path: Path) -> MlkitError:
    return MlkitError(f"{path}: the disk is full", hint=f"free some space; {_KEPT}")


def _from_sqlite(path: Path, err: sqlite3.DatabaseError) -> MlkitError:
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    failed = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    if code == sqlite3.SQLITE_FULL or (failed and _is_full(path.parent)):
        return _full(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return MlkitError(f"{path}: another process is writing to it", hint="wait for it to end")
    if code == sqlite3.SQLITE_NOTADB:
        return InputError(f"{path}: not an SQLite database", hint="name a run's folder or run.db")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return InputError(f"{path}: cannot be opened or written: {err}")
    if code == sqlite3.SQLITE_IOERR:
        return MlkitError(f"{path}: cannot be read or written: {err}", hint=_KEPT)
    return MlkitError(f"{path}: {err}", hint="`mlkit cluster validate` tells what is damaged")


def _is_full(folder: Path) -> bool:
    """Return whether there is no room for what SQLite needs beside a database."""
    try:
        return shutil.disk_usage(folder).free < _LEAST
    except OSError:
        return False


def write_file(path: Path, parts: Sequence[bytes | memoryview]) -> None:
    """Write a file aside, bring it to the disk and rename it: it is whole or not there.

    Raises:
        MlkitError: The disk is full or refuses.
    """
    # Several processes may make one block: each writes under a name of its own.
    aside = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with aside.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Bring the folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stored_text(raw: bytes) -> str:
    """Return text as SQLite holds it; bytes of file names that are no UTF-8 are kept."""
    return raw.decode("utf-8", "surrogateescape")


def text_bytes(text: str) -> bytes:
    """Return what `stored_text` reads back; bind it as `CAST(? AS TEXT)`."""
    return text.encode("utf-8", "surrogateescape")


def absolute(path: Path) -> Path:
    """Return the path from the root, without asking that it exists."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow the user's links
