"""A full disk: one error that names the file, and what was committed stays."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlkit_cluster.store import open_run
from mlkit_cluster.store.matrix import write_block
from mlkit_core.errors import MlkitError

KIT_FILE = Path(__file__).with_name("store_kit.py")
KIT = runpy.run_path(str(KIT_FILE))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no program mount")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_until_full(folder, **kind):
    """Write batches until the disk is full; return the error and the images written before."""
    with open_run(folder) as run:
        for number in range(0, 600, 4):
            try:
                batch = [KIT["record"](n, **kind) for n in range(number, number + 4)]
                run.write_records(batch, full_maps=kind.get("full", False))
            except MlkitError as err:
                return err, number
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("full", [False, True])
def test_a_full_disk_is_one_error_and_committed_images_stay(small_disk, full):
    folder = KIT["fill"](small_disk / "run", 0)
    with open_run(folder) as run:
        run.register_images(KIT["entries"](600))
    err, written = fill_until_full(folder, masked=True, full=full)
    assert "run.db: the disk is full" in str(err) or "maps-00000000.npy: the disk is full" in str(
        err
    )
    assert "goes on from there" in err.hint
    with open_run(folder, readonly=True) as run:
        assert len(run.pending()) == 600 - written
        assert run.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def leave_free(folder, size):
    """Fill the disk but for so many bytes; return the file that does."""
    ballast = folder / "ballast"
    found = os.statvfs(folder)
    ballast.write_bytes(bytes(found.f_bavail * found.f_bsize - size))
    return ballast


@pytest.mark.parametrize("size", [0, 8192, 40_960])
def test_after_space_is_freed_the_same_call_goes_on(small_disk, size):
    folder = KIT["fill"](small_disk / "run", 4)
    with open_run(folder) as run:
        run.register_images(KIT["entries"](8))
    ballast = leave_free(small_disk, size)

    def extract():
        with open_run(folder) as run:
            KIT["write_pending"](run)
            return run.pending()

    with pytest.raises(MlkitError, match=r"run\.db: the disk is full"):
        extract()
    ballast.unlink()
    assert extract() == []


def test_a_block_that_does_not_fit_leaves_no_file(small_disk):
    values = {"box": np.ones((64, 10_000), np.float32)}
    with pytest.raises(MlkitError, match=r"box-00000000\.npy: the disk is full"):
        write_block(small_disk, 0, 64, values, "f" * 32)
    assert list((small_disk / "dist").iterdir()) == []


LIMITED = """
import pathlib, resource, runpy, sys
from mlkit_cluster.store import open_run
from mlkit_core.errors import MlkitError
kit = runpy.run_path(sys.argv[1])
folder = pathlib.Path(sys.argv[2])
kit["fill"](folder, 4)
with open_run(folder) as run:
    run.register_images(kit["entries"](600))
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
    try:
        kit["write_pending"](run)
    except MlkitError as err:
        print(err)
"""


def test_a_limit_on_the_size_of_files_is_one_error_too(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(KIT_FILE), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "run.db: " in done.stdout
    with open_run(tmp_path / "run", readonly=True) as run:
        (count,) = run.db.execute("SELECT COUNT(*) FROM features").fetchone()
        assert count >= 4
        assert count % 4 == 0
        assert len(run.pending()) == 600 - count
