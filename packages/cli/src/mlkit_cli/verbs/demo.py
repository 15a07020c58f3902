"""`mlkit demo`: the whole road of a domain on data that it makes itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlkit_cli.catalogue import installed
from mlkit_cli.output import columns, emit, emit_json, note, number
from mlkit_cli.verbs.options import Json
from mlkit_core.errors import InputError, RunFolderError
from mlkit_core.plugins import import_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlkit_core.plugins import ExampleSpec
    from mlkit_core.run import Run


@dataclass(frozen=True)
class DemoPlan:
    """What a domain's demo does after training: `demo.json` beside its run file, if it has one.

    Args:
        split: Which part of the data is evaluated.
        inputs: Role to path within the demo's folder, or to a literal; empty: nothing is predicted.
    """

    split: str = "val"
    inputs: Mapping[str, str] = field(default_factory=lambda: {})


def demo(
    domain: Annotated[
        str | None, typer.Argument(metavar="DOMAIN", help="Which one; optional where there is one.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="A new folder for everything.")
    ] = Path("demo"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in a folder where a demo stopped.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train, evaluate, predict and report on embedded data, without any download."""
    example = choose(domain)
    run_file = prepare(example, out, resume=resume)
    from mlkit_core.report import write_report
    from mlkit_core.run import load_run

    run = load_run(run_file)
    run.folder = out / "run"
    plan = read_plan(out)
    train(run, resume=resume)
    note(f"evaluating on {plan.split}")
    metrics = run.evaluate(plan.split).metrics
    pictures = predict(run, plan, out)
    found: dict[str, object] = {
        "metrics": metrics,
        "run": run.folder,
        "report": write_report(run.folder),
        "predictions": pictures,
    }
    if as_json:
        emit_json(found)
        return
    emit(columns([(name, number(value)) for name, value in metrics.items()]))
    emit(f"\nreport       {found['report']}\nrun          {run.folder}")
    emit(f"predictions  {out / 'predictions'}" if pictures else "predictions  none")


def choose(domain: str | None) -> ExampleSpec:
    """Return the example to show: that of the domain, or the only one with embedded data.

    Raises:
        InputError: No name is given and there is not exactly one, or it has no embedded data.
        PluginError: No example has the name.
    """
    if domain is None:
        able = [example for example in installed().examples if example.demo]
        if len(able) != 1:
            names = ", ".join(example.name for example in able) or "none"
            raise InputError("expected DOMAIN", hint=f"with embedded data: {names}")
        return able[0]
    example = installed().find_example(domain)
    if example.demo is None:
        raise InputError(f"{domain}: has no embedded data", hint=f"`mlkit init {domain}`")
    return example


def prepare(example: ExampleSpec, out: Path, *, resume: bool) -> Path:
    """Write the data and return the run file; to resume, return the one that is there.

    Raises:
        RunFolderError: The folder exists and is not resumed, or holds no run file to resume.
    """
    if resume and out.is_dir():
        found = sorted(out.glob("*.yaml"))
        if len(found) != 1:
            raise RunFolderError(f"{out}: holds no run file to resume", hint="remove the folder")
        return found[0]
    if out.exists():
        raise RunFolderError(
            f"{out}: exists already", hint="go on with --resume, or name another --out"
        )
    note(f"writing the data of {example.name} into {out}")
    out.mkdir(parents=True)
    return import_target(example.demo or "")(out)


def read_plan(out: Path) -> DemoPlan:
    """Return what `demo.json` says, or the defaults where there is none."""
    path = out / "demo.json"
    if not path.is_file():
        return DemoPlan()
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return DemoPlan(**said)


def train(run: Run, *, resume: bool) -> None:
    """Train, unless the run to resume is finished already.

    Raises:
        KeyboardInterrupt: The run was told to stop.
    """
    note(f"training into {run.folder}")
    result = run.fit(resume=resume and run.folder.exists())
    if result.status == "interrupted":
        raise KeyboardInterrupt


def predict(run: Run, plan: DemoPlan, out: Path) -> list[Path]:
    """Predict the plan's inputs and return the files written."""
    if not plan.inputs:
        return []
    note(f"predicting {', '.join(plan.inputs.values())}")
    inputs = {
        role: out / value if (out / value).exists() else Path(value)
        for role, value in plan.inputs.items()
    }
    return run.predict(inputs, out / "predictions")
