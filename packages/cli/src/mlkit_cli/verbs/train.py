"""`mlkit train`: fit, here or on several devices of this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from mlkit_cli.output import emit, emit_json, note
from mlkit_cli.verbs.options import Json, Overrides, RunFile
from mlkit_core.config import load_config
from mlkit_core.errors import InputError


def train(
    run_file: RunFile,
    overrides: Overrides = [],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run of that name stopped.")
    ] = False,
    devices: Annotated[
        int, typer.Option("--devices", min=1, metavar="N", help="Processes, one for each device.")
    ] = 1,
    watch_grads: Annotated[
        int,
        typer.Option(
            "--watch-grads",
            min=0,
            metavar="STEPS",
            help="Show which loss reaches which module, every so many steps.",
        ),
    ] = 0,
    allow: Annotated[
        list[str],
        typer.Option(
            "--allow", metavar="KEY", help="Resume although this key of the run file changed."
        ),
    ] = [],
    as_json: Json = False,
) -> None:
    """Train what a run file says; the run folder is the last line of the output."""
    if allow and not resume:
        raise InputError("--allow: only a resumed run compares its run file", hint="add --resume")
    if devices > 1:
        load_config(run_file, overrides)  # what is wrong is told once, not by every process
        from mlkit_cli.launch import relaunch

        options = [*(f"--set={item}" for item in overrides), *(f"--allow={key}" for key in allow)]
        options += ["--resume"] * resume + ["--json"] * as_json
        options += [f"--watch-grads={watch_grads}"] * bool(watch_grads)
        raise typer.Exit(relaunch(devices, ["train", str(run_file), *options]))
    from mlkit_core.run import load_run

    run = load_run(run_file, overrides)
    note(f"training {run_file} into {run.folder}")
    result = run.fit(resume=resume, watch_grads=watch_grads, allow=tuple(allow))
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if as_json:
        emit_json({"folder": run.folder, "result": asdict(result)})
    else:
        emit(str(run.folder))
