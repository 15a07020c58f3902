"""Rows over a whole clip, links by hand, top scores, and masks of the original frames."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_masks
from torch.nn import functional

from mlkit_core.errors import InputError
from mlkit_dvis.assembly import (
    OUTSIDE,
    Linker,
    assemble,
    fill,
    flattened_topk,
    naive_link,
    refiner_rows,
    resize_masks,
    to_rles,
    top_tracks,
)
from mlkit_dvis.features import Window
from mlkit_dvis.tracker import Track


def track(start, frames, value, *, dead=False):
    return Track(
        start=start,
        dead=dead,
        embeds=torch.full((frames, 3), float(value)) + torch.arange(frames)[:, None],
        logits=torch.arange(frames * 2.0).reshape(frames, 2),
        masks=torch.full((frames, 2, 2), float(value)),
        appearance=torch.ones(frames, dtype=torch.bool),
        pos_embed=torch.full((3,), -float(value)),
        pos_embed_history=torch.zeros(frames, 3),
        id=value,
    )


def test_rows_hold_the_track_and_its_last_position_around_it():
    rows = assemble([track(1, 2, 5)], 4, 1)
    assert rows.embeds[0, :, 0].tolist() == [-5, 5, 6, -5]
    assert rows.padding[0].tolist() == [True, False, False, True]
    assert rows.masks[0, :, 0, 0].tolist() == [OUTSIDE, 5, 5, OUTSIDE]
    assert rows.logits[0].tolist() == [1, 2]  # mean of (0, 1) and (2, 3)


def test_short_tracks_are_dropped_unless_they_reach_the_end():
    tracks = [track(0, 2, 1, dead=True), track(3, 2, 2), track(0, 3, 3, dead=True)]
    rows = assemble(tracks, 5, 3)
    assert rows.masks[:, :, 0, 0].amax(1).tolist() == [2, 3]


def test_no_track_left_gives_no_row_but_all_frames():
    for tracks in ([], [track(0, 2, 1, dead=True)]):
        rows = assemble(tracks, 5, 3)
        assert len(rows) == 0
        assert rows.padding.shape == (0, 5)


def test_a_part_of_a_longer_track_is_refused():
    with pytest.raises(InputError, match="track 4: reaches frame 11 of a clip of 5 frames"):
        assemble([track(10, 2, 4)], 5, 1)


def window(order=((0, 1, 2), (2, 0, 1))):
    """Return two frames of three queries; `order` says which unit vector each query is."""
    places = torch.tensor(order)  # [T, Q]
    masks = places.T[None, :, :, None, None].expand(1, 3, 2, 2, 2).float()
    logits = torch.stack([places.float(), torch.ones(places.shape)], -1)[None]
    return Window(
        pred_embds=torch.eye(3)[places].permute(2, 0, 1)[None],
        mask_features=torch.zeros(1, 2, 4, 2, 2),
        pred_logits=logits,  # the higher the vector's number, the better the score
        pred_masks=masks,
        seg_query_feat=torch.zeros(3, 3),
    )


def test_fillers_follow_their_object_and_are_the_best_ones():
    rows = fill(assemble([track(0, 2, 5)], 2, 1), window(), 3)
    assert len(rows) == 3
    assert rows.masks[0].unique().tolist() == [5]
    fillers = sorted(rows.masks[1:, :, 0, 0].tolist())
    assert fillers == [[1, 1], [2, 2]]  # the mask of one and the same vector in both frames
    assert sorted(rows.logits[1:, 0].tolist()) == [1, 2]
    assert not rows.padding.any()
    for row in (1, 2):
        vector = int(rows.masks[row, 0, 0, 0])
        assert rows.embeds[row].tolist() == torch.eye(3)[[vector, vector]].tolist()


def test_rows_that_suffice_are_not_filled():
    found = assemble([track(0, 2, 5), track(0, 2, 6)], 2, 1)
    assert fill(found, window(), 2) is found


def test_there_are_never_more_rows_than_queries_unless_tracks():
    assert len(fill(assemble([track(0, 2, 5)], 2, 1), window(), 100)) == 3
    tracks = [track(0, 2, value) for value in range(5)]
    options = {"noise_frames": 1, "topk_tracks": 4, "num_rows": 3}
    rows, count = refiner_rows(tracks, window(), **options)
    assert len(rows) == count == 4


def test_without_tracks_all_rows_are_fillers():
    rows, count = refiner_rows([], window(), noise_frames=5, topk_tracks=40, num_rows=3)
    assert count == 0
    assert len(rows) == 3
    assert rows.masks.dtype == torch.float32


def test_links_need_no_more_than_the_last_frame():
    torch.manual_seed(0)
    embeds, linker = torch.randn(6, 4, 8), Linker()
    frames = [linker.add(frame) for frame in embeds]
    assert torch.equal(torch.stack(frames), naive_link(embeds))


def test_links_are_found_in_half_precision():
    embeds = torch.randn(3, 4, 8).bfloat16().requires_grad_()
    assert naive_link(embeds).sort().values.tolist() == [[0, 1, 2, 3]] * 3


def test_links_are_the_best_assignment_of_all():
    torch.manual_seed(0)
    embeds = torch.randn(3, 4, 6, dtype=torch.float64)
    order = naive_link(embeds)
    unit = functional.normalize(embeds, dim=-1)
    assert order[0].tolist() == [0, 1, 2, 3]
    for t in (1, 2):
        before = unit[t - 1][order[t - 1]]
        best = max(
            itertools.permutations(range(4)),
            key=lambda p: sum(before[i] @ unit[t][p[i]] for i in range(4)),
        )
        assert order[t].tolist() == list(best)


def test_one_row_may_give_several_results_with_different_labels():
    logits = torch.tensor([[4.0, 4.0, 0.0], [0.0, 0.0, 6.0]])  # the last class is no object
    scores, labels, rows = flattened_topk(logits, 2)
    assert sorted(labels.tolist()) == [0, 1]
    assert rows.tolist() == [0, 0]
    assert scores.tolist() == pytest.approx([1 / (2 + torch.tensor(-4.0).exp().item())] * 2)


def test_fewer_pairs_than_asked_for_are_all_given():
    scores, labels, rows = flattened_topk(torch.zeros(2, 3), 20)
    assert len(scores) == len(labels) == len(rows) == 4
    assert [len(part) for part in flattened_topk(torch.zeros(0, 1), 20)] == [0, 0, 0]


def test_top_tracks_keeps_the_order_where_all_fit():
    logits = torch.tensor([[0.0, 3.0], [3.0, 0.0], [1.0, 0.0]])
    assert top_tracks(logits, 3).tolist() == [0, 1, 2]
    assert sorted(top_tracks(logits, 2).tolist()) == [1, 2]


def test_masks_are_resized_twice_with_the_padding_cut_off_between():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5)
    at_input = functional.interpolate(logits, size=(16, 20), mode="bilinear", align_corners=False)
    want = functional.interpolate(at_input[..., :14, :19], size=(9, 11), mode="bilinear") > 0
    assert torch.equal(resize_masks(logits, (16, 20), (14, 19), (9, 11)), want)
    once = functional.interpolate(logits, size=(9, 11), mode="bilinear") > 0
    assert not torch.equal(once, want)


def test_masks_that_have_the_right_size_are_not_resized(monkeypatch):
    monkeypatch.delattr("torch.nn.functional.interpolate")
    logits = torch.tensor([[[[1.0, -1.0], [0.0, 2.0]]]])
    masks = resize_masks(logits, (2, 2), (2, 2), (2, 2))
    assert masks.tolist() == [[[[True, False], [False, True]]]]


# pycocotools reads run lengths in a way that numpy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_lengths_are_read_back_by_pycocotools_and_empty_masks_are_none():
    masks = torch.rand(3, 6, 7) > 0.5
    masks[1] = False
    first, empty, last = to_rles(masks)
    assert empty is None
    assert first["size"] == [6, 7]
    assert isinstance(first["counts"], str)
    assert to_rles(masks[:0]) == []
    assert np.array_equal(coco_masks.decode(first), masks[0].numpy())
    assert np.array_equal(coco_masks.decode(last), masks[2].numpy())
