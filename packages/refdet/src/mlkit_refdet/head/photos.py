"""Photos are encoded once, not once for every frame that is searched for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mlkit_refdet.references.reference_set import SavedFeatures

if TYPE_CHECKING:
    from torch import Tensor

    from mlkit_core.model import Model
    from mlkit_core.types import Batch, Features, Role


@dataclass(frozen=True)
class Seen:
    """What a role's encoder was given.

    Args:
        keys: Of the cache, one for each photo; they stand for pixels and masks.
        tensors: Which photos are real; without keys also pixels and masks.
    """

    keys: tuple[str, ...] | None
    tensors: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, batch: Batch, source: Role) -> Seen:
        """Return what a batch holds of an input."""
        keys, valid = batch.keys.get(source), batch.valid.get(source)
        if keys:
            return cls(tuple(keys), (valid,))
        return cls(None, (valid, batch.inputs.get(source), batch.masks.get(source)))

    def equals(self, other: Seen) -> bool:
        """Return whether an encoder would give the same again."""
        return self.keys == other.keys and all(
            a is b or (a is not None and b is not None and torch.equal(a, b))
            for a, b in zip(self.tensors, other.tensors, strict=True)
        )


class KnownPhotos:
    """Keeps the features of the last batch's photos, while the model's weights stay as they are.

    Args:
        model: Its encoders of inputs with a lead, beside the data's first input, are spared.
    """

    def __init__(self, model: Model) -> None:
        first = next(iter(model.roles))
        self._model = model
        self._roles = [
            role
            for role, source in model.reads.items()
            if source != first and model.roles[source].lead
        ]
        self._last: dict[Role, tuple[Seen, Features]] = {}
        self._fitting: set[tuple[Role, str]] = set()

    def filled(self, batch: Batch) -> Batch:
        """Return the batch with its photos' features, encoded anew only where they changed.

        Raises:
            InputError: Features of a file were made by another encoder.
        """
        found = dict(batch.features)
        for role in self._roles:
            if role in found:
                self._check(role, found[role])
                continue
            seen, last = Seen.of(batch, self._model.reads[role]), self._last.get(role)
            if last is None or not seen.equals(last[0]):
                last = seen, self._model.encode(role, batch)
                self._last[role] = last
            found[role] = last[1]
        return replace(batch, features=found)

    def _check(self, role: Role, given: Features) -> None:
        """Refuse a file of another encoder, whose weights are hashed once, not for each frame."""
        if isinstance(given, SavedFeatures) and (role, given.encoder) not in self._fitting:
            given.check(self._model.encoders[role])
            self._fitting.add((role, given.encoder))
