"""Walking over nested values that hold tensors; features as flat, named tensors and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from mlkit_core.errors import InputError
from mlkit_core.types import Features, Role

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Value = TypeVar("Value")


def map_tensors(value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """Return `value` with every tensor changed, in dataclasses, mappings and tuples."""
    return _walk(value, change)


def _walk(value: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401  # any nesting
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _walk(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_walk(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _walk(getattr(value, f.name), change) for f in fields(value) if f.init}
        if all(changed[name] is getattr(value, name) for name in changed):
            return value
        return replace(value, **changed)
    return value


def to_device(value: Value, device: torch.device) -> Value:
    """Return `value` with every tensor on `device`."""
    return map_tensors(value, lambda t: t.to(device, non_blocking=True))


def to_float32(value: Value) -> Value:
    """Return `value` with every half-precision tensor as float32; gradients flow through."""
    half = (torch.float16, torch.bfloat16)
    return map_tensors(value, lambda t: t.float() if t.dtype in half else t)


def flatten(features: Features) -> dict[str, Tensor]:
    """Return the tensors of `features` by dotted name: `maps.s8`, `tokens`, extras by field.

    `state` is left out: it belongs to a moment, not to a file.
    """
    flat: dict[str, Tensor] = {}
    for name in (f.name for f in fields(features) if f.name != "state"):
        value = getattr(features, name)
        if isinstance(value, Tensor):
            flat[name] = value
        elif isinstance(value, Mapping):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        elif value is not None:
            raise InputError(f"features field {name!r}: cannot be flattened, got {type(value)}")
    return flat


def unflatten(tensors: Mapping[str, Tensor], kind: type[Features] = Features) -> Features:
    """Return features of class `kind` from what `flatten` gave; the inverse of it."""
    known = {f.name for f in fields(kind)}
    values: dict[str, Any] = {}
    for name, tensor in tensors.items():
        field, _, key = name.partition(".")
        if field not in known:
            raise InputError(f"features: {kind.__name__} has no field {field!r}")
        if key:
            values.setdefault(field, {})[key] = tensor
        else:
            values[field] = tensor
    return kind(**values)


def save_features(path: Path, roles: Mapping[Role, Features]) -> None:
    """Write features of roles to a safetensors file, for instance a reference set."""
    from safetensors.torch import save_file

    tensors = {
        f"{role}.{name}": tensor.detach().contiguous().cpu()
        for role, features in roles.items()
        for name, tensor in flatten(features).items()
    }
    kinds = {role: type(features).__qualname__ for role, features in roles.items()}
    aside = path.with_name(path.name + ".part")
    save_file(tensors, aside, metadata={"mlkit_features": json.dumps(kinds)})
    aside.replace(path)


def load_features(
    path: Path, kinds: Mapping[Role, type[Features]] | None = None
) -> dict[Role, Features]:
    """Read what `save_features` wrote.

    Args:
        path: The file.
        kinds: Role to the class that the model's `FeatureSpec` names; `Features` where not given.
            No class is imported by the file's word.

    Raises:
        InputError: The file is no feature file, or holds another class than the model reads.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {}).get("mlkit_features", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no iterator
    except (OSError, SafetensorError) as err:
        raise InputError(f"{path}: cannot be read as saved features: {err}") from err
    if stored is None:
        raise InputError(f"{path}: holds no saved features")
    roles: dict[Role, Features] = {}
    for role, name in stored.items():
        kind = (kinds or {}).get(role, Features)
        if kind.__qualname__ != name:
            raise InputError(f"{path}: role {role!r} holds {name}, expected {kind.__qualname__}")
        own = {key[len(role) + 1 :]: t for key, t in tensors.items() if key.startswith(f"{role}.")}
        roles[role] = unflatten(own, kind)
    return roles
