"""`kill -9` at named and at random instants: what was committed stays, the rest is made again."""

import os
import random
import runpy
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

KIT_FILE = Path(__file__).with_name("store_kit.py")
KIT = runpy.run_path(str(KIT_FILE))
COUNT = 14

# Counts instants in which the disk changes, and kills itself in the one that is asked for.
CHILD = """
import os, pathlib, runpy, signal, sys
kit_file, folder, count, wanted, number = sys.argv[1:]
seen = 0
def instant(name):
    global seen
    seen += wanted in ("any", name)
    if seen == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
def before(owner, attribute, name):
    inner = getattr(owner, attribute)
    def call(*args, **kwargs):
        instant(name)
        return inner(*args, **kwargs)
    setattr(owner, attribute, call)
before(os, "fsync", "fsync")
before(pathlib.Path, "replace", "rename")
from mlkit_cluster.store import database
connect = database._connect
def traced(file, *, readonly):
    db = connect(file, readonly=readonly)
    db.set_trace_callback(lambda text: instant("COMMIT" if text == "COMMIT" else "statement"))
    return db
database._connect = traced
kit = runpy.run_path(kit_file)
folder = pathlib.Path(folder)
kit["fill"](folder, int(count), full=True, masked=True)
kit["fill_distances"](folder)
with database.open_run(folder) as run:
    run.materialise_distances()
print(seen)
"""


def child(folder, wanted="any", number=0):
    where = [str(KIT_FILE), str(folder), str(COUNT)]
    command = [sys.executable, "-c", CHILD, *where, wanted, str(number)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run's content, and how many instants it has."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = child(folder)
    assert done.returncode == 0, done.stderr
    return KIT["content"](folder), int(done.stdout)


def killed_and_resumed(folder, wanted, number):
    done = child(folder, wanted, number)
    assert done.returncode == -signal.SIGKILL, done.stderr
    between = consistent(folder)
    done = child(folder)
    assert done.returncode == 0, done.stderr
    return between


def consistent(folder):
    """Images written so far: all rows of each, and none of any other; blocks with their files."""
    if not (folder / "run.db").is_file():
        return 0
    db = sqlite3.connect(folder / "run.db")
    try:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'shards'").fetchone():
            return 0
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        ids = {row[0] for row in db.execute("SELECT img_id FROM features")}
        assert ids == {row[0] for row in db.execute("SELECT img_id FROM embeddings")}
        query = "SELECT img_id FROM row_checks GROUP BY 1 HAVING COUNT(*) = 5"
        assert ids == {row[0] for row in db.execute(query)}
        for (path,) in db.execute("SELECT path FROM shards"):
            assert (folder / path).is_file()
        return len(ids)
    finally:
        db.close()


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("COMMIT", 4), ("COMMIT", 6), ("fsync", 2), ("rename", 1), ("rename", 5), ("rename", 8)],
)
def test_a_kill_at_a_named_instant_loses_nothing_that_was_committed(
    tmp_path, whole, wanted, number
):
    killed_and_resumed(tmp_path / "run", wanted, number)
    assert KIT["content"](tmp_path / "run") == whole[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_at_a_random_instant_leaves_a_run_that_goes_on(tmp_path, whole, seed):
    number = random.Random(seed).randint(20, whole[1] - 1)
    killed_and_resumed(tmp_path / "run", "any", number)
    assert KIT["content"](tmp_path / "run") == whole[0]


def test_a_kill_before_a_commit_leaves_whole_batches_only(tmp_path):
    # BEGIN and COMMIT: tables, run, metadata, images; the sixth COMMIT is the second batch's.
    assert killed_and_resumed(tmp_path / "run", "COMMIT", 6) % 4 == 0


def test_many_kills_in_a_row_still_end_in_the_same_run(tmp_path, whole):
    folder = tmp_path / "run"
    for number in (25, 60, 90):
        assert child(folder, "any", number).returncode == -signal.SIGKILL
    assert child(folder).returncode == 0
    assert KIT["content"](folder) == whole[0]
