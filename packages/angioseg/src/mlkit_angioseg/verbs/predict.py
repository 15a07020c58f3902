"""The verb `mlkit angioseg predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def predict(
    cine: Annotated[
        Path,
        typer.Argument(metavar="CINE", help="A DICOM or NPY cine, a picture, or a folder of them."),
    ],
    run: Annotated[Path, typer.Option("--run", metavar="RUN", help="The folder of a trained run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="best, last, or a step-… of the run.")
    ] = "best",
    view: Annotated[
        str | None,
        typer.Option("--view", metavar="P,S", help="Angles in degrees; default the file's own."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", min=0, max=1, help="Default: the best one on the run's split val."
        ),
    ] = None,
    spacing_mm: Annotated[
        float | None,
        typer.Option("--spacing-mm", min=0.001, help="Per pixel; default the file's own."),
    ] = None,
    no_video: Annotated[bool, typer.Option("--no-video", help="Write no overlay.mp4.")] = False,
    dicom_seg: Annotated[
        bool,
        typer.Option(
            "--dicom-seg", help="Also write segmentation.dcm, which holds the cine's UIDs."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Segment every frame of a cine: masks, an overlay video, measurements in millimetres.

    DIR gets masks/frame-00000.png (0 and 255), overlay.mp4, best.png and result.json. Of a DICOM
    file only a hash of its instance UID is written, never a name; --dicom-seg adds the masks as a
    DICOM Segmentation, which has to reference the file by its UIDs.
    """
    from mlkit_angioseg.cines.predicting import Wanted, predict_cine
    from mlkit_angioseg.verbs.progress import progress

    wanted = Wanted(
        checkpoint=checkpoint,
        view=view,
        threshold=threshold,
        spacing_mm=spacing_mm,
        write_video=not no_video,
        write_dicom_seg=dicom_seg,
        told=progress("frame"),
    )
    result = predict_cine(run, cine, out, wanted)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    typer.echo(_text(result, out))


def _text(result: dict, out: Path) -> str:
    best = result["best_frame"]
    row = result["frames"][best]
    unit = row["unit"]
    return (
        f"{len(result['frames'])} frames; most contrast in frame {best}: "
        f"centreline {row['centreline_length']} {unit}, "
        f"median diameter {row['diameter_median']} {unit}\n"
        f"threshold {result['threshold']} ({result['threshold_from']}), "
        f"spacing {result['spacing_from']}\n"
        f"written to {out}"
    )
