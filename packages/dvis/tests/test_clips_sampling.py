"""Clips are drawn where and as often as the specification says."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from mlkit_dvis.clips.sampling import clip_frames, spread

DRAWS = 2000


def drawn(shows, count, reach, reverse=0.0, seed=0):
    generator = random.Random(seed)
    return [clip_frames(shows, count, reach, generator, reverse) for _ in range(DRAWS)]


@pytest.mark.parametrize(("count", "reach"), [(1, 0), (3, 1), (5, 2), (21, 10)])
def test_frames_follow_each_other_where_the_reach_leaves_no_choice(count, reach):
    for clip in drawn([True] * 30, count, reach):
        assert clip == list(range(clip[0], clip[0] + count))
        assert 0 <= clip[0] <= 30 - count


def test_every_window_of_a_video_is_drawn_equally_often():
    starts = Counter(clip[0] for clip in drawn([True] * 12, 5, 2))
    assert sorted(starts) == list(range(8))
    # 250 are expected of each; a share of 1/8 in 2,000 draws has a deviation of 14.8.
    assert all(abs(count - 250) < 5 * 14.8 for count in starts.values())


@pytest.mark.parametrize(("count", "reach"), [(2, 20), (4, 3), (3, 2)])
def test_other_frames_are_sorted_distinct_and_within_reach(count, reach):
    for clip in drawn([True] * 40, count, reach):
        assert clip == sorted(set(clip))
        assert len(clip) == count
        assert clip[0] >= 0
        assert clip[-1] < 40
        assert any(all(abs(t - reference) <= reach for t in clip) for reference in clip)


def test_both_ends_of_a_video_are_reached():
    frames = {t for clip in drawn([True] * 40, 2, 20) for t in clip}
    assert frames == set(range(40))


def test_clips_that_may_be_sparse_are_not_all_contiguous():
    clips = drawn([True] * 40, 5, 10)
    assert sum(clip[-1] - clip[0] > 4 for clip in clips) > 0.9 * DRAWS


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_clips_run_backwards_as_often_as_asked(share):
    clips = drawn([True] * 30, 5, 2, reverse=share)
    backwards = sum(clip == sorted(clip, reverse=True) for clip in clips)
    assert all(sorted(clip) == list(range(min(clip), min(clip) + 5)) for clip in clips)
    deviation = (share * (1 - share) / DRAWS) ** 0.5
    assert abs(backwards / DRAWS - share) <= 5 * deviation


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_video_that_is_too_short_gives_all_of_its_frames_and_some_again(length):
    clips = drawn([True] * length, 5, 2)
    assert all(len(clip) == 5 and clip == sorted(clip) for clip in clips)
    assert all(set(clip) == set(range(length)) for clip in clips)


def test_which_frames_of_a_short_video_come_again_is_random():
    repeated = {tuple(sorted((Counter(c) - Counter(range(4))).elements()))
                for c in drawn([True] * 4, 5, 2)}  # fmt: skip
    assert repeated == {(0,), (1,), (2,), (3,)}


def test_too_few_neighbours_are_repeated_rather_than_reached_beyond():
    for clip in drawn([True] * 10, 5, 1):
        assert len(clip) == 5
        assert clip[-1] - clip[0] <= 2


@pytest.mark.parametrize("reach", [2, 10])
def test_a_clip_shows_an_instance_wherever_the_video_does(reach):
    shows = [t == 37 for t in range(60)]
    assert all(37 in clip for clip in drawn(shows, 5, reach))


@pytest.mark.parametrize("reach", [2, 10])
def test_a_video_that_shows_nothing_still_gives_clips(reach):
    assert all(len(clip) == 5 for clip in drawn([False] * 20, 5, reach))


def test_the_seed_decides_the_clip():
    assert drawn([True] * 30, 5, 9, 0.5, seed=4) == drawn([True] * 30, 5, 9, 0.5, seed=4)
    assert drawn([True] * 30, 5, 9, 0.5, seed=4) != drawn([True] * 30, 5, 9, 0.5, seed=5)


def test_numbers_are_spread_evenly():
    chosen = Counter(spread(7, 24, random.Random(0)))
    assert sorted(chosen.values()) == [3, 3, 3, 3, 4, 4, 4]
    assert spread(0, 5, random.Random(0)) == []
