"""Real data, tiny detectors with random weights, and a folder of painted images with labels."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

CLASSES = ("square", "disc", "triangle")
# Width and height; none is square but two, and one is narrower than a quarter of its height.
SIZES = ((96, 64), (64, 96), (128, 128), (200, 120), (60, 60), (160, 90)) * 2


@pytest.fixture(scope="session", autouse=True)
def _quiet_ultralytics(tmp_path_factory: pytest.TempPathFactory):
    """Ultralytics asks no network and writes its settings into a folder of the tests."""
    os.environ.setdefault("YOLO_OFFLINE", "1")
    os.environ.setdefault("YOLO_AUTOINSTALL", "0")
    os.environ.setdefault("YOLO_VERBOSE", "0")
    os.environ.setdefault("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("ultralytics")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, or a skip with the reason."""
    default = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("MLKIT_DATA", default))
    if not (folder / "coco").is_dir():
        pytest.skip(f"real data is not at {folder}; set MLKIT_DATA")
    return folder


def paint(index: int) -> tuple[Image.Image, list[tuple[int, list[tuple[float, float]]]]]:
    """Return an image of `index % 4` shapes, and class and outline of each in pixels.

    Image 0, 4 and 8 hold nothing but texture.
    """
    rng = np.random.default_rng(index)
    width, height = SIZES[index % len(SIZES)]
    texture = Image.fromarray(rng.integers(0, 200, (12, 16, 3), np.uint8))
    image = texture.resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    objects = []
    for _ in range(index % 4):
        label = int(rng.integers(len(CLASSES)))
        side = float(rng.uniform(0.25, 0.5) * min(width, height))
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        outline = _outline(label, x, y, side)
        colour = tuple(int(v) for v in rng.integers(120, 256, 3))
        draw.polygon(outline, fill=colour)
        objects.append((label, outline))
    return image, objects


def _outline(label: int, x: float, y: float, side: float) -> list[tuple[float, float]]:
    corners = {0: 4, 1: 24, 2: 3}[label]
    turn = np.arange(corners) * 2 * np.pi / corners + np.pi / corners
    middle, radius = np.array([x, y]) + side / 2, side / 2
    return [(float(a), float(b)) for a, b in middle + radius * np.c_[np.sin(turn), np.cos(turn)]]


def _label_lines(objects, width: int, height: int) -> tuple[str, str]:
    boxes, polygons = [], []
    for label, outline in objects:
        points = np.array(outline) / (width, height)
        low, high = points.min(0), points.max(0)
        values = (*((low + high) / 2), *(high - low))
        boxes.append(" ".join([str(label), *(f"{v:.6f}" for v in values)]))
        polygons.append(" ".join([str(label), *(f"{v:.6f}" for v in points.ravel())]))
    return "\n".join(boxes), "\n".join(polygons)


@pytest.fixture(scope="session")
def _painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("painted")
    for name in ("images", "labels", "labels_seg"):
        (root / name).mkdir()
    for index in range(12):
        image, objects = paint(index)
        image.save(root / "images" / f"{index:02d}.png")
        boxes, polygons = _label_lines(objects, *image.size)
        (root / "labels" / f"{index:02d}.txt").write_text(boxes)
        (root / "labels_seg" / f"{index:02d}.txt").write_text(polygons)
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{names}\n")
    return root


@pytest.fixture
def painted_images(_painted: Path, tmp_path: Path) -> Path:
    """A folder of 12 images of coloured shapes, three of them without objects, for you to change.

    `images/00.png` … `11.png`; `labels/` YOLO boxes; `labels_seg/` YOLO polygons; `data.yaml`.
    """
    return Path(shutil.copytree(_painted, tmp_path / "painted"))


def _on_grey(image: Image.Image, side: int = 128) -> Image.Image:
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    grey = Image.new("RGB", (side, side), (114, 114, 114))
    grey.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return grey


def _calibrate(model: torch.nn.Module, spread: float, bias: float) -> None:
    """Make random weights say something: live activations, scores that differ, some above .25."""
    pictures = [np.asarray(_on_grey(paint(i)[0]), np.float32) / 255 for i in range(12)]
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a plain average, so that one pass sets the statistics
    model.train()
    with torch.no_grad():
        model(batch)
        for boxes, scores in zip(model.model[-1].cv2, model.model[-1].cv3, strict=True):
            boxes[-1].weight *= 4
            scores[-1].weight *= spread
            scores[-1].bias.fill_(bias)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.03
    model.eval()


def save_detector(config: str, path: Path, num_classes: int = 3, names=CLASSES) -> Path:
    """Write a random detector of this ultralytics config as ultralytics itself saves one."""
    from ultralytics import YOLO
    from ultralytics.nn import tasks

    kind = tasks.SegmentationModel if "-seg" in config else tasks.DetectionModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config, nc=num_classes, verbose=False)
        _calibrate(model, spread=1.5, bias=-1.5)
    model.names = dict(enumerate(names[:num_classes]))
    wrapped = YOLO(config)
    model.args, model.task = wrapped.model.args, wrapped.model.task
    wrapped.model = model
    wrapped.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ultralytics checkpoint: yolov8n with random weights, 3 classes; fine with 64..160 px."""
    return save_detector("yolov8n.yaml", tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="session")
def tiny_seg_detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with masks: yolov8n-seg."""
    return save_detector("yolov8n-seg.yaml", tmp_path_factory.mktemp("weights") / "tiny-seg.pt")
