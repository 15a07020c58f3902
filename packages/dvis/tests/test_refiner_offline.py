"""Offline results against the recorded pipeline, from the segmenter's outputs to masks."""

from __future__ import annotations

import pytest
import torch

from mlkit_dvis.features import Window
from mlkit_dvis.refiner import TemporalRefiner, offline_outputs
from mlkit_dvis.tracker import DAQTracker


def tracked(case):
    config = case["config"]
    threshold = config["aux_inference_select_threshold"]
    tracker = DAQTracker(**config["tracker"], aux_inference_select_threshold=threshold)
    tracker.load_state_dict(case["state_dict"]["tracker"], strict=True)
    inputs = {name: values.double() for name, values in case["inputs"].items()}
    tracks = tracker.double().eval().track(**inputs, window_size=config["window_size"])
    return tracks, Window(**inputs)


def refined(case, tracks, window, **options):
    config = case["config"]
    refiner = TemporalRefiner(**config["refiner"])
    refiner.load_state_dict(case["state_dict"]["refiner"], strict=True)
    given = {
        "noise_frames": config["noise_frame_num"],
        "topk_tracks": config["offline_topk_ins"],
        "num_rows": config["tracker"]["num_new_ins"],
        "max_num": config["max_num"],
        "sizes": tuple(tuple(config[f"{name}_size"]) for name in ("padded", "image", "output")),
    }
    return offline_outputs(tracks, window, refiner.double().eval(), **{**given, **options})


@pytest.fixture(scope="module")
def recorded(oracle):
    case = oracle("pipeline_case1")
    tracks, window = tracked(case)
    return case, tracks, window, refined(case, tracks, window)


def test_rows_of_the_recorded_pipeline(recorded):
    case, _, _, got = recorded
    want = case["outputs"]["f64"]
    rows = got.rows
    assert got.tracks == int(want["num_from_tracker"]) == 8
    assert len(rows) == case["config"]["tracker"]["num_new_ins"] == 12
    assert torch.equal(rows.padding, want["padding_masks"][0])
    scores = rows.logits.softmax(-1)[:, :-1].amax(-1)
    pairs = {
        "online_logits": rows.logits[None],
        "online_masks": rows.masks[None],
        "online_scores": scores,
        "instance_embeds": rows.embeds.permute(2, 1, 0)[None],
    }
    for name, values in pairs.items():
        assert torch.allclose(values, want[name], rtol=0, atol=1e-7), name


def test_the_refiner_says_what_was_recorded(recorded):
    case, _, _, got = recorded
    want = case["outputs"]["f64"]  # rounded to float32 when recorded, hence 1e-6
    close = {"rtol": 0, "atol": 1e-6}
    assert torch.allclose(got.refined.pred_logits[:, 0].float(), want["refined_logits"], **close)
    assert torch.allclose(got.refined.pred_masks.float(), want["refined_masks"], **close)


def test_results_are_the_recorded_ones_to_the_pixel(recorded):
    case, _, _, got = recorded
    want = case["outputs"]["f64"]
    keys = zip(want["final_labels"].tolist(), want["final_track_index"].tolist(), strict=True)
    wanted = dict(
        zip(keys, zip(want["final_scores"], want["final_masks"], strict=True), strict=True)
    )
    pairs = list(zip(got.labels.tolist(), got.index.tolist(), strict=True))
    assert set(pairs) == set(wanted)
    for pair, score, mask in zip(pairs, got.scores, got.masks, strict=True):
        assert float(score) == pytest.approx(float(wanted[pair][0]), abs=1e-6)
        assert int((mask != wanted[pair][1]).sum()) == 0


def test_twenty_results_come_from_twelve_rows(recorded):
    _, _, _, got = recorded
    assert len(got.scores) == 20
    assert len(got.index.unique()) == 12


def test_the_noise_filter_drops_tracks_of_the_recorded_pipeline(recorded):
    _, tracks, window, got = recorded
    short = [t for t in tracks if len(t.embeds) < 5 and t.start + len(t.embeds) < window.frames]
    assert short
    assert len(tracks) - len(short) >= got.tracks


def test_a_single_row_gives_no_result(recorded):
    case, tracks, window, _ = recorded
    got = refined(case, tracks, window, num_rows=1, topk_tracks=1)
    assert got.refined is None
    assert len(got.rows) == 1
    assert got.masks.shape == (0, 10, 17, 21)
    assert len(got.scores) == len(got.labels) == len(got.index) == 0
