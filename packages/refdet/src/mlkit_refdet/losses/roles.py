"""What losses read beside the head: roles by kind, objects of the target, prototypes of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from mlkit_core.errors import BuildError
from mlkit_core.types import Features
from mlkit_refdet.features import QueryFeatures, SupportFeatures
from mlkit_refdet.losses.regions import region_embeddings
from mlkit_refdet.prototypes import aggregate
from mlkit_refdet.targets import ReferenceTarget, TripletOnlyTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mlkit_core.types import Batch, FeatureSpec, ModelOutput, Role, Step
    from mlkit_refdet.prototypes import Aggregate

Kind = TypeVar("Kind", bound=Features)


@dataclass(frozen=True)
class Objects:
    """Every object of a batch, n of them.

    Args:
        boxes_xyxy: `[n, 4]`, input pixels.
        rows: `[n]`, image.
        labels: `[n]`, support class.
    """

    boxes_xyxy: Tensor
    rows: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Regions:
    """Every object's region and every class's prototypes, before fusion; L levels, D width.

    Args:
        found: The objects.
        levels: Names, fine to coarse.
        embeddings: `[n, D]`, unit length.
        level: `[n]`, index of the level that each is read from.
        prototypes: `[L, N, D]`, unit length.
        known: `[N]` bool, whether a class has a photo.
        categories: `[N]`.
        embed: Level to `[B, D, h, w]`, as the query role gives it.
    """

    found: Objects
    levels: tuple[str, ...]
    embeddings: Tensor
    level: Tensor
    prototypes: Tensor
    known: Tensor
    categories: Tensor
    embed: Mapping[str, Tensor]

    def likeness(self, classes: Tensor) -> Tensor:
        """Return `[I, n]`, cosine of each class's prototype and region, at the region's level.

        Args:
            classes: `[I]`, support class.
        """
        own = self.prototypes[self.level][:, classes]  # [n, I, D]
        return (own * self.embeddings[:, None]).sum(-1).T


def choose_role(
    inputs: Mapping[Role, FeatureSpec], chosen: Role | None, kind: type[Features], option: str
) -> Role:
    """Return the role that holds features of a kind: the chosen one, or the only one.

    Raises:
        BuildError: The chosen one is unknown or of another kind; none is of this kind; several are.
    """
    fitting = [role for role, spec in inputs.items() if issubclass(spec.type, kind)]
    if chosen in fitting:
        return chosen
    have = ", ".join(f"{role}: {spec.type.__name__}" for role, spec in inputs.items()) or "none"
    if chosen is not None or not fitting:
        wanted = "a role" if chosen is None else f"role {chosen!r}"
        raise BuildError(f"{option}: {wanted} with {kind.__name__} is needed; there are {have}")
    if len(fitting) > 1:
        raise BuildError(f"{option}: several roles have {kind.__name__}: {', '.join(fitting)}")
    return fitting[0]


def read_role(output: ModelOutput, role: Role, kind: type[Kind]) -> Kind:
    """Return a role's features.

    Raises:
        BuildError: They are missing or of another type.
    """
    features = output.scope.get(role)
    if not isinstance(features, kind):
        raise BuildError(f"role {role!r}: needs {kind.__name__}, got {type(features).__name__}")
    return features


def objects(target: ReferenceTarget | TripletOnlyTarget) -> Objects:
    """Return every object of the target, image by image."""
    rows, columns = (target.labels >= 0).nonzero(as_tuple=True)
    return Objects(target.boxes_xyxy[rows, columns], rows, target.labels[rows, columns].long())


def regions(
    output: ModelOutput,
    batch: Batch,
    step: Step,
    *,
    query: Role,
    support: Role,
    strides: Mapping[str, float],
    how: Aggregate = "mean",
) -> Regions:
    """Return regions and prototypes, made once for each batch.

    Raises:
        BuildError: `embed`, `protos` or the target is missing, or they do not fit each other.
    """
    target = batch.target
    if not isinstance(target, ReferenceTarget | TripletOnlyTarget):
        raise BuildError(f"target: needs ReferenceTarget or triplets, got {type(target).__name__}")
    seen = read_role(output, query, QueryFeatures)
    photos = read_role(output, support, SupportFeatures)

    def make() -> Regions:
        _check(seen, photos, target, (query, support))
        found, levels = objects(target), tuple(seen.embed)
        z, level = region_embeddings(seen.embed, found.boxes_xyxy, found.rows, strides)
        valid = photos.valid
        if valid is None:
            raise BuildError(f"role {support!r}: does not say which shots are real (`valid`)")
        protos = [aggregate(photos.protos[name], valid, how) for name in levels]
        known, categories = valid.any(1), target.category_ids
        return Regions(found, levels, z, level, torch.stack(protos), known, categories, seen.embed)

    return step.once(("regions", query, support, how), make)


def _check(
    seen: QueryFeatures,
    photos: SupportFeatures,
    target: ReferenceTarget | TripletOnlyTarget,
    roles: tuple[Role, Role],
) -> None:
    query, support = roles
    for role, name, levels in ((query, "embed", seen.embed), (support, "protos", photos.protos)):
        if not levels:
            raise BuildError(f"role {role!r}: has no `{name}`, which losses of regions compare")
    missing = [level for level in seen.embed if level not in photos.protos]
    if missing:
        raise BuildError(f"role {support!r}: has no prototypes of level {', '.join(missing)}")
    images = {len(values) for values in seen.embed.values()}
    if images != {len(target.labels)}:
        got = " and ".join(map(str, sorted(images)))
        raise BuildError(
            f"role {query!r}: {got} images do not fit {len(target.labels)} of the target"
        )
    classes = 0 if photos.valid is None else len(photos.valid)
    if classes != len(target.category_ids) or classes != len(target.class_ids):
        told = len(target.category_ids)
        raise BuildError(f"role {support!r}: {classes} classes do not fit {told} of the target")
