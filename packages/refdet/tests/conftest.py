"""Tiny data sets of both layouts, written by hand."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

# Imported first: it puts back what ultralytics changes in other libraries, which tests that ask
# ultralytics itself would leave changed.
import mlkit_refdet.yolo.adapter  # noqa: F401

HEIGHT, WIDTH = 48, 64


def frame_of(number: int) -> np.ndarray:
    """Return a frame whose two halves tell its number's digits, `[48, 64, 3]`."""
    tens, ones = divmod(number, 10)
    frame = np.full((HEIGHT, WIDTH, 3), 20 + 20 * tens, np.uint8)
    frame[:, WIDTH // 2 :] = 20 + 20 * ones
    return frame


@pytest.fixture(scope="session")
def number_of():
    """Tell which number a decoded frame has, 0 to 99."""

    def tell(pixels: np.ndarray) -> int:
        halves = pixels[:, : WIDTH // 2 - 8], pixels[:, WIDTH // 2 + 8 :]
        tens, ones = (round((float(half.mean()) - 20) / 20) for half in halves)
        return 10 * tens + ones

    return tell


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> Path:
    """A film of 100 frames with a keyframe every 8."""
    path = tmp_path_factory.mktemp("film") / "drone_video.mp4"
    write_film(path, 100)
    return path


def write_film(path: Path, count: int, *, gop: int = 8) -> None:
    """Write a film of `count` frames as `frame_of` gives them, keyframes `gop` apart."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options = {"g": str(gop), "keyint_min": str(gop), "crf": "4", "bf": "2"}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(frame_of(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class AeroEyes:
    """A data set in the AeroEyes layout that tests can break.

    Args:
        root: Its folder.
        videos: Name to number of frames and labelled frames.
        as_frames: Write image files instead of films.
    """

    def __init__(
        self, root: Path, videos: dict[str, tuple[int, list[int]]], *, as_frames: bool = False
    ) -> None:
        self.root, self.entries = root, []
        for name, (count, labelled) in videos.items():
            folder = root / "samples" / name
            (folder / "object_images").mkdir(parents=True)
            for shot in range(1, 4):
                photo = np.full((40, 32, 3), 40 * shot, np.uint8)
                Image.fromarray(photo).save(folder / "object_images" / f"img_{shot}.jpg")
            if as_frames:
                (folder / "frames").mkdir()
                for number in range(count):
                    file = folder / "frames" / f"{number:06d}.png"
                    Image.fromarray(frame_of(number)).save(file)
            else:
                write_film(folder / "drone_video.mp4", count)
            boxes = [{"frame": f, "x1": 10, "y1": 8, "x2": 30, "y2": 28} for f in labelled]
            self.entries.append({"video_id": name, "annotations": [{"bboxes": boxes}]})
        self.file = root / "annotations" / "annotations.json"
        self.file.parent.mkdir()
        self.write()

    def write(self) -> None:
        self.file.write_text(json.dumps(self.entries))

    def boxes(self, number: int = 0) -> list[dict]:
        """Return the boxes of a video's first interval, to be changed before `write`."""
        return self.entries[number]["annotations"][0]["bboxes"]

    def folder(self, name: str) -> Path:
        return self.root / "samples" / name


@pytest.fixture
def aeroeyes(tmp_path):
    """Make such a data set: two backpacks, a person and a jacket where nothing is said."""
    labelled = [*range(8, 14)]
    names = ("Backpack_0", "Backpack_1", "Jacket_0", "Person1_0")
    usual = dict.fromkeys(names, (40, labelled))

    def make(videos=None, **options) -> AeroEyes:
        return AeroEyes(tmp_path / "aero", usual if videos is None else videos, **options)

    return make


class Coco:
    """A data set in the COCO layout: image n shows class n % 4, the last ones show nothing."""

    def __init__(self, root: Path, images: int, empty: int) -> None:
        self.root, self.names = root, ("bolt", "cap", "gear", "nut")
        (root / "images").mkdir(parents=True)
        self.content = {"images": [], "annotations": [], "categories": []}
        for number in range(images + empty):
            rng = np.random.default_rng(number)
            picture = rng.integers(0, 90, (60, 80, 3)).astype(np.uint8)
            if number < images:
                self.show(number, number % 4, (20, 10, 24, 30))
                picture[10:40, 20:44] = (60 * (number % 4), 200, 120)
            Image.fromarray(picture).save(root / "images" / f"{number}.png")
            row = {"id": number, "file_name": f"{number}.png", "height": 60, "width": 80}
            self.content["images"].append(row)
        for number, name in enumerate(self.names):
            self.content["categories"].append({"id": number, "name": name})
            (root / "references" / name).mkdir(parents=True)
            for shot in range(3):
                photo = np.zeros((40, 40, 4), np.uint8)
                photo[8 : 30 + shot, 10:30] = (60 * number, 200, 120, 255)
                Image.fromarray(photo).save(root / "references" / name / f"{shot}.png")
        self.write()

    def show(self, image: int, category: int, bbox: tuple[float, ...]) -> None:
        rows = self.content["annotations"]
        row = {"id": len(rows), "image_id": image, "category_id": category, "bbox": [*bbox]}
        rows.append(row)

    def write(self) -> None:
        (self.root / "annotations.json").write_text(json.dumps(self.content))


@pytest.fixture
def coco(tmp_path):
    """Make such a data set: sixteen images with an object and eight without."""

    def make(images: int = 16, empty: int = 8) -> Coco:
        return Coco(tmp_path / "coco", images, empty)

    return make
