"""The fusion `temporal-refiner`: clips of a batch, what trains, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mlkit_core.errors import BuildError, InputError
from mlkit_core.types import FeatureSpec
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.refiner.fusion import RefinerFusion
from mlkit_dvis.tracker import Track
from mlkit_dvis.tracker.features import TrackFeatures
from mlkit_dvis.tracker.fusion import TrackerFusion

CLIPS, FRAMES, QUERIES, CLASSES, DIM, SIDE = 2, 6, 5, 3, 8, 4
LEAD = ("clip", "frame")
SEGMENTER = FeatureSpec(
    channels={"p2": DIM}, strides={"p2": 4}, token_dim=DIM, lead=LEAD, type=SegmenterFeatures
)
TRACKS = FeatureSpec(lead=LEAD, type=TrackFeatures)


def segmented(clips=CLIPS, grad=False):
    torch.manual_seed(2)
    rows = clips * FRAMES
    return SegmenterFeatures(
        maps={"p2": torch.randn(rows, DIM, SIDE, SIDE, requires_grad=grad)},
        tokens=torch.randn(rows, QUERIES, DIM, requires_grad=grad),
        valid=torch.ones(clips, FRAMES, dtype=torch.bool),
        logits=torch.randn(rows, QUERIES, CLASSES + 1, requires_grad=grad),
        masks=torch.randn(rows, QUERIES, SIDE, SIDE, requires_grad=grad),
        queries=torch.randn(QUERIES, DIM).expand(rows, -1, -1),
    )


def track(start, frames, grad=False):
    return Track(
        start=start,
        dead=False,
        embeds=torch.randn(frames, DIM, requires_grad=grad),
        logits=torch.randn(frames, CLASSES + 1, requires_grad=grad),
        masks=torch.randn(frames, SIDE, SIDE, requires_grad=grad),
        appearance=torch.ones(frames, dtype=torch.bool),
        pos_embed=torch.randn(DIM, requires_grad=grad),
        pos_embed_history=torch.randn(frames, DIM),
    )


def tracked(*counts, grad=False):
    clips = tuple(tuple(track(0, FRAMES, grad) for _ in range(count)) for count in counts)
    return TrackFeatures(valid=torch.ones(len(counts), FRAMES, dtype=torch.bool), clips=clips)


def fusion(inputs=None, **options):
    torch.manual_seed(0)
    sizes = {"layers": 2, "heads": 2, "feedforward": 16}
    given = inputs or {"frames": SEGMENTER, "tracks": TRACKS}
    return RefinerFusion(given, CLASSES, "tracks", **{**sizes, **options})


def test_tracks_and_fillers_of_a_batch_are_refined_to_as_many_rows_as_queries():
    part, scope = fusion().eval(), {"frames": segmented(), "tracks": tracked(2, 1)}
    with torch.no_grad():
        got = part(scope)
    assert got.logits.shape == got.online_logits.shape == (CLIPS, QUERIES, CLASSES + 1)
    assert got.masks.shape == got.online_masks.shape == (CLIPS, QUERIES, FRAMES, SIDE, SIDE)
    assert got.embeds.shape == (CLIPS, QUERIES, FRAMES, DIM)
    assert torch.allclose(got.frame_weights.sum(1), torch.ones(CLIPS, QUERIES))
    assert got.aux_logits is None
    assert got.aux_masks is None
    assert got.valid is scope["frames"].valid
    first = scope["tracks"].clips[1][0]
    assert torch.equal(got.online_masks[1, 0], first.masks)
    assert torch.equal(got.online_logits[1, 0], first.logits.mean(0))


def test_clips_of_a_batch_are_refined_as_if_alone():
    part, frames, tracks = fusion().eval(), segmented(), tracked(2, 1)
    rows = slice(FRAMES, 2 * FRAMES)
    alone = replace(
        frames,
        maps={"p2": frames.maps["p2"][rows]},
        valid=frames.valid[1:],
        **{name: getattr(frames, name)[rows] for name in ("tokens", "logits", "masks", "queries")},
    )
    with torch.no_grad():
        both = part({"frames": frames, "tracks": tracks})
        one = part({"frames": alone, "tracks": replace(tracks, clips=tracks.clips[1:])})
    assert torch.allclose(both.masks[1:], one.masks, atol=1e-5)
    assert torch.allclose(both.logits[1:], one.logits, atol=1e-5)


def test_clips_of_unequal_rows_are_filled_with_rows_that_are_no_object():
    part = fusion().train()  # more tracks than queries in one clip: then no filler, and more rows
    got = part({"frames": segmented(), "tracks": tracked(QUERIES + 2, 1)})
    assert got.logits.shape[1] == got.aux_logits.shape[2] == QUERIES + 2
    for logits in (got.logits[1], got.online_logits[1], got.aux_logits[1, 0]):
        assert (logits[QUERIES:].softmax(-1)[:, -1] == 1).all()
    assert (got.masks[1, QUERIES:] < -1e3).all()
    assert (got.aux_masks[1, 0, QUERIES:] < -1e3).all()
    assert got.masks[1, :QUERIES].abs().max() < 1e3


def test_training_gives_every_layer_and_a_gradient_to_the_refiner_alone():
    frames, tracks = segmented(grad=True), tracked(2, 3, grad=True)
    part = fusion().train()
    got = part({"frames": frames, "tracks": tracks})
    assert got.aux_logits.shape == (CLIPS, 1, QUERIES, CLASSES + 1)
    assert got.aux_masks.shape == (CLIPS, 1, QUERIES, FRAMES, SIDE, SIDE)
    assert not got.online_logits.requires_grad
    (got.logits.square().mean() + got.masks.square().mean()).backward()
    assert part.refiner.class_embed.weight.grad.abs().sum() > 0
    given = [frames.maps["p2"], frames.tokens, frames.logits, frames.masks]
    given += [t.embeds for clip in tracks.clips for t in clip]
    assert all(tensor.grad is None for tensor in given)


def test_a_frozen_tracker_hands_its_tracks_on():
    frames = segmented()
    tracker = TrackerFusion(
        {"frames": SEGMENTER}, CLASSES, "frames", num_queries=QUERIES, layers=1, heads=2,
        feedforward=16, eval_mode="offline", inference_select_threshold=0.3,
    ).eval()  # fmt: skip
    tracks = tracker({"frames": frames})
    assert all(tracks.clips)
    got = fusion(noise_frames=1).train()({"frames": frames, "tracks": tracks})
    assert got.logits.isfinite().all()
    assert got.masks.isfinite().all()


def test_half_precision_gives_finite_rows():
    frames, tracks = segmented(), tracked(1, 2)
    part = fusion(time_encoding="sine", use_local_attn=True).train()
    with torch.autocast("cpu", torch.bfloat16):
        got = part({"frames": replace(frames, tokens=frames.tokens.bfloat16()), "tracks": tracks})
    values = [getattr(got, name) for name in ("logits", "masks", "embeds", "frame_weights")]
    assert all(value.isfinite().all() for value in values)


def test_a_tracker_in_training_is_refused_with_what_to_freeze():
    tracks = replace(tracked(1, 1), clips=(), training=())
    with pytest.raises(BuildError, match="must be frozen") as caught:
        fusion()({"frames": segmented(), "tracks": tracks})
    assert "fusions.tracks" in str(caught.value.hint)


def test_the_later_part_of_a_longer_track_is_refused():
    late = replace(tracked(1, 1), clips=((track(FRAMES - 1, 2),), (track(0, FRAMES),)))
    with pytest.raises(InputError, match="reaches frame 6 of a clip of 6"):
        fusion()({"frames": segmented(), "tracks": late})


def test_a_role_without_tracks_is_refused_with_the_roles_that_there_are():
    with pytest.raises(BuildError, match="there are frames: SegmenterFeatures, tracks: Features"):
        fusion({"frames": SEGMENTER, "tracks": FeatureSpec()})


def test_two_segmenters_need_a_choice():
    inputs = {"frames": SEGMENTER, "other": SEGMENTER, "tracks": TRACKS}
    with pytest.raises(BuildError, match="several have it"):
        fusion(inputs)
    assert fusion(inputs, by="other").by == "other"


def test_no_segmenter_is_refused():
    with pytest.raises(BuildError, match="must have a segmenter"):
        fusion({"tracks": TRACKS})
