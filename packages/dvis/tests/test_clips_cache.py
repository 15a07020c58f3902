"""Keys of frames: which there are, what they depend on, and what is never mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mlkit_core.types import Needs, SampleMeta
from mlkit_dvis.clips.collation import ClipSample, batch_clips
from mlkit_dvis.clips.component import VideoClips
from mlkit_dvis.clips.example import example

PLAIN = {"augment": False, "size": 40, "num_frames": 3, "frame_range": 1}


@pytest.fixture
def folder(tmp_path):
    """Write the contract's example: three videos of six frames."""
    example(tmp_path)
    return tmp_path


def data(folder, *, skip=False, **options):
    made = VideoClips(annotations=folder / "videos.json", **{**PLAIN, **options})
    made.bind({"frames": Needs(size_multiple=32, keys=True, skip=skip)})
    return made


def keys(made, units):
    """Return the keys of units, each collated alone."""
    batches = [b for unit in units for b in made.collate([[made.load(draw) for draw in unit]])]
    return [key for batch in batches for key in batch.keys["frames"]]


def test_every_frame_has_one_key_whatever_split_shows_it(folder):
    made = data(folder, val_annotations=folder / "videos.json")  # the same files as train
    cached = keys(made, made.units("cache", 0))
    assert len(cached) == len(set(cached)) == 18
    assert set(keys(made, made.units("val", 0))) == set(cached)
    assert set(keys(made, made.units("train", 0))) <= set(cached)


def test_training_of_another_size_has_keys_of_its_own(folder):
    made = data(folder, val_annotations=folder / "videos.json", train_size=(32, 32))
    cached = keys(made, made.units("cache", 0))
    train, val = (set(keys(made, made.units(split, 0))) for split in ("train", "val"))
    assert len(cached) == 36
    assert not train & val
    assert train | val <= set(cached)


def test_a_cached_batch_never_mixes_paddings():
    def sample(height, width):
        frames = torch.zeros(2, 3, height, width, dtype=torch.uint8)
        meta = SampleMeta(key=f"{width}")
        return ClipSample(2, (height, width), meta, frames, keys=(f"{width}a", f"{width}b"))

    samples = [sample(30, 40), sample(30, 90), sample(31, 60)]
    apart = batch_clips("frames", samples, Needs(size_multiple=32, keys=True))
    assert [[meta.key for meta in batch.meta] for batch in apart] == [["40", "60"], ["90"]]
    assert [batch.inputs["frames"].shape[-1] for batch in apart] == [64, 96]
    assert apart[0].keys["frames"] == ("40a", "40b", "60a", "60b")
    (together,) = batch_clips("frames", samples, Needs(size_multiple=32))
    assert together.inputs["frames"].shape == (3, 2, 3, 32, 96)


def test_pixels_that_are_cached_are_not_read(folder):
    made = data(folder, skip=True, val_videos=("video3",))
    for path in (folder / "frames").rglob("*.png"):
        path.write_bytes(b"no image")
    units = made.units("train", 0)
    (batch,) = made.collate([[made.load(unit[0])] for unit in units])
    assert batch.inputs == {}
    assert batch.target.masks.shape[-2:] == (64, 64)
    assert len(batch.keys["frames"]) == 6
    window = made.load(made.units("val", 0)[0][0])
    assert made.collate([[window]])[0].inputs == {}


def test_a_key_changes_with_the_file_the_size_and_the_padding(folder):
    def key(multiple=32, **options):
        made = VideoClips(annotations=folder / "videos.json", **{**PLAIN, **options})
        made.bind({"frames": Needs(size_multiple=multiple, keys=True)})
        return keys(made, made.units("cache", 0)[:1])[0]

    before = key()
    assert key() == before
    assert len({before, key(size=32), key(multiple=8)}) == 3
    path = folder / "frames" / "video1" / "00000.png"
    Image.fromarray(np.zeros((40, 56, 3), np.uint8)).save(path)
    assert key() != before
