"""The verb `mlkit angioseg pseudo-label`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a trained run.")]
Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="A data set, or cines or pictures, or a folder of them."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder.")]
Checkpoint = Annotated[
    str, typer.Option("--checkpoint", help="best, last, or a step-… of the run.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", min=0, max=1, help="Default: the best one on the run's split val."),
]
MinConfidence = Annotated[
    float,
    typer.Option(
        "--min-confidence", min=0, max=1, help="Least mean probability within a mask; 0: all."
    ),
]
Frames = Annotated[
    Literal["all", "best", "labelled", "unlabelled"],
    typer.Option("--frames", help="best: of each cine the one with most contrast."),
]
Masks = Annotated[
    str, typer.Option("--masks", metavar="NAME", help="Folder of a data set's own masks.")
]
View = Annotated[
    str | None,
    typer.Option("--view", metavar="P,S", help="Angles in degrees; default the frames' own."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def pseudo_label(
    run: Run,
    source: Source,
    out: Out,
    checkpoint: Checkpoint = "best",
    threshold: Threshold = None,
    min_confidence: MinConfidence = 0.0,
    frames: Frames = "all",
    masks: Masks = "masks",
    view: View = None,
    as_json: Json = False,
) -> None:
    """Let a run label frames, for another run to train on.

    DIR gets pseudo_masks, index.csv (for `angio-frames`) and provenance.json: run, checkpoint,
    weights, threshold and each mask's confidence, which stand in each mask's PNG, too. Frames stay
    where they are. Labelling that was interrupted goes on when it is run again.
    """
    from mlkit_angioseg.pseudo.labelling import Labelling, label_frames
    from mlkit_angioseg.verbs.progress import progress

    wanted = Labelling(
        checkpoint=checkpoint,
        threshold=threshold,
        min_confidence=min_confidence,
        frames=frames,
        masks=masks,
        view=view,
        told=progress("frame"),
    )
    said = label_frames(run, source, out, wanted)
    typer.echo(json.dumps(said, indent=1) if as_json else _text(said))


def _text(said: dict) -> str:
    made = said["made_by"]
    inside = ", ".join(f"{key}: {value}" for key, value in said["data"].items())
    notes = "".join(f"note: {note}\n" for note in said["notes"])
    return (
        f"{said['written']}: {said['kept']} masks of {said['frames']} frames, "
        f"{said['below_min_confidence']} below the least confidence; "
        f"{said['with_own_mask']} frames have a mask of their own\n"
        f"made by {made['run']}, {made['checkpoint']} "
        f"(sha256 {made['checkpoint_sha256'][:12]}…)\n"
        f"threshold {made['threshold']} ({made['threshold_from']}); "
        f"mean confidence {said['mean_confidence']}, expected Dice {said['mean_expected_dice']}\n"
        f"{notes}data: {{{inside}}}"
    )
