"""Predictions as files: COCO's forms, against pycocotools' rules written out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.errors import InputError
from mlkit_core.report.predictions import PredictionWriter, coco_entries, uncompressed_rle
from mlkit_core.types import (
    Batch,
    BoxPrediction,
    MaskPrediction,
    Prediction,
    SampleMeta,
    TrackPrediction,
)


def decode(rle):
    """Return the mask of run lengths, as COCO defines them: column by column, zeros first."""
    flat = np.repeat(np.arange(len(rle["counts"])) % 2, rle["counts"])
    return flat.reshape(rle["size"], order="F").astype(bool)


def batch_of(*keys, size=(2, 3), **meta):
    return Batch(
        inputs={"image": torch.zeros(len(keys), 3, *size)},
        meta=tuple(SampleMeta(key=key, size=size, **meta) for key in keys),
    )


def test_run_lengths_go_down_the_columns_and_start_with_zeros():
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)
    # Columns: (0, 0), (1, 0), (1, 1): two zeros, a one, a zero, two ones.
    assert uncompressed_rle(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}


def test_a_mask_that_starts_with_one_has_no_zeros_before():
    assert uncompressed_rle(np.array([[1, 0]], bool))["counts"] == [0, 1, 1]


def test_run_lengths_give_any_mask_back():
    mask = np.random.default_rng(0).random((17, 23)) > 0.5
    assert np.array_equal(decode(uncompressed_rle(mask)), mask)


def test_a_mask_has_its_box_area_and_mean_confidence():
    probabilities = torch.zeros(4, 5)
    probabilities[1, 2], probabilities[2, 3] = 0.8, 0.6
    (entry,) = coco_entries(MaskPrediction(probabilities))
    assert entry["bbox"] == [2, 1, 2, 2]  # x, y, width, height
    assert entry["area"] == 2
    assert entry["score"] == pytest.approx(0.7, abs=1e-5)
    assert entry["category_id"] == 1
    assert decode(entry["segmentation"]).sum() == 2


def test_of_several_classes_each_but_the_background_has_an_entry():
    probabilities = torch.tensor([[[0.8, 0.1, 0.1]], [[0.1, 0.7, 0.2]], [[0.1, 0.2, 0.7]]])
    entries = coco_entries(MaskPrediction(probabilities))
    assert [(entry["category_id"], entry["bbox"]) for entry in entries] == [
        (1, [1, 0, 1, 1]),
        (2, [2, 0, 1, 1]),
    ]


def test_an_empty_mask_has_no_entry():
    assert coco_entries(MaskPrediction(torch.zeros(3, 3))) == []


def test_boxes_become_corner_width_and_height_and_categories_count_from_one():
    boxes = torch.tensor([[1.0, 2.0, 4.5, 6.0]])
    (entry,) = coco_entries(BoxPrediction(boxes, torch.tensor([0.25]), torch.tensor([2])))
    assert entry == {"category_id": 3, "bbox": [1.0, 2.0, 3.5, 4.0], "area": 14.0, "score": 0.25}


def test_a_prediction_without_a_file_form_is_refused():
    with pytest.raises(InputError, match="no file form for Prediction"):
        coco_entries(Prediction())


def test_a_folder_holds_one_json_and_pictures_in_original_pixels(tmp_path):
    writer = PredictionWriter(tmp_path / "out", ("vessel",))
    found = torch.tensor([[0.9, 0.1, 0.9], [0.1, 0.1, 0.9]])
    batch = batch_of("P1/a", "P1/b", path="a.dcm", extra={"primary_deg": 30.0})
    writer.add(batch, [MaskPrediction(found), MaskPrediction(torch.zeros(2, 3))])
    written = writer.close()
    assert {path.name for path in written} == {path.name for path in (tmp_path / "out").iterdir()}
    record = json.loads(written[0].read_text())
    assert record["categories"] == [{"id": 1, "name": "vessel"}]
    first, second = record["images"]
    assert (first["id"], first["file_name"], first["key"]) == (1, "a.dcm", "P1/a")
    assert (first["height"], first["width"], first["primary_deg"]) == (2, 3, 30.0)
    (entry,) = record["annotations"]  # the empty mask has none, its image is listed
    assert (entry["id"], entry["image_id"], second["id"]) == (1, 1, 2)
    assert np.array_equal(decode(entry["segmentation"]), (found > 0.5).numpy())
    mask = np.asarray(Image.open(tmp_path / "out" / "00001-P1_a-mask.png"))
    assert np.array_equal(mask, (found > 0.5).numpy() * 255)


def test_the_background_of_label_maps_is_no_category_and_ids_keep_their_names(tmp_path):
    probabilities = torch.zeros(3, 2, 3)
    probabilities[2] = 1
    writer = PredictionWriter(tmp_path, ("background", "LAD", "LCX"))
    writer.add(batch_of("a"), [MaskPrediction(probabilities)])
    record = json.loads(writer.close()[0].read_text())
    assert record["categories"] == [{"id": 1, "name": "LAD"}, {"id": 2, "name": "LCX"}]
    assert [entry["category_id"] for entry in record["annotations"]] == [2]


def test_two_items_of_one_key_do_not_overwrite_each_other(tmp_path):
    writer = PredictionWriter(tmp_path, ("vessel",))
    for _ in range(2):
        writer.add(batch_of("same"), [MaskPrediction(torch.ones(2, 3))])
    written = writer.close()
    assert len({path.name for path in written}) == len(written) == 5


def test_tracks_become_one_entry_for_each_instance_of_a_video(tmp_path):
    writer = PredictionWriter(tmp_path, ("catheter", "vessel"))
    rle = {"size": [2, 3], "counts": [6]}
    track = TrackPrediction(label=1, score=0.5, rles=(rle, None))
    writer.add(batch_of("cine-7", "cine-7"), [track])
    record = json.loads(writer.close()[0].read_text())
    assert record == [
        {"video_id": "cine-7", "category_id": 2, "score": 0.5, "segmentations": [rle, None]}
    ]


def test_inputs_without_anything_to_predict_are_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to predict"):
        PredictionWriter(tmp_path, ()).close()
    assert list(tmp_path.iterdir()) == []


class Clip(TrackPrediction):
    """Writes a file of its own beside the JSON."""

    @staticmethod
    def write_item(predictions, batch, out, stem, classes):
        text = f"{len(predictions)} {classes[0]} of {batch.meta[0].key}"
        (out / f"{stem}.txt").write_text(text)
        return [out / f"{stem}.txt"]


def test_tracks_may_write_files_that_show_the_whole_video(tmp_path):
    writer = PredictionWriter(tmp_path, ("fish",))
    writer.add(batch_of("a/b"), [Clip(0, 0.5, (None,)), Clip(0, 0.4, (None,))])
    record, shown = writer.close()
    assert [row["video_id"] for row in json.loads(record.read_text())] == ["a/b", "a/b"]
    assert (shown.name, shown.read_text()) == ("00001-a_b.txt", "2 fish of a/b")


def test_a_video_without_any_track_is_a_result_too(tmp_path):
    writer = PredictionWriter(tmp_path, ("fish",))
    writer.add(batch_of("a"), [])
    (record,) = writer.close()
    assert json.loads(record.read_text()) == []
