"""Masks of the pixels that count: a retina's field of view, in losses and in scores."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from mlkit_angioseg.config import AugmentOptions
from mlkit_angioseg.frames.augment import augment
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.metrics.overlap import MaskOverlap
from mlkit_angioseg.targets import VesselTarget
from mlkit_core import load_run
from mlkit_core.config import load_config
from mlkit_core.errors import DataError
from mlkit_core.types import Batch, MaskPrediction, Needs, SampleMeta

EXAMPLE = Path(__file__).parents[3] / "examples" / "angioseg-retina.yaml"
TABLE = EXAMPLE.with_suffix(".csv")


@pytest.fixture
def field_of_view(folder_data):
    """The folder layout without a table; of each picture only columns from 5 on count."""
    (folder_data / "index.csv").unlink()
    (folder_data / "fov").mkdir()
    seen = np.zeros((24, 24), np.uint8)
    seen[:, 5:] = 255
    for path in (folder_data / "images").iterdir():
        Image.fromarray(seen).save(folder_data / "fov" / path.name)
    return folder_data


def frames(folder, **options):
    data = AngioFrames(folder, valid_masks="fov", **{"size": 24, "augment": False, **options})
    data.bind({"image": Needs()})
    return data


def only_batch(data, split="train"):
    return data.collate([[data.load(draw) for draw in unit] for unit in data.units(split, 0)])[0]


def test_pixels_outside_the_field_of_view_do_not_count(field_of_view):
    batch = only_batch(frames(field_of_view))
    assert batch.target.valid[:, :, 5:].all()
    assert not batch.target.valid[:, :, :5].any()
    assert [int(valid.sum()) for valid in batch.target.original_valid] == [24 * 19] * 6
    plain = AngioFrames(field_of_view, size=24, augment=False)
    plain.bind({"image": Needs()})
    assert only_batch(plain).target.original_valid == ()
    assert only_batch(plain).target.valid.all()


def test_a_shrunk_field_of_view_is_its_pixels_majority_and_padding_still_does_not_count(
    field_of_view,
):
    for path in (field_of_view / "fov").iterdir():
        seen = np.zeros((24, 24), np.uint8)
        seen[:, 4:] = 255
        Image.fromarray(seen).save(path)
    data = AngioFrames(field_of_view, valid_masks="fov", size=16, augment=False)
    data.bind({"image": Needs(size_multiple=32)})
    batch = only_batch(data)
    # An input pixel is 1.5 original ones: number 2 covers 3 to 4.5, of which a third is outside.
    assert batch.target.valid[0, :16].any(0).nonzero().flatten().tolist() == [*range(2, 16)]
    assert not batch.target.valid[0, 16:].any()
    assert int(batch.target.original_valid[0].sum()) == 24 * 20


def test_the_field_of_view_moves_with_the_frame():
    columns = torch.arange(32).expand(1, 32, 32)
    seen = (columns >= 10) & (columns < 26)
    options = AugmentOptions(rotation_deg=90, shift=0.1, flips=True, log_scale=0.3)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        # The mask is the field of view itself, so both must end up at the same pixels.
        found = augment(seen.float(), seen.float(), (0.0, 0.0), options, rng, valid=seen)
        assert torch.equal(found.valid, found.mask > 0)
        assert 0 < int(found.valid.sum()) < 32 * 32


def test_scores_are_those_of_the_pixels_that_count():
    rng = np.random.default_rng(0)
    target = rng.random((12, 16)) < 0.3
    probabilities = np.clip(0.5 * target + 0.6 * rng.random((12, 16)), 0, 1).astype(np.float32)
    counts = np.zeros((12, 16), bool)
    counts[2:10, 3:] = True
    metric = MaskOverlap(resamples=0)
    metric.update(
        [MaskPrediction(torch.from_numpy(probabilities))],
        Batch(
            inputs={},
            meta=(SampleMeta(key="a", size=(12, 16)),),
            target=VesselTarget(
                torch.zeros(1, 12, 16),
                original=(torch.from_numpy(target),),
                original_valid=(torch.from_numpy(counts),),
            ),
            kind="mask",
        ),
    )
    found = metric.compute()
    a, b, chance = probabilities[counts] >= 0.5, target[counts], probabilities[counts]
    assert found["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert found["specificity"] == pytest.approx((~a & ~b).sum() / (~b).sum())
    assert found["auc"] == pytest.approx(roc_auc_score(b, chance))
    best = max(
        2 * ((chance >= t) & b).sum() / ((chance >= t).sum() + b.sum())
        for t in np.arange(1, 20) / 20
    )
    assert found["dice_at_best"] == pytest.approx(best)


def test_what_is_outside_the_field_of_view_changes_no_score():
    target, counts = torch.zeros(16, 16, dtype=torch.bool), torch.ones(16, 16, dtype=torch.bool)
    target[4:7, 2:14], counts[10:] = True, False
    rows = []
    for outside in (0.0, 1.0):
        probabilities = target * 0.8 + 0.1 * torch.eye(16)
        probabilities[10:] = outside
        metric = MaskOverlap(resamples=0)
        valid = VesselTarget(torch.zeros(1, 16, 16), original=(target,), original_valid=(counts,))
        meta = (SampleMeta(key="a", size=(16, 16)),)
        batch = Batch(inputs={}, meta=meta, target=valid, kind="mask")
        metric.update([MaskPrediction(probabilities)], batch)
        rows.append(metric.compute())
    assert rows[0] == rows[1]
    assert rows[0]["dice"] == rows[0]["cldice"] == 1.0


def test_every_wrong_field_of_view_is_named(field_of_view):
    (field_of_view / "fov" / "A_1.png").unlink()
    Image.fromarray(np.ones((8, 24), np.uint8)).save(field_of_view / "fov" / "B_1.png")
    with pytest.raises(DataError) as caught:
        frames(field_of_view).rows()
    assert "images/A_1.png: valid mask: no such file" in str(caught.value)
    assert "images/B_1.png: valid mask 'B_1.png' is 24x8, its frame 24x24" in str(caught.value)


def test_a_field_of_view_without_a_pixel_is_refused(field_of_view):
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(field_of_view / "fov" / "A_1.png")
    with pytest.raises(DataError, match=r"images/A_1\.png: .*no pixel counts"):
        only_batch(frames(field_of_view))


def test_a_table_of_cines_has_no_folder_of_valid_masks(seed_data):
    with pytest.raises(DataError, match="valid_masks is for layout folder"):
        AngioFrames(seed_data, valid_masks="fov").rows()


def test_without_a_table_a_pictures_name_is_its_patient(field_of_view):
    rows = frames(field_of_view, val_patients=["A_1", "C_3"]).rows()
    assert {row.key for row in rows if row.split == "val"} == {"A_1", "C_3"}
    assert len([row for row in rows if row.split == "train"]) == 4
    with pytest.raises(DataError, match=r"no patient 'A'; there are A_1, A_3"):
        frames(field_of_view, val_patients=["A"]).rows()


def test_the_examples_folds_validate_each_retina_once():
    rows = [line.split(",") for line in TABLE.read_text(encoding="utf-8").split()[1:]]
    assert len({image for image, _ in rows}) == len(rows) == 19
    first = load_config(EXAMPLE).stages[0].data.options["val_patients"]
    others = re.findall(r"data\.val_patients=\[(.+?)\]", EXAMPLE.read_text(encoding="utf-8"))
    named = [*first, *(name for fold in others for name in fold.split(","))]
    assert sorted(named) == sorted({retina for _, retina in rows})


def drive(real_data):
    folder = real_data / "retina" / "drive_training"
    if not folder.is_dir():
        pytest.skip(f"DRIVE's training images are not at {folder}")
    return folder


def test_no_picture_of_drive_is_another_retinas_mirrored_or_turned(real_data):
    retinas = {}
    for row in AngioFrames(
        TABLE, layout="folder", data_root=drive(real_data), on_missing_angle="learned"
    ).rows():
        with Image.open(row.image) as picture:
            pixels = np.asarray(picture)
        turned = (pixels, pixels[:, ::-1], pixels[::-1], pixels[::-1, ::-1])
        key = min(np.ascontiguousarray(one).tobytes() for one in turned)
        assert retinas.setdefault(key, row.patient) == row.patient, row.key


def test_masks_of_drive_lie_on_dark_lines_within_its_field_of_view(real_data):
    data = AngioFrames(
        TABLE, layout="folder", data_root=drive(real_data), valid_masks="fov", channel="green",
        size=584, augment=False, val_patients=["R5", "R6"],
    )  # fmt: skip
    data.bind({"image": Needs(size_multiple=32)})
    batch = only_batch(data, "val")
    assert batch.inputs["image"].shape == (5, 3, 608, 608)
    green, target = batch.inputs["image"][:, 1], batch.target
    for image, mask, valid in zip(green, target.masks > 0, target.valid, strict=True):
        assert int((mask & ~valid).sum()) <= 0.01 * int(mask.sum())
        assert image[~valid].mean() < 0.1  # black around the disc, and padding
        assert image[valid].mean() > 0.2
        for rows, columns in ((8, 0), (-8, 0), (0, 8), (0, -8)):
            aside = mask.roll((rows, columns), (0, 1))
            assert image[mask & valid].mean() < image[aside & valid].mean() - 0.005


def test_the_example_takes_one_step_on_drive(real_data, tmp_path, monkeypatch):
    folder = drive(real_data)
    (tmp_path / "some.csv").write_text("image,patient\n21.png,R1\n24.png,R2\n36.png,R5\n")
    monkeypatch.chdir(tmp_path)
    changes = ("data.augment.crop=64", "data.val_patients=[R5]", "data.size=146")
    changes += ("trainer.epochs=1", "trainer.batch_size=2", "trainer.precision=fp32")
    places = (f"data.root={tmp_path / 'some.csv'}", f"data.data_root={folder}")
    run = load_run(EXAMPLE, [*places, *changes])
    run.fit()
    found = run.evaluate("val").rows
    assert [row["key"] for row in found] == ["36"]
    assert 0 <= found[0]["dice"] <= 1
