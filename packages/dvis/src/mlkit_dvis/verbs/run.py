"""The verb `mlkit dvis run`: a video in, its tracks out, as files to look at and to go on with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlkit_core.errors import InputError
from mlkit_dvis.verbs.progress import Stages

if TYPE_CHECKING:
    from mlkit_dvis.drawing.running import Finished

LOG = logging.getLogger("mlkit.dvis")
_TOLD = 10  # objects named on stderr

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A video, a folder of frames or an image; with --online also a camera (0, "
        "/dev/video0), an address (rtsp://…) or - for standard input.",
    ),
]
Weights = Annotated[
    Path,
    typer.Option("--weights", metavar="RUN", help="A run's folder, or a checkpoint inside one."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")]
Classes = Annotated[
    str, typer.Option("--classes", metavar="A,B", help="Report only these; default all.")
]
Score = Annotated[
    float, typer.Option("--score", min=0, max=1, help="Report tracks that score at least this.")
]
Stride = Annotated[int, typer.Option("--stride", min=1, metavar="N", help="Take every Nth frame.")]
Online = Annotated[
    bool,
    typer.Option("--online", help="Frame by frame without the refiner, for streams and cameras."),
]
Attention = Annotated[
    bool,
    typer.Option(
        "--attention", help="Also show where the segmenter looked, and what it left unreported."
    ),
]
Layers = Annotated[
    str, typer.Option("--layers", metavar="-1,-2", help="Decoder layers whose attention is shown.")
]
Queries = Annotated[
    Literal["tracks", "all"],
    typer.Option("--queries", help="Whose attention: of reported tracks, or of all queries too."),
]
Top = Annotated[
    int,
    typer.Option("--unmatched-top", min=0, metavar="N", help="Queries of a frame in the table."),
]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="best, last, or a step-… of the run.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda:0, …; auto takes a GPU if any.")]
MaxTracks = Annotated[
    int | None,
    typer.Option("--max-tracks", min=1, help="Results of the video; default the model's own."),
]
NoVideo = Annotated[bool, typer.Option("--no-video", help="Write no videos: JSON and sheets only.")]
Fps = Annotated[
    float | None, typer.Option("--fps", min=0.1, help="Of written videos; default the source's.")
]
Spill = Annotated[
    Path | None,
    typer.Option("--spill", metavar="DIR", help="For temporary files: tens of MB for each frame."),
]
Masks = Annotated[
    Literal["spill", "recompute"],
    typer.Option("--masks", help="Keep mask features in a file, or compute them a second time."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace earlier results in the folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def run(
    source: Source,
    weights: Weights,
    out: Out,
    classes: Classes = "",
    score: Score = 0.3,
    stride: Stride = 1,
    online: Online = False,
    attention: Attention = False,
    layers: Layers = "-1",
    queries: Queries = "tracks",
    unmatched_top: Top = 10,
    device: Device = "auto",
    checkpoint: Checkpoint = "best",
    max_tracks: MaxTracks = None,
    no_video: NoVideo = False,
    fps: Fps = None,
    spill: Spill = None,
    masks: Masks = "spill",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Track a video's objects: tracks.json, an overlay to play, a contact sheet.

    --attention adds heat maps of each track and a table of what was looked at and not reported.
    """
    shown = _layers(layers) if attention else ()
    _check_source(source, online=online, attention=attention)
    from mlkit_dvis.drawing import class_labels
    from mlkit_dvis.drawing.memory import return_large_blocks
    from mlkit_dvis.drawing.outputs import check_folder, prepare_folder
    from mlkit_dvis.drawing.running import Request, follow_to_folder, track_to_folder
    from mlkit_dvis.pipeline import load_tracker

    check_folder(out, overwrite=overwrite)
    return_large_blocks()
    folder, name = _run_folder(weights, checkpoint)
    loaded = load_tracker(folder, checkpoint=name, device=device)
    names = tuple(part.strip() for part in classes.split(",") if part.strip())
    class_labels(names, loaded.classes)  # an unknown one is told before anything is written
    prepare_folder(out)
    request = Request(
        source=source,
        out=out,
        classes=names,
        score=score,
        stride=stride,
        max_tracks=max_tracks,
        video=not no_video,
        fps=fps,
        layers=shown,
        queries=queries,
        unmatched_top=unmatched_top,
        spill=spill,
        masks=masks,
    )
    work = follow_to_folder if online else track_to_folder
    with Stages() as tell:
        finished = work(request, loaded, tell)
    _print(finished, as_json=as_json)


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        hint = "numbers, -1 is the last layer: --layers -1,-2"
        raise InputError(f"--layers: expected numbers, got {text!r}", hint=hint) from None


def _check_source(source: str, *, online: bool, attention: bool) -> None:
    """Refuse what cannot work before anything slow begins."""
    from mlkit_dvis.drawing.streams import is_stream
    from mlkit_dvis.video import open_source

    stream = is_stream(source)
    if stream and not online:
        hint = "the refiner needs the whole video: follow a stream with --online"
        raise InputError(f"{source}: is a stream", hint=hint)
    if online and attention:
        hint = "leave out --online: the video is then read as a whole"
        raise InputError("--attention: tells of whole videos, not of streams", hint=hint)
    if stream:
        return
    if not Path(source).exists():
        hint = "a video, a folder of frames or an image"
        raise InputError(f"{source}: no such file", hint=hint)
    open_source(Path(source))


def _run_folder(weights: Path, checkpoint: str) -> tuple[Path, str]:
    """Return a run's folder and the checkpoint's name, where one inside the run is named."""
    inside = weights.parent if weights.suffix == ".safetensors" else weights
    if inside.parent.name == "checkpoints":
        return inside.parent.parent, inside.name
    return weights, checkpoint


def _print(finished: Finished, *, as_json: bool) -> None:
    """Print the files, one a line, or all as JSON; people also hear on stderr what was found."""
    titles = [f"{name} #{number} {score:.2f}" for number, name, score in finished.objects]
    more = [f"{len(titles) - _TOLD} more"] if len(titles) > _TOLD else []
    found = ", ".join([*titles[:_TOLD], *more]) or "--score lowers the threshold"
    LOG.info("%d objects: %s", len(titles), found)
    if not as_json:
        typer.echo("\n".join(map(str, finished.written)))
        return
    objects = [
        {"id": number, "class": name, "score": round(score, 5)}
        for number, name, score in finished.objects
    ]
    written = [str(path) for path in finished.written]
    said = {"frames": finished.frames, "objects": objects, "written": written}
    typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
