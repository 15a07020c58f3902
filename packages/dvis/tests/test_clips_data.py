"""Clips and windows of generated videos: sizes, padding, targets, splits, keys."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.errors import BuildError, DataError
from mlkit_core.types import Needs, TrackTarget
from mlkit_dvis.assembly import resize_masks
from mlkit_dvis.clips.component import VideoClips
from mlkit_dvis.clips.dataset import ClipSet, Instance, Video
from mlkit_dvis.clips.formats.ytvis import write_ytvis
from mlkit_dvis.clips.masks import decode, encode
from mlkit_dvis.clips.sizes import padded, resized
from mlkit_dvis.results import VideoTarget
from mlkit_dvis.video import VideoWriter

SIZE, PAD = (48, 80), (0.2, 0.4, 0.6)
COLOURS = ((220, 30, 30), (30, 30, 220), (30, 200, 30))
PLAIN = {"augment": False, "size": 48, "num_frames": 3, "frame_range": 1}


def picture(masks, size=SIZE):
    frame = np.full((*size, 3), 90, np.uint8)
    for mask, colour in zip(masks, COLOURS, strict=False):
        frame[mask] = colour
    return frame


def tracks(length, size=SIZE, count=2):
    """Return masks `[M, T, H, W]` of squares; the second one is seen in frames 2 and 3 alone."""
    masks = np.zeros((count, length, *size), bool)
    for t in range(length):
        masks[0, t, 4:20, 4 + 2 * t : 24 + 2 * t] = True
        if count > 1 and t in (2, 3):
            masks[1, t, 26:44, 50:70] = True
    return masks


def video(root, number, length=7, size=SIZE, count=2, **values):
    """Write a video's frames; return it with its tracks, labels counting from 0."""
    masks = tracks(length, size, count)
    files = [root / f"video{number}" / f"{t:05d}.png" for t in range(length)]
    files[0].parent.mkdir(parents=True)
    for t, path in enumerate(files):
        Image.fromarray(picture(masks[:, t], size)).save(path)
    rows = tuple(
        Instance(row, row % 2, tuple(map(encode, track)), **values)
        for row, track in enumerate(masks)
    )
    return Video(number, f"video{number}", size, length, tuple(files), instances=rows)


def write(folder, *videos, name="videos.json"):
    write_ytvis(ClipSet(videos, ("fish", "crab"), folder / "frames"), folder / name)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "frames"
    write(tmp_path, *(video(root, n) for n in (1, 2)), video(root, 3, size=(60, 60), count=1))
    return tmp_path


def data(folder, *, multiple=32, bind=None, **options):
    made = VideoClips(annotations=folder / "videos.json", **{**PLAIN, **options})
    made.bind({"frames": Needs(size_multiple=multiple, pad_rgb=PAD, **(bind or {}))})
    return made


def batches(made, units):
    return made.collate([[made.load(draw) for draw in unit] for unit in units])


def training(made, seed=0):
    return batches(made, made.units("train", seed))


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 854), 480, 1333, (480, 854)),
        ((1080, 1920), 480, 1333, (480, 853)),  # 853.33
        ((1920, 1080), 480, 1333, (853, 480)),
        ((100, 1000), 480, 1333, (133, 1333)),  # the longer side decides
        ((720, 1280), 360, 640, (360, 640)),
    ],
)
def test_the_shorter_side_decides_unless_the_longer_one_is_too_long(size, short, longest, expected):
    assert resized(size, short, longest) == expected


def test_sizes_are_padded_to_what_the_model_takes():
    assert padded([(33, 40), (20, 70)], Needs(size_multiple=32)) == (64, 96)
    assert padded([(33, 40)], Needs(sizes=(32, 48, 64))) == (48, 48)
    assert padded([(33, 40)], Needs(size_multiple=8), (64, 64)) == (64, 64)


def test_a_batch_holds_clips_padded_to_a_common_size(folder):
    (batch,) = training(data(folder))
    assert batch.inputs["frames"].shape == (3, 3, 3, 64, 96)
    assert batch.valid["frames"].shape == (3, 3)
    assert isinstance(batch.target, TrackTarget)
    assert batch.target.masks.shape == (3, 2, 3, 64, 96)
    assert batch.kind == "default"
    assert len({meta.key for meta in batch.meta}) == 3


def test_padding_has_the_models_own_colour_and_no_mask(folder):
    (batch,) = training(data(folder))
    for row, meta in enumerate(batch.meta):
        height, width = meta.letterbox.size
        clip = batch.inputs["frames"][row]
        pad = torch.tensor(PAD).view(1, 3, 1, 1)
        assert (clip[..., height:, :] == pad).all()
        assert (clip[..., width:] == pad).all()
        assert not batch.target.masks[row, ..., height:, :].any()
        assert not batch.target.masks[row, ..., width:].any()


def test_pixels_under_a_mask_have_the_colour_of_its_instance(folder):
    (batch,) = training(data(folder))
    seen = 0
    for clip, masks, labels in zip(
        batch.inputs["frames"], batch.target.masks, batch.target.labels, strict=True
    ):
        for mask, label in zip(masks, labels.tolist(), strict=True):
            if mask.any():
                shown = clip.transpose(0, 1)[:, mask]  # [3, pixels]
                wanted = torch.tensor(COLOURS[label]) / 255
                # The frame of 60 x 60 is scaled, its colours mix at edges.
                assert (shown.median(1).values - wanted).abs().max() < 0.01
                seen += 1
    assert seen >= 3


def test_rows_that_pad_have_label_minus_one_and_no_mask(folder):
    (batch,) = training(data(folder))
    for masks, labels in zip(batch.target.masks, batch.target.labels, strict=True):
        assert not masks[labels < 0].any()
        assert masks[labels >= 0].flatten(1).any(1).all()
    small = next(row for row, meta in enumerate(batch.meta) if meta.key == "video3")
    assert batch.target.labels[small].tolist() == [0, -1]


def test_an_instance_has_a_row_only_in_clips_that_show_it(folder):
    made = data(folder)
    counts = set()
    for seed in range(20):
        for unit in made.units("train", seed):
            sample = made.load(unit[0])
            first = sample.meta.extra["first_frame"]
            seen = sample.meta.key != "video3" and first <= 3 and first + 2 >= 2
            assert sample.labels == ((0, 1) if seen else (0,))
            counts.add(len(sample.labels))
    assert counts == {1, 2}


def test_a_clip_without_any_instance_is_drawn_anew(tmp_path):
    late = video(tmp_path / "frames", 1, length=40)
    masks = [None] * 40
    masks[33] = encode(tracks(1)[0, 0])
    once = Instance(1, 0, tuple(masks))
    write(tmp_path, Video(1, "video1", SIZE, 40, late.frames, instances=(once,)))
    made = data(tmp_path, augment=True, crop=1.0, crop_sides=(64,), crop_range=(16, 24))
    for seed in range(30):
        ((draw,),) = made.units("train", seed)
        assert made.load(draw).masks.any()


def test_videos_without_an_instance_are_not_trained_on(tmp_path):
    root = tmp_path / "frames"
    empty = video(root, 2)
    nothing = Video(2, "video2", SIZE, 7, empty.frames)
    crowd = video(root, 3, is_crowd=True)
    write(tmp_path, video(root, 1), nothing, crowd)
    made = data(tmp_path)
    assert {made.load(unit[0]).meta.key for unit in made.units("train", 0)} == {"video1"}
    write(tmp_path, nothing, name="nothing.json")
    bare = VideoClips(annotations=tmp_path / "nothing.json")
    with pytest.raises(DataError, match=r"nothing\.json: no training video shows an instance"):
        bare.units("train", 0)


def test_units_and_clips_follow_from_the_seed_alone(folder):
    made, other = (data(folder, augment=True, reverse=0.5) for _ in range(2))
    assert made.units("train", 5) == other.units("train", 5) != made.units("train", 6)
    draw = made.units("train", 5)[0][0]
    first = made.load(draw)
    made.load(made.units("train", 6)[1][0])
    for again in (made.load(draw), other.load(draw)):
        assert torch.equal(again.frames, first.frames)
        assert torch.equal(again.masks, first.masks)
        assert again.meta == first.meta


def test_an_epoch_has_each_video_as_often_as_asked(folder):
    made = data(folder, repeat=3)
    assert sorted(unit[0].index for unit in made.units("train", 0)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(data(folder, clips_per_epoch=4).units("train", 0)) == 4


def test_clips_run_backwards(folder):
    made = data(folder, reverse=1.0, num_frames=7, frame_range=3)
    sample = made.load(made.units("train", 0)[0][0])
    columns = [int(mask[0].any(0).nonzero()[0]) for mask in sample.masks]
    assert columns == sorted(columns, reverse=True)
    assert sample.meta.extra["first_frame"] == 0


def test_train_size_caps_clips_and_pads_all_to_one_size(folder):
    made = data(folder, augment=True, train_size=(32, 64), short_sides=(40, 48), crop=0.0)
    for seed in range(3):
        (batch,) = training(made, seed)
        assert batch.inputs["frames"].shape[-2:] == (32, 64)
        assert all(meta.letterbox.size[0] <= 32 for meta in batch.meta)


def test_a_train_size_that_the_model_does_not_take_is_refused(folder):
    message = r"data\.train_size: the encoders take multiples of 32, got \[40, 64\]"
    with pytest.raises(BuildError, match=message):
        data(folder, train_size=(40, 64))


def test_a_model_of_square_sizes_gets_squares(folder):
    made = data(folder, bind={"sizes": (32, 56)}, multiple=1)
    (batch,) = training(made)
    assert batch.inputs["frames"].shape[-2:] == (56, 56)
    assert all(max(meta.letterbox.size) <= 56 for meta in batch.meta)


def test_a_training_clip_is_its_own_original(folder):
    made = data(folder, augment=True, crop=1.0, crop_sides=(60,), crop_range=(24, 40))
    meta = made.load(made.units("train", 0)[0][0]).meta
    assert (meta.size, meta.letterbox.scale) == (meta.letterbox.size, 1.0)


@pytest.fixture
def stills(folder):
    """Write three COCO images: one of a known class, one of another, one with nothing."""
    masks = tracks(1)[:, 0]
    (folder / "images").mkdir()
    for number in (1, 2, 3):
        Image.fromarray(picture(masks[:1])).save(folder / "images" / f"{number}.png")
    rle = encode(masks[0])
    content = {
        "categories": [{"id": 11, "name": "crab"}, {"id": 12, "name": "car"}],
        "images": [
            {"id": n, "width": 80, "height": 48, "file_name": f"{n}.png"} for n in (1, 2, 3)
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 11, "segmentation": rle},
            {"id": 2, "image_id": 2, "category_id": 12, "segmentation": rle},
        ],
    }
    (folder / "images" / "coco.json").write_text(json.dumps(content))
    return folder


def test_images_become_clips_that_move_with_labels_by_name(stills):
    made = data(stills, pseudo_annotations=stills / "images" / "coco.json", pseudo_ratio=1.0)
    ((draw,),) = made.units("train", 0)
    sample = made.load(draw)
    assert sample.labels == (1,)  # the run's crab, not the file's first category
    assert sample.length == 3
    assert not torch.equal(sample.frames[0], sample.frames[1])
    assert 16 <= sample.meta.extra["num_frames"] <= 48
    shares = [np.count_nonzero(mask) for mask in sample.masks.numpy()]
    assert all(shares)


def test_images_come_in_proportion_and_are_never_cached(stills):
    made = data(stills, pseudo_annotations=stills / "images" / "coco.json", pseudo_ratio=0.25)
    assert [unit[0].is_still for unit in made.units("train", 0)].count(True) == 1
    assert len(made.units("train", 0)) == 4  # three videos, and a quarter of all
    assert made.augments == {"frames"}  # though augment is off


def test_a_video_is_one_unit_of_windows_that_share_key_and_target(folder):
    made = data(folder, val_videos=("video2",), window=3)
    (unit,) = made.units("val", 0)
    samples = [made.load(draw) for draw in unit]
    assert [sample.length for sample in samples] == [3, 3, 1]
    assert [sample.meta.extra["first_frame"] for sample in samples] == [0, 3, 6]
    assert {sample.meta.key for sample in samples} == {"video2"}
    assert {sample.meta.extra["num_frames"] for sample in samples} == {7}
    (batch,) = made.collate([[samples[1]]])
    assert batch.inputs["frames"].shape == (1, 3, 3, 64, 96)
    assert isinstance(batch.target, VideoTarget)
    assert all(sample.target is batch.target for sample in samples)


def test_the_target_of_a_video_holds_all_frames_at_original_size(folder):
    made = data(folder, val_videos=("video2",), size=32)
    (unit,) = made.units("val", 0)
    first, second = made.load(unit[0]).target.tracks
    wanted = tracks(7)
    assert [t for t, rle in enumerate(second.rles) if rle is not None] == [2, 3]
    assert all(map(np.array_equal, map(decode, first.rles), wanted[0]))
    assert (first.label, second.label) == (0, 1)


@pytest.mark.parametrize("size", [32, 48, 72])
def test_a_mask_of_the_input_maps_back_within_a_pixel(folder, size):
    made = data(folder, val_videos=("video2",), size=size)
    (unit,) = made.units("val", 0)
    (batch,) = made.collate([[made.load(unit[0])]])
    red = batch.inputs["frames"][0, 0]
    drawn = (red[0] > 0.6) & (red[2] < 0.3)  # the first square, as the model sees it
    meta = batch.meta[0]
    logits = torch.where(drawn, 1.0, -1.0)[None, None]
    back = resize_masks(logits, tuple(drawn.shape), meta.letterbox.size, meta.size)[0, 0]
    rows, columns = (np.flatnonzero(back.any(axis).numpy()) for axis in (1, 0))
    box = np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1])
    assert np.abs(box - [4, 20, 4, 24]).max() <= 1


def test_splits_have_files_of_their_own(folder):
    other = video(folder / "more", 9)
    write_ytvis(ClipSet((other,), ("crab", "fish"), folder / "more"), folder / "val.json")
    made = data(folder, val_annotations=folder / "val.json", val_frames=folder / "more")
    (unit,) = made.units("val", 0)
    sample = made.load(unit[0])
    assert sample.meta.key == "video9"
    # Its file counts crab first; the run counts fish first.
    assert [track.label for track in sample.target.tracks] == [1, 0]


def test_videos_that_are_held_out_are_not_trained_on(folder):
    made = data(folder, val_videos=("video2",), test_videos=("video3",))
    keys = {made.load(unit[0]).meta.key for unit in made.units("train", 0)}
    assert keys == {"video1"}


def test_a_misspelt_video_to_hold_out_stops_training_too(folder):
    made = data(folder, val_videos=("video7",))
    message = r"data\.val_videos: no video 'video7'; there are video1, video2, video3"
    for split in ("train", "val"):
        with pytest.raises(DataError, match=message):
            made.units(split, 0)


@pytest.mark.parametrize(
    ("split", "message"),
    [("val", "split 'val': the run file names no videos"), ("x", "expected train, val, test or")],
)
def test_a_split_that_is_not_there_is_told(folder, split, message):
    with pytest.raises(DataError, match=message):
        data(folder).units(split, 0)


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    made = VideoClips(annotations=tmp_path / "gone.json")
    assert VideoClips(annotations=tmp_path / "gone.json", classes=("a",)).classes == ("a",)
    with pytest.raises(DataError, match=r"gone\.json: no such file"):
        _ = made.classes


def test_a_frame_of_another_size_than_annotated_is_told(folder):
    path = folder / "frames" / "video1" / "00003.png"
    Image.new("RGB", (80, 50)).save(path)
    made = data(folder, num_frames=7, frame_range=3, val_videos=("video2", "video3"))
    message = r"video1/00003\.png: is 50 x 80 \(height x width\), annotated as 48 x 80"
    with pytest.raises(DataError, match=message):
        made.load(made.units("train", 0)[0][0])


def test_an_annotated_video_file_is_read_by_frame_number(tmp_path):
    source = video(tmp_path / "frames", 1, length=12)
    film = tmp_path / "frames" / "film.mp4"
    with VideoWriter(film, 10, SIZE) as writer:
        for path in source.frames:
            writer.write(np.asarray(Image.open(path)))
    of_film = Video(1, "film", SIZE, 12, file=film, instances=source.instances)
    write(tmp_path, source, of_film)
    made = data(tmp_path, val_videos=("video1", "film"), window=4)
    images, frames = made.units("val", 0)
    for left, right in zip(images, frames, strict=True):
        difference = made.load(left).frames.float() - made.load(right).frames
        assert difference.abs().mean() < 4  # H.264's own loss
