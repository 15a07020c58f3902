import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_angioseg.frames.component import AngioFrames, FrameDraw
from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import MaskTarget, Needs


def only_batch(data, split="val"):
    return data.collate([[data.load(draw) for draw in unit] for unit in data.units(split, 0)])[0]


def test_folders_with_an_angle_table_load_as_they_are(folder_data):
    batch = only_batch(AngioFrames(folder_data, size=24, augment=False))
    assert [meta.key for meta in batch.meta] == ["C_1", "C_3"]
    assert batch.inputs["view"].tolist() == [[5.0, 25.0]] * 2
    assert {meta.group for meta in batch.meta} == {"PC"}
    with Image.open(folder_data / "images" / "C_1.png") as picture:
        expected = torch.from_numpy(np.array(picture) / 255).float()
    assert torch.equal(batch.inputs["image"][0, 2], expected)
    assert batch.kind == "mask"
    assert isinstance(batch.target, MaskTarget)
    assert batch.target.masks[0].nonzero()[:, 1].unique().tolist() == [5, 6, 7]


def test_val_patients_choose_the_split_by_patient(folder_data):
    data = AngioFrames(folder_data, val_patients=["PA"])
    rows = data.rows()
    assert {row.patient for row in rows if row.split == "val"} == {"PA"}
    assert {row.patient for row in rows if row.split == "train"} == {"PB", "PC"}
    with pytest.raises(DataError, match=r"no patient 'P9'; there are PA, PB, PC"):
        AngioFrames(folder_data, val_patients=["P9"]).rows()


def test_a_patient_in_two_splits_is_refused_unless_the_options_choose(folder_data, edit_rows):
    edit_rows(folder_data / "index.csv", lambda rows: rows[1].update(split="val", cine="A2"))
    with pytest.raises(DataError, match=r"index\.csv:3: patient 'PA' is in split 'val' here"):
        AngioFrames(folder_data).units("train", 0)
    assert len(AngioFrames(folder_data, val_patients=["PC"]).units("train", 0)) == 4


def test_the_mask_folder_can_be_chosen(folder_data):
    (folder_data / "masks").rename(folder_data / "masks_clean")
    with pytest.raises(DataError, match=r"index\.csv:2: mask: no such file"):
        AngioFrames(folder_data).rows()
    assert len(AngioFrames(folder_data, masks="masks_clean").rows()) == 6


def test_a_folder_without_a_table_needs_a_word_on_its_angles(folder_data):
    (folder_data / "index.csv").unlink()
    with pytest.raises(DataError, match=r"images/A_1\.png: angles are missing"):
        AngioFrames(folder_data).rows()
    assert len(AngioFrames(folder_data, on_missing_angle="learned").units("train", 0)) == 6


def test_a_model_that_does_not_read_the_view_needs_no_angles(folder_data):
    (folder_data / "index.csv").unlink()
    data = AngioFrames(folder_data)
    data.bind({"image": Needs()})
    assert len(data.units("train", 0)) == 6


def test_units_are_pure_and_shuffled_by_the_seed_alone(folder_data):
    data = AngioFrames(folder_data)
    first = data.units("train", 1)
    assert first == data.units("train", 1)
    assert sorted(d.index for [d] in first) == sorted(d.index for [d] in data.units("train", 2))
    assert first != data.units("train", 2)
    assert all(draw.augment for [draw] in first)
    assert data.units("val", 1) == data.units("val", 2)
    assert not any(draw.augment for [draw] in data.units("val", 0))


def test_cache_units_show_every_frame_once_and_unchanged(folder_data):
    data = AngioFrames(folder_data)
    data.bind({"image": Needs(keys=True)})
    units = data.units("cache", 0)
    assert [draw for [draw] in units] == [FrameDraw(i, 0) for i in range(6)]
    assert len(set(only_batch(data, "cache").keys["image"])) == 6


def test_augments_names_the_inputs_that_training_changes(folder_data):
    def augments(**options):
        return AngioFrames(folder_data, **options).augments

    assert augments() == {"image"}
    assert augments(augment=False) == frozenset()
    assert augments(augment={"flips": True}) == {"image", "view"}
    assert augments(augment={"view_jitter_deg": 3.0}) == {"image", "view"}


def test_padding_goes_to_the_bottom_right_with_the_encoders_grey_and_is_not_valid(folder_data):
    for name in ("images", "masks"):
        for path in (folder_data / name).glob("*.png"):
            with Image.open(path) as picture:
                picture.crop((0, 0, 24, 12)).save(path)
    data = AngioFrames(folder_data, size=24, augment=False)
    data.bind({"image": Needs(size_multiple=16, pad_rgb=(0.5, 0.4, 0.3)), "view": Needs()})
    batch = only_batch(data)
    image, valid = batch.inputs["image"][0], batch.target.valid[0]
    assert image.shape == (3, 32, 32)
    assert image[:, 12:, :].flatten(1).unique(dim=1).tolist() == [
        [pytest.approx(0.5)],
        [pytest.approx(0.4)],
        [pytest.approx(0.3)],
    ]
    assert valid[:12, :24].all()
    assert int(valid.sum()) == 12 * 24
    assert batch.meta[0].size == (12, 24)
    assert batch.meta[0].letterbox.size == (12, 24)


def test_a_list_of_legal_sizes_pads_to_the_next_and_refuses_larger(folder_data):
    data = AngioFrames(folder_data, size=24, augment=False)
    data.bind({"image": Needs(sizes=(16, 40))})
    assert only_batch(data).inputs["image"].shape[-2:] == (40, 40)
    with pytest.raises(BuildError, match=r"data\.size: the encoders accept \(16, 20\), got 24"):
        data.bind({"image": Needs(sizes=(16, 20))})
    cropped = AngioFrames(folder_data, augment={"crop": 20})
    with pytest.raises(BuildError, match=r"data\.augment\.crop: .* multiples of 16, got 20"):
        cropped.bind({"image": Needs(size_multiple=16)})


def test_the_target_keeps_the_original_resolution_in_evaluation(folder_data):
    data = AngioFrames(folder_data, size=16)
    batch = only_batch(data)
    assert batch.target.masks.shape == (2, 16, 16)
    assert [tuple(mask.shape) for mask in batch.target.original] == [(24, 24)] * 2
    assert int(batch.target.original[0].sum()) == 24 * 3
    assert only_batch(data, "train").target.original == ()


def test_skipped_images_are_not_decoded_but_keep_key_size_and_target(folder_data):
    data = AngioFrames(folder_data, size=24, augment=False)
    data.bind({"image": Needs(keys=True), "view": Needs()})
    with_pixels = only_batch(data)
    data.bind({"image": Needs(keys=True, skip=True), "view": Needs()})
    content = (folder_data / "images" / "C_1.png").read_bytes()
    without = only_batch(data)
    assert set(without.inputs) == {"view"}
    assert without.keys == with_pixels.keys
    assert without.meta == with_pixels.meta
    assert torch.equal(without.target.masks, with_pixels.target.masks)
    (folder_data / "images" / "C_1.png").write_bytes(content[:-40])
    assert len(only_batch(data).meta) == 2


def test_cache_keys_change_with_bytes_frame_and_every_preprocessing_option(folder_data):
    def keys(needs=Needs(keys=True), **options):  # noqa: B008  # frozen
        data = AngioFrames(folder_data, **{"size": 24, "augment": False} | options)
        data.bind({"image": needs})
        return only_batch(data).keys["image"]

    base = keys()
    assert base == keys()
    assert base[0] != base[1]
    changed = [
        keys(size=16),
        keys(window="percentile"),
        keys(bits=9),
        keys(Needs(keys=True, size_multiple=16)),
        keys(Needs(keys=True, size_multiple=16, pad_rgb=(0.5, 0.5, 0.5))),
    ]
    assert len({base[0], *(k[0] for k in changed)}) == 6
    path = folder_data / "images" / "C_1.png"
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(path)
    assert keys()[0] != base[0]
    assert keys()[1] == base[1]


def test_open_reads_a_picture_a_folder_and_a_cine(folder_data):
    data = AngioFrames(folder_data, size=24)
    np.save(folder_data / "cine.npy", np.zeros((3, 24, 24), np.uint8))
    one = list(data.open({"image": folder_data / "images" / "A_1.png", "view": "-30,12.5"}))
    many = list(data.open({"image": folder_data / "images", "view": folder_data / "index.csv"}))
    cine = list(data.open({"image": folder_data / "cine.npy", "view": "1, -2"}))
    assert [b.meta[0].key for b in one + cine] == ["A_1", "cine#0", "cine#1", "cine#2"]
    assert cine[2].inputs["view"].tolist() == [[1.0, -2.0]]
    assert [b.inputs["view"][0, 0].item() for b in many] == [-30, -30, 40, 40, 5, 5]
    assert all(b.target is None for b in one + many + cine)


def test_open_asks_for_the_angles_that_the_model_reads(folder_data):
    data = AngioFrames(folder_data, size=24)
    picture = folder_data / "images" / "A_1.png"
    with pytest.raises(DataError, match=r"A_1\.png: its angles are missing"):
        list(data.open({"image": picture}))
    with pytest.raises(DataError, match=r"view: expected PRIMARY,SECONDARY in degrees, got '12'"):
        list(data.open({"image": picture, "view": "12"}))
    data.bind({"image": Needs()})
    assert len(list(data.open({"image": picture}))) == 1
