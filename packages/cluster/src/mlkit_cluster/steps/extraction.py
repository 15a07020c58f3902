"""`extract` and `embed`: every image once, in transactions of a chunk; what is there is kept."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_cluster.extraction.work import ExtractRecipe, Item, Unreadable, chunks_of
from mlkit_cluster.images.embedding import EmbeddingExtractor
from mlkit_cluster.steps.telling import Tell, silent
from mlkit_cluster.store.database import open_run
from mlkit_cluster.store.entries import ImageEntry
from mlkit_cluster.store.fingerprint import canonical_json
from mlkit_cluster.store.runs import RunSpec
from mlkit_cluster.yolo.extractor import COMPONENTS, YoloExtractor
from mlkit_core.build import build_data, build_part
from mlkit_core.errors import BuildError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_cluster.distances.shard import Shard
    from mlkit_cluster.engines.work import Engine
    from mlkit_cluster.extraction.work import Found
    from mlkit_cluster.images.component import ImageFolder
    from mlkit_cluster.store.database import RunStore
    from mlkit_core.config.frame import Part

_log = logging.getLogger("mlkit.cluster")
CHUNK = 16
_VERSIONS = ("mlkit-cluster", "torch", "numpy", "ultralytics", "pillow", "opencv-python")


@dataclass(frozen=True)
class Extracted:
    """How an extraction ended.

    Args:
        folder: Of the run.
        images: All that the source names.
        done: Extracted by this call.
        labelled: Images of which labels are known.
        failed: Path and reason of each image that cannot be read.
    """

    folder: Path
    images: int
    done: int
    labelled: int
    failed: tuple[tuple[str, str], ...]


def extract(
    out: Path,
    data: Part,
    extractor: Part,
    *,
    engine: Engine,
    encoder: str = "yolo",
    shard: Shard | None = None,
    retry: bool = False,
    tell: Tell = silent,
) -> Extracted:
    """Extract what a run lacks; a stopped call goes on where it stood.

    Args:
        out: The run's folder; made. A shard writes into `parts/` of it, and `merge` joins them.
        data: Part of an `image-folder`.
        extractor: Part of `yolo` or `embedding`.
        engine: Where the work is done.
        encoder: Name of the rows; "yolo" for the detector's.
        shard: Which part of a job array this is.
        retry: Try images again that could not be read.
        tell: Called with images done and wanted after each transaction.

    Raises:
        InputError: The run was begun with other settings, or the source is wrong.
    """
    reader = build_part(extractor, "extractor")
    data = _matched(data, reader)
    source: ImageFolder = build_data(data)  # pyright: ignore[reportAssignmentType]  # checked below
    spec = _spec(source, reader, encoder)
    folder = out if shard is None else out / "parts" / f"{shard.number:04d}-of-{shard.count:04d}"
    with open_run(folder, create=True) as run:
        fingerprint = run.begin_run(spec)
        _register(run, source, reader)
        if isinstance(reader, YoloExtractor):
            run.set_metadata({"recipe": said_of(data, extractor)})
        if retry:
            run.clear_failures()
        items = _items(run, source, encoder)
        chunks = chunks_of(items, CHUNK)
        if shard is not None:
            chunks = [chunk for chunk in chunks if shard.takes(chunk[0].img_id // CHUNK)]
        wanted, done = sum(map(len, chunks)), 0
        for _, found in engine.map(ExtractRecipe(data, extractor), chunks):
            _write(run, found, encoder, fingerprint, full=_keeps_full_maps(reader))
            done += len(found)
            tell(len(found), wanted)
        return _ended(run, source, done)


def _matched(data: Part, reader: Any) -> Part:  # noqa: ANN401  # an extractor
    """Return the data with labels matched to the detector's classes, inputs of its size."""
    if not isinstance(reader, YoloExtractor):
        return data
    options = dict(data.options)
    if options.get("image_size") != reader.options.image_size:
        options["image_size"] = reader.options.image_size
    if options.get("classes") is None:
        options["classes"] = reader.detector.names
    return data.model_copy(update={"options": options})


def _spec(source: ImageFolder, reader: Any, encoder: str) -> RunSpec:  # noqa: ANN401
    versions = {name: found for name in _VERSIONS if (found := _version(name))}
    if isinstance(reader, YoloExtractor):
        options, detector = reader.options, reader.detector
        labels = source.label_source()
        parts = {
            "imgsz": options.image_size,
            "conf": options.conf,
            "iou": options.iou,
            "max_det": options.max_det,
            "target_conf": options.target_conf,
            "maps": options.maps,
            "gains": detector.gains,
            "components": [name for name in COMPONENTS if name != "seg" or detector.is_segmenter],
            "labels": _labels_said(source) if labels is not None else "none",
            "supercategories": list(reader.groups.groups),
        }
        return RunSpec(
            kind="yolo",
            encoder="yolo",
            model=str(Path(options.model).absolute()),
            model_sha256=detector.sha256,
            parts=parts,
            names=detector.names,
            versions=versions,
        )
    if not isinstance(reader, EmbeddingExtractor):
        raise BuildError(f"extractor: expected yolo or embedding, got {type(reader).__name__}")
    return RunSpec(
        kind="embedding",
        encoder=encoder,
        model=encoder,
        model_sha256=reader.provenance,
        parts={"imgsz": source.options.image_size},
        versions=versions,
    )


def _labels_said(source: ImageFolder) -> str:
    options = source.options
    kind = source.label_source()
    where = options.annotations.name if options.annotations else options.label_folder
    return f"{kind.kind if kind else 'none'}:{where}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _register(run: RunStore, source: ImageFolder, reader: Any) -> None:  # noqa: ANN401
    listing, labels = source.listing(), source.label_source()
    said = {"image_root": str(listing.root)}
    known = run.metadata().get("image_root", said["image_root"])
    if known != said["image_root"]:
        _log.info("%s: images lay at %s, now at %s", run.path, known, said["image_root"])
    run.register_images([ImageEntry(one.key, one.split or None) for one in listing.images])
    if isinstance(reader, YoloExtractor):
        said["labels"] = labels.kind if labels is not None else ""
        said["names"] = canonical_json(list(reader.detector.names))
        said["supercategories"] = canonical_json(list(reader.groups.names))
    run.set_metadata(said)


def _items(run: RunStore, source: ImageFolder, encoder: str) -> list[Item]:
    places = {one.key: index for index, one in enumerate(source.listing().images)}
    waiting = run.pending(encoder)
    gone = [path for _, path in waiting if path not in places]
    if gone:
        _log.warning(
            "%d images of the run are not in the source, first %r; they stay as they are",
            len(gone),
            gone[0],
        )
    return [Item(img_id, places[path], path) for img_id, path in waiting if path in places]


def _write(
    run: RunStore, found: Sequence[Found], encoder: str, fingerprint: str, *, full: bool
) -> None:
    """Write a chunk: its records in one transaction, then what could not be read."""
    good = [(item, one) for item, one in found if not isinstance(one, Unreadable)]
    if encoder == "yolo":
        records = [replace(one, key=item.path) for item, one in good]
        run.write_records(records, full_maps=full)
    elif good:
        vectors = np.stack([one.values["embedding"] for _, one in good])
        run.write_embeddings(encoder, fingerprint, [item.img_id for item, _ in good], vectors)
    for item, one in found:
        if isinstance(one, Unreadable):
            _log.warning("%s", one.error)
            if encoder == "yolo":
                run.write_failure(item.img_id, one.error)


def said_of(data: Part, extractor: Part) -> str:
    """Return what `validate` makes the same data and extractor from, as JSON."""
    parts = {"data": data.options, "extractor": extractor.options}
    return json.dumps(parts, default=str)


def source_of(run: RunStore) -> str:
    """Return the images that a run was extracted from: its source, else the folder they lie in.

    Raises:
        InputError: Nothing has been extracted.
    """
    known = run.metadata()
    if "image_root" not in known:
        raise InputError(f"{run.path}: holds no images", hint="`mlkit cluster extract` first")
    said = json.loads(known["recipe"]) if "recipe" in known else {}
    return str(said.get("data", {}).get("source", known["image_root"]))


def _keeps_full_maps(reader: Any) -> bool:  # noqa: ANN401  # an extractor
    return isinstance(reader, YoloExtractor) and reader.options.maps == "full16"


def _ended(run: RunStore, source: ImageFolder, done: int) -> Extracted:
    query = "SELECT path, error FROM images WHERE error IS NOT NULL ORDER BY img_id"
    labels = source.label_source()
    return Extracted(
        folder=run.folder,
        images=len(source.listing().images),
        done=done,
        labelled=0 if labels is None else labels.labelled,
        failed=tuple((path, error) for path, error in run.db.execute(query)),
    )
