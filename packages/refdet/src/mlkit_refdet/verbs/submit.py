"""The verb `mlkit refdet submit`: every video of a data set, each with its own photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlkit_core.errors import DataError
from mlkit_refdet.search.config import SearchOptions
from mlkit_refdet.verbs import find as one
from mlkit_refdet.verbs.progress import Progress

if TYPE_CHECKING:
    from typing import Any

    from mlkit_refdet.search.sources import Source

Root = Annotated[
    Path,
    typer.Argument(
        metavar="ROOT", help="Holds samples/<id>/object_images and drone_video.mp4 or frames/."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")]
NoPictures = Annotated[bool, typer.Option("--no-pictures", help="Write no pictures of videos.")]


def submit(
    root: Root,
    run: one.Run,
    out: Out,
    checkpoint: one.Checkpoint = "best",
    conf: one.Conf = 0.02,
    high: one.High = None,
    low: one.Low = None,
    max_gap: one.MaxGap = 8,
    min_frames: one.MinFrames = 3,
    tiles: one.TileSide = "auto",
    batch: one.Batch = 4,
    stride: one.Stride = 1,
    no_pictures: NoPictures = False,
    overwrite: one.Overwrite = False,
    as_json: one.Json = False,
) -> None:
    """Search every video of a data set for its own photos; one submission.json of all.

    Each video has a folder in DIR, as `find` writes it; stopped, the same command goes on.
    """
    options = SearchOptions(conf=conf, tiles=one.tile_side(tiles), stride=stride, batch=batch)
    given = one.given_tracks(high=high, low=low, max_gap=max_gap, min_frames=min_frames)
    from mlkit_refdet.references.enrolling import load_finder
    from mlkit_refdet.search.finding import Request
    from mlkit_refdet.search.references import find_references
    from mlkit_refdet.search.submission import write_json
    from mlkit_refdet.search.thresholds import track_options

    videos = videos_of(root)
    place, name = one.run_folder(run, checkpoint)
    finder = load_finder(place, name)
    tracks = track_options(given, place, finder.provenance, least=conf)
    rows: list[dict[str, Any]] = []
    for photos, source in videos:
        folder = out / source.name
        request = Request(
            source,
            folder,
            options=options,
            tracks=tracks,
            pictures=not no_pictures,
            overwrite=overwrite,
        )
        with Progress() as told:
            find_references(finder, photos, request, told)
        rows += json.loads((folder / "submission.json").read_text(encoding="utf-8"))
        typer.echo(f"{source.name}: {len(rows[-1]['detections'])} intervals", err=True)
    write_json(out / "submission.json", rows)
    typer.echo(json.dumps(rows) if as_json else str(out / "submission.json"))


def videos_of(root: Path) -> list[tuple[Path, Source]]:
    """Return photos and video of each sample, by name.

    Raises:
        DataError: There is none, or one lacks its photos or its video; all of them at once.
    """
    from mlkit_refdet.search.references import check_references
    from mlkit_refdet.search.sources import open_source

    folders = sorted(path for path in root.glob("samples/*") if path.is_dir())
    if not folders:
        raise DataError(f"{root}: holds no samples/<id> with object_images and a video")
    found: list[tuple[Path, Source]] = []
    lacking: list[str] = []
    for folder in folders:
        places = [p for p in (folder / "drone_video.mp4", folder / "frames") if p.exists()]
        if not places or not (folder / "object_images").is_dir():
            lacking.append(folder.name)
            continue
        check_references(folder / "object_images")
        found.append((folder / "object_images", open_source(str(places[0]), folder="video")))
    if lacking:
        names = ", ".join(lacking)
        raise DataError(f"{root}: no object_images, or no drone_video.mp4 or frames, in {names}")
    return found
