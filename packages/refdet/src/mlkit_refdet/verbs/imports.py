"""The verb `mlkit refdet import`: labelled images become references and images to search."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="COCO's JSON, or the YAML of a YOLO data set.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")]
Kind = Annotated[
    Literal["auto", "coco", "yolo"],
    typer.Option("--format", help="What SOURCE is; auto goes by its suffix."),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        metavar="DIR",
        help="Folder that COCO's file names start from. Default: images beside SOURCE.",
    ),
]
Shots = Annotated[int, typer.Option("--shots", min=1, help="References of each class.")]
MinImages = Annotated[int, typer.Option("--min-images", min=2, help="Images a class must be in.")]
MinPx = Annotated[float, typer.Option("--min-px", help="Least longer side of a reference.")]
Novel = Annotated[
    str,
    typer.Option(
        "--novel",
        metavar="WHICH/OF",
        help="Classes to validate on and not to train on: whose place in sorted order, modulo OF, "
        "is WHICH.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def import_labels(
    source: Source,
    out: Out,
    kind: Kind = "auto",
    images: Images = None,
    shots: Shots = 3,
    min_images: MinImages = 4,
    min_px: MinPx = 32.0,
    novel: Novel = "3/4",
    as_json: Json = False,
) -> None:
    """Cut references out of labelled images, and write what data `reference-frames` reads.

    A class's references are its largest objects; the images that they are cut from are not
    searched. Images stay where they are.
    """
    from mlkit_refdet.episodes.crops import choose_references, write_set
    from mlkit_refdet.episodes.labels import read_labels

    which, of = _fold(novel)
    labelled = read_labels(source, kind, images)
    found = choose_references(labelled, shots=shots, min_images=min_images, min_px=min_px)
    root = write_set(labelled, found, out)
    names = [*found.classes]
    held_out = [name for place, name in enumerate(names) if place % of == which]
    said = {
        "written": str(out),
        "classes": names,
        "novel": held_out,
        "left_out": list(found.left_out),
        "images": len(labelled),
        "searched_with_objects": len(found.queries),
        "searched_without": len(found.empty),
        "sources_of_references": len(found.sources),
    }
    if as_json:
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
        return
    typer.echo(
        f"{out}: {len(names)} classes, {len(found.left_out)} left out\n"
        f"frames: of {len(labelled)} images {len(found.queries)} with and {len(found.empty)} "
        f"without an object of them are used, {len(found.sources)} gave references and are not "
        f"searched\nnovel: {json.dumps(held_out, ensure_ascii=False)}\n"
        f"data: {{name: reference-frames, root: {out}, images: {os.path.relpath(root, out)}, "
        f"val_fold: [{which}, {of}]}}"
    )


def _fold(novel: str) -> tuple[int, int]:
    from mlkit_core.errors import InputError

    which, _, of = novel.partition("/")
    if not (which.isdecimal() and of.isdecimal() and int(which) < int(of)):
        raise InputError(f"--novel: expected WHICH/OF as 3/4, got {novel!r}")
    return int(which), int(of)
