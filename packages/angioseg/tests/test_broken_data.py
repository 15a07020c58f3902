"""Twenty broken data sets: each error names the file and the row, and nothing is written."""

import json

import numpy as np
import pytest
from PIL import Image

from mlkit_angioseg.frames.component import AngioFrames
from mlkit_core.errors import DataError

T = r"dataset\.csv"
I = r"index\.csv"  # noqa: E741


def cell(row, **values):
    return lambda folder, edit: edit(_table(folder), lambda rows: rows[row].update(values))


def _table(folder):
    return next(folder.glob("*.csv"))


def text(name, content):
    return lambda folder, edit: (folder / name).write_text(content)


def array(name, values):
    return lambda folder, edit: np.save(folder / name, values)


def truncate(name, cut):
    def change(folder, edit):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-cut])

    return change


def drop_column(name):
    def change(folder, edit):
        edit(_table(folder), lambda rows: [row.pop(name) for row in rows])

    return change


def angles(**values):
    return text("A.json", json.dumps({"view_angles": values}))


def picture(name, values):
    return lambda folder, edit: Image.fromarray(values).save(folder / name)


SEED = {
    "no such cine": (cell(0, cine_path="gone.npy"), rf"{T}:2: no such file '.*gone\.npy'"),
    "no cine named": (cell(0, cine_path=""), rf"{T}:2: cine_path is empty"),
    "no mask named": (cell(1, vessel_mask_actual_path=""), rf"{T}:3: mask is missing"),
    "no such mask": (cell(2, vessel_mask_actual_path="gone.npy"), rf"{T}:4: mask: no such file"),
    "frame beyond the end": (cell(3, frame_index=4), rf"{T}:5: frame_index 4 is outside .* 4 fr"),
    "frame below zero": (cell(3, frame_index=-1), rf"{T}:5: frame_index -1 is outside"),
    "frame is no number": (cell(0, frame_index="last"), rf"{T}:2: frame_index: .* got 'last'"),
    "unknown split": (cell(0, split="trian"), rf"{T}:2: split: .* got 'trian'"),
    "patient leak": (cell(0, split="val"), rf"{T}:3: patient 'caseA' is in split"),
    "frame listed twice": (
        cell(1, frame_index=1, vessel_mask_actual_path="A_1_mask.npy"),
        rf"{T}:3: frame 'caseA/A#1' is already listed at {T}:2",
    ),
    "no such JSON": (cell(0, contours_path="gone.json"), rf"{T}:2: no such file '.*gone\.json'"),
    "JSON is cut off": (text("A.json", '{"view_angles": {"prim'), rf"{T}:2: A\.json: is no JSON"),
    "angle is a word": (
        angles(primary="LAO", secondary=1),
        rf"{T}:2: A\.json: .*primary: expected degrees, got 'LAO'",
    ),
    "one angle misses": (angles(primary=20), rf"{T}:2: A\.json: .*secondary angle is missing"),
    "angle out of range": (angles(primary=20, secondary=95), rf"{T}:2: angles 20/95 are out of"),
    "angle not finite": (angles(primary=float("nan"), secondary=1), rf"{T}:2: .*got nan"),
    "cine is cut off": (truncate("A.npy", 100), rf"{T}:2: 'A\.npy' cannot be read"),
    "cine is text": (text("A.npy", "not an array"), rf"{T}:2: 'A\.npy' cannot be read"),
    "cine of floats": (array("A.npy", np.zeros((4, 24, 24))), rf"{T}:2: .*of float64"),
    "cine of four channels": (
        array("A.npy", np.zeros((4, 24, 24, 4), np.uint8)),
        rf"{T}:2: .*\[4, 24, 24, 4\]",
    ),
    "mask of another size": (
        array("A_1_mask.npy", np.zeros((24, 20), bool)),
        rf"{T}:2: mask 'A_1_mask\.npy' is 20x24, its frame 24x24",
    ),
    "mask of grey values": (
        array("A_1_mask.npy", np.arange(24 * 24, dtype=np.uint16).reshape(24, 24)),
        rf"{T}:2: mask .*A_1_mask\.npy: expected values 0 and 1, or 0 and 255, got 0, 1, 2",
    ),
    "no column of cines": (drop_column("cine_path"), rf"{T}: no column 'cine_path'; there are"),
    "empty table": (text("dataset.csv", ""), rf"{T}: the table is empty"),
    "row too short": (
        text("dataset.csv", "cine_path,mask_path,frame_index\nA.npy,A_1_mask.npy\n"),
        rf"{T}:2: expected 3 cells, got 2",
    ),
    "table is no text": (
        lambda folder, edit: (folder / "dataset.csv").write_bytes(b"\xff\xfe\x00\x81"),
        rf"{T}: cannot be read as a CSV table",
    ),
}
FOLDER = {
    "picture is cut off": (truncate("images/A_1.png", 200), rf"{I}:2: .*A_1\.png: cannot be dec"),
    "picture is text": (text("images/A_1.png", "hello"), rf"{I}:2: 'A_1\.png' cannot be read"),
    "mask picture is cut off": (truncate("masks/A_3.png", 30), rf"{I}:3: mask .*A_3\.png: cannot"),
    "mask picture is smooth": (
        picture(
            "masks/A_1.png", np.arange(24 * 24, dtype=np.uint32).astype(np.uint8).reshape(24, 24)
        ),
        rf"{I}:2: mask .*A_1\.png: expected values 0 and 1",
    ),
    "no picture named": (cell(1, image=""), rf"{I}:3: image is empty"),
    "no such picture": (cell(4, image="gone.png"), rf"{I}:6: no such file '.*gone\.png'"),
    "angle cell is empty": (cell(0, primary_angle=""), rf"{I}:2: primary angle is missing"),
    "column twice": (
        text("index.csv", "image,split,split\nA_1.png,train,val\n"),
        rf"{I}: column 'split' stands twice",
    ),
    "two tables": (
        text("other.csv", "image\nA_1.png\n"),
        r"several tables: index\.csv, other\.csv",
    ),
}


def use(data):
    for split in ("train", "val"):
        for [draw] in data.units(split, 0):
            data.load(draw)


@pytest.mark.parametrize(("spoil", "message"), SEED.values(), ids=SEED)
def test_broken_cine_tables_name_file_and_row(seed_data, edit_rows, spoil, message):
    spoil(seed_data, edit_rows)
    before = sorted(seed_data.rglob("*"))
    with pytest.raises(DataError, match=message) as caught:
        use(AngioFrames(seed_data, size=24, augment=False))
    assert caught.value.exit_code == 2
    assert sorted(seed_data.rglob("*")) == before


@pytest.mark.parametrize(("spoil", "message"), FOLDER.values(), ids=FOLDER)
def test_broken_folders_name_file_and_row(folder_data, edit_rows, spoil, message):
    spoil(folder_data, edit_rows)
    before = sorted(folder_data.rglob("*"))
    with pytest.raises(DataError, match=message):
        use(AngioFrames(folder_data, size=24, augment=False))
    assert sorted(folder_data.rglob("*")) == before


def test_a_wrong_root_is_told_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such file or folder") as caught:
        AngioFrames(tmp_path / "gone").units("train", 0)
    assert caught.value.hint == "set data.root"
    with pytest.raises(DataError, match="neither a CSV table nor a folder 'images'"):
        AngioFrames(tmp_path).units("train", 0)


def test_an_unknown_split_is_refused(folder_data):
    with pytest.raises(DataError, match="expected train, val, test or cache, got 'tset'"):
        AngioFrames(folder_data).units("tset", 0)
