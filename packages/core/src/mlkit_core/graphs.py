"""A model as functions of named tensors, which is what a graph file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlkit_core.build import input_needs
from mlkit_core.report.synthetic import named_tensors, synthetic_batch
from mlkit_core.tensors import flatten, unflatten
from mlkit_core.types import Batch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mlkit_core.training.stages import Stage
    from mlkit_core.types import Features, Needs, Role, RoleSpec

Tensors = dict[str, Tensor]
Sides = int | dict[str, int]
_AUTO = torch.export.Dim.AUTO


class ModelGraph(nn.Module):
    """The model as a function of tensors: the data's inputs, and known features as `role.field`.

    Features are what a user encodes once: roles that read an input with a lead, not the first. An
    output that bears an input's name becomes `head.<name>`.

    Args:
        stage: Its model runs.
        sized: Inputs whose images have one size.
    """

    def __init__(self, stage: Stage, sized: Collection[str] = ()) -> None:
        super().__init__()
        self.sized = frozenset(sized)
        self.model, self.needs = stage.model, input_needs(stage.model, stage.config.encoders)
        leads = {name for name in list(self.model.roles)[1:] if self.model.roles[name].lead}
        self.known = [role for role, source in self.model.reads.items() if source in leads]
        self.direct = [name for name in self.needs if name not in leads]
        self.names: list[str] = []
        self.eval()

    def example(self, rows: int, size: Sides) -> Tensors:
        """Return random inputs by name."""
        batch = synthetic_batch(self.model, self.needs, rows=rows, size=size)
        tensors = {name: batch.inputs[name] for name in self.direct}
        for role in self.known:
            tensors |= _named(role, self.model.encode(role, batch))
        self.names = list(tensors)
        return tensors

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what `outputs` does, in its order, of tensors in the order of `names`."""
        return tuple(self.outputs(dict(zip(self.names, tensors, strict=True))).values())

    def outputs(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Return the head's tensors by field name; without a head, features as `role.field`."""
        features = {
            role: unflatten(_below(role, tensors), self.model.specs[role].type)
            for role in self.known
        }
        inputs = {name: tensors[name] for name in self.direct}
        output = self.model(Batch(inputs=inputs, features=features, meta=()))
        found = named_tensors(output.scope if output.head is None else output.head)
        return {f"head.{n}" if n in tensors else n: tensor for n, tensor in found.items()}

    def free(self, name: str, tensor: Tensor, *, sized: bool) -> dict[int, Any]:
        """Return which dimensions may change: the batch must, others if the model lets them.

        Args:
            name: Of an input.
            tensor: Its example.
            sized: Whether height and width of all images stay as they are.
        """
        if name not in self.direct:
            return dict.fromkeys(range(tensor.ndim), _AUTO)
        sized = sized or name in self.sized
        return _free(self.model.roles[name], self.needs[name], tensor, sized) | {0: "batch"}


class EncoderGraph(nn.Module):
    """One known role's encoder: its input's folded rows, and their mask, to `role.field`.

    Args:
        stage: Its model's encoder runs.
        role: The role.
        wanted: Names of the outputs; what else the encoder gives is left out.
        sized: Inputs whose images have one size.
    """

    known: tuple[str, ...] = ()

    def __init__(
        self, stage: Stage, role: Role, wanted: tuple[str, ...], sized: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.model, self.needs = stage.model, input_needs(stage.model, stage.config.encoders)
        self.role, self.source, self.wanted = role, stage.model.reads[role], wanted
        self.masked = bool(getattr(stage.model.encoders[role], "uses_mask", False))
        self.direct = [self.source, *([f"{self.source}.mask"] if self.masked else [])]
        self.names, self.sized = list(self.direct), frozenset(sized)
        self.eval()

    def example(self, rows: int, size: Sides) -> Tensors:
        """Return random rows; every second one says where its object is."""
        batch = synthetic_batch(self.model, self.needs, rows=rows, size=size)
        images = self.model.rows(self.role, batch)
        if not self.masked:
            return {self.source: images}
        mask = images.new_zeros(len(images), *images.shape[2:])
        mask[::2, images.shape[2] // 4 : images.shape[2] // 2, images.shape[3] // 3 :] = 1
        return {self.source: images, f"{self.source}.mask": mask}

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the wanted tensors of rows, and of their mask."""
        return tuple(self.outputs(dict(zip(self.names, tensors, strict=True))).values())

    def outputs(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Return the wanted tensors by name."""
        extra = {"mask": tensors[f"{self.source}.mask"]} if self.masked else {}
        found = _named(self.role, self.model.encoders[self.role](tensors[self.source], **extra))
        return {name: found[name] for name in self.wanted}

    def free(self, name: str, tensor: Tensor, *, sized: bool) -> dict[int, Any]:
        """Return which dimensions may change; as of `ModelGraph`."""
        spec, sized = self.model.roles[self.source], sized or self.source in self.sized
        if name == self.source:
            return _free(spec, self.needs[name], tensor, sized) | {0: "rows"}
        return {0: "rows"} | ({} if sized else {1: _AUTO, 2: _AUTO})


def _free(spec: RoleSpec, need: Needs, tensor: Tensor, sized: bool) -> dict[int, Any]:
    image = len(spec.shape) == 3
    fixed = image and (sized or need.sizes is not None)
    known = [None] * (tensor.ndim - len(spec.shape)) + [0 if fixed else n for n in spec.shape]
    return {i: _AUTO for i, n in enumerate(known) if n is None}


def _named(role: Role, features: Features) -> Tensors:
    return {f"{role}.{name}": tensor for name, tensor in flatten(features).items()}


def _below(role: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {n.removeprefix(f"{role}."): t for n, t in tensors.items() if n.startswith(f"{role}.")}
