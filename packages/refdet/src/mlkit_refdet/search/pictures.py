"""The pictures of a whole search, in one reading of its frames."""

from __future__ import annotations

import re
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

from PIL import Image

from mlkit_core.report.video import VideoWriter
from mlkit_refdet.search.drawing import Drawn, Row, Tile, boxed, contact_sheet, crop
from mlkit_refdet.search.temporal import best_of_each_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.search.motion import Xyxy
    from mlkit_refdet.search.sources import Source
    from mlkit_refdet.search.temporal import Track

OVERLAY, OVERLAYS, SHEET = "overlay.mp4", "overlays", "contact.png"
_USUAL_FPS = 10.0  # of an overlay, where the source has no rate
_BEST, _PHOTOS = 6, 4  # pictures of an object on the sheet


def draw_search(
    source: Source,
    names: Sequence[str],
    tracks: Sequence[Track],
    out: Path,
    *,
    frames: int,
    photos: Mapping[str, Sequence[Pixels]],
    told: Callable[[int, int | None], None],
) -> None:
    """Write the overlay and the contact sheet.

    A video's overlay is `overlay.mp4`; unrelated images have a picture each in `overlays`, those
    on which something was found.

    Args:
        source: What was searched.
        names: Of the objects.
        tracks: Of all objects.
        out: Folder; exists.
        frames: How many are read.
        photos: Name to reference photos, for the sheet.
        told: Called with frames drawn and frames in all.
    """
    boxes, wanted = _boxes(source, names, tracks), best_hits(tracks, len(names), source.fps)
    tiles: dict[int, list[tuple[float, Tile]]] = {label: [] for label in range(len(names))}
    for old in (out / OVERLAYS).glob("[0-9]*-*.png"):
        old.unlink()
    with ExitStack() as files:
        writer = None
        if source.kind != "images":
            fps = source.fps or _USUAL_FPS
            writer = files.enter_context(VideoWriter(out / OVERLAY, fps))
        for number, frame in enumerate(islice(source, frames)):
            for label, box, score in wanted.get(number, ()):
                tile = Tile(crop(frame, box), f"{_place(source, number)} · {score:.2f}")
                tiles[label].append((score, tile))
            drawn = boxed(frame, boxes.get(number, ()))
            if writer is not None:
                writer.write(drawn)
            elif number in boxes:
                _save(drawn, out / OVERLAYS, number, source.files[number].stem)
            told(number + 1, frames)
    rows = [
        Row(
            name,
            label,
            [Tile(photo) for photo in photos.get(name, ())[:_PHOTOS]],
            [tile for _, tile in sorted(tiles[label], key=lambda pair: -pair[0])],
        )
        for label, name in enumerate(names)
    ]
    contact_sheet(rows, out / SHEET)


def _boxes(source: Source, names: Sequence[str], tracks: Sequence[Track]) -> dict[int, list[Drawn]]:
    """Return frame to boxes: of a video each object's best, of unrelated images all."""
    found: dict[int, list[Drawn]] = {}
    if source.kind == "images":
        for track in tracks:
            for frame, box in track.boxes.items():
                text = f"{names[track.label]} {track.score:.2f}"
                found.setdefault(frame, []).append(Drawn(track.label, box, text))
        return found
    seen = {(frame, track.label) for track in tracks for frame in track.scores}
    for (frame, label), (box, score) in best_of_each_frame(tracks).items():
        text = f"{names[label]} {score:.2f}"
        found.setdefault(frame, []).append(Drawn(label, box, text, (frame, label) in seen))
    return found


def best_hits(
    tracks: Sequence[Track], objects: int, fps: float | None
) -> dict[int, list[tuple[int, Xyxy, float]]]:
    """Return frame to object, box and score of each object's best hits, half a second apart.

    Where that leaves fewer than there is room for, neighbours fill up.
    """
    apart = max(1, round((fps or _USUAL_FPS) / 2))
    found: dict[int, list[tuple[int, Xyxy, float]]] = {}
    for label in range(objects):
        hits = sorted(
            (
                (score, frame, track.boxes[frame])
                for track in tracks
                if track.label == label
                for frame, score in track.scores.items()
            ),
            key=lambda hit: (-hit[0], hit[1]),
        )
        chosen: list[tuple[float, int, Xyxy]] = []
        for hit in hits:
            if len(chosen) < _BEST and all(abs(hit[1] - other[1]) >= apart for other in chosen):
                chosen.append(hit)
        chosen += [hit for hit in hits if hit not in chosen][: _BEST - len(chosen)]
        for score, frame, box in chosen:
            found.setdefault(frame, []).append((label, box, score))
    return found


def _place(source: Source, number: int) -> str:
    if source.kind == "images":
        return source.files[number].name[:14]
    return f"{number / source.fps:.1f} s" if source.fps else f"frame {number}"


def _save(picture: Pixels, folder: Path, number: int, stem: str) -> None:
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^\w-]+", "_", stem)[:80]
    Image.fromarray(picture).save(folder / f"{number:05d}-{name}.png")
