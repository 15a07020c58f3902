"""Blocks of the matrix, edges, and their copies in SQL."""

import json
import runpy
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from mlkit_cluster.store import DistanceSpec, ImageEntry, open_run
from mlkit_cluster.store.edges import write_edges
from mlkit_cluster.store.matrix import write_block
from mlkit_core.errors import InputError, MlkitError

KIT = runpy.run_path(str(Path(__file__).with_name("store_kit.py")))
SPEC = DistanceSpec(components=("box", "cls", "dfl"), parts={"kernel": 1})
COUNT = 8


@pytest.fixture
def folder(tmp_path):
    return KIT["fill"](tmp_path / "run", COUNT)


@pytest.fixture
def begun(folder):
    """A run, the name of its distances, and their values; nothing is written yet."""
    with open_run(folder) as run:
        name = run.begin_distances(SPEC)
        yield run, name, KIT["matrices"](KIT["target_mask"](run))


def write(run, name, values, row0, row1):
    write_block(run.folder, row0, row1, {c: v[row0:row1] for c, v in values.items()}, name)


def test_rows_columns_and_the_whole_come_back_from_blocks_of_any_size(begun):
    run, name, values = begun
    for row0, row1 in ((0, 3), (3, 4), (4, 8)):
        write(run, name, values, row0, row1)
    assert run.adopt_blocks() == 3
    for component, expected in values.items():
        matrix = run.open_matrix(component, verify=True)
        assert matrix.shape == (COUNT, COUNT)
        assert np.array_equal(matrix.array(), expected, equal_nan=True)
        assert np.array_equal(matrix.rows(2, 6), expected[2:6], equal_nan=True)
        assert np.array_equal(matrix[-1], expected[-1], equal_nan=True)
        assert np.array_equal(matrix[1:7], expected[1:7], equal_nan=True)
        assert np.array_equal(matrix.columns([5, 0]), expected[:, [5, 0]], equal_nan=True)
        assert np.array_equal(matrix.value(4, 1), expected[4, 1], equal_nan=True)
        with pytest.raises(IndexError):
            matrix[COUNT]


def test_blocks_are_npy_files_with_a_manifest_and_need_no_database(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_block(tmp_path, 4, 6, {"box": values}, "f" * 32)
    assert np.array_equal(np.load(tmp_path / "dist" / "box-00000004.npy"), values)
    manifest = json.loads((tmp_path / "dist" / "block-00000004.json").read_text())
    assert (manifest["fingerprint"], manifest["row0"], manifest["row1"]) == ("f" * 32, 4, 6)
    assert [path.name for path in (tmp_path / "dist").glob(".*")] == []
    with pytest.raises(MlkitError, match="expected 3 rows alike"):
        write_block(tmp_path, 0, 3, {"box": values}, "f" * 32)


def test_missing_rows_are_the_difference_cut_at_multiples(begun):
    run, name, values = begun
    assert run.missing_blocks(COUNT, 3) == [(0, 3), (3, 6), (6, 8)]
    write(run, name, values, 3, 6)
    assert run.missing_blocks(COUNT, 3) == [(0, 3), (3, 6), (6, 8)]
    run.adopt_blocks()
    assert run.missing_blocks(COUNT, 3) == [(0, 3), (6, 8)]
    assert run.missing_blocks(COUNT, 4) == [(0, 3), (6, 8)]
    assert run.missing_blocks(COUNT, 2) == [(0, 2), (2, 3), (6, 8)]
    with pytest.raises(MlkitError, match="rows 0 to 2 are missing"):
        run.open_matrix("box")


def test_adopting_twice_registers_once(begun):
    run, name, values = begun
    write(run, name, values, 0, 8)
    assert [run.adopt_blocks(), run.adopt_blocks()] == [1, 0]
    assert run.db.execute("SELECT COUNT(*) FROM shards").fetchone() == (3,)


def test_blocks_of_other_settings_are_not_adopted(begun):
    run, _, values = begun
    write(run, "0" * 32, values, 0, 8)
    assert run.adopt_blocks() == 0
    assert run.missing_blocks(COUNT, 8) == [(0, 8)]


@pytest.mark.parametrize("part", ["dfl-00000000.npy", "block-00000000.json"])
def test_a_damaged_block_is_not_adopted(begun, part):
    run, name, values = begun
    write(run, name, values, 0, 8)
    path = run.folder / "dist" / part
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run.adopt_blocks() == 0


def test_a_block_that_lacks_a_component_is_not_adopted(begun):
    run, name, values = begun
    write_block(run.folder, 0, 8, {"box": values["box"]}, name)
    assert run.adopt_blocks() == 0


def test_overlapping_blocks_of_two_jobs_are_adopted_once(begun):
    run, name, values = begun
    write(run, name, values, 0, 4)
    write(run, name, values, 2, 8)
    assert run.adopt_blocks() == 1
    assert run.missing_blocks(COUNT, 8) == [(4, 8)]


def test_a_block_damaged_after_it_was_adopted_is_found_and_made_again(begun):
    run, name, values = begun
    write(run, name, values, 0, 4)
    write(run, name, values, 4, 8)
    run.adopt_blocks()
    path = run.folder / "dist" / "cls-00000004.npy"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    run.open_matrix("cls")
    with pytest.raises(MlkitError, match=r"cls-00000004\.npy: crc32"):
        run.open_matrix("cls", verify=True)
    assert run.drop_damaged_blocks() == 1
    assert run.missing_blocks(COUNT, 8) == [(4, 8)]
    write(run, name, values, 4, 8)
    run.adopt_blocks()
    assert np.array_equal(run.open_matrix("cls", verify=True).array(), values["cls"])


def _work(task):
    folder, row0, name, values = task
    write_block(folder, row0, row0 + 1, values, name)


def test_processes_write_blocks_without_the_database(begun):
    run, name, values = begun
    tasks = [
        (run.folder, row, name, {c: v[row : row + 1] for c, v in values.items()})
        for row in [*range(COUNT), 0, 1]
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(_work_by_fork(tasks), range(len(tasks))))
    assert run.adopt_blocks() == COUNT
    assert np.array_equal(run.open_matrix("box").array(), values["box"], equal_nan=True)


class _work_by_fork:  # noqa: N801  # used as a function; carries its tasks to the workers
    def __init__(self, tasks):
        self.tasks = tasks

    def __call__(self, number):
        _work(self.tasks[number])


def test_distances_of_other_settings_are_refused_unless_they_are_replaced(begun):
    run, name, values = begun
    assert run.begin_distances(SPEC) == name
    write(run, name, values, 0, 8)
    run.adopt_blocks()
    other = DistanceSpec(components=("box",), parts={"kernel": 1})
    with pytest.raises(InputError, match="distances of other settings or images"):
        run.begin_distances(other)
    assert run.begin_distances(other, replace=True) != name
    assert run.db.execute("SELECT COUNT(*) FROM shards").fetchone() == (0,)


def test_new_images_make_another_matrix(begun):
    run, name, values = begun
    write(run, name, values, 0, 8)
    run.adopt_blocks()
    run.register_images([ImageEntry("images/008.png")])
    with pytest.raises(
        MlkitError, match=r"1 images are not extracted yet, first 'images/008\.png'"
    ):
        run.begin_distances(SPEC)
    run.write_records([KIT["record"](8)])
    with pytest.raises(InputError, match="other settings or images"):
        run.begin_distances(SPEC)


def test_before_any_distances_an_error_says_what_to_run(folder):
    with open_run(folder) as run, pytest.raises(MlkitError, match="no distances") as caught:
        run.open_matrix("box")
    assert "mlkit cluster distances" in caught.value.hint


def brute_neighbors(values, k):
    """Return {(i, rank): (j, distance)} by sorting all pairs in Python."""
    found = {}
    for i, row in enumerate(values.tolist()):
        pairs = sorted((d, j) for j, d in enumerate(row) if j != i and d == d)
        for rank, (distance, j) in enumerate(pairs[:k], 1):
            found[i, rank] = (j, distance)
    return found


def total_of(values):
    return 7.5 * values["box"] + np.float32(0.5) * values["cls"] + np.float32(1.5) * values["dfl"]


def stored(run, name):
    query = "SELECT img_i, rank, img_j, distance FROM neighbors WHERE component = ?"
    return {(i, rank): (j, d) for i, rank, j, d in run.db.execute(query, (name,))}


def test_all_pairs_and_neighbours_of_a_small_run_are_rows(folder):
    values = KIT["fill_distances"](folder)
    with open_run(folder) as run:
        assert run.materialise_distances(k=3) == 3 * COUNT**2
        assert run.materialise_distances(k=3) == 3 * COUNT**2
        assert run.metadata()["distances_table"] == "all pairs"
        made = {c: np.full((COUNT, COUNT), np.nan, np.float32) for c in values}
        for i, j, c, d in run.db.execute("SELECT img_i, img_j, component, distance FROM distances"):
            made[c][i, j] = np.nan if d is None else d
        for name, expected in values.items():
            assert np.array_equal(made[name], expected, equal_nan=True)
            assert stored(run, name) == brute_neighbors(expected, 3)
        expected, found = brute_neighbors(total_of(values), 3), stored(run, "total")
        assert {k: v[0] for k, v in found.items()} == {k: v[0] for k, v in expected.items()}
        assert all(found[k][1] == pytest.approx(v[1], rel=1e-6) for k, v in expected.items())


def test_beyond_the_limit_only_nearest_neighbours_are_rows(folder):
    values = KIT["fill_distances"](folder)
    with open_run(folder) as run:
        run.materialise_distances(limit=COUNT - 1, k=2)
        assert run.metadata()["distances_table"] == "nearest neighbours"
        found = set(run.db.execute("SELECT DISTINCT img_i, img_j FROM distances"))
        near = brute_neighbors(total_of(values), 2)
        assert found == {(i, j) for (i, _), (j, _) in near.items()}
        for i, j, c, d in run.db.execute("SELECT img_i, img_j, component, distance FROM distances"):
            assert d == values[c][i, j]


def test_edges_are_stored_instead_of_a_matrix(folder):
    with open_run(folder) as run:
        spec = DistanceSpec(components=("box", "cls"), mode="knn", knn_k=3, parts={})
        name = run.begin_distances(spec)
        rng = np.random.default_rng(0)
        columns = np.stack([rng.permutation(COUNT)[:3] for _ in range(COUNT)])
        columns[4, 2] = -1
        values = {c: rng.random((COUNT, 3)).astype(np.float32) for c in ("box", "cls")}
        for row0, row1 in ((0, 5), (5, 8)):
            parts = {c: v[row0:row1] for c, v in values.items()}
            write_edges(run.folder, (row0, row1), columns[row0:row1], parts, name)
        assert run.missing_blocks(COUNT, 5) == [(0, 5), (5, 8)]
        assert run.adopt_blocks() == 2
        edges = run.open_edges(verify=True)
        found, numbers = edges.rows(3, 7)
        assert np.array_equal(found, columns[3:7])
        assert np.array_equal(numbers["cls"], values["cls"][3:7])
        assert edges.value("box", 4, int(columns[4, 1])) == values["box"][4, 1]
        absent = next(j for j in range(COUNT) if j not in columns[0])
        assert edges.value("box", 0, absent) is None
        with pytest.raises(MlkitError, match="nearest neighbours only"):
            run.open_matrix("box")
        assert run.materialise_distances(k=2) == 2 * (3 * COUNT - 1)
        assert run.metadata()["distances_table"] == "nearest neighbours"
        dense = np.full((COUNT, COUNT), np.nan, np.float32)
        for i in range(COUNT):
            for place, j in enumerate(columns[i]):
                if j >= 0:
                    dense[i, j] = values["box"][i, place]
        assert stored(run, "box") == brute_neighbors(dense, 2)
