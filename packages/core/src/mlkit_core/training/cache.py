"""Features of frozen encoders, computed once: memory-mapped data and an index for each process."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlkit_core.build import input_needs
from mlkit_core.errors import BuildError, DataError
from mlkit_core.tensors import flatten, to_device, unflatten
from mlkit_core.training.evaluation import evaluating
from mlkit_core.training.journal import LOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_core.training.config import SupervisedConfig
    from mlkit_core.training.engine import Engine
    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Batch, Draw, Features, Role

CHUNK = 4  # units per chunk: fixed, so that a resumed fill computes the same batches


class FeatureCache:
    """One encoder's features by key, in `folder/<fingerprint>/`, shared between runs.

    Args:
        folder: Root of all caches.
        stage: The built stage.
        role: The encoder.
        precision: Of the forward pass; it belongs to the fingerprint.
    """

    def __init__(self, folder: Path, stage: Stage, role: Role, precision: str) -> None:
        self.role, self.source = role, stage.model.reads[role]
        trunk: Any = stage.model.trunk(role)
        self.is_trunk = trunk is not None
        self.kind = trunk.spec.type if trunk is not None else stage.model.specs[role].type
        self._folder = folder / _fingerprint(stage, role, precision)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._dtype = next(
            (p.dtype for p in stage.model.encoders[role].parameters()), torch.float32
        )
        self._own = self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self.load()

    def load(self) -> None:
        """Read the index files of all processes; a last line cut short is skipped."""
        self._index: dict[str, tuple[str, dict[str, Any]]] = {}
        self._maps: dict[str, np.memmap[Any, Any]] = {}
        for path in sorted(self._folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):
                    entry = json.loads(line)
                    self._index[entry["key"]] = (path.stem, entry["tensors"])

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def add(self, keys: Sequence[str], features: Features) -> None:
        """Append one chunk: data first, then, once it is on the disk, its index lines."""
        flat = flatten(replace(features, valid=None, mask=None))
        arrays = {name: _storable(tensor) for name, tensor in flat.items()}
        lines: list[str] = []
        with self._own.with_suffix(".bin").open("ab") as file:
            for row, key in enumerate(keys):
                places: dict[str, tuple[int, str, tuple[int, ...]]] = {}
                for name, array in arrays.items():
                    places[name] = (file.tell(), str(array.dtype), array.shape[1:])
                    file.write(array[row].tobytes())
                lines.append(json.dumps({"key": key, "tensors": places}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with self._own.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def read(self, keys: Sequence[str]) -> Features:
        """Return the stacked features of the keys, in the encoder's dtype, on the CPU."""
        rows = [self._row(key) for key in keys]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return unflatten(stacked, self.kind)

    def _row(self, key: str) -> dict[str, torch.Tensor]:
        if key not in self._index:
            hint = 'the data\'s units("cache", 0) must show every key of every split'
            raise DataError(f"feature cache of encoders.{self.role}: no key {key!r}", hint=hint)
        stem, places = self._index[key]
        if stem not in self._maps:
            self._maps[stem] = np.memmap(self._folder / f"{stem}.bin", mode="r")
        row: dict[str, torch.Tensor] = {}
        for name, (start, dtype, shape) in places.items():
            stop = start + math.prod(shape) * np.dtype(dtype).itemsize
            values = np.array(self._maps[stem][start:stop]).view(dtype).reshape(shape)
            row[name] = torch.from_numpy(values).to(self._dtype)
        return row


def _storable(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    half = tensor.detach().to("cpu", torch.float16)
    beyond = not torch.isfinite(half).all()  # of fp16's range
    return (tensor.detach().cpu().float() if beyond else half).numpy()


def _fingerprint(stage: Stage, role: Role, precision: str) -> str:
    """Hash the component, options, precision and every weight of the encoder or of its trunk."""
    part, encoder = stage.config.encoders[role], stage.model.encoders[role]
    options, own = dict(part.options), getattr(encoder, "trunk_options", None)
    if own is not None:
        options = {name: value for name, value in options.items() if name in own}
    digest = hashlib.sha256(f"{part.owner}/{part.name} {options!r} {precision}".encode())
    for name, tensor in (stage.model.trunk(role) or encoder).state_dict().items():
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:24]


def open_caches(
    root: Path, stage: Stage, options: SupervisedConfig, engine: Engine
) -> dict[Role, FeatureCache]:
    """Return the stage's caches, filled, and bind its data.

    Args:
        root: Folder of all caches.
        stage: Built, on its device.
        options: Its precision belongs to a cache's fingerprint.
        engine: This process.

    Raises:
        BuildError: An encoder to cache is trained or adapted, or training alters its input.
    """
    cached = [role for role, part in stage.config.encoders.items() if part.cache]
    for role in cached:
        check_cacheable(stage, role)
    caches = {role: FeatureCache(root, stage, role, options.precision) for role in cached}
    bind(stage, caches, skip=False)
    if caches:
        _fill(caches, stage, engine)
    return caches


def check_cacheable(stage: Stage, role: Role) -> None:
    """Raise BuildError where an encoder is trained or adapted, or training alters its input."""
    where, trunk = f"encoders.{role}.cache", stage.model.trunk(role)
    if any(p.requires_grad for p in (trunk or stage.model.encoders[role]).parameters()):
        hint = f"add `freeze: [encoders.{role}{'.trunk' if trunk is not None else ''}]`"
        raise BuildError(f"{where}: this encoder is trained or adapted", hint=hint)
    source = stage.model.reads[role]
    if source in stage.data.augments:
        hint = "switch the data's augmentation off, or say `cache: false`"
        raise BuildError(f"{where}: training alters the input {source!r} at random", hint=hint)


def _fill(caches: Mapping[Role, FeatureCache], stage: Stage, engine: Engine) -> None:
    """Compute what is missing: fixed chunks dealt over ranks, each whole or not at all.

    A first pass without pixels tells by the keys which chunks are missing.
    """
    units = stage.data.units("cache", 0)
    chunks = [units[start : start + CHUNK] for start in range(0, len(units), CHUNK)]
    bind(stage, caches, skip=True)
    missing = [c for c in chunks if any(_lacking(caches, b) for b in _batches(stage, [c]))]
    if missing:
        LOG.info("caching features of %s: %d chunks", ", ".join(caches), len(missing))
    bind(stage, caches, skip=False)
    with evaluating(stage.model), engine.autocast():
        for batch in _batches(stage, missing[engine.rank :: engine.ranks]):
            one = to_device(batch, engine.device)
            for role in _lacking(caches, batch):
                trunk = stage.model.trunk(role)
                known = (
                    trunk(stage.model.rows(role, one)) if trunk else stage.model.encode(role, one)
                )
                caches[role].add(batch.keys[caches[role].source], known)
    engine.wait()
    for cache in caches.values():
        cache.load()
    bind(stage, caches, skip=True)


def bind(stage: Stage, caches: Mapping[Role, FeatureCache], *, skip: bool) -> None:
    """Tell the data what the model needs; pixels are skipped where every reader is cached."""
    model = stage.model
    sources = {cache.source for cache in caches.values()} if skip else set[str]()
    covered = {s for s in sources if all(r in caches for r in model.reads if model.reads[r] == s)}
    stage.data.bind(input_needs(model, stage.config.encoders, covered))


def _lacking(caches: Mapping[Role, FeatureCache], batch: Batch) -> list[Role]:
    return [
        role
        for role, cache in caches.items()
        if any(key not in cache for key in batch.keys.get(cache.source, ()))
    ]


def _batches(stage: Stage, chunks: Sequence[Sequence[Sequence[Draw]]]) -> Iterator[Batch]:
    for chunk in chunks:
        yield from stage.data.collate([[stage.data.load(draw) for draw in unit] for unit in chunk])


def with_features(caches: Mapping[Role, FeatureCache], batch: Batch) -> Batch:
    """Return the batch with cached roles, or their trunks, filled in by its keys."""
    known = {role: c for role, c in caches.items() if c.source in batch.keys}
    read = {role: c.read(batch.keys[c.source]) for role, c in known.items()}
    whole = {role: features for role, features in read.items() if not known[role].is_trunk}
    trunks = {role: features for role, features in read.items() if known[role].is_trunk}
    return replace(batch, features={**batch.features, **whole}, trunks={**batch.trunks, **trunks})
