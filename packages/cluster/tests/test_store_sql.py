"""SQL that only reads, and the export to the earlier system's two files."""

import json
import runpy
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mlkit_cluster.store import DistanceSpec, open_run
from mlkit_cluster.store.edges import write_edges
from mlkit_cluster.store.seed_layout import export_seed_sqlite
from mlkit_cluster.store.sql import run_sql
from mlkit_core.errors import InputError, MlkitError

KIT = runpy.run_path(str(Path(__file__).with_name("store_kit.py")))


@pytest.fixture
def run_and_values(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 7)
    return folder, KIT["fill_distances"](folder)


def test_a_query_gives_names_and_rows(run_and_values):
    found = run_sql(run_and_values[0], "SELECT img_id, w AS width FROM images ORDER BY 1 LIMIT 2")
    assert found.columns == ("img_id", "width")
    assert found.rows == [(0, 128), (1, 128)]
    assert found.records() == [{"img_id": 0, "width": 128}, {"img_id": 1, "width": 128}]


def test_blobs_are_json_inside_a_query(run_and_values):
    query = "SELECT mlkit_json(gap_features), mlkit_json(NULL) FROM features WHERE img_id = 3"
    ((text, nothing),) = run_sql(run_and_values[0], query).rows
    expected = KIT["record"](3).values["gap"]
    assert nothing is None
    assert {k: np.float32(v).tolist() for k, v in json.loads(text).items()} == {
        k: v.tolist() for k, v in expected.items()
    }


def test_distances_are_read_from_the_files_by_image_id(run_and_values):
    folder, values = run_and_values
    query = (
        "SELECT img_id, mlkit_dist(img_id, 3, 'box'), mlkit_dist(img_id, 3, 'total'), "
        "mlkit_dist(img_id, 0, 'box'), mlkit_dist(img_id, 99, 'box') FROM images"
    )
    for i, box, total, none, unknown in run_sql(folder, query).rows:
        assert box == values["box"][i, 3]
        weighted = 7.5 * values["box"] + 0.5 * values["cls"] + 1.5 * values["dfl"]
        assert total == pytest.approx(weighted[i, 3], rel=1e-6)
        assert (none, unknown) == (None, None)  # image 0 has no targets


def test_places_in_the_matrix_skip_failed_images(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 0)
    with open_run(folder) as run:
        run.register_images(KIT["entries"](7))
        run.write_failure(2, "cannot identify image file")
        run.write_records([KIT["record"](n) for n in (0, 1, 3, 4, 5, 6)])
    values = KIT["fill_distances"](folder)
    ((found,),) = run_sql(folder, "SELECT mlkit_dist(6, 3, 'cls')").rows
    assert found == values["cls"][5, 2]


def test_edges_answer_too_where_there_is_no_matrix(run_and_values):
    folder, _ = run_and_values
    with open_run(folder) as run:
        spec = DistanceSpec(components=("box",), mode="knn", knn_k=1, parts={})
        name = run.begin_distances(spec, replace=True)
        columns = np.array([[3]] * 7)
        values = np.arange(7, dtype=np.float32)[:, None]
        write_edges(folder, (0, 7), columns, {"box": values}, name)
        run.adopt_blocks()
    query = "SELECT mlkit_dist(5, 3, 'box'), mlkit_dist(5, 3, 'total'), mlkit_dist(5, 2, 'box')"
    assert run_sql(folder, query).rows == [(5.0, 37.5, None)]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM images",
        "UPDATE images SET w = 0",
        "DROP TABLE images",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "ATTACH DATABASE 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM images",
        "SELEC 1",
    ],
)
def test_a_query_that_is_wrong_or_would_write_is_refused(
    run_and_values, query, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = KIT["content"](run_and_values[0])
    with pytest.raises(InputError, match=r"^sql: "):
        run_sql(run_and_values[0], query)
    assert KIT["content"](run_and_values[0]) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_reading_pragmas_and_explain_are_allowed(run_and_values):
    assert run_sql(run_and_values[0], "PRAGMA table_info(metadata)").rows[0][1] == "key"
    assert run_sql(run_and_values[0], "EXPLAIN QUERY PLAN SELECT * FROM images").rows


def test_an_error_of_a_function_is_told_as_it_is(run_and_values):
    with pytest.raises(MlkitError, match="component 'seg': the matrix holds box, cls, dfl"):
        run_sql(run_and_values[0], "SELECT mlkit_dist(0, 1, 'seg')")
    with pytest.raises(MlkitError, match="expected a blob, got 'x'"):
        run_sql(run_and_values[0], "SELECT mlkit_json('x')")


def export(folder, to, **options):
    with open_run(folder, readonly=True) as run:
        export_seed_sqlite(run, to / "EMB.db", to / "DIST.db", **options)


def asked(path, query):
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_the_export_has_the_earlier_tables_with_json_features(run_and_values, tmp_path):
    folder, values = run_and_values
    export(folder, tmp_path)
    emb, dist = tmp_path / "EMB.db", tmp_path / "DIST.db"
    names = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
    assert asked(emb, names) == [("embeddings",), ("features",), ("metadata",), ("predictions",)]
    assert asked(dist, names) == [("distances",), ("metadata",)]
    gap, maps = asked(
        emb, "SELECT gap_features, bottleneck_features FROM features WHERE img_id = 4"
    )[0]
    record = KIT["record"](4).values
    assert np.array_equal(np.float32(json.loads(gap)["p3"]), record["gap"]["p3"])
    assert np.array_equal(np.float16(json.loads(maps)["p5"]), record["maps"]["p5"])
    (blob, n), = asked(emb, "SELECT embedding, (SELECT COUNT(*) FROM predictions WHERE img_id = 3) FROM embeddings WHERE img_id = 3")  # fmt: skip  # noqa: E501
    assert np.array_equal(np.frombuffer(blob, "<f4"), KIT["record"](3).values["embedding"])
    assert n == 3
    made = {c: np.full((7, 7), np.nan, np.float32) for c in values}
    for i, j, c, d in asked(dist, "SELECT img_i, img_j, component, distance FROM distances"):
        made[c][i, j] = np.nan if d is None else d
    assert all(np.array_equal(made[c], v, equal_nan=True) for c, v in values.items())
    assert asked(dist, "SELECT COUNT(*) FROM distances") == [(3 * 49,)]


def test_the_export_replaces_no_file(run_and_values, tmp_path):
    (tmp_path / "EMB.db").write_text("mine")
    with pytest.raises(InputError, match=r"EMB\.db: there already"):
        export(run_and_values[0], tmp_path)
    assert (tmp_path / "EMB.db").read_text() == "mine"
    assert not (tmp_path / "DIST.db").exists()


def test_beyond_the_limit_the_export_has_nearest_neighbours_unless_all_are_asked_for(
    run_and_values, tmp_path, monkeypatch
):
    monkeypatch.setattr("mlkit_cluster.store.seed_layout._LIMIT", 5)
    for name, options in (("few", {}), ("all", {"all_pairs": True})):
        (tmp_path / name).mkdir()
        export(run_and_values[0], tmp_path / name, **options)
    said = "SELECT value FROM metadata WHERE key = 'distances_table'"
    assert asked(tmp_path / "few" / "DIST.db", said) == [("nearest neighbours",)]
    assert asked(tmp_path / "all" / "DIST.db", said) == [("all pairs",)]
    own = "SELECT COUNT(*) FROM distances WHERE img_i = img_j"
    assert asked(tmp_path / "few" / "DIST.db", own) == [(0,)]
    assert asked(tmp_path / "all" / "DIST.db", own) == [(3 * 7,)]
