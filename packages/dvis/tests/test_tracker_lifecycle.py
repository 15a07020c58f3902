import dataclasses

import pytest
import torch

from mlkit_dvis.features import Window
from mlkit_dvis.tracker import DAQTracker
from mlkit_dvis.tracker.inference import agreed
from mlkit_dvis.tracker.lifecycle import Roster, decide
from mlkit_dvis.tracker.positions import MEMORY, PositionMemory, fusion_share, masked_means
from mlkit_dvis.tracker.slots import SlotAttention, choose_slots, compete
from mlkit_dvis.tracker.views import FrameView

QUERIES, DIM, CLASSES = 6, 8, 3


def bools(text):
    return torch.tensor([letter == "1" for letter in text], dtype=torch.bool)


def make_tracker(**options):
    torch.manual_seed(0)
    sizes = dict(hidden_dim=DIM, mask_dim=DIM, feedforward_dim=16, num_head=2, decoder_layer_num=2)
    counts = dict(num_classes=CLASSES, num_new_ins=QUERIES, num_slots=2)
    return DAQTracker(**sizes, **counts, **options).eval()


def make_window(frames, seed=1):
    g = torch.Generator().manual_seed(seed)
    return Window(
        torch.randn(1, DIM, frames, QUERIES, generator=g),
        torch.randn(1, frames, DIM, 4, 5, generator=g),
        torch.randn(1, frames, QUERIES, CLASSES + 1, generator=g),
        torch.randn(1, QUERIES, frames, 4, 5, generator=g),
        torch.randn(QUERIES, DIM, generator=g),
    )


def track(tracker, frames, **options):
    window = make_window(frames)
    values = [getattr(window, field.name) for field in dataclasses.fields(window)]
    return tracker.track(*values, **options)


def test_rows_live_on_in_order_then_newborn_follow():
    roster = Roster(torch.tensor([4, 7, 9]), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]), 10)
    fates = decide(bools("101" + "0110"), roster, frame=5, kick_out=2)
    assert fates.rows.tolist() == [0, 2, 4, 5]
    assert fates.survivors == 2
    assert fates.roster.ids.tolist() == [4, 9, 10, 11]
    assert fates.roster.starts.tolist() == [0, 1, 5, 5]
    assert fates.roster.next_id == 12
    assert fates.died.tolist() == [7]
    assert fates.seen.tolist() == [True] * 4


def test_being_seen_again_starts_the_count_anew():
    roster, died = decide(bools("1"), Roster.empty(), 0, kick_out=3).roster, []
    for frame, valid in enumerate("001001000", start=1):
        fates = decide(bools(valid), roster, frame, kick_out=3)
        roster, died = fates.roster, [*died, *([frame] * len(fates.died))]
        if died:
            break
    assert died == [9]


@pytest.mark.parametrize("kick_out", [1, 3, 8])
def test_a_track_that_is_never_seen_again_dies_after_exactly_the_kick_out_frames(kick_out):
    tracker = make_tracker(
        kick_out_frame_num=kick_out,
        inference_select_threshold=1.0,
        aux_inference_select_threshold=0.0,
    )
    tracks = track(tracker, frames=kick_out + 2)
    assert len(tracks) == QUERIES
    for one in tracks:
        assert one.dead
        assert one.appearance.tolist() == [True] + [False] * (kick_out - 1)
        assert one.pos_embed_history.shape == (1, DIM)


def test_a_track_that_waits_one_frame_less_still_lives():
    tracker = make_tracker(
        kick_out_frame_num=4, inference_select_threshold=1.0, aux_inference_select_threshold=0.0
    )
    assert not any(one.dead for one in track(tracker, frames=4))


def test_the_mask_of_a_track_that_is_not_seen_is_kept():
    tracker = make_tracker(inference_select_threshold=1.0, aux_inference_select_threshold=0.0)
    for one in track(tracker, frames=3):
        assert one.masks[1:].abs().amin((1, 2)).min() > 0
        assert torch.equal(one.pos_embed, one.pos_embed_history[0])


def test_the_slot_branch_decides_only_where_ovis_infer_is_set():
    plain = dict(inference_select_threshold=0.0, aux_inference_select_threshold=0.0)
    never = dict(kick_out_frame_num=2, keep_threshold=1.0)  # no score exceeds 1
    free = track(make_tracker(**plain, **never, ovis_infer=False), frames=4)
    bound = track(make_tracker(**plain, **never, ovis_infer=True), frames=4)
    assert not any(one.dead for one in free)
    assert all(one.appearance.all() for one in free)
    assert all(one.dead == (one.start < 2) for one in bound)
    assert all(one.appearance.tolist()[1:] == [False] * (len(one.masks) - 1) for one in bound)


def test_a_slot_score_that_is_never_too_low_changes_nothing():
    options = dict(inference_select_threshold=0.4, aux_inference_select_threshold=0.3)
    free = track(make_tracker(**options), frames=5)
    kept = track(make_tracker(**options, ovis_infer=True, keep_threshold=0.0), frames=5)
    assert [one.appearance.tolist() for one in free] == [one.appearance.tolist() for one in kept]


def test_without_ovis_infer_both_modes_are_one():
    tracker = make_tracker(inference_select_threshold=0.4, aux_inference_select_threshold=0.3)
    one, other = (track(tracker, 5, mode=mode) for mode in ("inference", "offline"))
    assert [t.appearance.tolist() for t in one] == [t.appearance.tolist() for t in other]


def test_in_inference_both_branches_must_find_a_track():
    sure, unsure = [6.0, 0.0, 0.0], [0.0, 0.0, 6.0]  # two classes, then "no object"
    rows = torch.tensor([sure, sure, unsure, sure, unsure])  # three tracks, two anchors
    slots = torch.tensor([sure, unsure, sure])
    seen = agreed(rows, slots, "inference", threshold=0.5, keep=0.01)
    assert seen.tolist() == [True, False, False, True, False]


def test_a_slot_score_at_the_keep_threshold_is_too_low():
    even = torch.zeros(1, 2)  # score one half exactly
    sure = torch.tensor([[6.0, 0.0]])
    assert not agreed(sure, even, "inference", threshold=0.1, keep=0.5)
    assert agreed(sure, even, "inference", threshold=0.1, keep=0.49)


def test_offline_takes_the_score_of_the_mean_logits_not_the_mean_score():
    rows = torch.tensor([[0.0, 0.0, 4.0], [4.0, 0.0, 0.0]])  # a track, an anchor
    slots = torch.tensor([[10.0, 0.0, 0.0]])
    # Mean logits (5, 0, 2): softmax of the first class e5 / (e5 + 1 + e2) = 0.9465.
    assert agreed(rows, slots, "offline", threshold=0.94, keep=0.99).tolist() == [True, True]
    assert agreed(rows, slots, "offline", threshold=0.95, keep=0.0).tolist() == [False, True]
    # Mean score would be (0.0177 + 0.9999) / 2 = 0.51, and "inference" wants the tracker's 0.0177.
    assert agreed(rows, slots, "inference", threshold=0.94, keep=0.0).tolist() == [False, True]


def test_offline_runs_use_the_slot_branch_of_the_same_frame():
    tracker = make_tracker(
        inference_select_threshold=0.4, aux_inference_select_threshold=0.0, ovis_infer=True
    )
    window = make_window(2)
    state, _ = tracker.step(None, window.part(0, 1))
    frame = FrameView.of(window, 1)
    with torch.no_grad():
        embeds, fused = state.embeds, state.positions.fused
        logits = tracker.classify(tracker.decode(frame, embeds, fused).last)
        slots = tracker.classify(tracker.decode_slots(frame, embeds, fused)[-1])[:QUERIES, 0]
    expected = ((slots + logits[:QUERIES]) / 2).softmax(-1)[:, :-1].amax(-1) > 0.4
    _, (record,) = tracker.step(state, window.part(1, 2), "offline")
    assert torch.equal(record.appearance[:QUERIES], expected)
    assert 0 < int(expected.sum()) < QUERIES


def test_the_state_does_not_grow_over_200_frames():
    tracker = make_tracker(inference_select_threshold=0.45, kick_out_frame_num=2)
    window, state, sizes = make_window(20), None, []
    for turn in range(200):
        state, (record,) = tracker.step(state, window.part(turn % 20, turn % 20 + 1))
        rows = len(record.ids)
        parts = (state.embeds, *vars(state.positions).values(), *vars(state.roster).values())
        floats = sum(part.numel() for part in parts if isinstance(part, torch.Tensor))
        assert floats == rows * (DIM + DIM + MEMORY * DIM + 4)
        sizes.append(rows)
    assert state.frame == 200
    assert max(sizes[100:]) <= max(sizes[:100]) + QUERIES


def test_slots_share_each_input_and_weights_over_inputs_sum_to_one():
    torch.manual_seed(0)
    keys, queries = torch.randn(1, 5, DIM).double(), torch.randn(1, 5, DIM).double()
    weights = compete(keys, queries)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 5).double())
    shares = (keys @ queries.transpose(1, 2) / DIM**0.5).softmax(2) + 1e-6  # over slots
    torch.testing.assert_close(weights, shares / shares.sum(1, keepdim=True))


def test_a_slot_that_wins_an_input_takes_it_from_the_others():
    keys = torch.eye(2)[None] * 9
    fair = compete(keys, torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]))
    torch.testing.assert_close(fair, torch.full((1, 2, 2), 0.5))
    # Slot 0 wants both inputs strongly: it wins both, though slot 1's own wish is unchanged.
    won = compete(keys, torch.tensor([[[9.0, 9.0], [1.0, 1.0]]]))
    torch.testing.assert_close(won[0, :, 0], torch.tensor([0.5, 0.5]))
    only = compete(keys, torch.tensor([[[9.0, 0.0], [1.0, 1.0]]]))
    assert only[0, 0, 0] > 0.99
    assert only[0, 1, 1] > 0.99


def test_slot_attention_gathers_values_as_they_are():
    attention = SlotAttention(4)
    torch.nn.init.zeros_(attention.project_k.weight)  # all inputs alike: plain means
    values = torch.arange(12.0).view(3, 1, 4)
    gathered = attention(torch.randn(3, 1, 4), values, torch.randn(3, 1, 4))
    torch.testing.assert_close(gathered, values.mean(0, keepdim=True).expand(3, -1, -1))


def test_slots_start_from_the_best_assignment_and_from_the_nearest_beyond_it():
    queries = torch.eye(3)
    rows = torch.tensor([[9.0, 1.0, 0.0], [8.0, 5.0, 0.0]])  # both are nearest to query 0
    assert choose_slots(rows, queries).tolist() == [0, 1]
    many = torch.cat([rows, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.1]])])
    chosen = choose_slots(many, queries)
    assert set(chosen.tolist()) == {0, 1, 2}
    assert len(chosen) == 4


def test_the_mean_within_a_mask_is_hard_and_zero_where_the_mask_is_empty():
    features = torch.tensor([[1.0, 3.0, 100.0], [2.0, 6.0, 100.0]])
    masks = torch.tensor([[0.1, 9.0, -0.1], [-1.0, -1.0, -1.0]])
    torch.testing.assert_close(masked_means(masks, features), torch.tensor([[2.0, 4.0], [0, 0]]))


def test_a_first_position_is_taken_whole_and_later_ones_by_likeness():
    memory = PositionMemory.empty(1, torch.zeros(2))
    seen = torch.ones(1, dtype=torch.bool)
    east, diagonal, west = (torch.tensor([v]) for v in ([2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]))
    memory = memory.fuse(east, seen)
    assert torch.equal(memory.fused, east)
    beta = 0.5**0.5
    memory = memory.fuse(diagonal, seen)
    torch.testing.assert_close(memory.fused, (1 - beta) * east + beta * diagonal)
    before = memory.fused
    memory = memory.fuse(west, seen)  # opposite: likeness below zero counts as none
    assert torch.equal(memory.fused, before)
    assert memory.count.tolist() == [3]
    assert torch.equal(memory.fuse(east, ~seen).fused, memory.fused)
    assert torch.equal(memory.fuse(east, ~seen).raw, memory.raw)


def test_a_new_position_is_compared_with_the_last_nine_raw_ones():
    torch.manual_seed(0)
    values = torch.randn(14, 1, 5).double()
    memory = PositionMemory.empty(1, values)
    for turn, value in enumerate(values):
        share = fusion_share(value, memory.raw, memory.count)
        after = list(values[: turn + 1])
        earlier = after[max(0, len(after) - 10) : -1]
        if earlier:
            likeness = torch.cosine_similarity(value, torch.cat(earlier)).mean().clamp_min(0)
            torch.testing.assert_close(share[0], likeness)
        memory = memory.fuse(value, torch.ones(1, dtype=torch.bool))
