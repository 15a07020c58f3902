"""The earlier system's two files: sound exports pass, its known faults are found."""

import json
import runpy
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mlkit_cluster.store import open_run
from mlkit_cluster.store.seed_layout import export_seed_sqlite
from mlkit_cluster.validation import validate_seed
from mlkit_core.errors import InputError

KIT = runpy.run_path(str(Path(__file__).with_name("store_kit.py")))
COUNT = 8


@pytest.fixture
def files(tmp_path):
    folder = KIT["fill"](tmp_path / "run", COUNT)
    KIT["fill_distances"](folder)
    with open_run(folder, readonly=True) as run:
        export_seed_sqlite(run, tmp_path / "EMB.db", tmp_path / "DIST.db")
    return tmp_path / "EMB.db", tmp_path / "DIST.db"


def wrong(files):
    return {found.check: found.detail for found in validate_seed(*files) if not found.ok}


def change(path, *statements):
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def test_our_own_export_passes(files):
    assert wrong(files) == {}


def test_an_export_of_a_run_with_failed_images_passes(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 0)
    with open_run(folder) as run:
        run.register_images(KIT["entries"](7))
        run.write_failure(2, "cannot identify image file")
        run.write_records([KIT["record"](n) for n in (0, 1, 3, 4, 5, 6)])
    KIT["fill_distances"](folder)
    with open_run(folder, readonly=True) as run:
        export_seed_sqlite(run, tmp_path / "E.db", tmp_path / "D.db")
    assert wrong((tmp_path / "E.db", tmp_path / "D.db")) == {}


EMB_FAULTS = [
    ("UPDATE embeddings SET cls_loss = 0", "losses"),
    ("UPDATE embeddings SET cls_loss = img_id / 4 + 2.5", "losses"),
    ("UPDATE embeddings SET dfl_loss = 424242.0 WHERE img_id = 3", "losses"),
    ("UPDATE embeddings SET mean_conf = 9e999 WHERE img_id = 3", "losses"),
    ("UPDATE features SET bottleneck_features = gap_features", "features"),
    ("UPDATE features SET gap_features = '{]' WHERE img_id = 2", "features"),
    ("UPDATE features SET gap_features = '{\"p3\": [NaN]}' WHERE img_id = 2", "features"),
    ("UPDATE features SET gap_features = '{}' WHERE img_id = 2", "features"),
    ("DELETE FROM features WHERE img_id = 2", "image ids"),
    ("UPDATE predictions SET img_id = 99 WHERE id = 1", "image ids"),
    ("UPDATE embeddings SET embedding = ZEROBLOB(112)", "embeddings"),
    ("UPDATE embeddings SET embedding = X'0102' WHERE img_id = 2", "embeddings"),
    ("UPDATE predictions SET class_name = 'class_' || class_id", "predictions"),
    ("UPDATE predictions SET box_x2 = box_x1 WHERE id = 1", "predictions"),
]
DIST_FAULTS = [
    ("UPDATE distances SET distance = 424242.0 WHERE id = 20", "distances"),
    ("UPDATE distances SET distance = 0", "distances"),
    ("UPDATE distances SET distance = 59.626 WHERE component = 'cls'", "distances"),
    ("UPDATE distances SET distance = 0 WHERE img_i = img_j", "distances"),
    ("DELETE FROM distances WHERE id = 20", "pairs"),
    ("UPDATE distances SET img_j = 2 WHERE id = 1", "pairs"),
    ("UPDATE distances SET img_i = 99 WHERE img_i = 3", "pairs"),
    ("DELETE FROM distances", "pairs"),
]


@pytest.mark.parametrize(("statement", "check"), EMB_FAULTS)
def test_a_fault_of_the_first_file_is_found(files, statement, check):
    change(files[0], statement)
    assert check in wrong(files)


@pytest.mark.parametrize(("statement", "check"), DIST_FAULTS)
def test_a_fault_of_the_second_file_is_found(files, statement, check):
    change(files[1], statement)
    assert check in wrong(files)


def test_a_symmetric_matrix_is_found(files):
    change(
        files[1],
        "UPDATE distances SET distance = (SELECT d.distance FROM distances d WHERE "
        "d.img_i = distances.img_j AND d.img_j = distances.img_i "
        "AND d.component = distances.component) WHERE img_i > img_j",
    )
    assert "symmetric in all" in wrong(files)["distances"]


def test_images_that_a_resume_has_dropped_are_found(files):
    change(
        files[0],
        "DELETE FROM embeddings WHERE img_id = 4",
        "DELETE FROM features WHERE img_id = 4",
        "DELETE FROM predictions WHERE img_id = 4",
    )
    assert "1 of ids 0 to 7 are missing: 4" in wrong(files)["image ids"]


def test_a_duplicate_image_is_found_where_the_table_allows_one(files):
    change(
        files[0],
        "CREATE TABLE e AS SELECT * FROM embeddings",
        "DROP TABLE embeddings",
        "ALTER TABLE e RENAME TO embeddings",
        "INSERT INTO embeddings SELECT * FROM embeddings WHERE img_id = 3",
    )
    assert "embeddings: image 3 has 2 rows" in wrong(files)["image ids"]


def test_missing_tables_and_columns_are_named_and_nothing_else_is_asked(files):
    change(files[0], "ALTER TABLE embeddings DROP COLUMN box_loss", "DROP TABLE predictions")
    detail = wrong(files)["columns"]
    assert "embeddings: box_loss missing" in detail
    assert "predictions: the table missing" in detail
    assert len(validate_seed(*files)) == 2


def test_embeddings_may_be_json_text(files):
    with closing(sqlite3.connect(files[0])) as db:
        for img_id in range(COUNT):
            text = json.dumps(KIT["record"](img_id).values["embedding"].tolist())
            query = "UPDATE embeddings SET embedding = ? WHERE img_id = ?"
            db.execute(query, (text.encode() if img_id % 2 else text, img_id))
        db.commit()
    assert wrong(files) == {}


def test_a_missing_file_and_a_file_of_text_are_input_errors(files, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        validate_seed(files[0], tmp_path / "none.db")
    (tmp_path / "text.db").write_text("hello" * 1000)
    with pytest.raises(InputError, match="not an SQLite database"):
        validate_seed(tmp_path / "text.db", files[1])
