"""The verb `mlkit angioseg ablate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[
    Path, typer.Argument(metavar="RUN", help="The base: a run file, or a trained run's folder.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Default: runs/<name>-ablation."),
]
View = Annotated[
    list[str],
    typer.Option("--view", metavar="LIST", help="none, film, xattn; sinusoidal, unit-vector."),
]
Angles = Annotated[
    list[str],
    typer.Option(
        "--angles", metavar="LIST", help="true, shuffled, zero, flipped: the base's own weights."
    ),
]
Loss = Annotated[
    list[str],
    typer.Option(
        "--loss", metavar="LIST", help="bce, dice, focal, cldice, focal-tversky; sums as bce+dice."
    ),
]
Encoder = Annotated[
    list[str], typer.Option("--encoder", metavar="LIST", help="frozen, lora, unfrozen, resnet.")
]
Head = Annotated[
    list[str],
    typer.Option("--head", metavar="LIST", help="small, middle, large: 0.1, 0.4, 1.6 million."),
]
Split = Annotated[str, typer.Option("--split", help="Which part of the data.")]
Score = Annotated[
    list[str],
    typer.Option("--score", metavar="LIST", help="Columns of mask-overlap; dice,cldice."),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, metavar="N", help="Runs of each variant.")]
MaxSteps = Annotated[
    int | None, typer.Option("--max-steps", min=1, metavar="N", help="Of each stage of each run.")
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, of all; again for more."),
]
Resamples = Annotated[
    int, typer.Option("--resamples", min=0, metavar="N", help="Of the bootstrap; 0: no intervals.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def ablate(
    run: Base,
    out: Out = None,
    view: View = [],
    angles: Angles = [],
    loss: Loss = [],
    encoder: Encoder = [],
    head: Head = [],
    split: Split = "val",
    score: Score = ["dice,cldice"],
    seeds: Seeds = 1,
    max_steps: MaxSteps = None,
    overrides: Overrides = [],
    resamples: Resamples = 2000,
    as_json: Json = False,
) -> None:
    """Train variants that differ from a run in one axis, and compare them image by image.

    A LIST is words with commas, and may be given again. DIR gets a run for each variant,
    ablation.json, ablation.csv and ablation-images.csv. Run it again to go on: what is finished
    is taken as it is.
    """
    from mlkit_angioseg.ablation.comparing import Resampling
    from mlkit_angioseg.ablation.running import Ablation, Wish, open_base
    from mlkit_angioseg.ablation.tables import text_table, write_tables
    from mlkit_angioseg.ablation.variants import parse_variants

    axes = {"view": view, "angles": angles, "loss": loss, "encoder": encoder, "head": head}
    variants = parse_variants(axes)
    base, is_given = open_base(run, overrides, max_steps)
    wish = Wish(
        out=out or Path("runs") / f"{base.config.name}-ablation",
        variants=variants,
        split=split,
        seeds=seeds,
        scores=_scores(score),
    )
    ablation, how = Ablation(base, wish, is_given=is_given), Resampling(resamples)
    wish.out.mkdir(parents=True, exist_ok=True)
    record = None

    def told() -> None:
        nonlocal record
        record = write_tables(ablation, how)

    try:
        ablation.run(told)
    finally:  # what was computed before an interrupt is shown, too
        if record is not None:
            typer.echo(json.dumps(record, indent=1) if as_json else text_table(record))
    if any(outcome.status == "failed" for outcome in ablation.outcomes):
        raise typer.Exit(1)


def _scores(given: list[str]) -> tuple[str, ...]:
    from mlkit_angioseg.metrics.overlap import SCORES
    from mlkit_core.errors import InputError

    words = tuple(dict.fromkeys(word.strip() for text in given for word in text.split(",")))
    unknown = [word for word in words if word not in SCORES]
    if unknown:
        raise InputError(f"--score: no score {unknown[0]!r}", hint=f"there are {', '.join(SCORES)}")
    return words
