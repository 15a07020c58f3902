"""Opening a run, registering images, settings, and writing records."""

import json
import os
import runpy
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlkit_cluster.store import ImageEntry, RunSpec, open_run, reading, results
from mlkit_cluster.store.blobs import unpack_features
from mlkit_core.errors import InputError, MlkitError

KIT = runpy.run_path(str(Path(__file__).with_name("store_kit.py")))
CLIP = RunSpec(kind="embedding", encoder="clip", model="c", model_sha256="cd", parts={"imgsz": 224})


@pytest.fixture
def run(tmp_path):
    with open_run(tmp_path / "run", create=True) as store:
        store.begin_run(KIT["spec"]())
        yield store


def rows(store, query, *values):
    return store.db.execute(query, values).fetchall()


def test_the_database_is_in_wal_mode_with_foreign_keys(run):
    assert rows(run, "PRAGMA journal_mode") == [("wal",)]
    assert rows(run, "PRAGMA foreign_keys") == [(1,)]
    assert rows(run, "PRAGMA synchronous") == [(1,)]
    assert rows(run, "PRAGMA busy_timeout")[0][0] >= 5000


def test_a_missing_run_is_named_and_not_made(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no run of mlkit cluster here"):
        open_run(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_run_opens_by_its_folder_and_by_its_database(tmp_path, named):
    folder = KIT["fill"](tmp_path / "run", 2)
    with open_run(folder if named == "folder" else folder / "run.db") as store:
        assert store.folder == folder


@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_that_is_no_database_is_an_input_error(tmp_path, readonly):
    (tmp_path / "run.db").write_bytes(b"hello, I am text" * 100)
    with pytest.raises(InputError, match=r"run\.db: not an SQLite database"):
        open_run(tmp_path, readonly=readonly)


@pytest.mark.parametrize("readonly", [True, False])
def test_another_database_is_an_input_error_and_stays_as_it_is(tmp_path, readonly):
    with sqlite3.connect(tmp_path / "run.db") as db:
        db.execute("CREATE TABLE cats (name TEXT)")
    db.close()
    before = (tmp_path / "run.db").read_bytes()
    with pytest.raises(InputError, match="no run of mlkit cluster"):
        open_run(tmp_path, create=not readonly, readonly=readonly)
    assert (tmp_path / "run.db").read_bytes() == before


def test_another_schema_version_is_an_input_error(run):
    run.set_metadata({"schema_version": "7"})
    with pytest.raises(InputError, match="schema version: expected 1, got 7"):
        open_run(run.folder)


def test_a_readonly_run_cannot_be_written(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 2)
    with open_run(folder, readonly=True) as store, pytest.raises(InputError, match="readonly"):
        store.set_metadata({"a": "b"})


def test_images_get_ids_once_in_order_and_new_ones_come_after(run):
    assert run.register_images([ImageEntry("b", "val"), ImageEntry("a"), ImageEntry("b")]) == 2
    assert run.register_images([ImageEntry("c"), ImageEntry("a"), ImageEntry("b", "val")]) == 1
    found = rows(run, "SELECT img_id, path, split FROM images ORDER BY img_id")
    assert found == [(0, "b", "val"), (1, "a", None), (2, "c", None)]


def test_other_settings_are_refused_with_what_differs_and_a_way_out(run):
    assert run.begin_run(KIT["spec"]()) == KIT["spec"]().fingerprint
    with pytest.raises(InputError, match=r"other settings: imgsz was 64, is 128$") as caught:
        run.begin_run(KIT["spec"](imgsz=128))
    assert "another -o" in caught.value.hint
    assert len(rows(run, "SELECT * FROM runs")) == 1


def test_each_encoder_has_settings_of_its_own(run):
    name = run.begin_run(CLIP)
    assert run.begin_run(CLIP) == name
    run.begin_run(replace(CLIP, encoder="dino"))
    with pytest.raises(InputError, match="imgsz was 224, is 336"):
        run.begin_run(replace(CLIP, parts={"imgsz": 336}))
    with pytest.raises(InputError, match="the detector's own"):
        run.begin_run(replace(CLIP, encoder="yolo"))


def test_what_is_written_is_what_is_read(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 9, masked=True)
    with open_run(folder, readonly=True) as store:
        assert store.pending() == []
        ids, embeddings = reading.embedding_matrix(store)
        targets = reading.targets(store)
        scores = reading.scores(store)
        for number in range(9):
            values = KIT["record"](number, masked=True).values
            assert ids[number] == number
            assert np.array_equal(embeddings[number], values["embedding"])
            found, given = reading.predictions(store, number), values["detections"]
            for name in ("boxes", "boxes_input", "scores", "labels"):
                assert np.array_equal(getattr(found, name), getattr(given, name))
            assert found.masks == (given.masks or None)
            truth = reading.labels(store, number)
            assert truth is not None
            assert np.array_equal(truth.boxes, values["labels"].boxes)
            keep = given.scores >= 0.5
            assert np.array_equal(targets[number].boxes_input, given.boxes_input[keep])
            for name in ("hit_freq", "mean_conf", "n_gt", "flag_cat"):
                expected = values["metrics"][name]
                assert np.array_equal(
                    scores[name][number], np.nan if expected is None else expected, equal_nan=True
                )
            box = values["losses"]["box"]
            assert np.array_equal(
                scores["box_loss"][number], np.nan if box is None else box, equal_nan=True
            )


def test_classes_have_their_names_and_are_counted(tmp_path):
    with open_run(KIT["fill"](tmp_path / "run", 9), readonly=True) as store:
        named = set(rows(store, "SELECT class_id, class_name FROM predictions"))
        assert named == set(enumerate(KIT["NAMES"]))
        query = "SELECT SUM(n) FROM image_classes WHERE source = ?"
        assert rows(store, query, "pred") == rows(store, "SELECT COUNT(*) FROM predictions")
        assert rows(store, query, "gt") == rows(store, "SELECT COUNT(*) FROM labels")


def test_without_labels_everything_about_them_is_null(tmp_path):
    with open_run(KIT["fill"](tmp_path / "run", 6, labelled=False), readonly=True) as store:
        unknown = "hit_freq, mean_iou, dice_score, box_loss, cls_loss, dfl_loss, seg_loss, n_gt"
        unknown += ", flag_cat, flag_supercat, mean_conf_matched, precision, n_match, n_pos"
        assert set(rows(store, f"SELECT {unknown} FROM embeddings")) == {(None,) * 14}
        assert reading.labels(store, 1) is None
        assert rows(store, "SELECT COUNT(*) FROM labels") == [(0,)]


def test_feature_maps_lie_in_the_row_or_in_side_files(tmp_path):
    inline = KIT["fill"](tmp_path / "inline", 5)
    full = KIT["fill"](tmp_path / "full", 5, full=True)
    for folder, kind in ((inline, False), (full, True)):
        with open_run(folder, readonly=True) as store:
            query = "SELECT bottleneck_features FROM features ORDER BY img_id"
            for number, (blob,) in enumerate(rows(store, query)):
                expected = KIT["record"](number, full=kind).values["maps"]
                found = unpack_features(blob, folder)
                assert all(np.array_equal(found[k], v) for k, v in expected.items())
    assert not (inline / "features").exists()
    assert (full / "features" / "maps-00000000.npy").is_file()


def test_writing_an_image_again_changes_nothing(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 4)
    before = KIT["content"](folder)
    with open_run(folder) as store:
        assert store.write_records([KIT["record"](2)]) == 0
        store.register_images(KIT["entries"](4))
    assert KIT["content"](folder) == before


def test_a_batch_is_written_whole_or_not_at_all(run):
    run.register_images(KIT["entries"](3))
    bad = KIT["record"](1)
    bad.values["labels"].labels[:] = 9
    with pytest.raises(InputError, match=r"image 1: class 9: the model knows 0 to 2"):
        run.write_records([KIT["record"](0), bad])
    assert len(run.pending()) == 3
    assert rows(run, "SELECT COUNT(*) FROM features") == [(0,)]
    with pytest.raises(MlkitError, match="not registered"):
        run.write_records([replace(KIT["record"](0), key="elsewhere.png")])


def test_a_failed_image_has_an_error_no_rows_and_no_place_in_the_matrix(run):
    run.register_images(KIT["entries"](2))
    run.write_failure(0, "cannot identify image file")
    assert run.pending() == [(1, "images/001.png")]
    assert [image.img_id for image in reading.images(run)] == [1]
    assert reading.images(run, failed=True)[0].error == "cannot identify image file"
    run.write_records([KIT["record"](1)])
    with pytest.raises(MlkitError, match="extracted already"):
        run.write_failure(1, "late")
    assert run.clear_failures() == 1
    assert run.pending() == [(0, "images/000.png")]


def test_another_encoder_touches_embeddings_only(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 6)
    before, _ = KIT["content"](folder)
    with open_run(folder) as store:
        name = store.begin_run(CLIP)
        ids = [img_id for img_id, _ in store.pending("clip")]
        assert store.write_embeddings("clip", name, ids, np.eye(6, 8)) == 6
        assert store.write_embeddings("clip", name, ids, np.zeros((6, 8))) == 0
        assert store.pending("clip") == []
        assert np.array_equal(reading.embedding_matrix(store, "clip")[1], np.eye(6, 8))
        with pytest.raises(InputError, match="other settings"):
            store.write_embeddings("clip", "f" * 32, ids, np.eye(6, 8))
        with pytest.raises(InputError, match="no embeddings of 'dino'"):
            reading.embedding_matrix(store, "dino")
        query = "SELECT COUNT(*) FROM embeddings WHERE encoder = 'clip' AND COALESCE(hit_freq, "
        query += "mean_iou, mean_conf, box_loss, cls_loss, dfl_loss, n_pred, flag_cat) IS NULL"
        assert rows(store, query) == [(6,)]
    after, _ = KIT["content"](folder)
    changed = {table for table in after if after[table] != before[table]}
    assert changed == {"embeddings", "row_checks", "runs"}


HOSTILE = [
    "'); DROP TABLE images; --.png",
    '" OR 1=1 --.jpg',
    "a\nb\tc.png",
    "ü 中 \U0001f600.jpg",
    "../../etc/passwd",
    "%s {x} ${y}.png",
    os.fsdecode(b"latin-\xe4.png"),
]


def test_hostile_file_names_are_data(run):
    run.register_images([ImageEntry(path) for path in HOSTILE])
    assert [path for _, path in run.pending()] == HOSTILE
    run.write_records([replace(KIT["record"](1), key=path) for path in HOSTILE])
    assert run.pending() == []
    assert [image.path for image in reading.images(run)] == HOSTILE


def test_hostile_names_of_folder_and_results_are_data(tmp_path):
    folder = tmp_path / "run?mode=rwc#x %41 'q'"
    with open_run(KIT["fill"](folder, 3)) as store:
        name = "x'; DROP TABLE clusterings; --"
        results.save_clustering(store, name, {"k": 2}, [0, 1, 2], [0, -1, 0])
        assert results.clustering(store, name).labels.tolist() == [0, -1, 0]
    assert (folder / "run.db").is_file()
    with open_run(folder, readonly=True) as store:
        assert len(reading.images(store)) == 3


def test_results_are_replaced_whole_and_read_back(tmp_path):
    with open_run(KIT["fill"](tmp_path / "run", 3)) as store:
        results.save_clustering(store, "a", {"k": 1}, [0, 1, 2], [5, 5, 5])
        results.save_clustering(
            store, "a", {"k": 2}, [0, 2], [1, -1], prob=[0.5, np.nan], medoid=[True, False],
            silhouette=np.array([0.25, np.nan]),
        )  # fmt: skip
        (found,) = results.clusterings(store)
        assert (found.params, found.img_ids.tolist()) == ({"k": 2}, [0, 2])
        assert found.labels.tolist() == [1, -1]
        assert found.medoid.tolist() == [True, False]
        assert np.array_equal(found.prob, [0.5, np.nan], equal_nan=True)
        coords = np.arange(6.0).reshape(2, 3)
        results.save_projection(store, "p", {"d": 3}, [0, 1], coords)
        (made,) = results.projections(store)
        assert np.array_equal(made.coords, coords)
        assert rows(store, "SELECT x, y FROM coordinates WHERE img_id = 1") == [(3.0, 4.0)]
        results.save_evaluation(store, "e", {"seed": 42}, {"nmi": 0.5})
        assert results.evaluations(store) == [("e", {"seed": 42}, {"nmi": 0.5})]
        with pytest.raises(InputError, match="no clustering 'b'"):
            results.clustering(store, "b")


def test_a_features_row_costs_at_most_4_2_bytes_a_number(tmp_path):
    with open_run(KIT["fill"](tmp_path / "run", 2)) as store:
        record = KIT["record"](0)
        gap = {"p3": np.ones(64), "p4": np.ones(128), "p5": np.ones(256)}
        record.values["gap"] = gap
        store.register_images([ImageEntry("new.png")])
        store.write_records([replace(record, key="new.png")])
        query = "SELECT LENGTH(gap_features) FROM features WHERE img_id = 2"
        assert rows(store, query)[0][0] <= 4.2 * 448


needs_sqlite3 = pytest.mark.skipif(
    shutil.which("sqlite3") is None, reason="the program sqlite3 is not installed"
)


def ask(folder, *arguments):
    command = ["sqlite3", str(folder / "run.db"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@needs_sqlite3
def test_the_sqlite3_program_answers_plain_queries(tmp_path):
    folder = KIT["fill"](tmp_path / "run", 7)
    KIT["fill_distances"](folder)
    with open_run(folder) as store:
        store.materialise_distances()
    schema = "\n".join(ask(folder, ".schema"))
    for table in ("embeddings", "features", "predictions", "distances", "metadata", "images"):
        assert f"CREATE TABLE {table} (" in schema
    assert "CREATE VIEW" not in schema
    assert ask(folder, "SELECT COUNT(*) FROM features") == ["7"]
    assert ask(folder, "SELECT img_id FROM features LIMIT 5") == ["0", "1", "2", "3", "4"]
    found = ask(folder, "SELECT DISTINCT component FROM distances")
    assert sorted(found) == ["box", "cls", "dfl"]


@needs_sqlite3
def test_the_sqlite3_program_reads_while_we_write(run):
    run.register_images(KIT["entries"](8))
    run.write_records([KIT["record"](0)])
    with run.transaction() as db:
        db.execute("DELETE FROM features")
        assert ask(run.folder, "SELECT COUNT(*) FROM features") == ["1"]


def test_a_locked_database_says_who_must_end(run):
    other = open_run(run.folder)
    other.db.execute("PRAGMA busy_timeout=10")
    with run.transaction(), pytest.raises(MlkitError, match="another process is writing"):
        other.set_metadata({"a": "b"})
    other.close()


def test_settings_stand_in_columns_too(run):
    (row,) = rows(run, "SELECT imgsz, conf, target_conf, gains, names, run_id, options FROM runs")
    assert row[:3] == (64, 0.25, 0.5)
    assert json.loads(row[3])["box"] == 7.5
    assert json.loads(row[4]) == list(KIT["NAMES"])
    assert row[5] == f"yolo-{KIT['spec']().fingerprint[:8]}"
    assert json.loads(row[6])["max_det"] == 300
    assert run.gains() == {"box": 7.5, "cls": 0.5, "dfl": 1.5, "seg": 7.5}
