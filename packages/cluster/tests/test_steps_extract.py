"""Extraction into a run: what is known, what is not, and what a stopped call leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from steps_kit import SIDE, content, data_part, extracted, yolo_part

from mlkit_cluster.distances.shard import Shard
from mlkit_cluster.engines.local import LocalEngine
from mlkit_cluster.steps.extraction import extract
from mlkit_cluster.steps.merging import merge
from mlkit_cluster.steps.parts import make_part
from mlkit_cluster.store import reading
from mlkit_cluster.store.database import open_run
from mlkit_core.errors import InputError


def test_every_image_has_one_row_and_labelled_images_have_losses(
    painted_images, tiny_detector_file, tmp_path
):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file)
    with open_run(run, readonly=True) as store:
        scores = reading.scores(store)
        assert len(scores["img_id"]) == 12
        assert np.isfinite(scores["cls_loss"]).all()
        # Images 0, 4 and 8 hold no object: their cls alone is known.
        empty = [0, 4, 8]
        assert np.isnan(scores["box_loss"][empty]).all()
        others = np.setdiff1d(np.arange(12), empty)
        assert np.isfinite(scores["dfl_loss"][others]).all()
        assert len(np.unique(scores["cls_loss"])) == 12
        assert scores["n_gt"].tolist() == [index % 4 for index in range(12)]
        assert (scores["flag_cat"][empty] == -1).all()
        assert store.metadata()["labels"] == "yolo"


def test_without_labels_what_is_unknown_is_null_and_never_0(
    painted_images, tiny_detector_file, tmp_path
):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file, data={"labels": "none"})
    with open_run(run, readonly=True) as store:
        row = store.db.execute(
            "SELECT COUNT(*), COUNT(hit_freq), COUNT(mean_iou), COUNT(box_loss), COUNT(cls_loss), "
            "COUNT(dfl_loss), COUNT(flag_cat), COUNT(flag_supercat), COUNT(n_gt) FROM embeddings"
        ).fetchone()
        assert row == (12, 0, 0, 0, 0, 0, 0, 0, 0)
        assert store.db.execute("SELECT COUNT(*) FROM labels").fetchone() == (0,)
        assert reading.labels(store, 1) is None


def test_a_second_call_extracts_nothing_and_changes_nothing(
    painted_images, tiny_detector_file, tmp_path
):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file)
    before = content(run)
    again = extract(
        run, data_part(painted_images), yolo_part(tiny_detector_file), engine=LocalEngine()
    )
    assert (again.done, again.images) == (0, 12)
    assert content(run) == before


@pytest.mark.parametrize(
    ("name", "value"), [("conf", 0.3), ("target_conf", 0.5), ("image_size", 128), ("iou", 0.6)]
)
def test_other_settings_are_never_mixed_into_a_run(
    painted_images, tiny_detector_file, tmp_path, name, value
):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file)
    before = content(run)
    with pytest.raises(InputError, match=r"holds yolo rows with other settings: .* was .* is"):
        extracted(run, painted_images, tiny_detector_file, **{name: value})
    assert content(run) == before


def test_a_corrupt_image_fails_alone_and_is_tried_again_when_mended(
    painted_images, tiny_detector_file, tmp_path
):
    bad = painted_images / "images" / "05.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    parts = data_part(painted_images), yolo_part(tiny_detector_file)
    found = extract(tmp_path / "run", *parts, engine=LocalEngine())
    assert [path for path, _ in found.failed] == ["images/05.png"]
    assert found.done == 12
    with open_run(tmp_path / "run", readonly=True) as store:
        assert len(reading.images(store)) == 11
    bad.write_bytes(whole)
    mended = extract(tmp_path / "run", *parts, engine=LocalEngine(), retry=True)
    assert (mended.failed, mended.done) == ((), 1)


def test_new_images_get_new_ids_and_old_ones_keep_theirs(
    painted_images, tiny_detector_file, tmp_path
):
    options = {"source": str(painted_images / "images")}
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file, data=options)
    with open_run(run, readonly=True) as store:
        before = {image.path: image.img_id for image in reading.images(store)}
    Image.new("RGB", (50, 40), (200, 30, 30)).save(painted_images / "images" / "000.png")
    extracted(run, painted_images, tiny_detector_file, data=options)
    with open_run(run, readonly=True) as store:
        after = {image.path: image.img_id for image in reading.images(store)}
    assert after.pop("000.png") == 12
    assert after == before


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from steps_kit import extracted
from mlkit_cluster.extraction import work
from mlkit_cluster.steps import extraction
extraction.CHUNK = 2
extracted(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_killed_extraction_repeats_nothing_and_ends_as_an_uninterrupted_one(
    painted_images, tiny_detector_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("mlkit_cluster.steps.extraction.CHUNK", 2)
    whole = extracted(tmp_path / "whole", painted_images, tiny_detector_file)
    run = tmp_path / "killed"
    here = str(Path(__file__).parent)
    arguments = [str(run), str(painted_images), str(tiny_detector_file), here]
    child = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    deadline = time.monotonic() + 120
    while count(run) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    done = count(run)
    assert done > 0
    again = extract(
        run, data_part(painted_images), yolo_part(tiny_detector_file), engine=LocalEngine()
    )
    assert again.done == 12 - done
    assert content(run) == content(whole)


def count(run):
    if not (run / "run.db").is_file():
        return 0
    try:
        with open_run(run, readonly=True) as store:
            return store.db.execute("SELECT COUNT(*) FROM features").fetchone()[0]
    except InputError:  # its tables are being made
        return 0


@pytest.mark.parametrize("maps", ["grid4", "full16"])
def test_the_parts_of_a_job_array_join_into_the_same_run(
    painted_images, tiny_detector_file, tmp_path, monkeypatch, maps
):
    monkeypatch.setattr("mlkit_cluster.steps.extraction.CHUNK", 2)
    whole = extracted(tmp_path / "whole", painted_images, tiny_detector_file, maps=maps)
    for number in (2, 1, 3):
        extracted(
            tmp_path / "array",
            painted_images,
            tiny_detector_file,
            maps=maps,
            shard=Shard(number, 3),
        )
    assert merge(tmp_path / "array") == {"images new": 12, "images missing": 0, "rows missing": 0}
    assert merge(tmp_path / "array")["images new"] == 0
    ours, theirs = content(tmp_path / "array"), content(whole)
    for table in ("images", "runs", "image_classes"):
        assert ours[table] == theirs[table]
    for table in ("embeddings", "predictions", "labels"):  # ids follow the order of merging
        assert sorted(repr(row[1:]) for row in ours[table]) == sorted(
            repr(row[1:]) for row in theirs[table]
        )
    from mlkit_cluster.store.blobs import unpack_features

    for run_maps, own in ((whole, theirs), (tmp_path / "array", ours)):
        own["maps"] = {
            row[1]: {k: v.tobytes() for k, v in unpack_features(row[3], run_maps).items()}
            for row in own["features"]
        }
    assert ours["maps"] == theirs["maps"]


def test_a_part_of_other_settings_is_refused(painted_images, tiny_detector_file, tmp_path):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file)
    extracted(run, painted_images, tiny_detector_file, conf=0.4, shard=Shard(1, 2))
    with pytest.raises(InputError, match="made with other settings of yolo"):
        merge(run)


def test_another_encoder_touches_nothing_but_its_own_embeddings(
    painted_images, tiny_detector_file, tmp_path
):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file)
    before = content(run)
    options = {"encoder": {"name": "timm", "model": "test_resnet"}, "weights": "none"}
    found = extract(
        run,
        data_part(painted_images, labels="none"),
        make_part("extractor", "embedding", {**options, "device": "cpu"}),
        engine=LocalEngine(),
        encoder="timm:test_resnet",
    )
    assert found.done == 12
    after = content(run)
    with open_run(run, readonly=True) as store:
        ids, vectors = reading.embedding_matrix(store, "timm:test_resnet")
        assert len(ids) == 12
        assert len(np.unique(vectors.round(4), axis=0)) == 12
        row = store.db.execute(
            "SELECT COUNT(hit_freq) + COUNT(mean_iou) + COUNT(box_loss) + COUNT(cls_loss) + "
            "COUNT(flag_cat) + COUNT(n_gt) FROM embeddings WHERE encoder != 'yolo'"
        ).fetchone()
        assert row == (0,)
    for table in before.keys() - {"embeddings", "runs", "row_checks", "metadata"}:
        assert after[table] == before[table], table
    assert [row for row in after["embeddings"] if "yolo" in row] == before["embeddings"]


def test_the_size_of_the_input_is_the_extractors(painted_images, tiny_detector_file, tmp_path):
    run = extracted(tmp_path / "run", painted_images, tiny_detector_file, data={"image_size": 640})
    with open_run(run, readonly=True) as store:
        (size,) = store.db.execute("SELECT imgsz FROM runs").fetchone()
        assert size == SIDE
        (most,) = store.db.execute("SELECT MAX(input_x2) FROM labels").fetchone()
        assert most <= SIDE
