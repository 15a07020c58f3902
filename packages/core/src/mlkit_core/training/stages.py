"""A stage, built: its model anew, with weights carried over part by part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlkit_core.build import Losses, build_data, build_losses, build_stage_model
from mlkit_core.config.frame import EncoderPart, LoraOptions
from mlkit_core.errors import BuildError, RunFolderError
from mlkit_core.training import adapters
from mlkit_core.training.checkpoint import CheckpointInfo
from mlkit_core.training.journal import LOG
from mlkit_core.training.optim import freeze, matching
from mlkit_core.training.sampling import seed_all
from mlkit_core.weights import load_pretrained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from mlkit_core.config.frame import Part, StageConfig
    from mlkit_core.interfaces import Data
    from mlkit_core.model import Model

Carried = tuple[CheckpointInfo, "Mapping[str, Tensor]"]


@dataclass
class Stage:
    """A stage ready to train or to evaluate. The model holds the losses, so that names agree."""

    config: StageConfig
    data: Data
    model: Model
    losses: Losses
    classes: tuple[str, ...]
    weights: dict[str, str] = field(default_factory=dict)  # encoder's part to provenance

    @property
    def named(self) -> dict[str, nn.Parameter]:
        """Every parameter by checkpoint name: `encoders.…`, `fusions.…`, `head.…`, `losses.…`."""
        return dict(self.model.named_parameters())

    @property
    def parts(self) -> dict[str, tuple[nn.Module, Part]]:
        """Every part by its checkpoint name."""
        model, config = self.model, self.config
        found: dict[str, tuple[nn.Module, Part]] = {
            f"encoders.{role}": (model.encoders[role], p) for role, p in config.encoders.items()
        }
        found |= {f"fusions.{p.writes}": (model.fusions[p.writes], p) for p in config.fusions}
        if config.head is not None and model.head is not None:
            found["head"] = (model.head, config.head)
        losses = {p.label: p for p in config.losses}
        return found | {f"losses.{name}": (m, losses[name]) for name, m in model.losses.items()}

    def info(self, step: int) -> CheckpointInfo:
        """Return what a checkpoint of this stage says of itself."""
        return CheckpointInfo(
            stage=self.config.name,
            step=step,
            classes=self.classes,
            components={where: f"{p.owner}/{p.name}" for where, (_, p) in self.parts.items()},
            lora={
                r: p.lora.model_dump()
                for r, p in self.config.encoders.items()
                if p.lora is not None
            },
            weights=self.weights,
        )


def _assemble(config: StageConfig, classes: Sequence[str] | None, *, with_losses: bool) -> Stage:
    if config.data is None:
        raise BuildError("data: a run file that trains needs data")
    data = build_data(config.data)
    classes = tuple(data.classes if classes is None else classes)
    model = build_stage_model(config, data, len(classes))
    losses = (
        build_losses(config.losses, model, data, len(classes)) if with_losses else Losses({}, {})
    )
    return Stage(config, data, model, losses, classes)


def build_stage(
    config: StageConfig, seed: int, carried: Carried | None = None, *, with_losses: bool = True
) -> Stage:
    """Return the stage with fresh or carried weights, adapted and frozen as it says.

    Args:
        config: The stage.
        seed: Of the fresh weights.
        carried: The checkpoint of the stage before, or of `init_from`; None at the start.
        with_losses: False for a model that nothing trains.

    Raises:
        BuildError: Parts do not fit each other, or carried weights do not fit a kept part.
    """
    seed_all(seed)
    stage = _assemble(config, None, with_losses=with_losses)
    before = carried[0].components if carried is not None else {}
    for where, (module, part) in stage.parts.items():
        if carried is not None and before.get(where) == f"{part.owner}/{part.name}":
            _carry(where, module, stage, carried)
            continue
        if where in before:
            LOG.info("%s: another component than before, starts anew", where)
        if isinstance(part, EncoderPart):
            if part.weights not in (None, "none") or any(True for _ in module.parameters()):
                stage.weights[where] = load_pretrained(where, module, part.weights)
            if part.lora is not None:
                adapters.inject(where, module, part.lora)
    for where in before.keys() - stage.parts.keys():
        LOG.info("%s: dropped with its weights", where)
    freeze(stage.named, config.freeze)
    _check_adapters_live(stage)
    return stage


def restore_stage(config: StageConfig, carried: Carried, *, with_losses: bool = True) -> Stage:
    """Return the stage with a checkpoint's weights, strictly; the classes are the checkpoint's.

    Args:
        config: The stage that the checkpoint names.
        carried: The checkpoint.
        with_losses: False for evaluation and prediction, which need no losses.

    Raises:
        RunFolderError: A key is missing, unexpected or of another shape.
    """
    info, tensors = carried
    stage = _assemble(config, info.classes, with_losses=with_losses)
    _inject(stage)
    kept = {n: t for n, t in tensors.items() if with_losses or not n.startswith("losses.")}
    problems = _differences(stage.model.state_dict(), kept)
    if problems:
        raise RunFolderError(f"checkpoint of stage {info.stage!r}: {'; '.join(problems[:8])}")
    stage.model.load_state_dict(kept)
    stage.weights = dict(info.weights)
    freeze(stage.named, config.freeze)
    return stage


def _inject(stage: Stage) -> None:
    for where, (module, part) in stage.parts.items():
        if isinstance(part, EncoderPart) and part.lora is not None:
            adapters.inject(where, module, part.lora)


def _carry(where: str, module: nn.Module, stage: Stage, carried: Carried) -> None:
    """Load a kept part's weights, with adapters injected or merged on the way."""
    info, tensors = carried
    part, role = stage.parts[where][1], where.partition(".")[2]
    new = part.lora if isinstance(part, EncoderPart) else None
    kept = info.lora.get(role) if isinstance(part, EncoderPart) else None
    old = LoraOptions(**{**kept, "targets": tuple(kept["targets"])}) if kept else None
    if old is not None and new is not None and old != new:
        hint = "say `lora: null` in a stage between: it merges them"
        raise BuildError(f"{where}.lora: {new} differs from the adapters before, {old}", hint=hint)
    if old is not None:
        adapters.inject(where, module, old)
    start = len(where) + 1
    fresh = {n for p in stage.config.fresh for n in matching(p, stage.model.state_dict())}
    skipped = {n[start:] for n in fresh if n.startswith(f"{where}.")}
    own = {n[start:]: t for n, t in tensors.items() if n.startswith(f"{where}.")}
    given = {n: t for n, t in own.items() if n not in skipped}
    state = module.state_dict()
    problems = _differences({n: t for n, t in state.items() if n not in skipped}, given)
    if problems:
        hint = f"`fresh: [{where}]` starts what it covers anew"
        message = f"{where}: carried weights do not fit: {'; '.join(problems[:8])}"
        raise BuildError(message, hint=hint)
    module.load_state_dict(state | given)
    if old is not None and new is None:
        adapters.merge(module)
    if old is None and new is not None:
        adapters.inject(where, module, new)
    if where in info.weights:
        stage.weights[where] = info.weights[where]


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    problems = [f"missing {name}" for name in wanted if name not in given]
    problems += [f"unexpected {name}" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        found, expected = tuple(given[name].shape), tuple(wanted[name].shape)
        problems += [f"{name} has shape {found}, expected {expected}"] * (found != expected)
    return problems


def _check_adapters_live(stage: Stage) -> None:
    for where, (module, part) in stage.parts.items():
        adapted = isinstance(part, EncoderPart) and part.lora is not None
        if adapted and not any(p.requires_grad for p in module.parameters()):
            hint = "LoRA freezes the encoder's own weights by itself"
            raise BuildError(f"freeze: covers the adapters of {where}", hint=hint)


def check_patterns(stages: Sequence[StageConfig], built: Stage) -> None:
    """Raise BuildError for a `freeze` or `lr_scale` pattern that matches nothing in any stage."""
    unmatched = {p for s in stages for p in (*s.freeze, *s.optimizer.lr_scale)}
    for config in stages:
        if not unmatched:
            return
        stage = built if config is built.config else _assemble(config, None, with_losses=True)
        if stage is not built:
            _inject(stage)
        unmatched = {pattern for pattern in unmatched if not matching(pattern, stage.named)}
    if unmatched:
        raise BuildError(
            f"freeze or optimizer.lr_scale: {', '.join(map(repr, sorted(unmatched)))} match "
            f"nothing in any stage; there are parts {', '.join(built.parts)}"
        )
