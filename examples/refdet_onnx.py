"""Find objects in images with an exported refdet model: onnxruntime and numpy, no torch.

    mlkit export runs/mine                       # model.onnx and model.support.onnx
    mlkit refdet enroll runs/mine refs/ -o mine.refset
    python refdet_onnx.py runs/mine/model.onnx mine.refset frames/*.jpg

References are a `.refset` file, or a folder of photos (or of one folder for each object), which
`model.support.onnx` encodes, each filling its square (`support_views: []`, `support_crop: photo`).
A new object needs no new export. Pillow opens files and resizes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

BINS = 16
IOU = 0.45  # of the head
BILINEAR = Image.Resampling.BILINEAR  # of Pillow: it averages where it makes smaller
GREY = (114 / 255,) * 3
PHOTOS = {".jpg", ".jpeg", ".png"}
NUMBERS = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "BOOL": np.bool_}
Arrays = dict[str, np.ndarray]


class Graph:
    """An ONNX file, the side of its images, and the colour that they are padded with.

    Args:
        path: The file.
        size: Side of images where the graph leaves it free.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node.shape for node in self.session.get_inputs()}
        self.image = next(n for n, s in self.inputs.items() if len(s) == 4 and "." not in n)
        side = self.inputs[self.image][-1]
        self.side = side if isinstance(side, int) else size
        about = json.loads(self.session.get_modelmeta().custom_metadata_map.get("mlkit", "{}"))
        pad = about.get("pad_rgb", {}).get(self.image, GREY)
        self.pad = np.rint(np.multiply(pad if any(pad) else GREY, 255)).astype(np.float32) / 255

    def __call__(self, feed: Arrays) -> Arrays:
        """Return all outputs by name; of `feed` only what the graph takes is used."""
        names = [node.name for node in self.session.get_outputs()]
        used = {name: feed[name] for name in self.inputs}
        return dict(zip(names, self.session.run(names, used), strict=True))


@dataclass(frozen=True)
class Placed:
    """An image `[3, S, S]`, RGB 0..1, on a square; `mask [S, S]`, the foreground if it is known."""

    pixels: np.ndarray
    mask: np.ndarray
    scale: float
    offset: tuple[int, int]
    size: tuple[int, int]


def letterbox(path: Path, side: int, pad: np.ndarray) -> Placed:
    """Return an image in the middle of a square; what its alpha hides has the padding's colour."""
    with Image.open(path) as opened:
        clear = opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info
        image = opened.convert("RGBA" if clear else "RGB")
    height, width = image.size[1], image.size[0]
    scale = side / max(height, width)
    content = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (side - content[0]) // 2, (side - content[1]) // 2
    place = slice(top, top + content[0]), slice(left, left + content[1])
    mask = np.zeros((side, side), np.float32)
    if clear:
        flat = Image.new("RGB", image.size, tuple(int(v) for v in np.rint(pad * 255)))
        flat.paste(image, mask=image.getchannel("A"))
        opaque = np.asarray(image.getchannel("A")) > 127
        shown = Image.fromarray(opaque.astype(np.float32)).resize(content[::-1], BILINEAR)
        share = np.asarray(shown)
        mask[place] = share >= min(0.5, float(share.max()))
        image = flat
    pixels = np.broadcast_to(pad, (side, side, 3)).astype(np.float32)
    pixels[place] = np.asarray(image.resize(content[::-1], BILINEAR), np.float32) / 255
    return Placed(pixels.transpose(2, 0, 1), mask, scale, (top, left), (height, width))


def read_refset(path: Path) -> tuple[list[str], Arrays]:
    """Return the objects' names and the graph's inputs out of a `.refset` (a safetensors file)."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    names, arrays = json.loads(header.pop("__metadata__")["names"]), {}
    for name, told in header.items():
        first, last = told["data_offsets"]
        values = np.frombuffer(raw[start + first : start + last], NUMBERS[told["dtype"]])
        arrays[f"support.{name}"] = values.reshape(told["shape"])
    return names, arrays


def encode_photos(folder: Path, graph: Graph) -> tuple[list[str], Arrays]:
    """Return the objects' names and the query graph's inputs out of a folder of photos."""
    own = photos(folder)
    objects = {folder.resolve().name: own} if own else {}
    if not own:
        inner = sorted(path for path in folder.iterdir() if path.is_dir())
        objects = {path.name: photos(path) for path in inner if photos(path)}
    if not objects:
        raise SystemExit(f"error: {folder}: holds no photos (.jpg, .jpeg, .png)")
    shots = max(map(len, objects.values()))
    valid = np.zeros((len(objects), shots), bool)
    pixels = np.zeros((len(objects), shots, 3, graph.side, graph.side), np.float32)
    masks = np.zeros((len(objects), shots, graph.side, graph.side), np.float32)
    for row, files in enumerate(objects.values()):
        for shot, file in enumerate(files):
            placed = letterbox(file, graph.side, graph.pad)
            pixels[row, shot], masks[row, shot] = placed.pixels, placed.mask
            valid[row, shot] = True
    rows = {graph.image: pixels, f"{graph.image}.mask": masks}
    found = graph({name: values.reshape(-1, *values.shape[2:]) for name, values in rows.items()})
    return list(objects), {**found, "support.valid": valid}


def photos(folder: Path) -> list[Path]:
    """Return a folder's photos by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOS)


def decode(output: Arrays, image: Placed, conf: float, iou: float, most: int) -> list[tuple]:
    """Return (object, score, box xyxy in the image's own pixels), best first.

    A box's sides are expected values over 16 bins of a stride each (Li et al., Generalized Focal
    Loss, NeurIPS 2020).
    """
    logits = output["pairs.logits"][..., 0]  # [N, A]: one image, every object
    scores = 1 / (1 + np.exp(-logits))
    found = []
    for label, cell in zip(*np.nonzero(scores >= conf), strict=True):
        bins = output["pairs.distances"][label, cell].reshape(4, BINS).astype(np.float64)
        shares = np.exp(bins - bins.max(1, keepdims=True))
        reach = (shares / shares.sum(1, keepdims=True)) @ np.arange(BINS)
        reach *= output["strides"][cell]
        (x, y), (left, top, right, bottom) = output["points"][cell], reach
        box = np.array([x - left, y - top, x + right, y + bottom])
        found.append((int(label), float(scores[label, cell]), box))
    kept = suppress(sorted(found, key=lambda one: -one[1]), iou)[:most]
    rows, columns = image.offset
    height, width = image.size
    shift, end = [columns, rows, columns, rows], [width, height, width, height]
    placed = [(n, s, np.clip((box - shift) / image.scale, 0, end)) for n, s, box in kept]
    return [one for one in placed if (one[2][2:] > one[2][:2]).all()]


def suppress(found: list[tuple], iou: float) -> list[tuple]:
    """Return what no better box of its object overlaps by more than `iou`."""
    kept: list[tuple] = []
    for one in found:
        if all(one[0] != other[0] or overlap(one[2], other[2]) <= iou for other in kept):
            kept.append(one)
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return intersection over union of two boxes xyxy."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / union if union > 0 else 0.0


def find(graph: Graph, references: Arrays, path: Path, options: argparse.Namespace) -> list[tuple]:
    """Return what one image shows of the references."""
    image = letterbox(path, graph.side, graph.pad)
    asked = np.arange(references["support.valid"].shape[0], dtype=np.float32)[None]
    output = graph({**references, graph.image: image.pixels[None], "asked": asked})
    return decode(output, image, options.conf, options.iou, options.max_det)


def main() -> None:
    """Print one JSON line for each image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model.onnx, as `mlkit export` writes it")
    parser.add_argument("references", type=Path, help="a .refset file or a folder of photos")
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--conf", type=float, default=0.25, help="least score")
    parser.add_argument("--iou", type=float, default=IOU, help="overlap that suppresses")
    parser.add_argument("--max-det", type=int, default=100)
    parser.add_argument("--size", type=int, default=640, help="side where the graph leaves it free")
    options = parser.parse_args()
    graph = Graph(options.model, options.size)
    if options.references.is_dir():
        encoder = options.model.with_name(f"{options.model.stem}.support.onnx")
        names, references = encode_photos(options.references, Graph(encoder, options.size))
    else:
        names, references = read_refset(options.references)
    for path in options.images:
        rows = [
            {"object": names[label], "score": round(score, 4), "box_xyxy": box.round(2).tolist()}
            for label, score, box in find(graph, references, path, options)
        ]
        sys.stdout.write(json.dumps({"image": str(path), "found": rows}) + "\n")


if __name__ == "__main__":
    main()
