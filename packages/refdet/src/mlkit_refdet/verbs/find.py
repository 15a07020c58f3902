"""The verb `mlkit refdet find`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlkit_core.errors import InputError
from mlkit_refdet.search.config import SearchOptions, Tiles, TrackOptions
from mlkit_refdet.verbs.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A video, an image, a folder of images, a camera (0, /dev/video0) or an address "
        "(rtsp://…).",
    ),
]
Run = Annotated[
    Path,
    typer.Option("--run", metavar="RUN", help="A run's folder, or a checkpoint inside one."),
]
Refs = Annotated[
    Path | None,
    typer.Option(
        "--refs", metavar="REFS", help="Photos of one object, or a folder of such folders."
    ),
]
RefSet = Annotated[
    Path | None,
    typer.Option("--refset", metavar="FILE", help="A .refset file in their place."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="best, last, or a step-… of the run.")
]
Conf = Annotated[float, typer.Option("--conf", min=0, max=1, help="Least score of a detection.")]
High = Annotated[
    float | None,
    typer.Option(
        "--high",
        min=0,
        max=1,
        help="A track needs one such score; default by the run's validation.",
    ),
]
Low = Annotated[
    float | None,
    typer.Option("--low", min=0, max=1, help="Scores below it are left out; default likewise."),
]
MaxGap = Annotated[
    int, typer.Option("--max-gap", min=0, help="Frames without a box that are bridged.")
]
MinFrames = Annotated[int, typer.Option("--min-frames", min=1, help="Shorter tracks are dropped.")]
TileSide = Annotated[
    str,
    typer.Option(
        "--tiles",
        metavar="auto|off|N",
        help="Search tiles of N frame pixels beside the whole frame; auto: of the model's input, "
        "where the frame is much larger.",
    ),
]
Batch = Annotated[
    int, typer.Option("--batch", min=1, help="Frames or tiles that are searched at once.")
]
Stride = Annotated[int, typer.Option("--stride", min=1, help="Search every n-th frame.")]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream", help="Read a file as cameras are: once, recorded; Ctrl-C ends and writes all."
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Stop after N frames.")
]
Folder = Annotated[
    Literal["auto", "video", "images"],
    typer.Option(
        "--folder",
        help="What a folder's images are; auto: a video, if of one size and numbered.",
    ),
]
NoPictures = Annotated[
    bool, typer.Option("--no-pictures", help="Write no overlay and no contact sheet.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew where DIR holds another search.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def find(
    source: Source,
    run: Run,
    out: Out,
    refs: Refs = None,
    refset: RefSet = None,
    checkpoint: Checkpoint = "best",
    conf: Conf = 0.02,
    high: High = None,
    low: Low = None,
    max_gap: MaxGap = 8,
    min_frames: MinFrames = 3,
    tiles: TileSide = "auto",
    batch: Batch = 4,
    stride: Stride = 1,
    stream: Stream = False,
    limit: Limit = None,
    folder: Folder = "auto",
    no_pictures: NoPictures = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the objects of photos in a video: intervals, boxes, an overlay, a contact sheet.

    DIR gets detections.json, submission.json, overlay.mp4, contact.png and journal.jsonl; stopped,
    the same command goes on where it stood. Other thresholds of tracks need no new search.
    """
    options = SearchOptions(conf=conf, tiles=tile_side(tiles), stride=stride, batch=batch)
    tracks = given_tracks(high=high, low=low, max_gap=max_gap, min_frames=min_frames)
    photos = _references(refs, refset)
    from mlkit_refdet.references.enrolling import load_finder
    from mlkit_refdet.search.finding import Request
    from mlkit_refdet.search.references import check_references, find_references
    from mlkit_refdet.search.sources import open_source
    from mlkit_refdet.search.thresholds import track_options

    opened = open_source(source, folder=folder, stream=stream)
    check_references(photos)
    place, name = run_folder(run, checkpoint)
    finder = load_finder(place, name)
    request = Request(
        opened,
        out,
        options=options,
        tracks=track_options(tracks, place, finder.provenance, least=conf),
        pictures=not no_pictures,
        overwrite=overwrite,
        limit=limit,
    )
    with Progress() as told:
        found = find_references(finder, photos, request, told)
    _print(found, out, as_json=as_json)


def given_tracks(**given: float | None) -> TrackOptions:
    """Return options of tracks in which those that were not given count as not set."""
    return TrackOptions.model_validate({name: v for name, v in given.items() if v is not None})


def tile_side(text: str) -> Tiles:
    """Return what `--tiles` says.

    Raises:
        InputError: It is neither a word nor a side.
    """
    if text == "auto" or text == "off":
        return text
    if text.isdecimal() and int(text) >= 32:
        return int(text)
    raise InputError(f"--tiles: expected auto, off, or pixels from 32 on, got {text!r}")


def _references(refs: Path | None, refset: Path | None) -> Path:
    given = [path for path in (refs, refset) if path is not None]
    if len(given) != 1:
        hint = "--refs FOLDER with photos, or --refset FILE of `mlkit refdet enroll`"
        what = "both are given" if given else "neither is given"
        raise InputError(f"--refs, --refset: expected one of them, {what}", hint=hint)
    return given[0]


def run_folder(run: Path, checkpoint: str) -> tuple[Path, str]:
    """Return a run's folder and the checkpoint's name, where one inside the run is named."""
    inside = run.parent if run.suffix == ".safetensors" else run
    if inside.parent.name == "checkpoints":
        return inside.parent.parent, inside.name
    return run, checkpoint


def _print(found: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for one in found["objects"]:
        spans = ", ".join(_span(interval) for interval in one["intervals"])
        typer.echo(f"{one['name']}: {spans or 'not found'}")
    typer.echo(f"{found['frames_searched']} frames searched; written to {out}")


def _span(interval: Mapping[str, Any]) -> str:
    frames = f"{interval['first']}-{interval['last']}"
    if "image" in interval:
        return f"{interval['image']} ({interval['score']:.2f})"
    if "seconds" not in interval:
        return f"frames {frames} ({interval['score']:.2f})"
    first, last = interval["seconds"]
    return f"{first:.1f}-{last:.1f} s, frames {frames} ({interval['score']:.2f})"
