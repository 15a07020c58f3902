"""The user's own files: frames to search, and photos of what to find."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlkit_core.errors import DataError
from mlkit_core.types import Batch, SampleMeta
from mlkit_refdet.episodes import letterbox
from mlkit_refdet.episodes.images import is_image, list_images, read_rgb
from mlkit_refdet.episodes.photos import read_photos
from mlkit_refdet.episodes.problems import Problems
from mlkit_refdet.episodes.support import padded
from mlkit_refdet.episodes.video import rgb_frames, video_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlkit_refdet.episodes.images import Pixels
    from mlkit_refdet.episodes.index import Photo
    from mlkit_refdet.episodes.loading import EpisodeLoader

REFSET = ".refset"
_PHOTOS = "object_images"


def reference_folders(path: Path) -> dict[str, tuple[Photo, ...]]:
    """Return each object's photos: of the folder itself, or of each folder in it.

    Raises:
        DataError: There are no photos, or some cannot be read; every problem at once.
    """
    if path.is_file():
        hint = "`mlkit refdet enroll` makes a .refset file of photos"
        raise DataError(f"{path}: expected a folder of photos or a .refset file", hint=hint)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of reference photos")
    problems = Problems()
    own = read_photos(path, problems)
    if own:
        problems.raise_any()
        whole = path.resolve()  # `samples/<id>/object_images` names its object one folder above
        return {whole.parent.name if whole.name == _PHOTOS else whole.name: own}
    inner = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {folder.name: read_photos(folder, problems) for folder in inner}
    problems.raise_any()
    found = {name: photos for name, photos in found.items() if photos}
    if not found:
        raise DataError(f"{path}: holds no photos (.jpg, .jpeg, .png), nor folders of them")
    return found


def photo_batch(folders: dict[str, tuple[Photo, ...]], loader: EpisodeLoader) -> Batch:
    """Return a batch of all objects' photos alone, each object with all of its photos."""
    support = loader.support
    items = [
        support.item(label, support.shots(photos), None)
        for label, photos in enumerate(folders.values())
    ]
    pixels, masks, valid, _ = padded(items)
    if pixels is None:
        raise DataError("support: photos were skipped")
    return Batch(
        inputs={"support": pixels},
        meta=(),
        valid={"support": valid},
        masks={"support": masks.float()},
    )


def open_frames(query: Path | str, support: Path | str, loader: EpisodeLoader) -> Iterator[Batch]:
    """Yield one batch for each frame, in order; every frame is searched for every object.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    known = _known(Path(support), loader)
    names, base = known
    asked = torch.arange(len(names), dtype=torch.float32)[None]
    for pixels, meta in _frames(query, names):
        yield frame_batch(pixels, meta, base, asked, loader)


def frame_batch(
    pixels: Pixels, meta: SampleMeta, base: Batch, asked: torch.Tensor, loader: EpisodeLoader
) -> Batch:
    """Return the batch of one frame `[H, W, 3]` uint8 RGB, with the photos of `base`."""
    box = letterbox.fit((pixels.shape[0], pixels.shape[1]), loader.side)
    image = letterbox.to_square(pixels, box, loader.side, loader.pad).float().div_(255)
    placed = SampleMeta(
        key=meta.key,
        size=(pixels.shape[0], pixels.shape[1]),
        letterbox=box,
        group=meta.group,
        path=meta.path,
        extra=meta.extra,
    )
    return Batch(
        inputs={"query": image[None], **base.inputs, "asked": asked},
        meta=(placed,),
        features=base.features,
        valid=base.valid,
        masks=base.masks,
        kind="detection",
    )


def _known(support: Path, loader: EpisodeLoader) -> tuple[list[str], Batch]:
    if support.suffix == REFSET:
        from mlkit_refdet.references.reference_set import load_reference_set

        saved = load_reference_set(support)
        features = {"support": saved.carried(str(support))}
        return list(saved.names), Batch(inputs={}, meta=(), features=features)
    folders = reference_folders(support)
    return list(folders), photo_batch(folders, loader)


def _frames(query: Path | str, names: list[str]) -> Iterator[tuple[Pixels, SampleMeta]]:
    said = {"references": json.dumps(names, ensure_ascii=False)}
    path, address = Path(query), stream_address(query)
    if address is None and path.is_dir():
        files = list_images(path)
        if not files:
            raise DataError(f"{path}: holds no images")
        for number, file in enumerate(files):
            name = path.resolve().name
            extra = {"video_id": name, "frame": number, **said}
            yield read_rgb(file), SampleMeta(key=f"{name}/{file.name}", path=str(file), extra=extra)
        return
    if address is None and path.is_file() and is_image(path):
        extra = {"video_id": path.stem, "frame": 0, **said}
        yield read_rgb(path), SampleMeta(key=path.name, path=str(path), extra=extra)
        return
    if address is None and not path.is_file():
        raise DataError(f"{query}: no such file or folder")
    source, name = address or str(path), path.stem
    fps = None if address else video_rate(source)
    for number, pixels in enumerate(rgb_frames(source)):
        extra = {"video_id": name, "frame": number, "fps": fps, **said}
        key = f"{name}/{number:06d}"
        yield pixels, SampleMeta(key=key, group=name, path=source, extra=extra)


def stream_address(query: Path | str) -> str | None:
    """Return the address of a stream, as `rtsp://host/name`; None for a path.

    A `Path` has lost one of the two slashes.
    """
    found = re.fullmatch(r"(rtsps?|rtmps?|https?|udp|tcp|srt):/+(.+)", str(query))
    return f"{found[1]}://{found[2]}" if found else None
