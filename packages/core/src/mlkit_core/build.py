"""From a stage's configuration to data, model and losses that fit each other."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlkit_core.config.frame import Part
from mlkit_core.errors import BuildError, InputError
from mlkit_core.model import Model
from mlkit_core.plugins import import_target
from mlkit_core.types import FeatureSpec, Needs, Role, RoleSpec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import nn

    from mlkit_core.config.frame import EncoderPart, FusionPart, LossPart, StageConfig
    from mlkit_core.interfaces import Data, Loss, Metric

_RESERVED = frozenset({"head"})


def build_part(part: Part, where: str, **context: object) -> Any:  # noqa: ANN401  # any component
    """Return the component of `part`, given its options and the context that its signature names.

    Raises:
        BuildError: The component refuses its options or its context; `where` names it.
    """
    target = import_target(part.spec.target)
    names = inspect.signature(target).parameters
    options = {
        key: build_part(value, f"{where}.{key}", **context) if isinstance(value, Part) else value
        for key, value in part.options.items()
    }
    asked = {key: value for key, value in context.items() if key in names}
    asked |= {key: value for key, value in options.items() if value is not None or key not in asked}
    try:
        return target(**asked)
    except InputError as err:
        raise type(err)(f"{where} ({part.name}): {err}", hint=err.hint) from err
    except (ValueError, TypeError) as err:
        raise BuildError(f"{where} ({part.name}): {err}") from err


def build_data(part: Part) -> Data:
    """Return the data, which has touched no file yet."""
    return build_part(part, "data")


def build_model(
    encoders: Mapping[Role, EncoderPart],
    fusions: Collection[FusionPart],
    head: Part | None,
    *,
    roles: Mapping[Role, RoleSpec],
    num_classes: int,
) -> Model:
    """Return a model whose parts fit each other and the data's roles, with fresh weights.

    Args:
        encoders: Role to encoder, as the run file lists them.
        fusions: In order.
        head: None for a model that ends at features.
        roles: What the data supplies; the first is what target and meta describe.
        num_classes: Of the data.

    Raises:
        BuildError: A role is not supplied, named twice, or does not fit; its part is named.
    """
    reads = {role: part.input for role, part in encoders.items()}
    _check_roles(reads, [fusion.writes for fusion in fusions], roles)
    order = sorted(encoders, key=lambda role: list(roles).index(reads[role]))
    built: dict[Role, nn.Module] = {}
    specs: dict[Role, FeatureSpec] = {}
    for role in order:
        where, supplied = f"encoders.{role}", roles[reads[role]]
        built[role] = build_part(encoders[role], where, num_classes=num_classes)
        _check_shape(where, built[role], reads[role], supplied)
        specs[role] = replace(built[role].spec, lead=supplied.lead)
    written = _first(roles, reads, order)
    fused: dict[Role, nn.Module] = {}
    for part in fusions:
        fusion = build_part(
            part, f"fusions.{part.writes}", inputs=dict(specs), on=written, num_classes=num_classes
        )
        fused[part.writes], specs[part.writes], written = fusion, fusion.spec, part.writes
    top = None
    if head is not None:
        top = build_part(head, "head", inputs=dict(specs), on=written, num_classes=num_classes)
    return Model(built, fused, top, reads=reads, roles=roles, specs=specs)


def _first(roles: Mapping[Role, RoleSpec], reads: Mapping[Role, Role], order: list[Role]) -> Role:
    """Return the encoder of the data's first input: of the same name, else the first reader."""
    first = next(iter(roles))
    if reads.get(first) == first:
        return first
    return next((role for role in order if reads[role] == first), order[0])


def _check_roles(
    reads: Mapping[Role, Role], writes: list[Role], roles: Mapping[Role, RoleSpec]
) -> None:
    if not reads:
        raise BuildError("model.encoders: at least one encoder is needed")
    for role, source in reads.items():
        if source not in roles:
            raise BuildError(
                f"encoders.{role}: the data supplies no input {source!r}; "
                f"it has {', '.join(roles)}",
                hint=f"name another role, or say `input:` under encoders.{role}",
            )
    for role in writes:
        if role in reads or writes.count(role) > 1 or role in _RESERVED:
            raise BuildError(f"fusions.{role}: the role is taken", hint="give it another `as:`")


def _check_shape(where: str, encoder: nn.Module, source: Role, supplied: RoleSpec) -> None:
    wanted = encoder.input_shape  # pyright: ignore[reportAttributeAccessIssue]  # Encoder protocol
    fits = len(wanted) == len(supplied.shape) and all(
        a is None or b is None or a == b
        for a, b in zip(wanted, supplied.shape, strict=True)  # pyright: ignore[reportArgumentType]
    )
    if not fits:
        raise BuildError(f"{where}: takes rows {wanted}, but input {source!r} has {supplied.shape}")


def input_needs(
    model: Model, encoders: Mapping[Role, EncoderPart], skip: Collection[Role] = ()
) -> dict[Role, Needs]:
    """Return what the data must respect, for each input that an encoder reads.

    Args:
        model: Its encoders publish sizes and padding.
        encoders: Which of them are cached.
        skip: Inputs whose pixels may be left out.

    Raises:
        BuildError: Two encoders that read one input accept no common size.
    """
    needs: dict[Role, Needs] = {}
    for source in dict.fromkeys(model.reads.values()):
        readers = [role for role in model.encoders if model.reads[role] == source]
        modules = [model.encoders[role] for role in readers]
        sizes = [set(m.sizes) for m in modules if getattr(m, "sizes", None)]  # pyright: ignore
        multiple = math.lcm(*(int(getattr(m, "size_multiple", 1)) for m in modules))
        legal = set.intersection(*sizes) if sizes else None
        legal = {s for s in legal if s % multiple == 0} if legal is not None else None
        if legal is not None and not legal:
            raise BuildError(
                f"encoders {', '.join(readers)}: no size of input {source!r} suits all"
            )
        pads = [tuple(m.pad_rgb) for m in modules if hasattr(m, "pad_rgb")]  # pyright: ignore
        needs[source] = Needs(
            size_multiple=multiple,
            sizes=tuple(sorted(legal)) if legal is not None else None,
            pad_rgb=pads[0] if pads else (0.0, 0.0, 0.0),
            keys=any(encoders[role].cache for role in readers),
            skip=source in skip,
        )
    return needs


@dataclass(frozen=True)
class Losses:
    """By loss label: its weight, and the kinds that it runs on. The model holds the modules."""

    weights: Mapping[str, float]
    kinds: Mapping[str, frozenset[str]]


def build_losses(parts: Collection[LossPart], model: Model, data: Data, num_classes: int) -> Losses:
    """Add the losses to the model, each matched to the data's kinds.

    Raises:
        BuildError: A loss has no kind, a kind has no loss, or the head gives another output.
    """
    kinds: dict[str, frozenset[str]] = {}
    for part in parts:
        where = f"losses.{part.label}"
        loss = build_part(part, where, inputs=dict(model.specs), num_classes=num_classes)
        model.losses[part.label] = loss
        kinds[part.label] = _kinds_of(where, loss, model, data)
    for kind, (target, _) in data.kinds.items():
        if not any(kind in matched for matched in kinds.values()):
            raise BuildError(
                f"losses: none runs on the data's kind {kind!r} (target {target.__name__}); "
                f"there are {', '.join(kinds) or 'none'}"
            )
    return Losses({part.label: part.weight for part in parts}, kinds)


def _kinds_of(where: str, loss: Loss, model: Model, data: Data) -> frozenset[str]:
    matched = frozenset(
        kind
        for kind, (target, upto) in data.kinds.items()
        if issubclass(target, loss.target_type) and (loss.output_type is None or upto == "head")
    )
    if not matched:
        have = ", ".join(f"{k}: {t.__name__} up to {u}" for k, (t, u) in data.kinds.items())
        raise BuildError(
            f"{where}: needs a kind with target {loss.target_type.__name__}"
            f"{'' if loss.output_type is None else ' and the head'}; the data has {have}"
        )
    if loss.output_type is not None:
        given = getattr(model.head, "output_type", None)
        if given is None or not issubclass(given, loss.output_type):
            raise BuildError(
                f"{where}: needs a head that gives {loss.output_type.__name__}, "
                f"got {given.__name__ if given else 'no head'}"
            )
    return matched


def build_metrics(
    parts: Collection[Part], num_classes: int, classes: Sequence[str]
) -> dict[str, Metric]:
    """Return fresh metrics by name.

    Args:
        parts: Of the run file. They may ask for `num_classes` and `classes`.
        num_classes: Of the model.
        classes: Names of the evaluated data's labels, which need not be the model's: a model that
            finds what photos show meets other classes than it was trained on.
    """
    context = {"num_classes": num_classes, "classes": tuple(classes)}
    return {part.name: build_part(part, f"metrics.{part.name}", **context) for part in parts}


def build_stage_model(stage: StageConfig, data: Data, num_classes: int | None = None) -> Model:
    """Return the stage's model for this data; the classes may be a checkpoint's."""
    count = len(data.classes) if num_classes is None else num_classes
    parts = (stage.encoders, stage.fusions, stage.head)
    return build_model(*parts, roles=data.roles, num_classes=count)
