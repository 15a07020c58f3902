import json
import logging

import numpy as np
import pytest
import torch

from mlkit_angioseg.frames.component import AngioFrames
from mlkit_core.errors import DataError


def only_batch(data, split="train"):
    return data.collate([[data.load(draw) for draw in unit] for unit in data.units(split, 0)])[0]


def test_angles_arrive_as_they_stand_in_the_json_file(seed_data):
    data = AngioFrames(seed_data, size=24, augment=False)
    views = {meta.key: view for meta, view in zip(*_metas_and_views(data), strict=True)}
    assert views["caseA/A#1"] == [-30.0, 12.5]
    assert views["caseB/B#3"] == [40.0, -20.0]


def _metas_and_views(data):
    batch = only_batch(data)
    return batch.meta, batch.inputs["view"].tolist()


@pytest.mark.parametrize("suffix", ["", "_angle"])
def test_both_spellings_of_the_angle_keys_are_read(seed_data, suffix):
    views = {f"primary{suffix}": 17.5, f"secondary{suffix}": -3.25}
    (seed_data / "C.json").write_text(json.dumps({"view_angles": views}))
    data = AngioFrames(seed_data, size=24, augment=False)
    assert only_batch(data, "val").inputs["view"].tolist() == [[17.5, -3.25]] * 2


def test_a_missing_angle_is_an_error_and_never_zero(seed_data):
    (seed_data / "B.json").write_text(json.dumps({"view_angles": {}}))
    with pytest.raises(DataError, match=r"dataset\.csv:4: angles are missing \(B\.json") as caught:
        AngioFrames(seed_data).units("train", 0)
    assert "on_missing_angle" in caught.value.hint


def test_on_missing_angle_zero_drop_and_learned_do_what_they_say(seed_data):
    (seed_data / "B.json").write_text(json.dumps({"patient": 1}))
    options = {"size": 24, "augment": False}
    zero = only_batch(AngioFrames(seed_data, on_missing_angle="zero", **options))
    assert sorted(zero.inputs["view"].tolist()) == [[-30.0, 12.5]] * 2 + [[0.0, 0.0]] * 2
    drop = only_batch(AngioFrames(seed_data, on_missing_angle="drop", **options))
    assert drop.inputs["view"].tolist() == [[-30.0, 12.5]] * 2
    learned = only_batch(AngioFrames(seed_data, on_missing_angle="learned", **options))
    assert int(learned.inputs["view"].isnan().all(1).sum()) == 2
    assert [m.extra["primary_angle_deg"] for m in learned.meta].count(None) == 2


def test_rao_positive_data_gets_dicom_signs(seed_data):
    data = AngioFrames(seed_data, size=24, augment=False, angle_convention="rao_positive")
    assert only_batch(data, "val").inputs["view"].tolist() == [[-5.0, 25.0]] * 2


def test_the_frame_of_the_cine_is_the_one_that_the_row_names(seed_data):
    data = AngioFrames(seed_data, size=24, augment=False)
    batch = only_batch(data, "val")
    cine = np.load(seed_data / "C.npy")
    for meta, image in zip(batch.meta, batch.inputs["image"], strict=True):
        frame = int(meta.key.split("#")[1])
        expected = torch.from_numpy(cine[frame] / 255).float()
        assert torch.allclose(image, expected.expand(3, -1, -1), atol=1e-6)


def test_one_frame_is_read_from_a_mapped_cine(tmp_path, monkeypatch):
    from mlkit_angioseg.frames import pixels

    np.save(tmp_path / "long.npy", np.zeros((50, 64, 64), np.uint8))
    read = []
    array = pixels.open_array(tmp_path / "long.npy")
    monkeypatch.setattr(pixels, "open_array", lambda path: read.append(path) or array)
    frame = pixels.read_stored(tmp_path / "long.npy", 7, "table:2")
    assert isinstance(array, np.memmap)
    assert frame.shape == (64, 64)
    assert not isinstance(frame.base, np.memmap)


def test_three_dimensions_are_always_frames_rows_columns(tmp_path, seed_data, edit_rows):
    np.save(seed_data / "A.npy", np.zeros((24, 24, 3), np.uint8))
    with pytest.raises(DataError, match=r"dataset\.csv:2: mask 'A_1_mask\.npy' is 24x24, .* 3x24"):
        AngioFrames(seed_data).units("train", 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_four_dimensions_hold_grey_or_colour_in_the_last(seed_data, channels):
    grey = np.load(seed_data / "C.npy")
    np.save(seed_data / "C.npy", np.repeat(grey[..., None], channels, axis=3))
    batch = only_batch(AngioFrames(seed_data, size=24, augment=False), "val")
    frame = int(batch.meta[0].key.split("#")[1])
    assert torch.allclose(batch.inputs["image"][0, 1], torch.from_numpy(grey[frame] / 255).float())


def test_aliases_data_root_and_a_table_elsewhere_load_alike(seed_data, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("tables") / "list.csv"
    text = (seed_data / "dataset.csv").read_text()
    elsewhere.write_text(text.replace("vessel_mask_actual_path", "mask_path"))
    moved = AngioFrames(elsewhere, data_root=seed_data, size=24, augment=False)
    direct = AngioFrames(seed_data, size=24, augment=False)
    assert [m.key for m in only_batch(moved).meta] == [m.key for m in only_batch(direct).meta]


def test_masks_of_zero_and_255_mean_what_bool_masks_mean(seed_data):
    data = AngioFrames(seed_data, size=24, augment=False)
    before = only_batch(data, "val").target.masks
    for path in seed_data.glob("C_*_mask.npy"):
        np.save(path, np.load(path).astype(np.uint8) * 255)
    assert torch.equal(before, only_batch(data, "val").target.masks)
    assert before.sum() == 2 * 24 * 3


def test_pseudo_labels_are_chosen_by_column_and_reported(seed_data, edit_rows):
    def add(rows):
        for i, row in enumerate(rows):
            row["deepsa_pseudo_label_path"] = row["vessel_mask_actual_path"]
            if i == 0:
                row["vessel_mask_actual_path"] = ""

    edit_rows(seed_data / "dataset.csv", add)
    with pytest.raises(DataError, match=r"dataset\.csv:2: mask is missing"):
        AngioFrames(seed_data).rows()
    rows = AngioFrames(seed_data, mask_source="prefer_manual").rows()
    assert [row.mask_source for row in rows] == ["pseudo"] + ["manual"] * 5
    assert {row.mask_source for row in AngioFrames(seed_data, mask_source="pseudo").rows()} == {
        "pseudo"
    }


def test_one_cine_in_two_splits_is_refused_however_it_is_spelled(seed_data, edit_rows):
    def leak(rows):
        rows[1].update(split="val", cine_path="./A.npy", case_id="other")

    edit_rows(seed_data / "dataset.csv", leak)
    message = r"dataset\.csv:3: cine 'A' is in split 'val' here and in 'train' at dataset\.csv:2"
    with pytest.raises(DataError, match=message):
        AngioFrames(seed_data).units("train", 0)


def test_equal_angles_everywhere_are_warned_about(seed_data, edit_rows, caplog):
    for name in "ABC":
        views = {"primary": -10.0, "secondary": 4.0}
        (seed_data / f"{name}.json").write_text(json.dumps({"view_angles": views}))
    with caplog.at_level(logging.WARNING):
        AngioFrames(seed_data).units("train", 0)
    assert "all 6 rows have the same angles (-10.0, 4.0)" in caplog.text


def test_table_and_json_that_disagree_on_an_angle_are_refused(seed_data, edit_rows):
    def contradict(rows):
        for row in rows:
            row.update(primary_angle=-30.0, secondary_angle=12.5)

    edit_rows(seed_data / "dataset.csv", contradict)
    with pytest.raises(DataError, match=r"dataset\.csv:4: the table says angles \(-30\.0, 12\.5\)"):
        AngioFrames(seed_data).units("train", 0)


def test_every_problem_of_a_table_is_told_at_once(seed_data, edit_rows):
    def spoil(rows):
        rows[0]["frame_index"] = 4
        rows[2]["vessel_mask_actual_path"] = "nowhere.npy"
        rows[3].update(split="tain", frame_index="two")

    edit_rows(seed_data / "dataset.csv", spoil)
    with pytest.raises(DataError) as caught:
        AngioFrames(seed_data).units("train", 0)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"dataset.csv:{n}" for n in (2, 4, 5, 5)]
    assert "frame_index 4 is outside the cine's 4 frames" in lines[0]


def test_constructing_the_data_touches_no_file():
    assert AngioFrames("no/such/folder").classes == ("vessel",)
