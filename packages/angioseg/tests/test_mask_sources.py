"""Which of a row's masks is read, and what the column `mask_source` says of it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SIDE, write_rows
from dicom_kit import write_cine
from PIL import Image

from mlkit_angioseg.config import AngioFramesConfig
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.frames.shares import count_sources
from mlkit_angioseg.frames.sources import choose_mask
from mlkit_core.errors import DataError


@pytest.mark.parametrize(
    ("stated", "manual", "pseudo", "wanted", "found"),
    [
        ("", "m", "p", "manual", ("manual", "m")),
        ("", "m", "p", "pseudo", ("pseudo", "p")),
        ("", "m", "p", "prefer_manual", ("manual", "m")),
        ("", "", "p", "prefer_manual", ("pseudo", "p")),
        ("", "", "p", "manual", ("", "")),
        ("pseudo", "m", "", "manual", ("", "")),
        ("pseudo", "m", "", "prefer_manual", ("pseudo", "m")),
        ("pseudo", "m", "", "pseudo", ("pseudo", "m")),
        ("manual", "m", "", "pseudo", ("", "")),
        ("pseudo", "", "p", "pseudo", ("pseudo", "p")),
    ],
)
def test_a_wish_finds_the_mask_that_the_columns_offer(stated, manual, pseudo, wanted, found):
    cells = {
        "mask_source": stated,
        "vessel_mask_actual_path": manual,
        "deepsa_pseudo_label_path": pseudo,
    }
    assert choose_mask(cells, wanted) == found


def test_a_mask_of_unsaid_origin_fits_every_wish():
    for wanted in ("manual", "pseudo", "prefer_manual"):
        assert choose_mask({}, wanted, "own.png", "") == ("", "own.png")


def test_another_word_than_manual_and_pseudo_is_refused_with_its_line(folder_data, edit_rows):
    def mark(rows):
        for row in rows:
            row["mask_source"] = "manual"
        rows[2]["mask_source"] = "doctor"

    edit_rows(folder_data / "index.csv", mark)
    with pytest.raises(DataError, match=r"index.csv:4: mask_source: expected manual or pseudo"):
        AngioFrames(root=folder_data, size=SIDE).rows()


def test_folders_may_mix_manual_masks_and_pseudo_labels(folder_data, edit_rows):
    (folder_data / "made").mkdir()
    Image.fromarray(np.ones((SIDE, SIDE), np.uint8)).save(folder_data / "made" / "a.png")

    def mix(rows):
        for row in rows:
            row |= {"mask": row["image"], "mask_source": "manual", "deepsa_pseudo_label_path": ""}
        rows[0] |= {"mask": "", "mask_source": "", "deepsa_pseudo_label_path": "made/a.png"}
        rows[1] |= {"mask_source": "pseudo"}
        (folder_data / "masks" / str(rows[0]["image"])).unlink()

    edit_rows(folder_data / "index.csv", mix)
    rows = AngioFrames(root=folder_data, size=SIDE, mask_source="prefer_manual").rows()
    assert [row.mask_source for row in rows] == ["pseudo", "pseudo", *["manual"] * 4]
    assert rows[0].mask == folder_data / "made" / "a.png"
    with pytest.raises(DataError) as caught:
        AngioFrames(root=folder_data, size=SIDE).rows()
    lines = str(caught.value).splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == [
        "mask is missing (mask_source: manual)"
    ] * 2


def test_shares_are_those_of_the_rows_that_are_read(seed_data, folder_data, edit_rows):
    def both(rows):
        for number, row in enumerate(rows):
            row["deepsa_pseudo_label_path"] = row["vessel_mask_actual_path"]
            if number in (0, 3, 5):
                row["vessel_mask_actual_path"] = ""

    edit_rows(seed_data / "dataset.csv", both)
    options = AngioFramesConfig(
        root=str(seed_data / "dataset.csv"), layout="csv", mask_source="prefer_manual"
    )
    data = AngioFrames(
        root=seed_data / "dataset.csv", layout="csv", mask_source="prefer_manual", size=SIDE
    )
    counted = count_sources(options)
    read: dict[tuple[str, str], int] = {}
    for row in data.rows():
        read[row.split, row.mask_source] = read.get((row.split, row.mask_source), 0) + 1
    assert (
        counted
        == read
        == {
            ("train", "manual"): 2,
            ("train", "pseudo"): 2,
            ("val", "manual"): 1,
            ("val", "pseudo"): 1,
        }
    )
    plain = AngioFramesConfig(root=str(folder_data / "index.csv"))
    assert count_sources(plain) == {("train", "not said"): 4, ("val", "not said"): 2}


def test_evaluation_rows_of_a_dicom_cine_name_no_file(tmp_path):
    write_cine(tmp_path / "Doe_Jane.dcm")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png")
    row = {"cine_path": "Doe_Jane.dcm", "mask_path": "m.png", "frame_index": 1}
    write_rows(tmp_path / "index.csv", [row])
    data = AngioFrames(root=tmp_path, size=16, augment=False)
    meta = data.load(data.units("train", 0)[0][0]).meta
    assert "Doe" not in f"{meta.key} {meta.group} {meta.path} {dict(meta.extra)}"
    assert str(meta.extra["cine"]) == meta.group == meta.key.split("#")[0]
