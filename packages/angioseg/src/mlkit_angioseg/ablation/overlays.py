"""What a variant lays over a stage of the base's run file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlkit_angioseg.ablation.losses import loss_list
from mlkit_core.errors import BuildError
from mlkit_core.plugins import import_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlkit_core.config.frame import EncoderPart, StageConfig

Raw = dict[str, Any]
_FUSIONS = {"film": "film", "xattn": "cross-attention"}
_VIEW_DIM = 64  # of a view encoder that the base lacks
_RANK = 8  # of adapters that the base lacks


@dataclass(frozen=True)
class Change:
    """What is laid over a stage, and the patterns of `optimizer.lr_scale` that go.

    Args:
        values: A partial run file.
        dropped_rates: Patterns that the variant leaves nothing to match.
    """

    values: Raw = field(default_factory=dict)
    dropped_rates: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.values)


def change_of(axis: str, value: str, stage: StageConfig, raw: Raw, *, is_trained: bool) -> Change:
    """Return what makes a variant out of a stage; nothing where the stage is that already.

    Args:
        axis: "view", "loss", "encoder" or "head".
        value: Of the axis.
        stage: The base's stage, validated.
        raw: The same, complete, as its run file writes it.
        is_trained: Whether the run starts from the weights of another (`init_from`).

    Raises:
        InputError: The variant cannot be made out of this base.
    """
    if axis == "view":
        return _view(value, stage, raw)
    if axis == "loss":
        entries = loss_list(value, raw.get("losses") or [])
        return Change() if entries is None else Change({"losses": entries})
    if axis == "head":
        from mlkit_angioseg.ablation.heads import head_options

        return Change({"model": {"head": head_options(value, stage)}})
    return _encoder(value, stage, raw, is_trained=is_trained)


def view_role(stage: StageConfig) -> str | None:
    """Return the role whose encoder reads the view."""
    return next((role for role, part in stage.encoders.items() if part.input == "view"), None)


def _view(value: str, stage: StageConfig, raw: Raw) -> Change:
    role = view_role(stage)
    listed = raw["model"].get("fusion") or []
    entries: list[Raw] = [listed] if isinstance(listed, dict) else list(listed)
    used = [i for i, entry in enumerate(entries) if role and _takes(entry, role)]
    if value == "none":
        return _without_view(role, entries, used, stage)
    if value not in _FUSIONS:
        return _encoded(value, role, stage)
    name = _FUSIONS[value]
    if len(used) == 1 and _plain(entries[used[0]]) == name:
        return Change()
    if role is None or not used:
        return _with_view(name, role, entries, stage)
    kept = {k: v for k, v in entries[used[0]].items() if k in ("on", "by", "as")}
    rest = [e for i, e in enumerate(entries) if i not in used[1:]]
    rest[used[0]] = {"name": name, **kept}
    return Change({"model": {"fusion": rest}})


def _takes(entry: Raw, role: str) -> bool:
    """Return whether a fusion conditions by this role."""
    by = entry.get("by")
    return by == role or (by is None and _plain(entry) in _FUSIONS.values())


def _plain(entry: Raw) -> str:
    return str(entry.get("name", "")).rpartition("/")[2]


def _without_view(
    role: str | None, entries: list[Raw], used: list[int], stage: StageConfig
) -> Change:
    if role is None:
        return Change()
    # `none` passes the role on under the same name, so that the head reads what it read before.
    passing = [
        {"name": "none", **{k: v for k, v in entry.items() if k in ("on", "as")}}
        if i in used
        else entry
        for i, entry in enumerate(entries)
    ]
    values: Raw = {"model": {"encoders": {role: None}, "fusion": passing}}
    gone = [f"encoders.{role}", *(f"fusions.{entries[i].get('as', 'fused')}" for i in used)]
    return _unnamed(values, stage, lambda p: any(_is_below(p, where) for where in gone))


def _with_view(name: str, role: str | None, entries: list[Raw], stage: StageConfig) -> Change:
    options = stage.head.options if stage.head is not None else {}
    taken = {str(entry.get("as", "fused")) for entry in entries}
    if options.get("on") is not None:
        reads = options["on"]
        raise BuildError(
            f"the head reads role {reads!r} by name, past any added fusion",
            hint="leave `on` out of model.head",
        )
    last = str(entries[-1].get("as", "fused")) if entries else image_role(stage)
    added: Raw = {"name": name, "on": last, "by": role or "view"}
    added |= {"as": "viewed"} if "fused" in taken else {}
    model: Raw = {"fusion": [*entries, added]}
    if role is None:
        model["encoders"] = {"view": {"name": "view-angle", "dim": _VIEW_DIM}}
    return Change({"model": model})


def _encoded(encoding: str, role: str | None, stage: StageConfig) -> Change:
    part = stage.encoders[role] if role is not None else None
    if part is None or part.name != "view-angle":
        have = f"encoder {part.name!r}" if part is not None else "no view"
        raise BuildError(f"the base has {have}, not the encoder 'view-angle'")
    if part.options.get("encoding") == encoding:
        return Change()
    return Change({"model": {"encoders": {role: {"encoding": encoding}}}})


def image_role(stage: StageConfig) -> str:
    """Return the role of the image's main encoder: `image`, else the first that reads it.

    Raises:
        BuildError: No encoder reads the image.
    """
    readers = [role for role, part in stage.encoders.items() if part.input == "image"]
    if not readers:
        raise BuildError("model.encoders: none reads the input 'image'")
    return "image" if "image" in readers else readers[0]


def _encoder(value: str, stage: StageConfig, raw: Raw, *, is_trained: bool) -> Change:
    role = image_role(stage)
    where, part = f"encoders.{role}", stage.encoders[role]
    if value == "resnet":
        return _resnet(role, raw["model"]["encoders"][role], stage)
    if value in ("frozen", "lora") and not is_trained:
        _check_weights(where, part)
    free = [pattern for pattern in stage.freeze if not _may_cover(pattern, where)]
    encoder: Raw = {"lora": None, "cache": part.cache and value == "frozen"}
    if value == "lora":
        if part.lora is not None:
            return Change()
        _check_attention(where, part)
        encoder["lora"] = {"rank": _RANK}
    elif part.lora is None and _is_held(value, where, stage, free):
        return Change()
    freeze = [*free, where] if value == "frozen" else free
    values: Raw = {"model": {"encoders": {role: encoder}}}
    return Change(values if freeze == list(stage.freeze) else {**values, "freeze": freeze})


def _is_held(value: str, where: str, stage: StageConfig, free: list[str]) -> bool:
    """Return whether the base freezes its encoder wholly ("frozen"), or not at all."""
    return where in stage.freeze if value == "frozen" else len(free) == len(stage.freeze)


def _resnet(role: str, given: Raw, stage: StageConfig) -> Change:
    where = f"encoders.{role}"
    encoder: Raw = {"name": "timm", "model": "resnet18", "weights": "none"}
    if _plain(given) == "timm" and all(given.get(k) == v for k, v in [*encoder.items()][1:]):
        return Change()
    # Merging drops a component's options only where its name changes.
    encoder |= {key: None for key in ("out_indices", "image_size", "lora") if key in given}
    encoder |= {"input": stage.encoders[role].input, "cache": False}
    head = stage.head.options if stage.head is not None else {}
    # They name or count the maps of the encoder that goes.
    unfit = {key: None for key in ("level", "widths") if head.get(key) is not None}
    model: Raw = {"encoders": {role: encoder}} | ({"head": unfit} if unfit else {})
    return _unnamed({"model": model}, stage, lambda pattern: _may_cover(pattern, where))


def _is_below(pattern: str, where: str) -> bool:
    return pattern == where or pattern.startswith(f"{where}.")


def _may_cover(pattern: str, where: str) -> bool:
    """Return whether a pattern names something of a part; one of inner names may always."""
    of_parts = pattern.partition(".")[0] in ("encoders", "fusions", "head", "losses")
    return _is_below(pattern, where) or _is_below(where, pattern) or not of_parts


def _unnamed(values: Raw, stage: StageConfig, gone: Callable[[str], bool]) -> Change:
    """Return a change under which `freeze` and `lr_scale` lose the patterns that are gone."""
    kept = [pattern for pattern in stage.freeze if not gone(pattern)]
    if len(kept) < len(stage.freeze):
        values = {**values, "freeze": kept}
    return Change(values, frozenset(filter(gone, stage.optimizer.lr_scale)))


def _check_weights(where: str, part: EncoderPart) -> None:
    """Raise BuildError where the encoder would stay at random weights."""
    published = hasattr(import_target(part.spec.target), "pretrained_file")
    if part.weights == "none" or (part.weights is None and not published):
        raise BuildError(
            f"{where} starts from random weights, which it would keep",
            hint=f"say model.{where}.weights, or init_from",
        )


def _check_attention(where: str, part: EncoderPart) -> None:
    from mlkit_core.build import build_part

    encoder = build_part(part, where, num_classes=1)
    if not getattr(encoder, "lora_targets", ()):
        named = f"{part.name} {part.options.get('model', '')}".strip()
        raise BuildError(
            f"{where} ({named}) has no attention layers to adapt",
            hint="give it a ViT, or name linear layers by `lora: {targets: […]}` in the base",
        )
