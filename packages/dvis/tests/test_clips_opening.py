"""One's own videos, folders and images become windows; options that contradict are refused."""

from __future__ import annotations

import pytest
import torch

from mlkit_core.errors import DataError
from mlkit_core.types import Needs
from mlkit_dvis.clips.component import VideoClips
from mlkit_dvis.clips.example import example


@pytest.fixture
def folder(tmp_path):
    """Write the contract's example: a film of six frames, and the frames themselves."""
    example(tmp_path)
    return tmp_path


def data(folder, **options):
    made = VideoClips(annotations=folder / "videos.json", size=40, **options)
    made.bind({"frames": Needs(size_multiple=8)})
    return made


@pytest.mark.parametrize("kind", ["film", "folder", "image"])
def test_own_files_become_windows_of_one_item(folder, kind):
    frames = folder / "frames" / "video1"
    path = {"film": folder / "film.mp4", "folder": frames, "image": frames / "00000.png"}[kind]
    found = list(data(folder, window=4).open({"frames": path}))
    lengths = [batch.inputs["frames"].shape[1] for batch in found]
    assert lengths == ([1] if kind == "image" else [4, 2])
    assert {batch.meta[0].key for batch in found} == {path.name}
    assert {b.meta[0].extra["num_frames"] for b in found} == {sum(lengths)}
    assert all(batch.target is None for batch in found)
    assert found[0].meta[0].size == (40, 56)


def test_every_nth_frame_of_ones_own_is_taken(folder):
    path = folder / "frames" / "video1"
    (whole,) = data(folder, window=10).open({"frames": path})
    some = list(data(folder, window=1, stride=4).open({"frames": path}))
    assert [batch.meta[0].extra["first_frame"] for batch in some] == [0, 1]
    assert {batch.meta[0].extra["num_frames"] for batch in some} == {2}
    together = torch.cat([batch.inputs["frames"] for batch in some], 1)
    assert torch.equal(together, whole.inputs["frames"][:, ::4])
    asked = next(data(folder, window=1).open({"frames": path}, stride=4))
    assert torch.equal(asked.inputs["frames"], some[0].inputs["frames"])


def test_a_path_under_another_name_is_asked_for(folder):
    with pytest.raises(DataError, match="inputs: expected frames=PATH, got image"):
        list(data(folder).open({"image": folder}))


OPTIONS = {
    "two sources": (
        {"val_videos": ("a",), "val_annotations": "x.json"},
        "val_annotations and val_videos exclude each other",
    ),
    "in two splits": (
        {"val_videos": ("a", "b"), "test_videos": ("b",)},
        "video 'b' is in both val_videos and test_videos",
    ),
    "crop turned round": (
        {"crop_range": (600, 384)},
        "crop_range: expected smallest and largest side, got 600, 384",
    ),
    "tiny side": ({"short_sides": (8,)}, "short_sides, crop_sides, train_size: 16 at least, got 8"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_contradict_are_refused(name):
    options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        VideoClips(**options)
