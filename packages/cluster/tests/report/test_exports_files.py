"""Exports, read back by other programs' rules."""

import base64
import csv
import io
import json
import sqlite3
import sys
import zlib

import numpy as np
import pytest

from mlkit_cluster.exports import export_coco, export_fiftyone, export_table
from mlkit_cluster.exports.masks import original_mask
from mlkit_cluster.kernel.masks import encode_mask
from mlkit_core.errors import InputError


@pytest.fixture(scope="module")
def db(shared_run):
    connection = sqlite3.connect(shared_run.folder / "run.db")
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


def test_csv_keeps_names_and_leaves_the_unknown_empty(shared_run, tmp_path, hostile_names, db):
    out = export_table(shared_run.folder, tmp_path / "deep" / "t.csv", "csv")
    text = out.read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows[:5]] == list(hostile_names)
    assert '"=HYPERLINK(""x"",""y"").jpg"' in text
    stored = db.execute("SELECT * FROM embeddings ORDER BY img_id").fetchall()
    for row, known in zip(rows, stored, strict=True):
        for name in ("box_loss", "cls_loss", "mean_iou", "n_gt"):
            if known[name] is None:
                assert row[name] == ""
            else:
                assert np.float32(row[name]) == np.float32(known[name])
    assert rows[4]["flag_cat"] == rows[4]["box_loss"] == ""
    assert rows[1]["flag_cat_name"] == "bicycle"
    assert rows[3]["cluster_hdbscan_3"] == "-1"
    assert float(rows[7]["umap_1_x"]) == pytest.approx(shared_run.xy[7, 0], rel=1e-6)


def test_parquet_holds_the_same_with_nulls(shared_run, tmp_path, hostile_names):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(export_table(shared_run.folder, tmp_path / "t.pq", "parquet"))
    rows = table.to_pylist()
    csv_file = export_table(shared_run.folder, tmp_path / "t.csv", "csv")
    with csv_file.open(newline="", encoding="utf-8") as file:
        for row, line in zip(rows, csv.DictReader(file), strict=True):
            for name, text in line.items():
                value = row[name]
                assert text == (
                    "" if value is None else value if isinstance(value, str) else repr(value)
                )
    assert rows[4]["box_loss"] is None
    assert rows[2]["path"] == hostile_names[2]


def test_parquet_without_pyarrow_says_what_to_install(shared_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="needs pyarrow") as caught:
        export_table(shared_run.folder, tmp_path / "t.pq", "parquet")
    assert "mlkit-cluster[parquet]" in caught.value.hint
    assert not (tmp_path / "t.pq").exists()


def test_other_kinds_and_unknown_images_are_errors(shared_run, tmp_path):
    with pytest.raises(InputError, match="expected csv or parquet, got 'xls'"):
        export_table(shared_run.folder, tmp_path / "t.xls", "xls")
    with pytest.raises(InputError, match="no image with img_id 6"):
        export_coco(shared_run.folder, tmp_path, img_ids=[5, 6])


def test_selection_keeps_its_order(shared_run, tmp_path):
    out = export_table(shared_run.folder, tmp_path / "t.csv", "csv", img_ids=[11, 5])
    with out.open(newline="", encoding="utf-8") as file:
        assert [row["img_id"] for row in csv.DictReader(file)] == ["11", "5"]


def test_coco_files_are_read_by_cocos_own_tools(shared_run, tmp_path, db, capsys):
    pycocotools = pytest.importorskip("pycocotools.coco")
    instances, results = export_coco(shared_run.folder, tmp_path / "coco")
    coco = pycocotools.COCO(str(instances))
    loaded = coco.loadRes(str(results))
    capsys.readouterr()
    assert sorted(coco.imgs) == [2 * n + 5 for n in range(24)]
    assert coco.cats[2]["name"] == "bicycle"
    assert min(coco.anns) == 1
    boxes = db.execute("SELECT * FROM labels ORDER BY img_id, id").fetchall()
    for known, entry in zip(boxes, coco.dataset["annotations"], strict=True):
        x1, y1, x2, y2 = (known[f"box_{name}"] for name in ("x1", "y1", "x2", "y2"))
        assert entry["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=2e-3)
        assert entry["category_id"] == known["class_id"] + 1
        assert entry["area"] == pytest.approx((x2 - x1) * (y2 - y1), rel=1e-4)
    scores = [
        row["confidence"] for row in db.execute("SELECT * FROM predictions ORDER BY img_id, id")
    ]
    found = [entry["score"] for entry in loaded.dataset["annotations"]]
    assert found == pytest.approx(scores, rel=1e-6)


@pytest.fixture
def masked_run(make_run, tmp_path):
    """A run of two images in which one label of the second has a mask: its left half."""
    made = make_run(tmp_path / "run", 7)
    connection = sqlite3.connect(made.folder / "run.db")
    row = connection.execute(
        "SELECT id, img_id, input_x1, input_y1, input_x2, input_y2 FROM labels"
    )
    number, img_id, x1, y1, x2, y2 = row.fetchone()
    y, x = (np.indices((80, 80)) + 0.5) * 4  # cells of the input, at a quarter of its side
    mask = (x > x1) & (x < (x1 + x2) / 2) & (y > y1) & (y < y2)
    connection.execute("UPDATE labels SET mask = ? WHERE id = ?", (encode_mask(mask), number))
    connection.commit()
    connection.close()
    return made.folder, img_id, number


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_coco_masks_cover_the_original_pixels(masked_run, tmp_path):
    mask_tools = pytest.importorskip("pycocotools.mask")
    folder, img_id, _ = masked_run
    instances, _ = export_coco(folder, tmp_path / "coco", img_ids=[img_id])
    found = json.loads(instances.read_text())
    image, entry = found["images"][0], found["annotations"][0]
    assert entry["segmentation"]["size"] == [image["height"], image["width"]]
    mask = mask_tools.decode(entry["segmentation"]).astype(bool)
    x, y, w, h = entry["bbox"]
    rows, columns = np.nonzero(mask)
    cell = (
        4 * image["width"] / 320 if image["width"] >= image["height"] else 4 * image["height"] / 320
    )
    assert columns.min() == pytest.approx(x, abs=cell)
    assert columns.max() + 1 == pytest.approx(x + w / 2, abs=cell)
    assert rows.min() == pytest.approx(y, abs=cell)
    assert rows.max() + 1 == pytest.approx(y + h, abs=cell)
    assert entry["area"] == mask.sum()


def test_mask_of_a_letterboxed_input_loses_its_padding():
    cells = np.zeros((8, 8), bool)
    cells[2:6, :4] = True  # the image's content is rows 2..6; its left half is set
    found = original_mask(cells, (16, 32), (1.0, 0.0, 8.0), 32)
    assert found.shape == (16, 32)
    assert found[:, :16].all()
    assert not found[:, 16:].any()


def test_fiftyone_samples_have_its_layout(shared_run, tmp_path, hostile_names, db):
    folder = export_fiftyone(shared_run.folder, tmp_path / "fo")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert "version" not in metadata  # so that it is read as samples, not as a database's dump
    assert metadata["media_type"] == "image"
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert samples[0]["filepath"] == str(shared_run.folder / "images" / hostile_names[0])
    assert samples[0]["metadata"] == {"_cls": "ImageMetadata", "width": 320, "height": 240}
    known = db.execute("SELECT * FROM predictions ORDER BY img_id, id").fetchall()
    found = [(s, d) for s in samples for d in s["predictions"]["detections"]]
    for row, (sample, entry) in zip(known, found, strict=True):
        width, height = sample["metadata"]["width"], sample["metadata"]["height"]
        x, y, w, h = entry["bounding_box"]
        back = [x * width, y * height, (x + w) * width, (y + h) * height]
        assert back == pytest.approx([row[f"box_{n}"] for n in ("x1", "y1", "x2", "y2")], rel=1e-4)
        assert entry["label"] == row["class_name"]
        assert entry["confidence"] == pytest.approx(row["confidence"], rel=1e-6)
    assert samples[3]["cluster_hdbscan_3"]["label"] == "noise"
    assert samples[1]["category"]["label"] == "bicycle"
    assert "box_loss" not in samples[4]
    assert isinstance(samples[0]["n_gt"], int)


def test_fiftyone_masks_fill_their_boxes(masked_run, tmp_path):
    folder, img_id, _ = masked_run
    export_fiftyone(folder, tmp_path / "fo", img_ids=[img_id])
    samples = json.loads((tmp_path / "fo" / "samples.json").read_text())["samples"]
    entry = samples[0]["ground_truth"]["detections"][0]
    mask = np.load(io.BytesIO(zlib.decompress(base64.b64decode(entry["mask"]))))
    width = samples[0]["metadata"]["width"]
    assert mask.dtype == bool
    assert mask.shape[1] == pytest.approx(entry["bounding_box"][2] * width, abs=2)
    left, right = mask[:, : mask.shape[1] // 3], mask[:, 2 * mask.shape[1] // 3 :]
    assert left.mean() > 0.7
    assert right.mean() < 0.05
