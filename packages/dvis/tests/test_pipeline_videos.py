"""Videos window by window against the same video in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlkit_core.build import build_model
from mlkit_core.config.frame import EncoderPart, FusionPart, Part
from mlkit_core.errors import BuildError
from mlkit_core.plugins import load_catalogue
from mlkit_core.testing import validated
from mlkit_core.types import Batch, Letterbox, RoleSpec, SampleMeta
from mlkit_dvis.assembly import assemble, flattened_topk, naive_link, resize_masks, to_rles
from mlkit_dvis.clips.component import VideoClips
from mlkit_dvis.features import clip_windows
from mlkit_dvis.pipeline.live import track_live
from mlkit_dvis.pipeline.loading import LoadedModel
from mlkit_dvis.pipeline.session import Parts
from mlkit_dvis.refiner import offline_outputs

QUERIES, CLASSES, FRAMES = 6, 3, 11
IMAGE, PADDED, ORIGINAL = (58, 90), (64, 96), (29, 45)
ROLES = {"frames": RoleSpec(shape=(3, None, None), lead=("clip", "frame"))}


def part(kind, name, made=Part, options=None, **more):
    entry = load_catalogue().find(kind, name)
    return made(
        spec=entry.spec, owner=entry.owner, options=validated(entry.spec, options or {}), **more
    )


def tiny(*, tracker=True, refiner=True, **head):
    torch.manual_seed(3)
    encoder = part(
        "encoder", "mask2former", EncoderPart, input="frames", options={
            "backbone": "timm:test_resnet", "pixel_decoder": "fpn", "dim": 16, "mask_dim": 8,
            "num_queries": QUERIES, "decoder_layers": 2, "heads": 2, "feedforward": 16,
            "reid_dim": 0,
        },
    )  # fmt: skip
    fusions = []
    small = {"layers": 2, "heads": 2, "feedforward": 16}
    if tracker:
        options = {
            **small, "num_queries": QUERIES, "inference_select_threshold": 0.5,
            "kick_out_frame_num": 3,
        }  # fmt: skip
        fusions.append(part("fusion", "daq-tracker", FusionPart, options, **{"as": "tracks"}))
    if refiner:
        options = {**small, "noise_frames": 2, "topk_tracks": 4, "num_rows": QUERIES}
        fusions.append(part("fusion", "temporal-refiner", FusionPart, options, **{"as": "refined"}))
    options = {"max_tracks": 7, "noise_frames": 2, "chunk": 40, "overlap": 3, **head}
    top = part("head", "video-instances", options=options)
    model = build_model({"frames": encoder}, fusions, top, roles=ROLES, num_classes=CLASSES)
    with torch.no_grad():  # wide weights: rows differ, tracks are born and die
        for fusion in model.fusions.values():
            for parameter in fusion.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.4)
        model.encoders["frames"].class_predictor.weight.mul_(4)
    if tracker:
        _enliven(model.eval())
    return model.eval()


def _enliven(model):
    """Draw the tracker's weights until it sees births and deaths."""
    inner = model.fusions["tracks"].tracker
    window = whole(model)
    for seed in range(30):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in inner.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.4)
        for threshold in (0.45, 0.5, 0.55):
            inner.inference_select_threshold = threshold
            tracks = tracked(model, window)
            if any(t.start > 0 for t in tracks) and any(t.dead for t in tracks):
                return
    pytest.fail("no weights let tracks be born and die")


def tracked(model, window=None):
    """Return the tracker's tracks of the whole video in memory."""
    window = window or whole(model)
    with torch.no_grad():
        return model.fusions["tracks"].tracker.track(
            window.pred_embds, window.mask_features, window.pred_logits, window.pred_masks,
            window.seg_query_feat,
        )  # fmt: skip


def video():
    generator = torch.Generator().manual_seed(1)
    base = torch.rand(1, 3, *PADDED, generator=generator)
    return (base + 0.3 * torch.rand(FRAMES, 3, *PADDED, generator=generator)).clamp(0, 1)


def windows(size, key="clip"):
    box = Letterbox(scale=2.0, size=IMAGE)
    frames = video()
    for start in range(0, FRAMES, size):
        extra = {"first_frame": start, "num_frames": FRAMES, "video_id": 1}
        meta = SampleMeta(key=key, size=ORIGINAL, letterbox=box, extra=extra)
        clip = frames[None, start : start + size]
        yield Batch(
            inputs={"frames": clip},
            meta=(meta,),
            valid={"frames": torch.ones(1, clip.shape[1], dtype=torch.bool)},
        )


def whole(model):
    """Return the whole video's window of features."""
    with torch.no_grad():
        (batch,) = windows(FRAMES)
        return clip_windows(model.encode("frames", batch))[0]


def run(model, size=5):
    with torch.no_grad():
        ((_, tracks),) = model.head.stream(model, windows(size))
    return tracks


def same(tracks, others):
    assert len(tracks) == len(others)
    for a, b in zip(tracks, others, strict=True):
        assert (a.label, a.rles) == (b.label, b.rles)
        assert a.score == pytest.approx(b.score, abs=1e-5)


def expected(logits, masks, count=7):
    scores, labels, rows = flattened_topk(logits, count)
    found = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        pixels = resize_masks(masks[rows[i]][None], PADDED, IMAGE, ORIGINAL)[0]
        found.append((int(labels[i]), float(scores[i]), tuple(to_rles(pixels))))
    return found


def equals(tracks, wanted):
    assert len(tracks) == len(wanted)
    for track, (label, score, rles) in zip(tracks, wanted, strict=True):
        assert track.label == label
        assert track.score == pytest.approx(score, abs=1e-5)
        assert track.rles == rles


def test_an_offline_video_equals_all_of_it_in_memory():
    model = tiny()
    window, refining, tracks = whole(model), model.fusions["refined"], tracked(model)
    assert any(track.start > 0 for track in tracks)
    assert any(track.dead for track in tracks)
    with torch.no_grad():
        output = offline_outputs(
            tracks, window, refining.refiner, noise_frames=2, topk_tracks=4, num_rows=QUERIES,
            max_num=7, sizes=(PADDED, IMAGE, ORIGINAL),
        )  # fmt: skip
    found = run(model)
    order = output.scores.argsort(descending=True, stable=True)
    assert [t.label for t in found] == output.labels[order].tolist()
    assert [t.score for t in found] == pytest.approx(output.scores[order].tolist(), abs=1e-5)
    for track, row in zip(found, order.tolist(), strict=True):
        assert list(track.rles) == to_rles(output.masks[row])
        assert sum(track.frame_weights) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 11])
def test_windows_of_any_size_give_the_same_tracks(size):
    model = tiny()
    same(run(model, size), run(model, 5))


def test_online_the_tracks_themselves_are_the_result():
    model = tiny(refiner=False)
    rows = assemble(tracked(model), FRAMES, 2)
    equals(run(model), expected(rows.logits, rows.masks))


def test_without_a_tracker_queries_are_linked():
    model = tiny(tracker=False, refiner=False)
    window = whole(model)
    order = naive_link(window.pred_embds[0].permute(1, 2, 0))
    time = torch.arange(FRAMES)[:, None]
    logits = window.pred_logits[0][time, order].mean(0)
    masks = window.pred_masks[0].transpose(0, 1)[time, order].transpose(0, 1)
    equals(run(model), expected(logits, masks))
    with torch.no_grad():  # the clip in one call is the same
        (batch,) = windows(FRAMES)
        output = model(batch)
    assert torch.allclose(output.head.logits[0], logits)
    assert torch.allclose(output.head.masks[0], masks)


def session_of(model, size=5, **options):
    batches = list(windows(size))
    session = model.head.session(Parts.of(model), batches[0], **options)
    for batch in batches:
        session.add(batch)
    return session.finish(lambda: windows(size))


def test_mask_features_computed_a_second_time_give_the_same(tmp_path):
    model = tiny()
    spilled = session_of(model, spill=tmp_path)
    assert not list(tmp_path.iterdir())
    same(session_of(model, masks="recompute").tracks, spilled.tracks)


def test_recomputing_needs_the_windows_again():
    model = tiny()
    batches = list(windows(5))
    session = model.head.session(Parts.of(model), batches[0], masks="recompute")
    for batch in batches:
        session.add(batch)
    with pytest.raises(BuildError, match="second time"):
        session.finish()


def test_chunks_that_hold_the_whole_video_change_nothing():
    model = tiny()
    same(session_of(model, chunk=FRAMES, overlap=2).tracks, run(model))


def test_shorter_chunks_keep_rows_and_weights_over_the_whole_video():
    model = tiny()
    cut, one = session_of(model, chunk=6, overlap=3), session_of(model)
    assert {track.row for track in cut.tracks} <= set(range(-QUERIES, 100))
    for track in cut.tracks:
        assert len(track.frame_weights) == FRAMES
        assert sum(track.frame_weights) == pytest.approx(1, abs=1e-5)
    # A frame's rows differ only by what the chunk did not see.
    assert cut.tracks[0].score == pytest.approx(one.tracks[0].score, abs=0.3)


def test_an_offline_model_can_be_read_online():
    model, shorter = tiny(), tiny(refiner=False)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("fusions.refined")}
    shorter.load_state_dict(state)
    inner, other = model.fusions["tracks"].tracker, shorter.fusions["tracks"].tracker
    other.inference_select_threshold = inner.inference_select_threshold
    same(session_of(model, mode="online").tracks, session_of(shorter).tracks)


def test_a_mode_that_the_model_cannot_reach_is_refused():
    model = tiny(refiner=False)
    with pytest.raises(BuildError, match="no refiner; it goes as far as online"):
        model.head.session(Parts.of(model), next(windows(5)), mode="offline")


def test_two_videos_after_each_other_do_not_share_state():
    model = tiny()
    both = [*windows(5, "a"), *windows(5, "b")]
    with torch.no_grad():
        (first, a), (second, b) = model.head.stream(model, both)
    assert (first.meta[0].key, second.meta[0].key) == ("a", "b")
    same(a, b)
    same(a, run(model))


def test_attention_is_kept_for_every_frame_and_query():
    result = session_of(tiny(), attention=(-1,))
    table = result.queries
    for frame in (0, 7):
        attention = table.attention(frame, -1)
        assert attention.shape[0] == QUERIES
        assert attention.sum((1, 2)) == pytest.approx(np.ones(QUERIES), abs=5e-3)  # float16
    assert table.scores.shape == table.no_object.shape == (FRAMES, QUERIES)
    assert result.content == (58 / 64, 90 / 96)
    for track in result.tracks:
        assert len(track.frame_queries) == FRAMES
        assert set(track.frame_queries) <= set(range(-1, QUERIES))
        assert max(track.frame_queries) >= 0
    table.close()


def test_live_frames_carry_the_ids_of_the_tracker():
    model = tiny()
    data = VideoClips(classes=("a", "b", "c"), size=64, window=5)
    parts = Parts.of(model)
    loaded = LoadedModel(model, parts, model.head, data, data.classes, torch.device("cpu"), {})
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(6)]
    live = list(track_live(loaded, frames))
    assert [found.index for found in live] == list(range(6))
    with torch.no_grad():
        window = clip_windows(model.encode("frames", data.batch_of(frames)))[0]
        _, records = parts.tracking.tracker.step(None, window)
    for found, record in zip(live, records, strict=True):
        assert {row.id for row in found.rows} == set(record.ids.tolist())
        assert [row.score for row in found.rows] == sorted(
            (row.score for row in found.rows), reverse=True
        )
    some = list(track_live(loaded, frames, score=0.5))
    for few, all_rows in zip(some, live, strict=True):
        assert [r.id for r in few.rows] == [r.id for r in all_rows.rows if r.score >= 0.5]
