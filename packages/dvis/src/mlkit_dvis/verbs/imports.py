"""The verb `mlkit dvis import`: other tools' annotations become a YouTube-VIS JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A YouTube-VIS or COCO-VID JSON, a folder with frames and masks (DAVIS), or CVAT's "
        "XML.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="OUT.json", help="What is written.")]
Kind = Annotated[
    Literal["auto", "ytvis", "coco-vid", "davis", "cvat"],
    typer.Option("--format", help="What SOURCE is; auto looks at it."),
]
Frames = Annotated[
    Path | None,
    typer.Option(
        "--frames",
        metavar="PATH",
        help="Folder that frames' names start from; for CVAT the video or the folder of its "
        "frames. Default: frames, JPEGImages or images beside SOURCE.",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        "--classes",
        metavar="FILE",
        help="For DAVIS a JSON or CSV of video, id and class; else a list of all classes in "
        "order, JSON or one a line.",
    ),
]
Boxes = Annotated[
    bool, typer.Option("--boxes", help="Take CVAT's boxes as rectangular masks; else refused.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def import_clips(
    source: Source,
    out: Out,
    kind: Kind = "auto",
    frames: Frames = None,
    classes: Classes = None,
    boxes: Boxes = False,
    as_json: Json = False,
) -> None:
    """Make a YouTube-VIS JSON of annotated videos; every problem of a set is told at once."""
    from mlkit_dvis.clips.formats.reading import read_source
    from mlkit_dvis.clips.formats.ytvis import write_ytvis

    clips = read_source(source, kind, frames=frames, class_file=classes, boxes=boxes)
    write_ytvis(clips, out)
    said = {
        "written": str(out),
        "frames_root": os.path.relpath(clips.root, out.parent),
        "videos": len(clips.videos),
        "frames": sum(video.length for video in clips.videos),
        "instances": sum(len(video.instances) for video in clips.videos),
        "classes": list(clips.classes),
    }
    if as_json:
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
        return
    counts = ", ".join(f"{said[key]} {key}" for key in ("videos", "frames", "instances"))
    typer.echo(f"{out}: {counts}; classes {', '.join(clips.classes)}")
    typer.echo(f"data: {{name: video-clips, annotations: {out}, frames: {clips.root}}}")
