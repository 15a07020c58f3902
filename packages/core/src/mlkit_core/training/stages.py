"""A stage, built: its model anew, with weights carried over part by part."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import nn

from mlkit_core.build import Losses, build_data, build_losses, build_model
from mlkit_core.config.frame import LoraOptions
from mlkit_core.errors import BuildError, RunFolderError
from mlkit_core.training import adapters
from mlkit_core.training.checkpoint import CheckpointInfo
from mlkit_core.training.parts import freeze, matching, trainable_names
from mlkit_core.training.sampling import seed_all
from mlkit_core.weights import load_pretrained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from mlkit_core.config.frame import Part, StageConfig
    from mlkit_core.interfaces import Data
    from mlkit_core.model import Model

_log = logging.getLogger("mlkit")
Carried = tuple[CheckpointInfo, "Mapping[str, Tensor]"]


@dataclass
class Stage:
    """A stage ready to train or to evaluate."""

    config: StageConfig
    data: Data
    model: Model
    losses: Losses
    classes: tuple[str, ...]
    weights: dict[str, str]  # encoder's part to provenance
    unmatched: set[str]  # freeze patterns that covered nothing here

    @property
    def named(self) -> dict[str, nn.Parameter]:
        """Every parameter by checkpoint name."""
        return trainable_names(self.model, self.losses.modules)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores: parameters and buffers of model and losses."""
        losses = self.losses.modules.state_dict()
        return self.model.state_dict() | {f"losses.{name}": t for name, t in losses.items()}

    def info(self, step: int) -> CheckpointInfo:
        """Return what a checkpoint of this stage says of itself."""
        lora = {r: asdict(p.lora) for r, p in self.config.encoders.items() if p.lora is not None}
        return CheckpointInfo(
            stage=self.config.name,
            step=step,
            classes=self.classes,
            components={where: f"{p.owner}/{p.name}" for where, p in parts_of(self.config).items()},
            lora=lora,
            weights=self.weights,
        )


def parts_of(config: StageConfig) -> dict[str, Part]:
    """Return the stage's parts by their checkpoint names."""
    parts: dict[str, Part] = {f"encoders.{role}": p for role, p in config.encoders.items()}
    parts |= {f"fusions.{p.writes}": p for p in config.fusions}
    if config.head is not None:
        parts["head"] = config.head
    return parts | {f"losses.{p.label}": p for p in config.losses}


def build_stage(config: StageConfig, seed: int, carried: Carried | None = None) -> Stage:
    """Return the stage with fresh or carried weights, adapted and frozen as it says.

    Args:
        config: The stage.
        seed: Of the fresh weights.
        carried: The checkpoint of the stage before, or of `init_from`; None at the start.

    Raises:
        BuildError: Parts do not fit each other, or carried weights do not fit a kept part.
    """
    if config.data is None:
        raise BuildError("data: a run file that trains needs data")
    seed_all(seed)
    data = build_data(config.data)
    classes = tuple(data.classes)
    stage = _assemble(config, data, classes)
    for where, module in _modules(stage).items():
        if carried is not None and where in carried[0].components:
            same = carried[0].components[where] == stage.info(0).components[where]
            if same:
                _carry(where, module, stage, carried)
                continue
            _log.info("%s: another component than before, starts anew", where)
        _start(where, module, stage)
    if carried is not None:
        for where in carried[0].components.keys() - _modules(stage).keys():
            _log.info("%s: dropped with its weights", where)
    stage.unmatched = freeze(stage.named, config.freeze)
    _check_adapters_live(stage)
    return stage


def restore_stage(
    config: StageConfig, carried: Carried, *, with_losses: bool = True, data: Data | None = None
) -> Stage:
    """Return the stage with a checkpoint's weights, strictly; the classes are the checkpoint's.

    Args:
        config: The stage that the checkpoint names.
        carried: The checkpoint.
        with_losses: False for evaluation and prediction, which need no losses.
        data: Built already, or None.

    Raises:
        RunFolderError: A key is missing, unexpected or of another shape.
    """
    info, tensors = carried
    if config.data is None:
        raise BuildError("data: a run file that trains needs data")
    data = data or build_data(config.data)
    stage = _assemble(config, data, tuple(info.classes), with_losses=with_losses)
    for role, part in config.encoders.items():
        if part.lora is not None:
            adapters.inject(f"encoders.{role}", stage.model.encoders[role], part.lora)
    kept = {n: t for n, t in tensors.items() if with_losses or not n.startswith("losses.")}
    problems = _differences(stage.tensors(), kept)
    if problems:
        raise RunFolderError(f"checkpoint of stage {info.stage!r}: {'; '.join(problems[:8])}")
    _load(stage, kept)
    stage.weights = dict(info.weights)
    stage.unmatched = freeze(stage.named, config.freeze)
    return stage


def _assemble(
    config: StageConfig, data: Data, classes: tuple[str, ...], *, with_losses: bool = True
) -> Stage:
    model = build_model(
        config.encoders, config.fusions, config.head, roles=data.roles, num_classes=len(classes)
    )
    if with_losses:
        losses = build_losses(config.losses, model, data, len(classes))
    else:
        losses = Losses(nn.ModuleDict(), {}, {})
    return Stage(config, data, model, losses, classes, {}, set())


def _modules(stage: Stage) -> dict[str, nn.Module]:
    model = stage.model
    modules = {f"encoders.{role}": m for role, m in model.encoders.items()}
    modules |= {f"fusions.{role}": m for role, m in model.fusions.items()}
    if model.head is not None:
        modules["head"] = model.head
    return modules | {f"losses.{label}": m for label, m in stage.losses.modules.items()}


def _start(where: str, module: nn.Module, stage: Stage) -> None:
    """Load an encoder's pretrained weights, then adapt it; other parts start as they are."""
    kind, _, role = where.partition(".")
    if kind != "encoders":
        return
    part = stage.config.encoders[role]
    if any(True for _ in module.parameters()):
        stage.weights[where] = load_pretrained(where, module, part.weights)
    if part.lora is not None:
        adapters.inject(where, module, part.lora)


def _carry(where: str, module: nn.Module, stage: Stage, carried: Carried) -> None:
    """Load a kept part's weights, with adapters injected or merged on the way."""
    info, tensors = carried
    own = {n[len(where) + 1 :]: t for n, t in tensors.items() if n.startswith(f"{where}.")}
    role = where.partition(".")[2]
    old = info.lora.get(role) if where.startswith("encoders.") else None
    new = stage.config.encoders[role].lora if where.startswith("encoders.") else None
    before = LoraOptions(**{**old, "targets": tuple(old["targets"])}) if old is not None else None
    if before is not None and new is not None and before != new:
        raise BuildError(
            f"{where}.lora: {new} differs from the adapters before, {before}",
            hint="say `lora: null` in a stage between: it merges them",
        )
    if before is not None:
        adapters.inject(where, module, before)
    fresh = {
        name for pattern in stage.config.fresh for name in matching(pattern, stage.tensors())
    }
    skipped = {name[len(where) + 1 :] for name in fresh if name.startswith(f"{where}.")}
    state = module.state_dict()
    given = {n: t for n, t in own.items() if n not in skipped}
    problems = _differences({n: t for n, t in state.items() if n not in skipped}, given)
    if problems:
        raise BuildError(
            f"{where}: carried weights do not fit: {'; '.join(problems[:8])}",
            hint=f"`fresh: [{where}]` starts what it covers anew",
        )
    module.load_state_dict(state | given)
    if before is not None and new is None:
        adapters.merge(module)
    if before is None and new is not None:
        adapters.inject(where, module, new)
    if where in info.weights:
        stage.weights[where] = info.weights[where]


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return problems


def _load(stage: Stage, tensors: Mapping[str, Tensor]) -> None:
    stage.model.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("losses.")})
    own = {n[len("losses.") :]: t for n, t in tensors.items() if n.startswith("losses.")}
    stage.losses.modules.load_state_dict(own)


def _check_adapters_live(stage: Stage) -> None:
    for role, part in stage.config.encoders.items():
        if part.lora is None:
            continue
        prefix = f"encoders.{role}."
        if not any(p.requires_grad for n, p in stage.named.items() if n.startswith(prefix)):
            raise BuildError(
                f"freeze: covers the adapters of encoders.{role}",
                hint="LoRA freezes the encoder's own weights by itself",
            )


def check_patterns(stages: Sequence[StageConfig], built: Stage) -> None:
    """Raise BuildError for a `freeze` or `lr_scale` pattern that matches nothing in any stage."""
    open_patterns = {p for s in stages for p in (*s.freeze, *s.optimizer.lr_scale)}
    for config in stages:
        stage = built if config is built.config else None
        wanted = {p for p in open_patterns if not (stage and matching(p, stage.named))}
        if stage is None and wanted:
            data = build_data(config.data) if config.data is not None else built.data
            stage = _assemble(config, data, tuple(data.classes))
            for role, part in config.encoders.items():
                if part.lora is not None:
                    adapters.inject(f"encoders.{role}", stage.model.encoders[role], part.lora)
            wanted = {p for p in wanted if not matching(p, stage.named)}
        open_patterns = wanted
        if not open_patterns:
            return
    if open_patterns:
        raise BuildError(
            f"freeze or optimizer.lr_scale: {', '.join(map(repr, sorted(open_patterns)))} match "
            f"nothing in any stage; there are parts {', '.join(_modules(built))}"
        )
