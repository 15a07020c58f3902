"""The refiner over long videos: chunks that tile them, and exactness where one chunk suffices."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mlkit_core.errors import InputError
from mlkit_dvis.refiner import TemporalRefiner, chunk_ranges, refine_chunks

SIZES = [(1, 5, 2), (5, 5, 2), (6, 5, 2), (23, 5, 2), (40, 5, 4), (17, 6, 0), (1000, 120, 40)]


@pytest.mark.parametrize(("frames", "limit", "overlap"), SIZES)
def test_owned_frames_tile_the_video(frames, limit, overlap):
    chunks = chunk_ranges(frames, limit, overlap)
    owned = [frame for chunk in chunks for frame in range(chunk.first, chunk.last)]
    assert owned == list(range(frames))
    for chunk in chunks:
        assert 0 <= chunk.start <= chunk.first < chunk.last <= chunk.stop <= frames
        assert chunk.stop - chunk.start == min(limit, frames)
    assert all(left.stop - right.start >= overlap for left, right in pairwise(chunks))


@pytest.mark.parametrize(("frames", "limit", "overlap"), SIZES)
def test_each_frame_is_taken_where_it_lies_farthest_from_a_cut(frames, limit, overlap):
    chunks = chunk_ranges(frames, limit, overlap)

    def distance(chunk, frame):
        left = frame - chunk.start + 0.5 if chunk.start > 0 else frames
        right = chunk.stop - frame - 0.5 if chunk.stop < frames else frames
        return min(left, right)

    for chunk in chunks:
        for frame in range(chunk.first, chunk.last):
            best = max(distance(c, frame) for c in chunks if c.start <= frame < c.stop)
            # Where two chunks share an odd number of frames, the middle one fits both.
            assert distance(chunk, frame) == best


@pytest.mark.parametrize(("frames", "limit", "overlap"), [(0, 5, 2), (9, 5, 5), (9, 5, -1)])
def test_numbers_out_of_range_are_refused(frames, limit, overlap):
    with pytest.raises(InputError, match="chunks: frames"):
        chunk_ranges(frames, limit, overlap)


def small(**options):
    torch.manual_seed(0)
    refiner = TemporalRefiner(
        hidden_channel=16, feedforward_channel=32, num_head=2, decoder_layer_num=2,
        mask_dim=8, class_num=3, **options,
    )  # fmt: skip
    return refiner.double().eval()


def embeds(frames=11):
    torch.manual_seed(1)
    return (
        torch.randn(1, 16, frames, 4, dtype=torch.float64),
        torch.randn(1, 16, frames, 5, dtype=torch.float64),
    )


def reader(values, calls):
    def read(start, stop):
        calls.append((start, stop))
        return values[:, :, start:stop]

    return read


@torch.no_grad()
def chunked(refiner, instances, frames, **options):
    calls = []
    read = (reader(instances, calls), reader(frames, []))
    return refine_chunks(refiner, *read, instances.shape[2], **options), calls


@pytest.mark.parametrize("options", [{}, {"use_local_attn": True}, {"time_encoding": "sine"}])
def test_a_video_within_the_limit_is_refined_exactly(options):
    refiner, (instances, frames) = small(**options), embeds()
    (decoded, activations), calls = chunked(refiner, instances, frames, limit=11, overlap=4)
    assert calls == [(0, 11)]
    features = torch.randn(1, 11, 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        whole = refiner(instances, frames, features)
        logits, weights = refiner.classify(decoded, activations)
        masks = refiner.masks(decoded, features)
    assert torch.equal(logits, whole.pred_logits[:, 0])
    assert torch.equal(weights[0], whole.frame_weights)
    assert torch.allclose(masks, whole.pred_masks, rtol=0, atol=1e-12)


def test_a_longer_video_takes_each_frame_from_its_chunk_and_weighs_all_of_them():
    refiner, (instances, frames) = small(), embeds()
    (decoded, activations), calls = chunked(refiner, instances, frames, limit=6, overlap=3)
    assert calls == [(c.start, c.stop) for c in chunk_ranges(11, 6, 3)]
    with torch.no_grad():
        for chunk in chunk_ranges(11, 6, 3):
            part = slice(chunk.start, chunk.stop)
            alone, _ = refiner.refine(instances[:, :, part], frames[:, :, part])
            own = decoded[:, chunk.first : chunk.last]
            assert torch.equal(own, alone[:, chunk.own])
        _, weights = refiner.classify(decoded, activations)
    assert torch.allclose(weights.sum(1), torch.ones(1, 4, dtype=torch.float64))


def test_rows_keep_their_place_across_chunks():
    refiner, (instances, frames) = small(), embeds()
    order = torch.tensor([2, 0, 3, 1])
    (decoded, _), _ = chunked(refiner, instances, frames, limit=6, overlap=3)
    (moved, _), _ = chunked(refiner, instances[..., order], frames, limit=6, overlap=3)
    assert torch.allclose(moved, decoded[:, :, order], rtol=0, atol=1e-12)


def test_a_time_encoding_counts_frames_from_the_start_of_the_video():
    refiner, (instances, frames) = small(time_encoding="sine"), embeds(4)
    with torch.no_grad():
        here, _ = refiner.refine(instances, frames)
        there, _ = refiner.refine(instances, frames, first_frame=7)
    assert (here - there).abs().max() > 1e-3
