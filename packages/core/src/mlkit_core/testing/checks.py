"""The checks of a component, each on its own example, and which of them a kind must pass."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mlkit_core import interfaces
from mlkit_core.config.fields import config_model
from mlkit_core.plugins import import_target
from mlkit_core.tensors import map_tensors
from mlkit_core.testing.subject import fits, floats, refuses, require, same
from mlkit_core.types import ImageRecord, Letterbox, Needs, Ratio, SampleMeta

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from mlkit_core.interfaces import Data
    from mlkit_core.plugins import Kind
    from mlkit_core.testing.subject import Subject
    from mlkit_core.types import Batch, Draw, RoleSpec

    Check = Callable[[Subject], None]

_MULTIPLE = 32  # what data are told that image sides must divide by


def check_options(subject: Subject) -> None:
    """Every option is a keyword of the constructor, with the same default."""
    spec = subject.spec
    require(spec.summary and "\n" not in spec.summary, "summary must be one line")
    keywords = inspect.signature(import_target(spec.target)).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in keywords.values())
    for name, option in config_model(spec).model_fields.items():
        named = f"option {name!r} is no keyword of {spec.target}; add it there or drop it"
        require(name in keywords or open_ended, named)
        if name in keywords and not option.is_required() and option.default_factory is None:
            default = keywords[name].default
            agree = default in (inspect.Parameter.empty, option.default)
            require(agree, f"{name} defaults to {option.default!r} in config, {default!r} in code")


def check_interface(subject: Subject) -> None:
    """A component has everything that its kind's interface names."""
    interface = getattr(interfaces, subject.spec.kind.capitalize())
    require(isinstance(subject.build(), interface), f"must have all that {interface} names")


def check_input(subject: Subject) -> None:
    """An encoder says what it takes, and an image encoder which sizes and which padding."""
    part, shape = subject.build(), tuple(subject.example.args[0].shape[1:])
    wanted = part.input_shape
    require(fits(wanted, shape), f"`input_shape` {wanted} does not fit the example's rows {shape}")
    sized = getattr(part, "sizes", None) or hasattr(part, "size_multiple")
    told = len(shape) != 3 or (sized and len(getattr(part, "pad_rgb", ())) == 3)
    require(told, "images need `size_multiple` or `sizes`, and `pad_rgb`, three values 0..1")


def check_published_shapes(subject: Subject) -> None:
    """What the encoder or fusion publishes is what it gives."""
    part = subject.module()
    spec, features = part.spec, subject.call(part)
    require(isinstance(features, spec.type), f"must give {spec.type}, got {type(features)}")
    vector, tokens = (t if t is None else t.shape[-1] for t in (features.vector, features.tokens))
    given = [(level, values.shape[1]) for level, values in features.maps.items()], vector, tokens
    told = list(spec.channels.items()), spec.vector_dim, spec.token_dim
    require(given == told, f"publishes maps, vector_dim and token_dim {told} but gives {given}")
    heights = {t.shape[2] * spec.strides[level] for level, t in features.maps.items()}
    if subject.spec.kind == "encoder" and heights:
        heights.add(subject.example.args[0].shape[2])
    require(len(heights) <= 1, f"strides {dict(spec.strides)} do not fit: inputs of {heights} px")


def check_head_output(subject: Subject) -> None:
    """A head gives its `output_type`, and decodes one prediction for each row of meta."""
    part, metas = subject.module(), subject.example.args[1:]
    with torch.no_grad():
        output = subject.call(part)
        typed = isinstance(output, part.output_type)
        require(typed, f"must give {part.output_type}, got {type(output).__name__}")
        row = SampleMeta(key="0", size=(32, 32), letterbox=Letterbox(scale=1.0, size=(32, 32)))
        meta = metas[0] if metas else [row] * len(floats(output)[0])
        count = len(part.decode(output, meta))
    require(count == len(meta), f"must decode one prediction for each of {len(meta)}, got {count}")


def check_loss_parts(subject: Subject) -> None:
    """A loss gives named scalars or ratios, finite, and a gradient to what it reads."""
    part, (output, batch, step) = subject.module().train(), subject.example.args
    typed = isinstance(part.target_type, type) and isinstance(batch.target, part.target_type)
    require(typed, "must publish `target_type`, the class of the example's target")
    output = map_tensors(output, lambda t: t.detach().requires_grad_(t.is_floating_point()))
    parts = subject.call(part, output, batch, step)
    sums = {name: v.sum if isinstance(v, Ratio) else v for name, v in parts.items()}
    for name, value in sums.items():
        scalar = value.ndim == 0 and value.isfinite()
        require(scalar, f"part {name!r} must be a finite scalar, or a Ratio of one")
    torch.stack([*sums.values()]).sum().backward()
    read = floats(output.scope if part.output_type is None else output.head)
    require(any(map(_moves, read)), "no gradient reaches head or roles: is it detached?")


def _moves(tensor: Tensor) -> bool:
    return tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)


def check_gradients(subject: Subject) -> None:
    """Every parameter that asks for a gradient gets one."""
    part = subject.module().train()
    outputs = [t for t in floats(subject.call(part)) if t.requires_grad]
    if outputs:  # random weights: the sum of a softmax or a normalised vector has no gradient
        torch.autograd.backward(outputs, [torch.randn_like(t) for t in outputs])
    missed = [n for n, p in part.named_parameters() if p.requires_grad and not _moves(p)]
    hint = "use it in forward, drop it, or freeze it; a no_grad or a detach hides it"
    require(not missed, f"no gradient reaches {', '.join(missed[:5])}: {hint}")


def check_state(subject: Subject) -> None:
    """In eval mode a call repeats itself, and so does another instance with the same state."""
    first, second = subject.module(), subject.build(seed=1).eval()
    second.load_state_dict(first.state_dict())
    calls = ((first, 0), (first, 1), (second, 0))
    once, again, loaded = (floats(subject.call(part, seed=seed)) for part, seed in calls)
    require(same(once, again), "eval is not deterministic: random numbers or a hidden state")
    hint = "register what is random or learned as a buffer"
    require(same(once, loaded), f"state_dict does not hold all of it: {hint}")


def check_batch_of_one(subject: Subject) -> None:
    """One row works, and an encoder's rows do not depend on each other in eval mode."""
    part, kind, args = subject.module(), subject.spec.kind, subject.example.args
    if getattr(part, "output_type", kind) is None:  # a loss of roles compares several rows
        return
    if kind == "loss":
        output, batch, step = args
        batch = replace(batch, target=_rows(batch.target, 1), meta=batch.meta[:1])
        one = (replace(output, head=_rows(output.head, 1)), batch, step)
    elif kind == "encoder":
        one = (args[0][:1],)
    else:  # roles with a lead (references, clips) stay whole
        one = ({r: f if f.valid is not None else _rows(f, 1) for r, f in args[0].items()},)
    alone, whole = floats(subject.call(part, *one)), floats(subject.call(part))
    require(all(t.isfinite().all() for t in alone), "one row gives values that are not finite")
    apart = kind != "encoder" or same(alone, _rows(whole, 1), 1e-3, 1e-4)
    require(apart, "a row's features depend on the other rows of the batch")


def _rows(value: Any, end: int) -> Any:  # noqa: ANN401  # features, an output or a target
    return map_tensors(value, lambda t: t[:end])


def check_bad_rows(subject: Subject) -> None:
    """An encoder refuses rows of another shape or of a size that does not suit it."""
    part, rows = subject.module(), subject.example.args[0]
    sized = getattr(part, "sizes", None) or getattr(part, "size_multiple", 1) > 1
    for dim, fixed in enumerate(part.input_shape, start=1):
        if fixed is not None or sized:
            wrong = torch.cat([rows, rows.narrow(dim, 0, 1)], dim)
            refuses(f"rows {tuple(wrong.shape[1:])}", lambda x=wrong: subject.call(part, x))


def check_bad_roles(subject: Subject) -> None:
    """A fusion or a head refuses to be built where there is nothing to read."""
    refuses("roles {}", lambda: subject.build(inputs={}, on=None))


def check_bad_target(subject: Subject) -> None:
    """A loss refuses a target with a row less than the output; it does not broadcast."""
    part, (output, batch, step) = subject.module(), subject.example.args
    shorter = replace(batch, target=_rows(batch.target, -1))
    refuses("a target with a row less", lambda: subject.call(part, output, shorter, step))


def _cached(data: Data) -> list[str]:
    return [r for r, spec in data.roles.items() if len(spec.shape) == 3 and r not in data.augments]


def _bound(subject: Subject) -> Data:
    data: Data = subject.build()
    keys = _cached(data)
    data.bind({role: Needs(size_multiple=_MULTIPLE, keys=role in keys) for role in data.roles})
    return data


def _batches(data: Data, units: Sequence[Sequence[Draw]]) -> list[Batch]:
    return data.collate([[data.load(draw) for draw in unit] for unit in units])


def check_draws(subject: Subject) -> None:
    """Units are pure in split and seed, training is shuffled, and samples are pure in the draw."""
    data, other = _bound(subject), _bound(subject)
    calls = ((data, 3), (data, 4), (data, 3), (other, 3))
    units, moved, *equal = ([list(u) for u in d.units("train", seed)] for d, seed in calls)
    require(units and all(units), "units('train') is empty")
    require(equal == [units, units], "units must be pure in (split, seed): keep no state")
    require(units != moved, "units('train') does not change with the seed: shuffle, and seed draws")
    first, *equal = (floats(_batches(d, units[:1])) for d in (data, data, other))
    require(all(same(first, again) for again in equal), "load must be pure in the draw's seed")


def check_collate(subject: Subject) -> None:
    """Batches are of the declared kinds, targets, shapes and ranges."""
    data = _bound(subject)
    batches = _batches(data, data.units("train", 0)[:2])
    require(batches and all(b.meta for b in batches), "collate must give batches with `meta`")
    for batch in batches:
        require(batch.kind in data.kinds, f"kind {batch.kind!r} is not declared in `kinds`")
        target, upto = data.kinds[batch.kind]
        declared = isinstance(batch.target, target) and batch.upto == upto
        got = f"got {type(batch.target).__name__} up to {batch.upto!r}"
        require(declared, f"kind {batch.kind!r} is {target.__name__} up to {upto!r}, {got}")
        for role, values in batch.inputs.items():
            _check_input(f"input {role!r}", data.roles[role], values)


def _check_input(what: str, spec: RoleSpec, values: Tensor) -> None:
    shape = tuple(values.shape[len(spec.lead) or 1 :])
    require(fits(spec.shape, shape), f"{what} has rows {shape}, declared {spec.shape}")
    sized = len(shape) != 3 or all(side % _MULTIPLE == 0 for side in shape[1:])
    require(sized, f"{what} is {shape} though bound to multiples of {_MULTIPLE}")
    if spec.value_range is not None:
        low, high = spec.value_range
        within = low - 1e-4 <= float(values.min()) and float(values.max()) <= high + 1e-4
        require(within, f"{what} leaves its value_range {spec.value_range}")


def check_cache(subject: Subject) -> None:
    """The cache's units show every key once, those of training and validation among them."""
    data = _bound(subject)
    for role in _cached(data):
        cached, train, val = (_keys(data, role, split) for split in ("cache", "train", "val"))
        require(cached, f"units('cache') gives no keys of {role!r} though bound to")
        require(len({*cached}) == len(cached), f"units('cache') shows a key of {role!r} twice")
        require({*train, *val} <= {*cached}, f"units('cache') lacks keys of {role!r}")


def _keys(data: Data, role: str, split: str) -> list[str]:
    batches = (batch for unit in data.units(split, 0) for batch in _batches(data, [unit]))
    return [key for batch in batches for key in batch.keys.get(role, ())]


def check_open(subject: Subject) -> None:
    """A user's own files become batches without target; a missing file or split is refused."""
    data = _bound(subject)
    batches = list(data.open(*subject.example.args))
    bare = batches and all(batch.target is None and batch.meta for batch in batches)
    require(bare, "open must give batches without target, and with `meta`")
    missing = dict.fromkeys(data.roles, Path("no-such-file"))
    refuses("a missing file", lambda: list(data.open(missing)))
    refuses("an unknown split", lambda: data.units("no-such-split", 0))


def check_metric(subject: Subject) -> None:
    """Metrics of two ranks, merged into a fresh one, equal one metric over everything."""
    whole, merged, *ranks = (subject.build() for _ in range(4))
    for index, (predictions, batch) in enumerate(subject.example.args):
        for metric in (whole, ranks[index % 2]):
            metric.update(predictions, batch)
    for rank in reversed(ranks):  # they arrive in any order
        merged.merge(pickle.loads(pickle.dumps(rank.state())))
    want, got = whole.compute(), merged.compute()
    plain = want and all(isinstance(value, float) for value in want.values())
    require(plain, f"compute must give named floats, got {want}")
    require(got == pytest.approx(want, nan_ok=True), f"merging gives {got}, not {want}: keep sums")


def check_extractor(subject: Subject) -> None:
    """An extractor gives one record for each image, under a key of its own."""
    records = list(subject.build().extract(*subject.example.args))
    keys = {record.key for record in records if isinstance(record, ImageRecord)}
    alone = records and len(keys) == len(records)
    require(alone, "extract must yield ImageRecord, one for each image, each with its own key")


_ALL = (check_options, check_interface)
_CALLED = (check_gradients, check_state, check_batch_of_one)
CHECKS: Mapping[Kind, tuple[Check, ...]] = {
    "encoder": (*_ALL, check_input, check_published_shapes, *_CALLED, check_bad_rows),
    "fusion": (*_ALL, check_published_shapes, *_CALLED, check_bad_roles),
    "head": (*_ALL, check_head_output, *_CALLED, check_bad_roles),
    "loss": (*_ALL, check_loss_parts, *_CALLED, check_bad_target),
    "data": (*_ALL, check_draws, check_collate, check_cache, check_open),
    "metric": (*_ALL, check_metric),
    "trainer": _ALL,
    "extractor": (*_ALL, check_extractor),
}
