import pytest
import torch

from mlkit_core.errors import BuildError, InputError
from mlkit_dvis.features import Window
from mlkit_dvis.tracker import DAQTracker

FIELDS = ("embeds", "logits", "masks", "pos_embed", "pos_embed_history")
RECORDED = {name: name for name in FIELDS} | {"logits": "pred_logits", "masks": "pred_masks"}
NOT_OPTIONS = ("window_size", "num_frames")


@pytest.fixture(scope="module")
def case(oracle):
    return oracle("tracker_case1")


def build(case, dtype=torch.float64, **changed):
    options = {k: v for k, v in case["config"].items() if k not in NOT_OPTIONS}
    tracker = DAQTracker(**{**options, **changed})
    tracker.load_state_dict(case["state_dict"], strict=True)
    return tracker.to(dtype).eval()


def inputs_of(case, dtype=torch.float64):
    return {name: value.to(dtype) for name, value in case["inputs"].items()}


def furthest(tracks, recorded):
    return {
        name: max(
            float((getattr(track, name) - other[key]).abs().max())
            for track, other in zip(tracks, recorded, strict=True)
        )
        for name, key in RECORDED.items()
    }


@pytest.fixture(scope="module")
def tracks(case):
    return build(case).track(**inputs_of(case))


def equal(one, other):
    plain = (one.start, one.dead, one.id) == (other.start, other.dead, other.id)
    return plain and all(torch.equal(getattr(one, n), getattr(other, n)) for n in FIELDS)


def test_every_recorded_track_is_born_seen_and_ends_as_recorded(case, tracks):
    recorded = case["outputs"]["inference_f64"]["tracks"]
    assert len(tracks) == len(recorded) == 94
    for track, other in zip(tracks, recorded, strict=True):
        assert (track.start, track.dead) == (int(other["start"]), bool(other["dead"]))
        assert torch.equal(track.appearance, other["appearance"])
    assert [track.id for track in tracks] == list(range(94))
    assert sum(track.dead for track in tracks) == 32


def test_recorded_tracks_are_met_in_float64(case, tracks):
    # 1e-7: the recording's own float64 road rounds some constants to float32 on the way.
    far = furthest(tracks, case["outputs"]["inference_f64"]["tracks"])
    assert max(far.values()) < 1e-7, far


def test_recorded_tracks_are_met_in_float32(case):
    # 2e-4: the authors' own float32 and float64 runs differ by up to 1.2e-5.
    tracks = build(case, torch.float32).track(**inputs_of(case, torch.float32))
    far = furthest(tracks, case["outputs"]["inference_f32"]["tracks"])
    assert max(far.values()) < 2e-4, far


def test_what_is_handed_on_after_each_window_is_as_recorded(case):
    tracker, window = build(case), Window(**inputs_of(case))
    state = None
    for turn, after in enumerate(case["outputs"]["inference_f64"]["after_window"]):
        state, _ = tracker.step(state, window.part(5 * turn, 5 * turn + 5))
        assert len(state.ids) == int(after["num_tracks"])
        torch.testing.assert_close(state.embeds[:, None], after["track_queries"], atol=1e-7, rtol=0)
        torch.testing.assert_close(
            state.positions.fused[:, None], after["track_embeds"], atol=1e-7, rtol=0
        )


@pytest.mark.parametrize("size", [1, 3, 10])
def test_tracks_do_not_depend_on_how_the_video_is_cut(case, tracks, size):
    again = build(case).track(**inputs_of(case), window_size=size)
    assert len(again) == len(tracks)
    assert all(map(equal, again, tracks))


def test_with_the_slot_branch_too_tracks_do_not_depend_on_the_cut(case):
    tracker = build(case, ovis_infer=True, keep_threshold=0.4)
    one, other = (tracker.track(**inputs_of(case), window_size=size) for size in (1, 10))
    assert len(one) == len(other)
    assert all(map(equal, one, other))


def test_the_recorded_pipelines_best_tracks_have_their_mean_logits(oracle):
    case = oracle("pipeline_case1")
    config, out = case["config"], case["outputs"]["f64"]
    tracker = DAQTracker(
        **config["tracker"],
        aux_inference_select_threshold=config["aux_inference_select_threshold"],
    )
    tracker.load_state_dict(case["state_dict"]["tracker"], strict=True)
    tracks = tracker.double().eval().track(**inputs_of(case))
    long = [t for t in tracks if len(t.logits) >= config["noise_frame_num"] or not t.dead]
    logits = torch.stack([track.logits.mean(0) for track in long])
    best = logits.softmax(-1)[:, :-1].amax(-1).argsort(descending=True)
    recorded = out["online_logits"][0, : int(out["num_from_tracker"])]
    order = recorded.softmax(-1)[:, :-1].amax(-1).argsort(descending=True)
    torch.testing.assert_close(
        logits[best[: len(order)]], recorded[order].double(), atol=1e-6, rtol=0
    )


def test_the_order_of_later_frames_queries_does_not_matter_to_tracks_of_the_first(case, tracks):
    given = inputs_of(case)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    given["pred_embds"][..., 1:, :] = given["pred_embds"][..., 1:, order]
    given["pred_logits"][:, 1:] = given["pred_logits"][:, 1:, order]
    given["pred_masks"][:, :, 1:] = given["pred_masks"][:, order, 1:]
    shuffled = build(case).track(**given)
    first = [track for track in tracks if track.start == 0]
    assert first
    for track, other in zip(first, shuffled, strict=False):  # ids of the first frame come first
        assert (other.start, other.dead) == (0, track.dead)
        for name in FIELDS:
            torch.testing.assert_close(
                getattr(other, name), getattr(track, name), atol=1e-9, rtol=0
            )


def test_objects_are_born_after_the_first_frame(tracks):
    assert sum(track.start > 0 for track in tracks) == 88


def test_a_position_is_kept_for_each_frame_that_a_track_was_seen_in(tracks):
    for track in tracks:
        assert len(track.pos_embed_history) == int(track.appearance.sum())
        assert torch.equal(track.pos_embed_history[-1], track.pos_embed)


def test_all_newcomers_share_one_learned_content(case):
    tracker = build(case)
    assert tracker.new_ins_embeds.weight.shape == (1, 32)
    window = Window(**inputs_of(case))
    state, _ = tracker.step(None, window.part(0, 1))
    _, before = tracker.step(state, window.part(1, 2))
    with torch.no_grad():
        tracker.new_ins_embeds.weight.add_(0.1 * torch.randn(1, 32, dtype=torch.float64))
    _, after = tracker.step(state, window.part(1, 2))
    assert not torch.equal(before[0].logits[: len(state.ids)], after[0].logits[: len(state.ids)])


def test_advance_gives_each_track_once_when_it_has_ended(case, tracks):
    tracker, window = build(case), Window(**inputs_of(case))
    open_tracks, ended = None, []
    for start in range(0, 10, 3):
        open_tracks, finished = tracker.advance(open_tracks, window.part(start, start + 3))
        assert all(track.dead for track in finished)
        ended += finished
    whole = sorted([*ended, *open_tracks.tracks()], key=lambda track: track.id)
    assert all(map(equal, whole, tracks))
    assert len(ended) == 32


def test_attention_of_a_row_over_the_frames_queries_sums_to_one(case):
    tracker, window = build(case), Window(**inputs_of(case))
    _, plain = tracker.step(None, window.part(0, 3))
    _, looking = tracker.step(None, window.part(0, 3), attention=True)
    for record, other in zip(looking, plain, strict=True):
        assert other.attention is None
        assert torch.equal(record.embeds, other.embeds)
        assert record.attention.shape == (len(record.ids), 12)
        torch.testing.assert_close(record.attention.sum(1), torch.ones_like(record.attention[:, 0]))


def test_attention_follows_the_queries_when_they_change_places(case):
    tracker, window = build(case), Window(**inputs_of(case))
    state, _ = tracker.step(None, window.part(0, 1))
    order = torch.arange(11, -1, -1)
    part = window.part(1, 2)
    turned = Window(
        part.pred_embds[..., order],
        part.mask_features,
        part.pred_logits[:, :, order],
        part.pred_masks[:, order],
        part.seg_query_feat,
    )
    (one,), (other,) = (tracker.step(state, frame, attention=True)[1] for frame in (part, turned))
    count = int(torch.isin(one.ids, state.ids).sum())  # survivors come first
    assert torch.equal(one.ids[:count], other.ids[:count])
    torch.testing.assert_close(one.attention[:count][:, order], other.attention[:count])


def test_a_segmenter_with_other_queries_is_refused_with_both_numbers(case):
    tracker = build(case, num_new_ins=9)
    with pytest.raises(BuildError, match=r"9 anchor queries.*12 queries"):
        tracker.track(**inputs_of(case))


def test_two_clips_at_once_are_refused(case):
    given = inputs_of(case)
    given["pred_embds"] = given["pred_embds"].expand(2, -1, -1, -1)
    with pytest.raises(BuildError, match="one clip at a time"):
        build(case).track(**given)


def test_an_unknown_mode_is_refused(case):
    with pytest.raises(InputError, match="'inference' or 'offline'"):
        build(case).track(**inputs_of(case), mode="online")


def test_a_video_in_which_nothing_is_seen_has_no_tracks(case):
    tracker = build(case, aux_inference_select_threshold=1.0, inference_select_threshold=1.0)
    assert tracker.track(**inputs_of(case)) == []


def test_the_published_size_has_its_published_number_of_parameters():
    with torch.device("meta"):
        tracker = DAQTracker(num_classes=25)
    assert sum(p.numel() for p in tracker.parameters()) == pytest.approx(18.62e6, abs=5e3)
