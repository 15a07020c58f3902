"""A converted checkpoint as the folder of a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlkit_core.build import build_data, build_stage_model
from mlkit_core.config import dump_resolved, load_config
from mlkit_core.errors import RunFolderError, WeightsError
from mlkit_core.training import checkpoint
from mlkit_core.training.loop import Position
from mlkit_core.weights import file_sha256
from mlkit_dvis.convert.layout import convert_state
from mlkit_dvis.convert.reading import class_names, read_official
from mlkit_dvis.convert.report import Added, Report
from mlkit_dvis.convert.run_file import run_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from mlkit_core.config.frame import Part, RunConfig, StageConfig

_ADDED: tuple[tuple[str, str], ...] = (
    (".num_batches_tracked", "a counter that inference does not read"),
    (".backbone.swin.layernorm.weight", "the last norm of transformers' Swin; maps do not pass it"),
    (".backbone.swin.layernorm.bias", "the last norm of transformers' Swin; maps do not pass it"),
)


def convert_file(source: Path, out: Path, classes: str | None = None) -> Report:
    """Write an official checkpoint as the folder of a run, whole or not at all.

    Args:
        source: `{"model": {…}}`, of segmenter, segmenter and tracker, or all three.
        out: Run folder; must not exist.
        classes: A known set, or a file of names; None where the number of classes tells.

    Raises:
        InputError: The file cannot be read, its keys are not those of DVIS-DAQ, the classes do not
            fit, or `out` exists.
    """
    if out.exists():
        raise RunFolderError(f"{out}: exists", hint="convert into a new folder")
    state = read_official(source)
    converted = convert_state(state)
    names = class_names(classes, converted.detected.segmenter.num_classes)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        text = run_file(converted.detected, names, out.name)
        (aside / "run.yaml").write_text(text, encoding="utf-8")
        config = load_config(aside / "run.yaml")
        tensors, added = _completed(config.stages[-1], converted.tensors, len(names))
        report = Report(
            source=source,
            sha256=file_sha256(source),
            out=out,
            classes=names,
            converted=converted,
            shapes={key: tuple(tensor.shape) for key, tensor in state.items()},
            added=added,
        )
        _write(aside, config, report, tensors)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return report


def _completed(
    config: StageConfig, tensors: Mapping[str, Tensor], num_classes: int
) -> tuple[dict[str, Tensor], tuple[Added, ...]]:
    """Return all tensors of the built model, and which of them the checkpoint lacked."""
    if config.data is None:
        raise WeightsError("the run file of a conversion has no data")
    model = build_stage_model(config, build_data(config.data), num_classes)
    own = model.state_dict()
    added = tuple(
        Added(name, tuple(tensor.shape), reason)
        for name, tensor in own.items()
        if name not in tensors
        for end, reason in _ADDED
        if name.endswith(end)
    )
    whole = {**tensors, **{one.new: own[one.new] for one in added}}
    try:
        model.load_state_dict(whole)
    except RuntimeError as err:
        said = " ".join(str(err).split())
        raise WeightsError(f"the converted tensors do not fit the model: {said}") from err
    return whole, added


def _write(folder: Path, config: RunConfig, report: Report, tensors: Mapping[str, Tensor]) -> None:
    stage = config.stages[-1]
    parts: dict[str, Part] = {f"encoders.{role}": part for role, part in stage.encoders.items()}
    parts |= {f"fusions.{part.writes}": part for part in stage.fusions}
    weights = dict.fromkeys(parts, report.provenance)
    if stage.head is not None:
        parts["head"] = stage.head
    info = checkpoint.CheckpointInfo(
        stage=stage.name,
        step=0,
        classes=report.classes,
        components={where: f"{part.owner}/{part.name}" for where, part in parts.items()},
        weights=weights,
    )
    name = checkpoint.step_name(0, epoch_end=True)
    position = Position(stage=len(config.stages) - 1, done=True, best=name)
    state = {
        "config": dump_resolved(config),
        "ranks": 1,
        "position": asdict(position),
        "journal": 0,
    }
    checkpoint.write(folder / "checkpoints" / name, info, tensors, state)
    for link in ("last", "best"):
        checkpoint.link(folder, link, name)
    text = json.dumps(report.record(), indent=1) + "\n"
    (folder / "conversion.json").write_text(text, encoding="utf-8")
