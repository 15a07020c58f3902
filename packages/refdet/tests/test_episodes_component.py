"""The data component: batches of every kind, caches, evaluation, and a user's own files."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.errors import BuildError, DataError
from mlkit_core.tensors import map_tensors
from mlkit_core.training.sampling import Deal, evaluation_batches, training_batches
from mlkit_core.types import Needs
from mlkit_refdet.episodes.component import ReferenceFrames
from mlkit_refdet.episodes.opening import stream_address
from mlkit_refdet.targets import ReferenceTarget, TripletOnlyTarget, TripletTarget

ALL = {role: Needs(size_multiple=32) for role in ("query", "support", "asked")}
PLAIN = {"query_augment": False, "support_augment": "none"}
SMALL = {"query_size": 64, "support_size": 32, "episodes": 4, "n_query": 2, "shots": 2}


def data_of(root: Path, needs=ALL, **options) -> ReferenceFrames:
    made = ReferenceFrames(root=root, **SMALL | options)
    made.bind(needs)
    return made


def batches_of(data: ReferenceFrames, units) -> list:
    return data.collate([[data.load(draw) for draw in unit] for unit in units])


def tensors(batches) -> list[torch.Tensor]:
    found = []
    map_tensors(batches, lambda t: found.append(t) or t)
    return found


def same(one, other) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(a.shape == b.shape and a.equal(b) for a, b in pairs)


def test_a_detection_batch_holds_frames_photos_and_what_is_asked(aeroeyes):
    data = data_of(aeroeyes().root, backgrounds=2, **PLAIN)
    (batch,) = batches_of(data, data.units("train", 0)[:1])
    assert (batch.kind, batch.upto) == ("detection", "head")
    assert batch.inputs["query"].shape == (6, 3, 64, 64)
    assert batch.inputs["support"].shape == (2, 2, 3, 32, 32)
    assert batch.valid["support"].all()
    assert not batch.masks["support"].any()  # nothing is known of the foreground
    assert batch.inputs["asked"].sort(1).values.tolist() == [[0, 1]] * 6
    target = batch.target
    assert type(target) is ReferenceTarget
    assert target.background.tolist() == [False] * 4 + [True] * 2
    for row in range(4):
        (label,) = target.labels[row][target.labels[row] >= 0].tolist()
        name = data.classes[int(target.class_ids[label])]
        assert batch.meta[row].extra["video_id"] == name
        box = target.boxes_xyxy[row][target.labels[row] >= 0]
        assert box.tolist() == [[10, 8 + 8, 30, 28 + 8]]  # 48 rows in the middle of 64
    assert (target.labels[4:] == -1).all()
    assert json.loads(batch.meta[0].extra["references"]) == [
        data.classes[i] for i in target.class_ids
    ]


def test_a_frames_pixels_are_those_of_its_number(aeroeyes, number_of):
    data = data_of(aeroeyes().root, **PLAIN)
    (batch,) = batches_of(data, data.units("train", 0)[:1])
    for row, meta in enumerate(batch.meta):
        shown = batch.inputs["query"][row][:, 8:56] * 255  # without the padding
        assert number_of(shown.permute(1, 2, 0).numpy()) == meta.extra["frame"]


def test_the_order_of_asked_classes_says_nothing_of_the_label(aeroeyes):
    data = data_of(aeroeyes().root, episodes=60, **PLAIN)
    first = []
    for (draw,) in data.units("train", 0):
        sample = data.load(draw)
        labels = [int(item.labels[0]) for item in sample.frames if len(item.labels)]
        own = zip(sample.asked, labels, strict=False)
        first += [asked[0] == label for asked, label in own]
    assert 0.4 < sum(first) / len(first) < 0.6


def test_the_order_of_an_images_asked_classes_is_its_own(aeroeyes):
    data = data_of(aeroeyes().root, n_query=6, **PLAIN)
    (batch,) = batches_of(data, data.units("train", 0)[:1])
    assert len({tuple(row) for row in batch.inputs["asked"].tolist()}) == 2


def test_triplets_point_at_rows_that_do_and_do_not_show_the_anchor(aeroeyes):
    data = data_of(
        aeroeyes().root, triplet_ratio=0.5, negative_strategy="mixed", joint=False, **PLAIN
    )
    plain, batch = batches_of(data, data.units("train", 0)[:2])
    assert (plain.kind, batch.kind, batch.upto) == ("detection", "triplet", "head")
    target = batch.target
    assert type(target) is TripletTarget
    assert len(batch.meta) == 2 * len(target.anchors)
    for anchor, positive, negative, is_background in zip(
        target.anchors, target.positives, target.negatives, target.is_background, strict=True
    ):
        assert int(anchor) in target.labels[positive].tolist()
        shown = target.labels[negative][target.labels[negative] >= 0]
        if is_background:
            assert not len(shown)
        else:
            assert target.category_ids[shown[0]] != target.category_ids[anchor]
    assert bool(target.is_background.any())
    assert not bool(target.is_background.all())


def test_a_mixed_step_is_one_batch_whose_last_rows_are_the_triplets(aeroeyes):
    data = data_of(aeroeyes().root, triplet_ratio=0.5, backgrounds=1, **PLAIN)
    assert data.kinds == {"mixed": (TripletTarget, "head")}
    (batch,) = batches_of(data, data.units("train", 0)[:1])
    target = batch.target
    assert (batch.kind, len(batch.meta), len(target.anchors)) == ("mixed", 5 + 2 * 5, 5)
    assert target.positives.tolist() == [5, 7, 9, 11, 13]
    assert target.negatives.tolist() == [6, 8, 10, 12, 14]


def test_a_mixed_batch_holds_what_both_batches_hold(aeroeyes):
    root = aeroeyes().root
    joint, apart = (
        data_of(root, triplet_ratio=0.5, joint=joint, **PLAIN) for joint in (True, False)
    )
    (mixed,) = batches_of(joint, joint.units("train", 3)[:1])
    plain, pairs = batches_of(apart, apart.units("train", 3)[:1])
    both = [torch.cat([b.inputs[role] for b in (plain, pairs)]) for role in ("query", "asked")]
    assert mixed.inputs["query"].equal(both[0])
    assert mixed.inputs["asked"].equal(both[1])
    assert mixed.target.labels.equal(torch.cat([plain.target.labels, pairs.target.labels]))
    assert mixed.inputs["support"].equal(pairs.inputs["support"])


def test_triplets_without_detection_losses_have_a_target_of_their_own(aeroeyes):
    data = data_of(aeroeyes().root, triplet_ratio=0.5, triplet_detection=False, **PLAIN)
    assert data.kinds == {
        "detection": (ReferenceTarget, "head"),
        "triplet": (TripletOnlyTarget, "features"),
    }
    _, batch = batches_of(data, data.units("train", 0)[:1])
    assert batch.upto == "features"
    assert not isinstance(batch.target, ReferenceTarget)


def test_every_step_of_any_number_of_units_and_ranks_holds_both_kinds(aeroeyes):
    data = data_of(aeroeyes().root, triplet_ratio=0.3, joint=False, n_query=4, **PLAIN)
    units, seen, counts = data.units("train", 1), [], [0, 0]
    deal = Deal(batch_size=2, ranks=2, accumulate=1)
    for rank in (0, 1):
        for (batches,) in training_batches(data, units, deal, rank=rank, start=0, workers=0):
            seen.append([batch.kind for batch in batches])
            counts[0] += len(batches[0].meta)
            counts[1] += len(batches[1].target.anchors)
    assert seen == [["detection", "triplet"]] * 4
    assert counts[0] / sum(counts) == pytest.approx(0.7, abs=0.01)


def test_a_units_tensors_depend_on_its_draw_alone_and_on_no_worker(aeroeyes):
    options = {
        "triplet_ratio": 0.5,
        "stage": 1,
        "support_augment": "strong",
    }
    data, other = (data_of(root, **options) for root in [aeroeyes().root] * 2)
    units = data.units("train", 2)
    made = batches_of(data, units[:1])
    batches_of(data, units[1:2])  # what was read between changes nothing
    assert same(made, batches_of(data, units[:1]))
    assert same(made, batches_of(pickle.loads(pickle.dumps(data)), units[:1]))
    deal = Deal(batch_size=1, ranks=1, accumulate=1)
    (first, *_) = training_batches(other, units, deal, rank=0, start=0, workers=2)
    assert same(made, first[0])
    assert not same(made, batches_of(data, data.units("train", 3)[:1]))


def test_a_triplets_object_survives_every_change(aeroeyes):
    made = aeroeyes()
    for number in range(4):
        for box in made.boxes(number):
            box |= {"x1": 58, "y1": 0, "x2": 64, "y2": 7}  # in a corner, easily lost
    made.write()
    data = data_of(made.root, triplet_ratio=1, stage=1, episodes=12)
    for (draw,) in data.units("train", 0):
        for one in data.load(draw).triplets:
            assert one.anchor in one.positive.labels.tolist()
            assert len(one.negative.labels) == 1


def test_photos_are_drawn_anew_for_each_episode_and_missing_ones_are_not_valid(aeroeyes):
    made = aeroeyes()
    for shot in (2, 3):
        (made.folder("Jacket_0") / "object_images" / f"img_{shot}.jpg").unlink()
    data = data_of(made.root, shots=2, episodes=30, **PLAIN)
    chosen = set()
    for unit in data.units("train", 0):
        (batch,) = batches_of(data, [unit])
        names = [data.classes[i] for i in batch.target.class_ids]
        for row, name in enumerate(names):
            assert batch.valid["support"][row].tolist() == [True, name != "Jacket_0"]
            levels = batch.inputs["support"][row].mean((1, 2, 3)).mul(255).round()
            chosen |= {tuple(levels.tolist())} if name == "Backpack_0" else set()
    assert len(chosen) > 2


def test_two_episodes_in_a_batch_are_asked_for_their_own_classes_alone(aeroeyes):
    data = data_of(aeroeyes().root, **PLAIN)
    units = data.units("train", 0)[:2]
    (batch,) = batches_of(data, units)
    own = batch.target.class_ids
    split = len(units[0][0].frames) + len(units[0][0].backgrounds)
    for number, rows in enumerate((range(split), range(split, len(batch.meta)))):
        ways = set(units[number][0].ways)
        for row in rows:
            asked = batch.inputs["asked"][row].long()
            assert {int(own[i]) for i in asked} == ways
            shown = batch.target.labels[row]
            for label in shown[shown >= 0].tolist():
                assert label in asked.tolist()


def test_where_nobody_reads_asked_a_class_is_one_row(aeroeyes):
    """Each image is then searched for all rows, and a second row of its class would be wrong."""
    needs = {role: Needs(size_multiple=32) for role in ("query", "support")}
    data = data_of(aeroeyes().root, needs, shots=1, **PLAIN)
    (batch,) = batches_of(data, data.units("train", 0)[:4])
    ids = batch.target.class_ids.tolist()
    assert len(ids) == len({*ids}) == 4
    shown = batch.target.labels.max(1).values
    for row, meta in enumerate(batch.meta):
        if shown[row] >= 0:
            assert data.classes[ids[int(shown[row])]] == meta.extra["video_id"]


def test_a_bank_adds_every_other_class_and_asks_for_none_of_them(aeroeyes):
    data = data_of(aeroeyes().root, bank=True, **PLAIN)
    (batch,) = batches_of(data, data.units("train", 0)[:1])
    assert sorted(batch.target.class_ids.tolist()) == [0, 1, 2, 3]
    assert batch.inputs["asked"].max() == 1
    assert batch.inputs["support"].shape[:2] == (4, 2)
    with pytest.raises(BuildError, match=r"data\.bank: without an encoder of `asked`"):
        data.bind({"query": Needs(), "support": Needs()})


@pytest.mark.parametrize("bank", [False, True])
def test_asks_reaches_boxes_of_objects_beyond_the_episodes_classes(coco, bank):
    made = coco()
    made.show(0, 1, (50, 30, 20, 20))  # two classes in one image
    made.write()
    data = data_of(made.root, n_way=1, asks=2, bank=bank, episodes=30, **PLAIN)
    beyond = 0
    for (draw,) in data.units("train", 0):
        (batch,) = batches_of(data, [[draw]])
        target, ways = batch.target, len(draw.ways)
        for row, item in enumerate(data.load(draw).frames):
            asked = [int(one) for one in batch.inputs["asked"][row] if one >= 0]
            shown = {*item.labels.tolist()}
            found = [place for place in asked if int(target.class_ids[place]) in shown]
            assert len(found) == min(2, len(shown))
            for place in found:  # whatever it shows and is searched for has its box
                at = target.labels[row] == place
                label = int(target.class_ids[place])
                assert target.boxes_xyxy[row][at].equal(item.boxes_xyxy[item.labels == label])
            beyond += sum(place >= ways for place in found)
    assert beyond


def test_a_video_of_one_backpack_is_no_known_background_of_another(aeroeyes):
    made = aeroeyes()
    data = data_of(made.root, bank=True, backgrounds=2, episodes=20, **PLAIN)
    for unit in data.units("train", 0):
        (batch,) = batches_of(data, [unit])
        for row, meta in enumerate(batch.meta):
            bare = bool((batch.target.labels[row] == -1).all())
            backpack = meta.extra["video_id"].startswith("Backpack")
            assert bool(batch.target.background[row]) == (bare and not backpack)


def test_several_classes_in_one_image_all_have_boxes(coco):
    made = coco()
    made.show(0, 1, (50, 30, 20, 20))  # bolt and cap
    made.write()
    data = data_of(made.root, bank=True, n_query=4, episodes=30, **PLAIN)
    found = False
    for unit in data.units("train", 0):
        (batch,) = batches_of(data, [unit])
        for row, meta in enumerate(batch.meta):
            if meta.extra["frame"] == 0:
                found = True
                labels = batch.target.labels[row]
                ids = batch.target.class_ids[labels[labels >= 0]]
                assert {data.classes[i] for i in ids} == {"bolt", "cap"}
                assert meta.extra["objects"] == 2
    assert found


def test_pasted_objects_are_of_the_episodes_classes_and_on_empty_frames_alone(coco):
    given = {"copy_paste": 1.0, "backgrounds": 2, "paste_px": (12, 24), "query_augment": False}
    data = data_of(coco().root, support_augment="none", **given)
    assert data.augments == {"query"}
    for unit in data.units("train", 0):
        (batch,) = batches_of(data, [unit])
        shown = batch.target.labels >= 0
        assert shown.sum(1).tolist() == [1] * 6
        assert not batch.target.background.any()
        sides = batch.target.boxes_xyxy[4:, 0, 2:] - batch.target.boxes_xyxy[4:, 0, :2]
        assert float(sides.amax(1).min()) >= 8
        assert float(sides.max()) <= 24 * 1.4


def test_pasting_needs_masks_of_every_class(aeroeyes):
    data = data_of(aeroeyes().root, copy_paste=0.5)
    with pytest.raises(DataError, match=r"data\.copy_paste: no photo has a mask in .*Backpack_0"):
        data.units("train", 0)


def test_augments_says_which_inputs_training_changes(aeroeyes):
    root = aeroeyes().root
    assert ReferenceFrames(root=root).augments == {"query", "support"}
    assert ReferenceFrames(root=root, support_augment="none").augments == {"query"}
    assert ReferenceFrames(root=root, **PLAIN).augments == frozenset()


def test_the_constructor_touches_no_file():
    made = ReferenceFrames(root="/no/such/folder")
    assert [*made.roles] == ["query", "support", "asked"]
    with pytest.raises(DataError, match="/no/such/folder: no such folder"):
        _ = made.classes


KEYED = {role: Needs(size_multiple=32, keys=True) for role in ("query", "support")} | {
    "asked": Needs()
}
SKIPPED = {role: Needs(size_multiple=32, keys=True, skip=True) for role in ("query", "support")} | {
    "asked": Needs()
}


def keys_of(data, units) -> dict[str, list[str]]:
    found = {"query": [], "support": []}
    for unit in units:
        for batch in batches_of(data, [unit]):
            for role, keys in batch.keys.items():
                found[role] += keys
    return found


@pytest.mark.parametrize("bank", [False, True])
def test_a_cache_sees_every_key_once_and_all_that_training_and_validation_ask_for(coco, bank):
    data = data_of(
        coco().root, KEYED, val_fold=(1, 4), triplet_ratio=0.3, bank=bank, n_query=4, **PLAIN
    )
    cached = keys_of(data, data.units("cache", 0))
    for role in ("query", "support"):
        assert len(cached[role]) == len({*cached[role]}) > 0
    for split in ("train", "val"):
        asked = keys_of(data, data.units(split, 0))
        for role in ("query", "support"):
            assert {*asked[role]} <= {*cached[role]}


def test_a_cache_is_filled_once_where_two_splits_are_one_folder(coco):
    root = coco().root
    data = data_of(root, KEYED, val_root=root, test_root=root, **PLAIN)
    units = data.units("cache", 0)
    assert len(units) == 24 + 4 * 3


def test_a_cache_lacks_frames_that_the_guard_keeps_from_training(aeroeyes):
    data = data_of(aeroeyes({"Crate_0": (40, [20]), "Tent_0": (40, [])}).root, KEYED, **PLAIN)
    frames = [d for (d,) in data.units("cache", 0) if hasattr(d, "place") and d.place.footage == 0]
    assert len(frames) == 40 - 10


def test_keys_change_with_what_shapes_the_pixels(coco, monkeypatch):
    made = coco()
    rows = [
        {},
        {"query_size": 96, "support_size": 64},
        {"support_views": (16, 24), "support_crop": "object"},
    ]
    seen = [
        keys_of(d, d.units("cache", 0))
        for d in (data_of(made.root, KEYED, **PLAIN | r) for r in rows)
    ]
    assert not {*seen[0]["query"]} & {*seen[1]["query"]}
    assert not {*seen[0]["support"]} & {*seen[1]["support"]}
    assert seen[0]["query"] == seen[2]["query"]
    assert len(seen[2]["support"]) == 2 * len(seen[0]["support"])
    padded = {
        r: Needs(size_multiple=32, keys=True, pad_rgb=(0.5, 0.5, 0.5)) for r in ("query", "support")
    }
    other = data_of(made.root, {**padded, "asked": Needs()}, **PLAIN)
    assert not {*keys_of(other, other.units("cache", 0))["query"]} & {*seen[0]["query"]}
    image = made.root / "images" / "0.png"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(image)
    again = data_of(made.root, KEYED, **PLAIN)
    changed = {*keys_of(again, again.units("cache", 0))["query"]} - {*seen[0]["query"]}
    assert len(changed) == 1


def test_skipped_pixels_are_never_read_and_all_else_is_the_same(aeroeyes, monkeypatch):
    root = aeroeyes().root
    full, bare = data_of(root, KEYED, **PLAIN), data_of(root, SKIPPED, **PLAIN)
    (whole,) = batches_of(full, full.units("train", 0)[:1])
    units = bare.units("train", 0)[:1]
    for name in ("frames.FrameReader.read", "foreground.read_photo"):

        def refuse(*_args, name=name):
            raise AssertionError(f"{name} touches pixels")

        monkeypatch.setattr(f"mlkit_refdet.episodes.{name}", refuse)
    (batch,) = batches_of(bare, units)
    assert [*batch.inputs] == ["asked"]
    assert batch.keys == whole.keys
    assert batch.target.boxes_xyxy.equal(whole.target.boxes_xyxy)
    assert batch.target.labels.equal(whole.target.labels)
    assert batch.valid["support"].equal(whole.valid["support"])
    assert batch.meta == whole.meta


def test_skipped_photos_still_have_their_masks(coco):
    root = coco().root
    full, bare = data_of(root, KEYED, **PLAIN), data_of(root, SKIPPED, **PLAIN)
    (whole,), (batch,) = (batches_of(d, d.units("train", 0)[:1]) for d in (full, bare))
    assert batch.masks["support"].equal(whole.masks["support"])
    assert batch.masks["support"].any()


def test_one_key_stands_for_one_array_of_pixels(coco):
    data = data_of(coco().root, KEYED, val_fold=(1, 4), **PLAIN)
    seen: dict[str, torch.Tensor] = {}
    units = [*data.units("train", 0), *data.units("train", 1), *data.units("cache", 0)]
    for unit in units:
        for batch in batches_of(data, [unit]):
            for role, keys in batch.keys.items():
                rows = batch.inputs[role].reshape(-1, 3, *batch.inputs[role].shape[-2:])
                for key, row in zip(keys, rows, strict=True):
                    assert seen.setdefault(key, row).equal(row)
    arrays = {tuple(row.flatten().tolist()) for row in seen.values()}
    assert len(arrays) == len(seen)


def test_validation_is_never_changed_at_random(coco):
    data = data_of(coco().root, stage=1, support_augment="strong", val_fold=(1, 4), copy_paste=1.0)
    plain = data_of(data.options.root, val_fold=(1, 4), **PLAIN)
    for unit in data.units("val", 0):
        assert same(batches_of(data, [unit]), batches_of(plain, [unit]))


def test_evaluation_gives_every_frame_once_with_its_own_class_asked(aeroeyes):
    data = data_of(aeroeyes().root, val_classes=("Jacket_0", "Person1_0"), **PLAIN)
    rows = [b for (b,) in evaluation_batches(data, data.units("val", 0), rank=0, ranks=1)]
    names = [(b.meta[0].extra["video_id"], b.meta[0].extra["frame"]) for b in rows]
    assert names == [(v, f) for v in ("Jacket_0", "Person1_0") for f in range(40)]
    for batch in rows:
        target, frame = batch.target, batch.meta[0].extra["frame"]
        asked = [data.classes[target.class_ids[int(i)]] for i in batch.inputs["asked"][0]]
        assert sorted(asked) == ["Jacket_0", "Person1_0"]
        assert bool((target.labels >= 0).any()) == (8 <= frame <= 13)
        assert bool(target.background[0]) == (frame < 3 or frame > 18)  # beyond the guard
        assert batch.meta[0].extra["fps"] == 10


def test_labels_never_choose_what_an_empty_frame_is_asked(coco):
    data = data_of(coco().root, val_fold=(1, 2), eval_asked=1, **PLAIN)
    empty = [b for unit in data.units("val", 0) for b in batches_of(data, [unit])]
    empty = [b for b in empty if b.meta[0].extra["objects"] == 0]
    assert empty
    assert all(b.inputs["asked"].shape == (1, 1) and b.target.background[0] for b in empty)


def test_evaluated_episodes_are_numbered_and_always_alike(coco):
    data = data_of(coco().root, val_fold=(0, 2), eval_episodes=3, backgrounds=1, **PLAIN)
    units = data.units("val", 0)
    assert len(units) == 3
    assert units == data.units("val", 7)
    for number, unit in enumerate(units):
        batches = [b for draw in unit for b in batches_of(data, [[draw]])]
        assert len(batches) == 2 * 2 + 1
        assert {b.meta[0].extra["episode"] for b in batches} == {number}
        assert all(b.inputs["support"].equal(batches[0].inputs["support"]) for b in batches)


def test_another_root_brings_its_own_classes(aeroeyes, coco):
    made = aeroeyes({"Crate_0": (10, [2]), "Tent_0": (10, [4])})
    data = ReferenceFrames(root=coco().root, val_root=made.root, **SMALL | PLAIN)
    data.bind(ALL)
    assert data.classes == ("Crate_0", "Tent_0", "bolt", "cap", "gear", "nut")
    third = data.units("val", 0)[0][2]
    (batch,) = batches_of(data, [[third]])
    assert data.classes[batch.target.class_ids[batch.target.labels[0, 0]]] == "Crate_0"
    train = [b for unit in data.units("train", 0) for b in batches_of(data, [unit])]
    assert {int(i) for b in train for i in b.target.class_ids} == {2, 3, 4, 5}


def test_used_and_unused_frames_are_told_once(aeroeyes, caplog):
    data = data_of(aeroeyes().root, **PLAIN)
    with caplog.at_level(logging.INFO, "mlkit"):
        data.units("train", 0)
        data.units("train", 1)
    (line,) = [r.getMessage() for r in caplog.records if "training frames" in r.getMessage()]
    assert line.startswith("training frames: an epoch shows ")
    assert " of 24 with objects and " in line
    assert line.endswith("of 96 without; 40 beside labelled ones are never shown")


def test_an_image_that_is_not_as_large_as_stated_is_named(coco):
    made = coco()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(made.root / "images" / "1.png")
    data = data_of(made.root, episodes=20, **PLAIN)
    with pytest.raises(DataError, match=r"1\.png: frame 1: expected 80 x 60, got 20 x 20"):
        batches_of(data, data.units("train", 0))


def own(folder: Path, count: int = 2) -> Path:
    for name in ("cup", "jar"):
        (folder / name).mkdir(parents=True)
        for shot in range(count if name == "cup" else 1):
            photo = np.full((30, 30, 3), 50 * shot, np.uint8)
            Image.fromarray(photo).save(folder / name / f"{shot}.jpg")
    return folder


def test_a_users_film_is_searched_frame_by_frame_for_every_object(tmp_path, film, number_of):
    data = ReferenceFrames(root="/not/needed", **SMALL)
    data.bind(ALL)
    batches = list(data.open({"query": film, "support": own(tmp_path / "refs")}))
    assert len(batches) == 100
    batch = batches[37]
    assert batch.target is None
    assert batch.inputs["asked"].tolist() == [[0, 1]]
    assert batch.inputs["support"].shape == (2, 2, 3, 32, 32)
    assert batch.valid["support"].tolist() == [[True, True], [True, False]]
    meta = batch.meta[0]
    assert meta.extra["frame"] == 37
    assert meta.extra["fps"] == 10
    assert json.loads(meta.extra["references"]) == ["cup", "jar"]
    shown = batch.inputs["query"][0][:, meta.letterbox.content[0]] * 255
    assert number_of(shown.permute(1, 2, 0).numpy()) == 37
    assert len({b.meta[0].key for b in batches}) == 100


def test_a_users_folder_of_images_and_of_one_objects_photos(tmp_path, coco):
    made = coco(images=3, empty=0)
    data = ReferenceFrames(root="/not/needed", **SMALL)
    data.bind(ALL)
    photos = made.root / "references" / "cap"
    batches = list(data.open({"query": made.root / "images", "support": photos}))
    assert [b.meta[0].key for b in batches] == [f"images/{n}.png" for n in range(3)]
    assert json.loads(batches[0].meta[0].extra["references"]) == ["cap"]
    assert batches[0].masks["support"].any()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"query": "film.mp4"}, "inputs: expected query and support, got query"),
        ({"query": "no.mp4", "support": "refs"}, "no.mp4: no such file or folder"),
        ({"query": "refs", "support": "no"}, "no: no such folder of reference photos"),
        ({"query": "refs", "support": "refs"}, "refs: holds no images"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path, given, expected):
    own(tmp_path / "refs")
    data = ReferenceFrames(root="/not/needed", **SMALL)
    with pytest.raises(DataError) as caught:
        list(data.open({role: tmp_path / name for role, name in given.items()}))
    assert str(caught.value).removeprefix(f"{tmp_path}/") == expected


def test_a_streams_address_survives_being_a_path():
    assert stream_address(Path("rtsp://camera:554/live")) == "rtsp://camera:554/live"
    assert stream_address(Path("https://host/a.mp4")) == "https://host/a.mp4"
    assert stream_address(Path("/home/film.mp4")) is None
    assert stream_address(Path("file:/etc/passwd")) is None
