"""Checks of data, metrics, trainers and extractors, each on the component's own example."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlkit_core.testing.subject import floats, same
from mlkit_core.types import Batch, ImageRecord, Needs, RoleSpec, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_core.testing.subject import Subject

_MULTIPLE = 32


def _bound(subject: Subject) -> Any:  # noqa: ANN401  # the Data protocol
    """Return the data, told to give sizes of a stride and keys of the inputs that can be cached."""
    data = subject.build()
    needs = {}
    for role, spec in data.roles.items():
        image = len(spec.shape) == 3
        keys = image and role not in data.augments
        needs[role] = Needs(size_multiple=_MULTIPLE if image else 1, keys=keys)
    data.bind(needs)
    return data


def _batches(data: Any, units: Sequence[Sequence[Any]]) -> list[Batch]:  # noqa: ANN401  # Data
    return data.collate([[data.load(draw) for draw in unit] for unit in units])


def check_data_declares(subject: Subject) -> None:
    """Roles, kinds, classes and augmented inputs are there before any file is read."""
    data = subject.build()
    roles = all(isinstance(spec, RoleSpec) for spec in data.roles.values())
    subject.require(data.roles and roles, "must publish `roles`, role to RoleSpec")
    for kind, (target, upto) in data.kinds.items():
        subject.require(issubclass(target, Target), f"kind {kind!r}: {target} must be a Target")
        known = upto in ("features", "fused", "head")
        subject.require(known, f"kind {kind!r}: upto {upto!r} must be features, fused or head")
    subject.require(data.kinds, "must publish `kinds`, kind to (target type, upto)")
    named = data.classes and all(isinstance(name, str) for name in data.classes)
    subject.require(named, f"must publish `classes`, names, got {data.classes!r}")
    extra = set(data.augments) - set(data.roles)
    subject.require(not extra, f"augments names {sorted(extra)}, which are no roles")


def check_data_units(subject: Subject) -> None:
    """Units are a pure function of split and seed, and training is shuffled by the seed."""
    first, second = _bound(subject), _bound(subject)
    units = first.units("train", 3)
    subject.require(len(units) > 0 and all(len(u) > 0 for u in units), "units('train') is empty")
    first.units("train", 4)
    pure = same(list(units), list(first.units("train", 3))) and same(
        list(units), list(second.units("train", 3))
    )
    subject.require(pure, "units must be pure in (split, seed): use random.Random(seed), no state")
    moved = not same(list(units), list(first.units("train", 4)))
    subject.require(moved, "units('train') does not change with the seed: shuffle, and seed draws")


def check_data_load(subject: Subject) -> None:
    """A sample's only randomness is its draw."""
    first, second = _bound(subject), _bound(subject)
    for draw in first.units("train", 0)[0]:
        sample = first.load(draw)
        pure = same(sample, first.load(draw)) and same(sample, second.load(draw))
        subject.require(pure, "load must be pure in the draw: seed a generator from draw.seed")


def check_data_collate(subject: Subject) -> None:
    """Batches are of the declared kinds, targets, shapes and ranges."""
    data = _bound(subject)
    batches = _batches(data, data.units("train", 0)[:2])
    subject.require(batches, "collate gives no batch")
    for batch in batches:
        subject.require(batch.kind in data.kinds, f"kind {batch.kind!r} is not declared in `kinds`")
        target, upto = data.kinds[batch.kind]
        got = type(batch.target).__name__
        fits = isinstance(batch.target, target)
        subject.require(fits, f"kind {batch.kind!r} declares {target.__name__}, got {got}")
        subject.require(
            batch.upto == upto, f"kind {batch.kind!r}: upto {batch.upto!r}, not {upto!r}"
        )
        subject.require(batch.meta, "batch.meta is empty; one SampleMeta for each row")
        for role, values in batch.inputs.items():
            subject.require(role in data.roles, f"input {role!r} is not declared in `roles`")
            _check_input(subject, role, data.roles[role], values)


def _check_input(subject: Subject, role: str, spec: RoleSpec, values: Any) -> None:  # noqa: ANN401  # Tensor
    lead = len(spec.lead) or 1
    shape = tuple(values.shape[lead:])
    fits = len(shape) == len(spec.shape) and all(
        want in (None, got) for want, got in zip(spec.shape, shape, strict=True)
    )
    subject.require(
        fits, f"input {role!r} is {tuple(values.shape)}, declared {spec.lead} {spec.shape}"
    )
    if len(spec.shape) == 3:
        sized = all(side % _MULTIPLE == 0 for side in shape[1:])
        subject.require(
            sized, f"input {role!r} is {shape} though bound to multiples of {_MULTIPLE}"
        )
    if spec.value_range is not None:
        low, high = spec.value_range
        within = low - 1e-4 <= float(values.min()) and float(values.max()) <= high + 1e-4
        subject.require(within, f"input {role!r} leaves its value_range {spec.value_range}")


def check_data_cache(subject: Subject) -> None:
    """The cache's units show every key once, those of training and validation among them."""
    data = _bound(subject)
    roles = [r for r, s in data.roles.items() if len(s.shape) == 3 and r not in data.augments]
    if not roles:
        return

    def keys(split: str) -> dict[str, Counter[str]]:
        batches = [batch for unit in data.units(split, 0) for batch in _batches(data, [unit])]
        return {role: Counter(k for b in batches for k in b.keys.get(role, ())) for role in roles}

    cached, used = keys("cache"), {split: keys(split) for split in ("train", "val")}
    for role in roles:
        subject.require(cached[role], f"units('cache') gives no keys of {role!r} though bound to")
        twice = [key for key, count in cached[role].items() if count > 1]
        subject.require(not twice, f"units('cache') shows key {twice[:1]} of {role!r} twice")
        for split, seen in used.items():
            absent = sorted(set(seen[role]) - set(cached[role]))
            subject.require(not absent, f"units('cache') lacks key {absent[:1]} of split {split!r}")


def check_data_open(subject: Subject) -> None:
    """A user's own files become batches without target."""
    args = subject.example.args
    subject.require(args, "the example needs args=({role: path},), files that `open` reads")
    batches = list(_bound(subject).open(args[0]))
    subject.require(batches, "open gives no batch")
    for batch in batches:
        subject.require(batch.target is None, "open must give batches without target")
        subject.require(batch.meta, "open must give batch.meta, one SampleMeta for each row")


def check_data_bad_input(subject: Subject) -> None:
    """Missing files and unknown splits are refused by an error of ours."""
    data, missing = _bound(subject), subject.folder / "no-such-file"
    subject.refuses("an unknown split", lambda: data.units("no-such-split", 0))
    subject.refuses("a missing file", lambda: list(data.open({next(iter(data.roles)): missing})))


def _updates(subject: Subject) -> list[tuple[Any, Batch]]:
    args = subject.example.args
    pair = len(args) == 2 and isinstance(args[1], Batch)
    return [args, args] if pair else list(args)  # pyright: ignore[reportReturnType]


def check_metric_merges(subject: Subject) -> None:
    """Two metrics merged into a fresh one equal one metric over everything."""
    updates = _updates(subject)
    subject.require(updates, "the example needs args: one (predictions, batch) for each item")
    whole, merged, half = subject.build(), subject.build(), len(updates) // 2
    for predictions, batch in updates:
        whole.update(predictions, batch)
    for part in (updates[half:], updates[:half]):  # ranks arrive in any order
        metric = subject.build()
        for predictions, batch in part:
            metric.update(predictions, batch)
        merged.merge(pickle.loads(pickle.dumps(metric.state())))
    want, got = whole.compute(), merged.compute()
    close = want.keys() == got.keys() and all(_close(want[name], got[name]) for name in want)
    subject.require(
        close, f"merged states give {got}, one metric gives {want}: keep sums, not means"
    )
    again = whole.compute()
    subject.require(same(dict(want), dict(again)), "compute changes the metric; call it twice")


def check_metric_values(subject: Subject) -> None:
    """A metric gives named floats."""
    metric = subject.build()
    for predictions, batch in _updates(subject):
        metric.update(predictions, batch)
    values = metric.compute()
    plain = values and all(isinstance(v, float) for v in values.values())
    subject.require(plain, f"compute must give named floats, got {values}")


def _close(a: float, b: float) -> bool:
    return (a != a and b != b) or abs(a - b) <= 1e-6 * max(1.0, abs(a))  # NaN


def check_trainer(subject: Subject) -> None:
    """A trainer has `fit` and `evaluate`."""
    for name in ("fit", "evaluate"):
        subject.require(callable(getattr(subject.build(), name, None)), f"must have `{name}`")


def check_extractor(subject: Subject) -> None:
    """An extractor gives one record for each image, under a key of its own."""
    records = list(subject.build().extract(subject.example.args[0]))
    typed = records and all(isinstance(record, ImageRecord) for record in records)
    subject.require(typed, "extract must yield ImageRecord, one for each image")
    keys = [record.key for record in records]
    subject.require(len(set(keys)) == len(keys), "extract gives two records of one key")
    finite = all(t.isfinite().all() for t in floats([record.values for record in records]))
    subject.require(finite, "extract gives values that are not finite")
