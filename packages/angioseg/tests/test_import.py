"""Data sets as researchers have them, imported and then read by `angio-frames`."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest
from dicom_kit import write_cine
from PIL import Image
from pycocotools import mask as coco_mask

from mlkit_angioseg.dicom.frames import read_frame
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.importing import steps, writing
from mlkit_angioseg.importing.arcade import draw
from mlkit_angioseg.importing.found import Outline, Wish
from mlkit_angioseg.importing.steps import Output, detect, import_set, split_frames
from mlkit_cli.main import main
from mlkit_core.errors import DataError, InputError

SIDE = 32
# pycocotools reads its own run lengths in a way that numpy 2 warns of.
COCO_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation")


def picture(seed, side=SIDE):
    return np.random.default_rng(seed).integers(30, 220, (side, side), np.uint8)


def vessel(column, side=SIDE):
    mask = np.zeros((side, side), np.uint8)
    mask[:, column : column + 3] = 255
    return mask


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def rows_of(folder):
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(source, out, kind="auto", wish=None, output=None):
    return import_set(source, out, kind, wish or Wish(), output or Output())


def loaded(folder, **options):
    return AngioFrames(root=folder, size=SIDE, augment=False, **options)


def samples_of(data, split="train"):
    return {s.meta.key: s for s in (data.load(d) for (d,) in data.units(split, 0))}


@pytest.fixture
def hospital(tmp_path):
    """Three cines of two patients, two of them with masks of some frames."""
    source = tmp_path / "Doe_Jane"
    source.mkdir()
    frames = np.stack([picture(i) for i in range(3)])
    write_cine(source / "IM1.dcm", frames, PatientID="MRN004711", StudyInstanceUID="1.2.3")
    write_cine(
        source / "IM2",
        frames[::-1].copy(),
        PatientID="MRN004711",
        PositionerMotion="DYNAMIC",
        PositionerPrimaryAngle="10",
        PositionerSecondaryAngle="-5",
        PositionerPrimaryAngleIncrement=["0", "2", "2"],
        PositionerSecondaryAngleIncrement=["0", "0", "1"],
    )
    write_cine(source / "other.dcm", frames.astype(np.uint16) * 13, PatientID="99", BitsStored=12)
    save(source / "masks" / "IM1_0.png", vessel(4))
    save(source / "masks" / "IM1_2.png", vessel(8))
    save(source / "masks" / "IM2_frame00001.png", vessel(12))
    return source


def test_an_import_of_dicom_files_is_read_with_their_angles_masks_and_patients(hospital, tmp_path):
    said = run(hospital, tmp_path / "set")
    assert (said["frames"], said["cines"], said["patients"]) == (3, 2, 1)
    assert said["left_out"] == {"cines without a mask": 1}
    samples = samples_of(loaded(tmp_path / "set"))
    one = {round(float(s.target.masks[0, 0].nonzero()[0])): s for s in samples.values()}
    assert one[4].inputs["view"].tolist() == pytest.approx([-29.3, 25.5])
    assert one[12].inputs["view"].tolist() == pytest.approx([12.0, -5.0])  # the second of three
    assert len({sample.meta.group for sample in samples.values()}) == 1
    expected = read_frame(hospital / "IM1.dcm", 2)
    np.testing.assert_allclose(one[8].inputs["image"][0].numpy(), expected, atol=1e-6)
    assert {s.meta.extra["mask_source"] for s in samples.values()} == {"manual"}


def test_nothing_that_is_written_names_a_patient_or_a_file(hospital, tmp_path):
    out = tmp_path / "set"
    run(hospital, out, wish=Wish(frames="all"))
    hashed = hashlib.sha256(b"MRN004711").hexdigest()
    written = [path for path in out.rglob("*") if path.is_file()]
    texts = [path.read_text() for path in written if path.suffix != ".png"]
    assert len(texts) == 2
    for word in ("Doe", "Jane", "MRN004711", "IM1", "IM2", hashed[:12]):
        assert not any(word in text for text in [*texts, *(path.name for path in written)]), word
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as png:
                assert png.info == {}


def test_deep_pixels_keep_their_values(hospital, tmp_path):
    run(hospital / "other.dcm", tmp_path / "set")
    row = rows_of(tmp_path / "set")[1]
    stored = np.asarray(Image.open(tmp_path / "set" / "images" / row["image"]))
    assert stored.dtype == np.uint16
    np.testing.assert_allclose(stored / 65535, read_frame(hospital / "other.dcm", 1), atol=1e-5)


def test_a_secret_names_a_patient_alike_in_every_import(hospital, tmp_path):
    secret = Wish(frames="all", secret=b"0123456789abcdef")
    for name in ("IM1.dcm", "IM2"):
        run(hospital / name, tmp_path / name, wish=secret)
        run(hospital / name, tmp_path / f"{name}-plain", wish=Wish(frames="all"))
    with_secret = {rows_of(tmp_path / name)[0]["patient"] for name in ("IM1.dcm", "IM2")}
    without = {rows_of(tmp_path / f"{name}-plain")[0]["patient"] for name in ("IM1.dcm", "IM2")}
    assert len(with_secret) == 1
    assert len(without) == 2


def test_all_wrong_files_of_a_source_stand_in_one_error(hospital, tmp_path):
    write_cine(hospital / "enhanced.dcm", sop_class="1.2.840.10008.5.1.4.1.1.12.1.1")
    (hospital / "zz.dcm").write_bytes((hospital / "other.dcm").read_bytes())
    save(hospital / "masks" / "IM1_7.png", vessel(4))
    save(hospital / "masks" / "IM9_0.png", vessel(4))
    save(hospital / "masks" / "other_0.png", vessel(4, side=16))
    with pytest.raises(DataError) as caught:
        run(hospital, tmp_path / "set")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for wanted in (
        "enhanced.dcm: Enhanced XA is not read",
        "is the same instance as",
        "frame 7 of IM1.dcm: it has 0 to 2",
        "IM9_0.png: belongs to no cine",
        "is 16x16, its cine's frames are 32x32",
    ):
        assert sum(wanted in line for line in lines) == 1, wanted
    assert not (tmp_path / "set").exists()


def test_pixels_that_cannot_be_decoded_are_listed_together_and_no_table_is_written(tmp_path):
    for name in ("a", "b", "c"):
        save(tmp_path / "src" / "images" / f"{name}.png", picture(1))
        save(tmp_path / "src" / "masks" / f"{name}.png", vessel(3))
    for name in ("a", "b"):
        path = tmp_path / "src" / "images" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-300])
    save(tmp_path / "src" / "masks" / "c.png", picture(5))  # grey, no mask
    with pytest.raises(DataError) as caught:
        run(tmp_path / "src", tmp_path / "set")
    assert len(str(caught.value).splitlines()) == 3
    assert not (tmp_path / "set" / "index.csv").exists()


def test_wrong_files_are_left_out_on_request(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "src" / "images" / f"{name}.png", picture(1))
        save(tmp_path / "src" / "masks" / f"{name}.png", vessel(3))
    save(tmp_path / "src" / "masks" / "b.png", picture(5))
    said = run(tmp_path / "src", tmp_path / "set", output=Output(skips_wrong=True))
    assert (said["frames"], said["left_out"]) == (1, {"wrong files": 1})
    assert [row["image"] for row in rows_of(tmp_path / "set")] == ["a.png"]


def test_masks_may_count_frames_from_one(hospital, tmp_path):
    for path in (hospital / "masks").glob("IM2*"):
        path.unlink()
    (hospital / "masks" / "IM1_0.png").rename(hospital / "masks" / "IM1_3.png")
    run(hospital, tmp_path / "set", wish=Wish(first_frame=1))
    assert [row["frame_index"] for row in rows_of(tmp_path / "set")] == ["1", "2"]


def test_xcad_names_give_the_view_and_folders_the_split(tmp_path):
    source = tmp_path / "XCAD"
    for number, (split, primary) in enumerate([("train", -30), ("train", 12.5), ("test", 4)]):
        name = f"{number:03d}_PPA_{primary}_PSA_-25.png"
        save(source / split / "img" / name, picture(number))
        save(source / split / "masks" / name, vessel(4 + number))
    save(source / "train" / "img" / "009_PPA_1_PSA_2.png", picture(9))
    assert detect(source) == "xcad"
    said = run(source, tmp_path / "set")
    assert said["splits"] == {"test": 1, "train": 2}
    assert said["left_out"] == {"pictures without a mask": 1}
    data = loaded(tmp_path / "set")
    train = samples_of(data)
    assert sorted(s.inputs["view"].tolist() for s in train.values()) == [[-30, -25], [12.5, -25]]
    (test,) = samples_of(data, "test").values()
    assert test.inputs["view"].tolist() == [4, -25]
    assert test.target.original[0][0].nonzero()[0] == 6


def test_dca1_is_read_without_angles_and_says_that_patients_are_unknown(tmp_path):
    for number in (1, 2, 10):
        save(tmp_path / "db" / f"{number}.pgm", picture(number))
        save(tmp_path / "db" / f"{number}_gt.pgm", vessel(number))
    said = run(tmp_path / "db", tmp_path / "set")
    assert said["format"] == "pairs"
    assert any("which frames are of one patient" in note for note in said["notes"])
    assert said["data"]["on_missing_angle"] == "learned"
    data = loaded(tmp_path / "set", on_missing_angle="learned")
    for key, sample in samples_of(data).items():
        assert sample.target.original[0][0].nonzero()[0] == int(key)
        np.testing.assert_allclose(
            sample.inputs["image"][0].numpy(), picture(int(key)) / 255, atol=1e-6
        )


def test_a_pattern_finds_the_patient_in_a_path(tmp_path):
    for name in ("P01_a", "P01_b", "P02_a"):
        save(tmp_path / "src" / "images" / f"{name}.png", picture(1))
        save(tmp_path / "src" / "masks" / f"{name}.png", vessel(3))
    run(tmp_path / "src", tmp_path / "set", wish=Wish(patient=r"(P\d+)_"))
    assert [row["patient"] for row in rows_of(tmp_path / "set")] == ["P01", "P01", "P02"]
    with pytest.raises(DataError, match="finds no patient in 'P01_a'"):
        run(tmp_path / "src", tmp_path / "other", wish=Wish(patient=r"(X\d+)"))


RINGS = {
    "6": ((2.0, 3.0), (20.0, 4.5), (21.0, 9.0), (3.0, 8.0)),
    "7": ((18.0, 6.0), (29.5, 15.0), (26.0, 20.5), (16.0, 9.0)),
}


@pytest.fixture
def arcade(tmp_path):
    """ARCADE's layout: two segments and a stenosis in train, one segment in val."""
    categories = [{"id": 26, "name": "stenosis"}, {"id": 1, "name": "6"}, {"id": 2, "name": "7"}]
    for split, labels in (("train", (1, 2, 26)), ("val", (2,))):
        rows = [
            {
                "id": number,
                "image_id": 5,
                "category_id": label,
                "segmentation": [[v for xy in RINGS["6" if label == 1 else "7"] for v in xy]],
                "iscrowd": 0,
            }
            for number, label in enumerate(labels)
        ]
        images = [{"id": 5, "file_name": "1.png", "height": SIDE, "width": SIDE}]
        content = {"images": images, "annotations": rows, "categories": categories}
        folder = tmp_path / "arcade" / "syntax" / split
        save(folder / "images" / "1.png", picture(len(labels)))
        (folder / "annotations").mkdir()
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return tmp_path / "arcade"


def coco_area(ring):
    flat = [[v for xy in ring for v in xy]]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, SIDE, SIDE))) > 0


@COCO_WARNS
def test_polygons_are_drawn_as_cocos_own_tool_draws_them():
    for ring in RINGS.values():
        ours, theirs = draw([Outline(1, (ring,))], (SIDE, SIDE)) > 0, coco_area(ring)
        # COCO's tool rounds its outline to a fifth of a pixel: single pixels of it differ.
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95
    square = ((2.0, 3.0), (6.0, 3.0), (6.0, 5.0), (2.0, 5.0))  # columns 2 to 5, rows 3 and 4
    drawn = draw([Outline(1, (square,))], (8, 8))
    assert np.argwhere(drawn).tolist() == [[r, c] for r in (3, 4) for c in (2, 3, 4, 5)]


@COCO_WARNS
def test_arcades_segments_are_united_into_vessel_and_stenoses_are_not(arcade, tmp_path):
    said = run(arcade, tmp_path / "set")
    assert (said["format"], said["splits"]) == ("arcade", {"train": 1, "val": 1})
    assert said["left_out"] == {"stenoses, which are no vessels": 1}
    data = loaded(tmp_path / "set", on_missing_angle="learned")
    (train,), (val,) = samples_of(data).values(), samples_of(data, "val").values()
    both = coco_area(RINGS["6"]) | coco_area(RINGS["7"])
    found = train.target.original[0].numpy()
    assert (found & both).sum() / (found | both).sum() > 0.95
    assert val.target.original[0].sum() < train.target.original[0].sum()


@COCO_WARNS
def test_arcades_segments_may_be_kept_as_label_maps(arcade, tmp_path):
    said = run(arcade, tmp_path / "set", wish=Wish(keeps_classes=True))
    assert said["data"]["classes"] == ["6", "7"]
    data = loaded(tmp_path / "set", on_missing_angle="learned", classes=["6", "7"])
    assert data.classes == ("background", "6", "7")
    (train,), (val,) = samples_of(data).values(), samples_of(data, "val").values()
    assert set(train.target.original[0].unique().tolist()) == {0, 1, 2}
    assert set(val.target.original[0].unique().tolist()) == {0, 2}
    both = coco_area(RINGS["6"]) & coco_area(RINGS["7"])
    assert (train.target.original[0].numpy()[both] == 2).mean() > 0.9  # the last one stands


def test_wrong_annotations_are_listed_together(arcade, tmp_path):
    path = arcade / "syntax" / "train" / "annotations" / "train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = {"counts": [1], "size": [1, 1]}
    content["annotations"][1]["image_id"] = 77
    content["images"].append({"id": 8, "file_name": "../../../../secret.png"})
    content["annotations"].append(
        {"id": 9, "image_id": 8, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    )
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        run(arcade, tmp_path / "set")
    text = str(caught.value)
    assert "annotation 0: segmentation: expected polygons, got run lengths" in text
    assert "annotation 1: names a category or an image that is not there" in text
    assert "leads out of" in text


class BrokenError(Exception):
    """Stands for a kill."""


def test_an_interrupted_import_goes_on_and_equals_one_without_a_break(
    hospital, tmp_path, monkeypatch
):
    wish, out = Wish(frames="all"), tmp_path / "set"
    made = []
    make = writing.stored_pixels

    def breaks(frame):
        if len(made) == 4:
            raise BrokenError
        made.append(frame.name)
        return make(frame)

    monkeypatch.setattr(writing, "stored_pixels", breaks)
    with pytest.raises(BrokenError):
        run(hospital, out, wish=wish)
    assert not (out / "index.csv").exists()
    assert len(list((out / "images").glob("*.png"))) == 4
    made.clear()
    monkeypatch.setattr(writing, "stored_pixels", lambda f: (made.append(f.name), make(f))[1])
    run(hospital, out, wish=wish)
    assert len(made) == 9 - 4
    run(hospital, tmp_path / "whole", wish=wish)
    files = {p.relative_to(out) for p in out.rglob("*") if p.is_file()}
    assert files == {p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.*")}
    assert all((out / p).read_bytes() == (tmp_path / "whole" / p).read_bytes() for p in files)


def test_a_folder_of_another_import_is_refused(hospital, tmp_path):
    out = tmp_path / "set"
    run(hospital, out)
    run(hospital, out)  # the same again does nothing
    with pytest.raises(DataError, match="holds another import"):
        run(hospital, out, wish=Wish(frames="all"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        run(hospital, tmp_path / "full")


def test_a_split_is_by_patient_and_the_same_for_a_seed(tmp_path):
    for patient in range(10):
        for number in range(patient % 3 + 1):
            name = f"P{patient}_{number}.png"
            save(tmp_path / "src" / "images" / name, picture(1))
            save(tmp_path / "src" / "masks" / name, vessel(3))
    found = steps.find_pictures(tmp_path / "src", Wish(patient=r"(P\d+)_"), steps.Problems()).frames
    split = split_frames(found, (0.8, 0.1, 0.1), seed=3)
    of = {frame.patient: frame.split for frame in split}
    assert all(of[frame.patient] == frame.split for frame in split)
    assert sorted(of.values()).count("train") == 8
    assert split == split_frames(found, (0.8, 0.1, 0.1), seed=3)
    assert split != split_frames(found, (0.8, 0.1, 0.1), seed=4)
    with pytest.raises(InputError, match="--split: split fractions must be"):
        split_frames(found, (0.8, 0.1, 0.2), seed=0)


def test_linked_cines_are_read_where_they_lie(hospital, tmp_path):
    with pytest.raises(DataError, match="its path holds the patient's name or id"):
        run(hospital, tmp_path / "set", output=Output(linked=True))
    plain = hospital.rename(tmp_path / "cines")
    run(plain, tmp_path / "set", output=Output(linked=True))
    assert not (tmp_path / "set" / "images").exists()
    samples = samples_of(loaded(tmp_path / "set"))
    assert len(samples) == 3
    for key, sample in samples.items():
        assert "IM" not in key + str(dict(sample.meta.extra)) + sample.meta.path
        assert key.startswith(str(sample.meta.extra["cine"]))


def test_the_verb_says_what_it_did_and_what_to_write_into_a_run_file(hospital, tmp_path, capsys):
    out = tmp_path / "set"
    args = ["angioseg", "import", str(hospital), "-o", str(out), "--frames", "all"]
    assert main([*args, "--split", "0.5,0.5,0"]) == 0
    told = capsys.readouterr().out
    assert "9 frames (3 with a mask) of 3 cines and 2 patients, read as dicom" in told
    assert f"data: {{name: angio-frames, root: {out}}}" in told
    assert {row["split"] for row in rows_of(out)} == {"train", "val"}


def test_best_frames_are_those_that_the_verb_frames_proposes(tmp_path):
    dark = np.full((4, 64, 64), 180, np.uint8)
    for frame, depth in enumerate((0, 30, 120, 60)):
        dark[frame, :, 30:34] -= np.uint8(depth)
    (tmp_path / "src").mkdir()
    write_cine(tmp_path / "src" / "a.dcm", dark)
    run(tmp_path / "src", tmp_path / "set", wish=Wish(frames="best"))
    (row,) = rows_of(tmp_path / "set")
    assert row["frame_index"] in ("2", "3")  # a median of three lies between them


def test_real_cines_come_with_the_angles_of_their_files(real_data, tmp_path):
    if not (real_data / "xa_dicom").is_dir():
        pytest.skip("no xa_dicom in the real data")
    run(real_data / "xa_dicom", tmp_path / "set", wish=Wish(frames="best"))
    rows = rows_of(tmp_path / "set")
    angles = {(float(row["primary_angle"]), float(row["secondary_angle"])) for row in rows}
    assert angles == {(0.1, 28.7), (24.0, -18.8), (-29.3, 25.5), (30.7, 23.6)}
