"""Episodes, triplets and splits: pure functions of a seed over a data set made by hand."""

import random
from collections import Counter
from pathlib import Path

import pytest

from mlkit_core.errors import DataError
from mlkit_refdet.episodes.config import ReferenceFramesConfig
from mlkit_refdet.episodes.decks import Deck, Shares
from mlkit_refdet.episodes.evaluation import asked_of, every_frame
from mlkit_refdet.episodes.index import (
    Footage,
    ObjectBox,
    ObjectClass,
    Photo,
    Place,
    ReferenceIndex,
)
from mlkit_refdet.episodes.sampling import EpisodeSampler, auto_episodes
from mlkit_refdet.episodes.splits import DataSets, Split

NAMES = ("Backpack_0", "Backpack_1", "Jacket_0", "Laptop_0", "Person_0")
RUN = range(40, 60)  # labelled frames of every video


def videos(names=NAMES, frames=200, labelled=RUN) -> ReferenceIndex:
    """One video of each class, with one labelled run."""
    classes = tuple(ObjectClass(name, (Photo(Path(f"{name}.jpg")),)) for name in names)
    footage = tuple(
        Footage(
            name=name,
            path=Path(f"{name}.mp4"),
            frames=range(frames),
            size=(48, 64),
            boxes={f: (ObjectBox(name, (1, 2, 30, 40)),) for f in labelled},
            classes=(name,),
        )
        for name in names
    )
    return ReferenceIndex(Path("/data"), classes, footage)


def image_set(shown: list[tuple[str, ...]], names=("ant", "bee", "cat", "dog")) -> ReferenceIndex:
    """A set of images that show what is listed."""
    classes = tuple(ObjectClass(name, (Photo(Path(f"{name}.jpg")),)) for name in names)
    boxes = {
        number: tuple(ObjectBox(name, (0, 0, 9, 9)) for name in own)
        for number, own in enumerate(shown)
        if own
    }
    footage = Footage(
        name="images",
        path=Path("images"),
        frames=range(len(shown)),
        size=(48, 64),
        boxes=boxes,
        files={n: Path(f"{n}.png") for n in range(len(shown))},
        is_video=False,
    )
    return ReferenceIndex(Path("/data"), classes, (footage,))


def whole(index: ReferenceIndex, guard: int = 5) -> Split:
    """All of a data set as one split."""
    names = [one.name for one in index.classes]
    frames = {number: list(one.frames) for number, one in enumerate(index.footage)}
    return Split(index, names, names, frames, guard)


def options(**given) -> ReferenceFramesConfig:
    return ReferenceFramesConfig(root=Path("/data"), **given)


def draws(index: ReferenceIndex, seed: int = 0, **given) -> list:
    sampler = EpisodeSampler(whole(index), options(**given))
    return [draw for (draw,) in sampler.units(seed)]


@pytest.mark.parametrize("strategy", ["background", "cross_class", "mixed"])
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_an_epoch_and_every_unit_hold_triplets_in_the_ratio_asked_for(strategy, ratio):
    found = draws(videos(), triplet_ratio=ratio, negative_strategy=strategy, episodes=100)
    detection = [len(one.frames) + len(one.backgrounds) for one in found]
    triplets = [len(one.triplets) for one in found]
    assert sum(triplets) / (sum(triplets) + sum(detection)) == pytest.approx(ratio, abs=1e-3)
    assert sum(triplets) == round(sum(detection) * ratio / (1 - ratio))
    for items, count in zip(detection, triplets, strict=True):
        assert count >= 1
        assert items >= 1
        assert abs(count - items * ratio / (1 - ratio)) <= 1


def test_the_default_detection_ratio_of_a_mixed_epoch_is_seventy_percent():
    found = draws(videos(), triplet_ratio=0.3, episodes=50)
    detection = sum(len(one.frames) + len(one.backgrounds) for one in found)
    every = detection + sum(len(one.triplets) for one in found)
    assert detection / every == pytest.approx(0.7, abs=0.01)


def test_a_ratio_of_nought_or_one_gives_one_kind_of_items():
    plain = draws(videos(), episodes=5)
    assert all(one.frames and not one.triplets for one in plain)
    pairs = draws(videos(), triplet_ratio=1, episodes=5)
    assert all(len(one.triplets) == 8 and not one.frames and not one.backgrounds for one in pairs)


def test_a_share_below_one_triplet_a_unit_is_refused():
    with pytest.raises(DataError, match=r"triplet_ratio: 0\.1 of an episode of 2 items is less"):
        draws(videos(), triplet_ratio=0.1, n_way=1, n_query=2, background_ratio=0)


def test_background_frames_are_the_share_asked_for():
    found = draws(videos(), background_ratio=0.3, episodes=200)
    empty = sum(len(one.backgrounds) for one in found)
    every = empty + sum(len(one.frames) for one in found)
    assert empty / every == pytest.approx(0.3, abs=0.002)
    assert {len(one.backgrounds) for one in draws(videos(), backgrounds=3, episodes=9)} == {3}


def test_units_depend_on_the_seed_alone():
    index, given = videos(), {"triplet_ratio": 0.3, "negative_strategy": "mixed", "episodes": 8}
    assert draws(index, 4, **given) == draws(videos(), 4, **given)
    assert draws(index, 4, **given) != draws(index, 5, **given)
    state = random.getstate()
    draws(index, 4, **given)
    assert random.getstate() == state


def test_the_classes_of_an_episode_are_of_distinct_categories():
    index = videos()
    categories = {label: one.category for label, one in enumerate(index.classes)}
    found = draws(index, n_way=4, episodes=200)
    for one in found:
        assert len({categories[label] for label in one.ways}) == 4
    seen = Counter(label for one in found for label in one.ways)
    assert seen[0] + seen[1] == 200  # one of the two backpacks in every episode
    assert abs(seen[0] - seen[1]) < 50


def test_the_order_of_an_episodes_classes_tells_nothing():
    first = Counter(one.ways[0] for one in draws(videos(), episodes=300))
    assert all(first[label] > 30 for label in range(5))


def test_too_few_categories_are_refused_with_both_numbers():
    with pytest.raises(DataError, match=r"5 categories are needed.*training split has 4"):
        draws(videos(), n_way=5)


def test_no_background_frame_lies_within_the_guard():
    index = videos()
    found = draws(index, episodes=300, triplet_ratio=0.5, negative_strategy="background", guard=5)
    empty = [place for one in found for place in one.backgrounds]
    empty += [t.negative for one in found for t in one.triplets if t.is_background]
    assert len(empty) > 1000
    assert all(not RUN.start - 5 <= place.frame <= RUN.stop - 1 + 5 for place in empty)


def test_background_frames_are_of_the_videos_of_the_episodes_classes():
    for one in draws(videos(), episodes=50, backgrounds=2):
        assert {place.footage for place in one.backgrounds} <= {*one.ways}


def test_every_frame_of_an_episode_shows_its_class_and_none_comes_twice():
    for one in draws(videos(), episodes=50, n_query=4):
        assert Counter(place.footage for place in one.frames) == dict.fromkeys(one.ways, 4)
        assert len({*one.frames}) == 8
        assert all(place.frame in RUN for place in one.frames)


def test_a_class_with_fewer_frames_gives_all_it_has():
    found = draws(videos(labelled=[7, 9]), n_query=4, episodes=10)
    assert all(len(one.frames) == 4 for one in found)


def test_an_epoch_shows_every_labelled_frame_before_it_repeats_one():
    index = videos(("Crate_0", "Tent_0"))
    found = draws(index, episodes=5)  # 5 episodes of 4 frames of each class: all 20
    seen = Counter(place for one in found for place in one.frames)
    assert len(seen) == 40
    assert {*seen.values()} == {1}


def test_cross_class_negatives_are_of_another_category_and_triplets_are_balanced():
    index = videos()
    categories = {label: one.category for label, one in enumerate(index.classes)}
    found = [t for one in draws(index, triplet_ratio=0.5, episodes=200) for t in one.triplets]
    for one in found:
        assert one.positive.footage == one.anchor
        assert categories[one.other] != categories[one.anchor]
        assert one.negative.footage == one.other
        assert one.negative.frame in RUN
    per_unit = [
        Counter(t.anchor for t in one.triplets)
        for one in draws(index, triplet_ratio=0.5, episodes=50)
    ]
    assert all(max(c.values()) - min(c.values()) <= 1 for c in per_unit)


def test_background_negatives_are_of_the_anchors_own_video():
    given = {"triplet_ratio": 0.5, "negative_strategy": "background", "episodes": 20}
    found = [t for one in draws(videos(), **given) for t in one.triplets]
    assert all(t.is_background and t.negative.footage == t.anchor for t in found)


def test_a_class_without_empty_frames_falls_back_to_other_classes():
    index = videos(("Crate_0", "Tent_0"), frames=20, labelled=range(20))
    given = {"triplet_ratio": 0.5, "negative_strategy": "background", "episodes": 20}
    found = [t for one in draws(index, **given) for t in one.triplets]
    assert found
    assert not any(t.is_background for t in found)


def test_mixed_negatives_are_both_about_equally_often():
    given = {"triplet_ratio": 0.5, "negative_strategy": "mixed", "episodes": 100}
    found = [t for one in draws(videos(), **given) for t in one.triplets]
    share = sum(t.is_background for t in found) / len(found)
    assert 0.45 < share < 0.55


def test_one_category_alone_has_no_cross_class_negative():
    index = videos(("Crate_0", "Crate_1"))
    with pytest.raises(DataError, match="'Crate' has no negative frame"):
        draws(index, n_way=1, triplet_ratio=0.5, episodes=2)


def test_a_single_way_takes_negatives_of_classes_beyond_it():
    found = draws(videos(), n_way=1, triplet_ratio=0.5, episodes=20)
    for one in found:
        assert {t.other for t in one.triplets} == {*one.others}
        assert not {*one.ways} & {*one.others}


def test_where_both_ways_always_appear_together_another_class_is_the_negative():
    shown = [("ant", "bee"), ("ant", "bee"), ("cat",), ("dog",)] * 3
    for one in draws(image_set(shown), triplet_ratio=0.5, episodes=60):
        ways = {*one.ways}
        assert {t.other for t in one.triplets} - ways == {*one.others}
        if ways == {0, 1}:
            assert {*one.others} <= {2, 3}
            assert one.others


def test_samples_per_class_sets_the_length_of_an_epoch():
    found = draws(videos(), triplet_ratio=1, samples_per_class=100)
    assert sum(len(one.triplets) for one in found) >= 500
    assert len(found) == 63  # 500 triplets, eight in a unit
    with pytest.raises(ValueError, match="triplet_ratio is 0"):
        options(samples_per_class=10)


@pytest.mark.parametrize(
    ("frames", "classes", "stage", "expected"),
    [
        (16595, 12, 2, 1000),  # 2075 episodes once, at most 1000
        (1000, 9, 1, 250),  # 125 * 2
        (1000, 49, 2, 125),
        (1000, 50, 3, 63),  # 125 / 2, rounded up
        (8, 4, 2, 10),  # at least ten
    ],
)
def test_an_epoch_has_as_many_episodes_as_its_frames_ask_for(frames, classes, stage, expected):
    assert auto_episodes(frames, classes, options(stage=stage)) == expected


def test_of_images_the_negatives_show_none_of_the_anchors_kind():
    shown = [("ant",), ("ant", "bee"), ("bee",), ("bee", "cat"), ("cat",), ("dog", "ant"), ("dog",)]
    given = {"triplet_ratio": 0.5, "negative_strategy": "cross_class", "episodes": 60}
    for one in draws(image_set(shown * 3), **given):
        for triplet in one.triplets:
            names = ("ant", "bee", "cat", "dog")
            assert names[triplet.anchor] in shown[triplet.positive.frame % 7]
            assert names[triplet.anchor] not in shown[triplet.negative.frame % 7]
            assert names[triplet.other] in shown[triplet.negative.frame % 7]


def test_images_without_any_object_come_first_as_background():
    shown = [("ant",), ("bee",), ("cat",), ("dog",), (), ()] * 2
    found = draws(image_set(shown), backgrounds=2, episodes=30)
    assert {place.frame for one in found for place in one.backgrounds} == {4, 5, 10, 11}


def test_where_every_image_shows_something_others_without_the_classes_are_background():
    shown = [("ant",), ("bee",), ("cat",), ("dog",)] * 3
    names = ("ant", "bee", "cat", "dog")
    for one in draws(image_set(shown), backgrounds=2, episodes=30):
        ways = {names[label] for label in one.ways}
        assert len(one.backgrounds) == 2
        assert all(not ways & {*shown[place.frame]} for place in one.backgrounds)


def test_a_deck_deals_all_before_it_repeats_and_keeps_what_did_not_fit():
    deck = Deck("abcd", random.Random(1))
    assert sorted(deck.deal() for _ in range(4)) == [*"abcd"]
    assert deck.draw(lambda item: item == "c") == "c"
    assert sorted(deck.deal() for _ in range(3)) == ["a", "b", "d"]
    assert deck.draw(lambda item: item == "z") is None


def test_shares_add_up_to_the_rounded_whole_at_every_step():
    shares, given = Shares(), 0
    for step in range(1, 100):
        given += shares.next(3.43)
        assert given == round(3.43 * step)


def split_of(index: ReferenceIndex, name: str, **given) -> Split:
    sets = DataSets(options(**given))
    sets.__dict__["indexes"] = dict.fromkeys(("train", "val", "test"), index)
    return sets.split(name)


def test_videos_of_held_out_classes_are_validated_on_as_a_whole():
    index, given = videos(), {"val_classes": ("Jacket_0",), "test_classes": ("Person_0",)}
    train, val, test = (split_of(index, name, **given) for name in ("train", "val", "test"))
    assert train.labels == (0, 1, 3)
    assert {place.footage for place in train.every} == {0, 1, 3}
    assert (val.labels, {place.footage for place in val.every}) == ((2,), {2})
    assert (test.labels, {place.footage for place in test.every}) == ((4,), {4})


def test_a_fold_takes_classes_by_their_place_in_sorted_order():
    assert split_of(videos(), "val", val_fold=(1, 3)).labels == (1, 4)
    assert split_of(videos(), "train", val_fold=(1, 3)).labels == (0, 2, 3)


def test_an_image_with_a_held_out_class_is_never_trained_on():
    shown = [("ant",), ("ant", "bee"), ("bee",), ("cat",), ("cat", "dog"), (), (), (), ()]
    train, val = (split_of(image_set(shown), n, val_classes=("bee",)) for n in ("train", "val"))
    assert {place.frame for place in train.every if train.shown(place)} == {0, 3, 4}
    assert {place.frame for place in val.every if val.shown(place)} == {1, 2}
    bare = [{p.frame for p in split.every if not split.shown(p)} for split in (train, val)]
    assert bare[0] | bare[1] == {5, 6, 7, 8}
    assert not bare[0] & bare[1]
    assert bare[1]


def test_an_unknown_class_or_a_missing_split_is_named():
    with pytest.raises(DataError, match=r"data\.val_classes: no class 'Tent_0'; there are Backp"):
        split_of(videos(), "val", val_classes=("Tent_0",))
    with pytest.raises(DataError, match="data: has no split 'val'"):
        split_of(videos(), "val")
    with pytest.raises(DataError, match="split: expected train, val, test or cache, got 'dev'"):
        split_of(videos(), "dev")


def test_every_nth_frame_is_taken_where_a_stride_says_so():
    index, given = videos(), {"val_classes": ("Jacket_0",), "stride": 4, "eval_stride": 10}
    assert len(split_of(index, "train", **given).every) == 4 * 50
    assert len(split_of(index, "val", **given).every) == 20


def test_a_video_is_asked_for_its_object_and_for_others_of_other_categories():
    split = whole(videos())
    units = every_frame(split, "val", options(eval_asked=2))
    assert [len(unit) for unit in units] == [200] * 5
    assert [draw.place.frame for draw in units[0]] == [*range(200)]
    for number, unit in enumerate(units):
        assert len({draw.asked for draw in unit}) == 1  # the same for all frames of a video
        assert number in unit[0].asked
        assert len(unit[0].asked) == 3
    assert not {0, 1} <= {*units[0][0].asked}  # no other backpack


def test_every_known_class_can_be_asked():
    split = whole(videos())
    assert asked_of(split, Place(0, 3), "all", "") == (0, 2, 3, 4)
    shown = [("ant", "bee"), ()]
    images = whole(image_set(shown))
    assert asked_of(images, Place(0, 0), "all", "") == (0, 1, 2, 3)
    assert {0, 1} < {*asked_of(images, Place(0, 0), 1, "key")}
    assert asked_of(images, Place(0, 0), 0, "key") == (0, 1)
    assert len(asked_of(images, Place(0, 1), 0, "key")) == 1  # an empty image is asked something


SHOWN = [("ant", "bee"), ("bee", "cat"), ("cat", "dog", "ant"), ("dog",), ("dog", "bee"), ()] * 4


def test_without_asks_every_frame_is_searched_for_all_of_the_episode():
    for one in draws(image_set(SHOWN), episodes=20, backgrounds=2):
        assert len(one.asked) == len(one.frames) + 2
        assert all(sorted(own) == sorted(one.ways) for own in one.asked)
        assert one.others == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_asks_searches_a_frame_for_what_it_shows_before_anything_else(count):
    split = whole(image_set(SHOWN))
    sampler = EpisodeSampler(split, options(n_way=3, episodes=60, backgrounds=2, asks=count))
    for (one,) in sampler.units(0):
        for place, own in zip(one.places, one.asked, strict=True):
            shown = split.shown(place)
            assert len({*own}) == len(own) == min(count, len(shown | {*one.ways}))
            assert len({*own} & shown) == min(count, len(shown))
            assert {*own} - shown <= {*one.ways}
        assert {*one.others} == {label for own in one.asked for label in own} - {*one.ways}


def test_a_single_ask_is_for_the_class_that_its_frame_was_drawn_for():
    for one in draws(videos(), n_way=4, n_query=1, episodes=40, backgrounds=0, asks=1):
        assert [own for (own,) in one.asked] == [place.footage for place in one.frames]
        assert sorted(own for (own,) in one.asked) == sorted(one.ways)


def test_the_order_of_what_asks_gives_tells_nothing():
    split = whole(videos())
    found = [
        split.shown(place) == {own[0]}
        for (one,) in EpisodeSampler(split, options(asks=2, backgrounds=0, episodes=200)).units(0)
        for place, own in zip(one.places, one.asked, strict=True)
    ]
    assert 0.45 < sum(found) / len(found) < 0.55


def test_a_triplets_anchor_is_asked_of_both_its_frames():
    given = {"triplet_ratio": 0.5, "negative_strategy": "mixed", "episodes": 60, "asks": 1}
    for one in draws(image_set(SHOWN), **given):
        asked = one.asked[len(one.frames) + len(one.backgrounds) :]
        assert asked == tuple((t.anchor,) for t in one.triplets for _ in range(2))


def test_a_class_that_is_kept_for_validation_is_never_asked():
    index = image_set(SHOWN)
    names = [one.name for one in index.classes]
    frames = {0: list(range(len(SHOWN)))}
    split = Split(index, names, [n for n in names if n != "dog"], frames, 5)
    sampler = EpisodeSampler(split, options(n_way=2, asks=3, backgrounds=1, episodes=60))
    asked = {label for (one,) in sampler.units(0) for own in one.asked for label in own}
    assert asked == {0, 1, 2}
