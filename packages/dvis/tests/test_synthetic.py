"""Generated videos: pure in the seed, exact masks, and motions that no set of frames tells."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mlkit_dvis.clips.formats.ytvis import read_ytvis
from mlkit_dvis.synthetic import write_motion_set, write_videos
from mlkit_dvis.synthetic.bodies import CLASSES, random_body
from mlkit_dvis.synthetic.motion import MOTIONS, make_pair
from mlkit_dvis.synthetic.scene import Background, Difficulty, compose, random_path, render
from mlkit_dvis.video import read_frames

SIZE = (64, 96)


def video(seed, frames=10, **difficulty):
    return render(frames, SIZE, Difficulty(**difficulty), np.random.default_rng(seed))


def files_of(folder):
    """Return a hash of each file below a folder, by its name there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_video_is_a_function_of_its_seed():
    one, same, other = video(3), video(3), video(4)
    np.testing.assert_array_equal(one.frames, same.frames)
    np.testing.assert_array_equal(one.masks, same.masks)
    assert one.labels == same.labels
    assert (one.frames != other.frames).any()


def test_masks_of_animals_are_disjoint():
    for seed in range(8):
        masks = video(seed, most=5, fewest=4).masks
        assert masks.any()
        assert masks.sum(0).max() == 1


def scene(seed, animals=3, frames=6):
    rng = np.random.default_rng(seed)
    bodies = [random_body(CLASSES[i % 4], rng) for i in range(animals)]
    paths = [random_path(frames, SIZE, Difficulty(coming=0), rng) for _ in bodies]
    background = Background(SIZE, 2, rng)
    return background, bodies, paths


def drawn(background, bodies, paths, frame):
    canvas, cover = background.at(frame / 5), background.plants(frame)
    return compose(canvas, bodies, paths, frame, cover)


@pytest.mark.parametrize("seed", range(6))
def test_a_mask_is_where_the_picture_differs_without_the_animal(seed):
    background, bodies, paths = scene(seed)
    for frame in (0, 3, 5):
        picture, seen = drawn(background, bodies, paths, frame)
        for i in range(len(bodies)):
            left = [[*things[:i], *things[i + 1 :]] for things in (bodies, paths)]
            without, _ = drawn(background, left[0], left[1], frame)
            changed = (picture != without).any(-1)
            # At its edge an animal covers less than half of a pixel: there only the picture
            # changes. Where its colour happens to be that of the scene, nothing does.
            assert (seen[i] & ~changed).sum() <= 0.02 * max(seen[i].sum(), 1)
            grown = np.pad(seen[i], 1)
            near = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
            others = seen[i] | near | np.delete(seen, i, 0).any(0)
            cover = background.plants(frame)
            assert cover is not None
            stray = changed & ~others & (cover[1] == 0)
            assert stray.sum() <= 0.1 * seen[i].sum() + 12


def test_one_animal_alone_is_exactly_where_it_covers_more_than_half():
    rng = np.random.default_rng(0)
    body = random_body("fish", rng)
    path = random_path(4, SIZE, Difficulty(coming=0), rng)
    for frame in range(4):
        # Over two flat colours: the share of a pixel that the animal covers follows from both.
        pictures = [compose(np.full((*SIZE, 3), v), [body], [path], frame)[0] for v in (0.0, 1.0)]
        share = 1 - (pictures[1].astype(float) - pictures[0]).mean(-1) / 255
        _, seen = compose(np.zeros((*SIZE, 3)), [body], [path], frame)
        clear = np.abs(share - 0.5) > 0.01
        np.testing.assert_array_equal(seen[0][clear], (share > 0.5)[clear])
        assert seen[0].sum() > 50


def test_animals_come_and_go_over_seeds():
    born = gone = stay = 0
    for seed in range(30):
        for track in video(seed, frames=12).masks.any((-1, -2)):
            if not track.any():
                continue
            born += not track[0]
            gone += not track[-1]
            stay += track.all()
    assert min(born, gone, stay) >= 5


def test_every_class_occurs_over_seeds():
    labels = Counter(label for seed in range(12) for label in video(seed, frames=2).labels)
    assert set(labels) == set(range(len(CLASSES)))


def test_written_videos_are_the_same_for_the_same_seed(tmp_path):
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        write_videos(tmp_path / name, videos=4, frames=3, size=SIZE, seed=seed, split=(2, 1, 1))
    one, same, other = (files_of(tmp_path / name) for name in ("one", "same", "other"))
    # The film is compared by what it shows: the encoder's bytes may differ from run to run.
    for files in (one, same, other):
        assert files.pop("sample.mp4")
    assert one == same
    assert one != other
    folder = tmp_path / "one" / "frames" / "test0003"
    stills = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    film = np.stack(list(read_frames(tmp_path / "one" / "sample.mp4")))
    assert film.shape == stills.shape
    error = np.square(film.astype(float) - stills).mean()
    assert 10 * np.log10(255**2 / error) > 25  # dB; both are lossy


def test_a_video_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    write_videos(few, videos=2, frames=3, size=SIZE, split=(1, 0, 0))
    write_videos(many, videos=4, frames=3, size=SIZE, split=(1, 0, 0))
    frames = {name: hash_ for name, hash_ in files_of(few).items() if name.endswith(".jpg")}
    assert len(frames) == 6
    assert frames.items() <= files_of(many).items()


def test_written_annotations_are_read_with_the_masks_that_were_drawn(tmp_path):
    written = write_videos(tmp_path, videos=4, frames=5, size=SIZE, seed=1, split=(2, 1, 1))
    assert [path.name for path in written] == ["train.json", "val.json", "test.json"]
    clips = read_ytvis(written[0], tmp_path / "frames", whole=True)
    assert clips.classes == CLASSES
    assert [clip.length for clip in clips.videos] == [5, 5]
    for number, clip in enumerate(clips.videos):
        made = render(5, SIZE, Difficulty(), np.random.default_rng([1, number]))
        visible = made.masks.any((1, 2, 3))
        np.testing.assert_array_equal(
            clip.masks(range(5)).transpose(1, 0, 2, 3), made.masks[visible]
        )
        labels = [label for label, some in zip(made.labels, visible, strict=True) if some]
        assert [instance.label for instance in clip.instances] == labels
        for t in range(5):
            picture = np.asarray(Image.open(clip.file_of(t)), float)
            assert np.abs(picture - made.frames[t]).mean() < 8  # JPEG


def frame_hashes(frames):
    return [hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames]


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_of_motions_holds_equal_frames_in_reverse(seed):
    pair = make_pair(12, (32, 48), np.random.default_rng(seed))
    forwards, backwards = (frame_hashes(frames) for frames in pair.frames)
    assert forwards == backwards[::-1]
    assert Counter(forwards) == Counter(backwards)
    assert forwards != backwards
    np.testing.assert_array_equal(pair.masks[0], pair.masks[1][::-1])
    assert pair.masks.any((-1, -2)).all()


def test_no_reversed_motion_is_a_rotation_of_itself():
    """A backward video is not the forward one from another start: the class is in the order."""
    for seed in range(6):
        pair = make_pair(12, (32, 48), np.random.default_rng(seed))
        forwards, backwards = (frame_hashes(frames) for frames in pair.frames)
        turns = [forwards[i:] + forwards[:i] for i in range(12)]
        assert backwards not in turns


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motions")
    files = write_motion_set(folder, videos=8, frames=12, size=(32, 48), held_out=0.5)
    return folder, [read_ytvis(file, folder / "frames", whole=True) for file in files]


def hashes(clip):
    return [hashlib.sha256(clip.file_of(t).read_bytes()).hexdigest() for t in range(clip.length)]


def test_each_frame_of_the_motion_set_occurs_in_both_classes(motions):
    _, splits = motions
    for clips in splits:
        assert clips.classes == MOTIONS
        found = [Counter(), Counter()]
        for clip in clips.videos:
            found[clip.instances[0].label].update(hashes(clip))
        assert found[0] == found[1]
        assert found[0].total() == 12 * len(clips.videos) // 2


def test_a_reversed_video_of_the_motion_set_is_its_partner(motions):
    _, (train, val, _) = motions
    for clips in (train, val):
        for beater, winder in zip(clips.videos[::2], clips.videos[1::2], strict=True):
            assert (beater.instances[0].label, winder.instances[0].label) == (0, 1)
            assert hashes(beater) == hashes(winder)[::-1]
            np.testing.assert_array_equal(beater.masks(range(12)), winder.masks(range(12))[::-1])


def test_shuffled_videos_are_permutations_with_their_masks(motions):
    _, (_, val, shuffled) = motions
    moved = 0
    for clip, other in zip(val.videos, shuffled.videos, strict=True):
        assert sorted(clip.frames) == sorted(other.frames)
        assert clip.instances[0].label == other.instances[0].label
        moved += clip.frames != other.frames
        order = [clip.frames.index(path) for path in other.frames]
        np.testing.assert_array_equal(clip.masks(order), other.masks(range(12)))
    assert moved == len(val.videos)


def test_train_and_val_of_the_motion_set_share_no_frame(motions):
    _, (train, val, _) = motions
    seen = {frame for clip in train.videos for frame in hashes(clip)}
    assert not seen & {frame for clip in val.videos for frame in hashes(clip)}


def test_the_motion_set_is_the_same_for_the_same_seed(motions, tmp_path):
    folder, _ = motions
    write_motion_set(tmp_path, videos=8, frames=12, size=(32, 48), held_out=0.5)
    assert files_of(tmp_path) == files_of(folder)


def test_a_number_of_frames_that_the_cycle_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="multiple of 6, got 10"):
        write_motion_set(tmp_path, videos=4, frames=10)


def test_annotation_files_leave_out_what_is_never_seen(tmp_path):
    level = Difficulty(coming=1.0, speed=0.05)
    write_videos(tmp_path, videos=6, frames=3, size=SIZE, split=(1, 0, 0), difficulty=level)
    content = json.loads((tmp_path / "train.json").read_text())
    assert all(any(row["segmentations"]) for row in content["annotations"])
