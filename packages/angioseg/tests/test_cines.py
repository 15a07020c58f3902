"""Measurements, the frame with the most contrast, and a cine's predictions as files."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from dicom_kit import write_cine
from PIL import Image

from mlkit_angioseg.cines.contrast import best_frame, contrast_score
from mlkit_angioseg.cines.measure import centreline_length, measure
from mlkit_angioseg.cines.predicting import Wanted, chosen_threshold, predict_cine
from mlkit_angioseg.cines.reading import open_cine
from mlkit_core import load_run
from mlkit_core.errors import DataError, InputError


def band(angle_deg, width_px, side=161, length=100):
    """Return a straight band through the middle, drawn by distance to its axis."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    angle = np.deg2rad(angle_deg)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = -columns * np.sin(angle) + rows * np.cos(angle)
    return (np.abs(along) <= length / 2) & (np.abs(across) <= width_px / 2)


def test_steps_of_a_centreline_are_counted_once():
    line = np.zeros((8, 8), bool)
    line[2, 1:5] = True  # three steps of 0.5
    line[3:6, 4] = True  # down: three steps of 0.25
    assert centreline_length(line, (0.25, 0.5)) == pytest.approx(3 * 0.5 + 3 * 0.25)
    diagonal = np.eye(5, dtype=bool)
    assert centreline_length(diagonal, (3.0, 4.0)) == pytest.approx(4 * 5.0)


@pytest.mark.parametrize("angle", [0, 30, 45, 90])
@pytest.mark.parametrize("width", [5, 9])
def test_a_straight_vessel_measures_what_was_drawn(angle, width):
    found = measure(band(angle, width), (0.2, 0.2))
    assert found.unit == "mm"
    upright = angle % 90 == 0
    # Upright odd widths are exact; on slopes the nearest centre outside may lie a pixel nearer.
    assert np.median(found.diameters) == pytest.approx(width * 0.2, abs=1e-6 if upright else 0.22)
    # Steps on a slope go round by up to 8 %, and a blunt end forks towards its corners.
    assert found.centreline_length == pytest.approx(100 * 0.2, rel=0.2)
    assert found.components == 1


def test_an_empty_mask_measures_nothing_and_pixels_are_called_pixels():
    found = measure(np.zeros((16, 16), bool), None)
    assert found.summary() == {
        "unit": "px",
        "centreline_length": 0.0,
        "diameter_median": None,
        "diameter_p05": None,
        "diameter_p95": None,
        "area": 0.0,
        "components": 0,
    }


def cine_of_a_filling_vessel(darkness):
    rng = np.random.default_rng(0)
    vessel, bone = band(30, 5, 128), band(90, 40, 128)
    frames = []
    for dark in darkness:
        grey = 0.7 - 0.2 * bone - dark * vessel + rng.normal(0, 0.01, (128, 128))
        frames.append(np.clip(grey, 0, 1).astype(np.float32))
    return frames


def test_the_filled_frame_is_proposed_and_a_wide_shadow_is_not_counted():
    darkness = (0, 0.05, 0.2, 0.35, 0.3, 0.1, 0)
    scores = [contrast_score(frame) for frame in cine_of_a_filling_vessel(darkness)]
    assert best_frame(scores) in (3, 4)
    assert scores[0] < scores[3] / 3


def test_one_outlier_is_no_best_frame():
    assert best_frame([0.1, 0.9, 0.1, 0.3, 0.4, 0.35]) in (4, 5)


def test_where_no_frame_stands_out_the_files_own_is_taken():
    assert best_frame([0.30, 0.31, 0.305, 0.30], representative=3) == 3
    assert best_frame([0.05, 0.31, 0.3, 0.30], representative=0) != 0


def test_a_cine_of_pictures_keeps_their_order(tmp_path):
    for index in (10, 2, 1):
        Image.fromarray(np.full((8, 8), index, np.uint8)).save(tmp_path / f"f{index:03d}.png")
    cine = open_cine(tmp_path)
    assert [round(float(grey[0, 0]) * 255) for grey in cine] == [1, 2, 10]
    with pytest.raises(DataError, match="frame 3: it has 0 to 2"):
        cine.grey(3)


RUN_FILE = """
name: tiny
data: {name: angio-frames, root: data, size: 32, augment: false}
model:
  encoders:
    image: {name: conv-stem, dim: 4, stride: 2, norm: group}
    view: {name: view-angle, dim: 8}
  fusion: {name: film, "on": image, by: view}
  head: {name: conv-mask, dim: 4, hidden: [4, 4], norm: group}
losses: [{name: bce}]
metrics: [{name: mask-overlap, resamples: 0}]
trainer: {epochs: 1, batch_size: 2, monitor: mask-overlap.dice}
"""


@pytest.fixture
def tiny_run(tmp_path, monkeypatch, one_thread):
    from mlkit_angioseg.phantom import write_phantom

    monkeypatch.chdir(tmp_path)
    write_phantom(tmp_path / "data", trees=2, views_per_tree=1, size=32, split=(0.5, 0.5, 0))
    (tmp_path / "tiny.yaml").write_text(RUN_FILE)
    run = load_run("tiny.yaml")
    run.fit()
    return run


def test_a_cine_becomes_masks_video_and_millimetres(tiny_run, tmp_path):
    frames = np.random.default_rng(0).integers(60, 200, (3, 31, 33), np.uint8)
    path = write_cine(
        tmp_path / "Doe_Jane.dcm",
        frames,
        FrameTime="100",
        ImagerPixelSpacing=["0.4", "0.4"],
        DistanceSourceToPatient="500",
        DistanceSourceToDetector="1000",
    )
    out = tmp_path / "out"
    result = predict_cine(tiny_run.folder, path, out, Wanted(threshold=0.04))
    written = json.loads((out / "result.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert written["spacing_mm"] == pytest.approx([0.2, 0.2])
    assert written["frames"][0]["primary_angle"] == -29.3
    assert "Doe" not in (out / "result.json").read_text()
    for row in written["frames"]:
        mask = np.asarray(Image.open(out / "masks" / f"frame-{row['frame']:05d}.png"))
        assert mask.shape == (31, 33)
        assert set(np.unique(mask)) <= {0, 255}
        assert row["area"] == pytest.approx((mask > 0).sum() * 0.04, abs=1e-3)
    with av.open(str(out / "overlay.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(10)
        assert sum(1 for _ in video.decode(stream)) == 3


def test_the_threshold_says_where_it_came_from(tmp_path):
    assert chosen_threshold(tmp_path, 0.3) == (0.3, "given")
    assert chosen_threshold(tmp_path, None)[0] == 0.5
    metrics = {"metrics": {"mask-overlap.best_threshold": 0.35}}
    (tmp_path / "eval-val.json").write_text(json.dumps(metrics))
    value, origin = chosen_threshold(tmp_path, None)
    assert value == 0.35
    assert "split val" in origin


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="not the folder of a run"):
        predict_cine(tmp_path / "none", tmp_path / "a.png", tmp_path / "out", Wanted())
