"""The verb `mlkit angioseg import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="A folder of DICOM files or pictures, or a COCO file."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")]
Kind = Annotated[
    Literal["auto", "dicom", "xcad", "pairs", "arcade"],
    typer.Option("--format", help="What SOURCE is; auto goes by what is there."),
]
Frames = Annotated[
    Literal["auto", "labelled", "all", "best"],
    typer.Option("--frames", help="auto: labelled where there are masks, else all."),
]
Masks = Annotated[
    Path | None,
    typer.Option("--masks", metavar="DIR", help="Mask pictures; DICOM: <file>_<frame>.png."),
]
Images = Annotated[
    Path | None, typer.Option("--images", metavar="DIR", help="Where COCO's file names start.")
]
FirstFrame = Annotated[
    int,
    typer.Option("--first-frame", min=0, max=1, help="A cine's first frame in masks' names."),
]
Link = Annotated[
    bool, typer.Option("--link", help="Point to DICOM files where they lie; copy no frame.")
]
Patient = Annotated[
    str | None,
    typer.Option("--patient", metavar="REGEX", help="Its group is the patient in a path's name."),
]
Secret = Annotated[
    Path | None,
    typer.Option(
        "--secret",
        metavar="FILE",
        help="Its bytes key the hash of patient ids, the same in every import.",
    ),
]
Classes = Annotated[
    bool, typer.Option("--classes", help="Keep ARCADE's segments apart, as label maps.")
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="T,V,T", help="Shares of train, val, test, by patient."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the split.")]
MaskSource = Annotated[
    Literal["manual", "pseudo"],
    typer.Option("--mask-source", help="pseudo: a program made SOURCE's masks."),
]
SkipWrong = Annotated[
    bool, typer.Option("--skip-wrong", help="Leave wrong files out, and list them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def import_frames(
    source: Source,
    out: Out,
    kind: Kind = "auto",
    frames: Frames = "auto",
    masks: Masks = None,
    images: Images = None,
    first_frame: FirstFrame = 0,
    link: Link = False,
    patient: Patient = None,
    secret: Secret = None,
    classes: Classes = False,
    split: Split = None,
    seed: Seed = 0,
    mask_source: MaskSource = "manual",
    skip_wrong: SkipWrong = False,
    as_json: Json = False,
) -> None:
    """Make a data set for `angio-frames` out of DICOM files, DCA1, XCAD, ARCADE or their like.

    DIR gets images, masks, index.csv and import.json. Nothing in it names a patient of a DICOM
    file. An import that was interrupted goes on when it is run again.
    """
    from mlkit_angioseg.importing.found import Wish
    from mlkit_angioseg.importing.steps import Output, import_set
    from mlkit_angioseg.verbs.progress import progress

    wish = Wish(
        frames=frames,
        masks=masks,
        images=images,
        first_frame=first_frame,
        patient=patient,
        secret=_secret(secret),
        keeps_classes=classes,
    )
    output = Output(
        linked=link,
        split=_shares(split),
        seed=seed,
        mask_source=mask_source,
        skips_wrong=skip_wrong,
        told=progress("frame"),
    )
    said = import_set(source, out, kind, wish, output)
    typer.echo(json.dumps(said, indent=1, ensure_ascii=False) if as_json else _text(said))


def _shares(text: str | None) -> tuple[float, float, float] | None:
    from mlkit_core.errors import InputError

    if text is None:
        return None
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as err:
        raise InputError(f"--split: expected three shares as 0.8,0.1,0.1, got {text!r}") from err
    return train, val, test


def _secret(path: Path | None) -> bytes | None:
    from mlkit_core.errors import InputError

    if path is None:
        return None
    if not path.is_file() or len(key := path.read_bytes().strip()) < 16:
        hint = "make one: head -c 32 /dev/urandom > FILE, and keep it apart from the data"
        raise InputError(f"--secret {path}: expected a file of 16 or more bytes", hint=hint)
    return key


def _text(said: dict) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in said["splits"].items())
    lines = [
        f"{said['written']}: {said['frames']} frames ({said['labelled']} with a mask) of "
        f"{said['cines']} cines and {said['patients']} patients, read as {said['format']}",
        f"splits: {shown}",
    ]
    lines += [f"left out: {count} {what}" for what, count in said["left_out"].items()]
    lines += [f"note: {note}" for note in said["notes"]]
    inside = ", ".join(
        f"{key}: {json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value}"
        for key, value in said["data"].items()
    )
    return "\n".join([*lines, f"data: {{{inside}}}"])
