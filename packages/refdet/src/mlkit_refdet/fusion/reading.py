"""What the fusion reads: query embeddings, prototypes, tokens, from any encoder that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError
from mlkit_refdet.encoders.projection import Projection
from mlkit_refdet.features import EmbedSpec, QueryFeatures, SupportFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import Features, FeatureSpec, Role


def embed_width(spec: FeatureSpec) -> int:
    """Return the width of a role's own embeddings, 0 where it has none."""
    return spec.embed_dim if isinstance(spec, EmbedSpec) else 0


class QueryReader(nn.Module):
    """Gives a query role's embeddings by level: its own, or 1x1 projections of its maps.

    Args:
        role: For errors.
        spec: Of the role.
        dim: Width to project to where the role has no embeddings of its own.
    """

    def __init__(self, role: Role, spec: FeatureSpec, dim: int) -> None:
        super().__init__()
        if not spec.channels:
            raise BuildError(f"on: role {role!r} has no maps, which objects are looked for in")
        own = issubclass(spec.type, QueryFeatures) and embed_width(spec) > 0
        self.project = None if own else Projection(spec.channels, dim)
        self.levels = tuple(spec.channels)

    def forward(self, query: Features) -> dict[str, Tensor]:
        """Return level to `[B, D, h, w]`."""
        if self.project is not None:
            return self.project(query.maps)
        if not isinstance(query, QueryFeatures) or not query.embed:
            raise BuildError("on: the query's features came without `embed`")
        return dict(query.embed)


class SupportReader(nn.Module):
    """Gives shots' prototypes and tokens by level: the role's own, or made of its vector.

    Args:
        role: For errors.
        spec: Of the role; its lead is (class, shot).
        levels: Of the query.
        dim: Width.
    """

    def __init__(self, role: Role, spec: FeatureSpec, levels: Sequence[str], dim: int) -> None:
        super().__init__()
        if len(spec.lead) != 2:
            raise BuildError(f"by: role {role!r} must have a lead (class, shot), got {spec.lead}")
        own = embed_width(spec)
        if own and own != dim:
            raise BuildError(
                f"by: role {role!r} embeds in {own} numbers, the query in {dim}",
                hint="give both encoders one `dim`",
            )
        if not own and not spec.vector_dim:
            raise BuildError(f"by: role {role!r} has neither prototypes nor a vector")
        self.levels = tuple(levels)
        self.project = (
            None
            if own
            else nn.ModuleDict({level: nn.Linear(spec.vector_dim or 1, dim) for level in levels})
        )

    def forward(self, support: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return level to prototypes `[R, D]` of unit length, and to tokens `[R, T, D]`."""
        if self.project is None:
            if not isinstance(support, SupportFeatures) or not support.protos:
                raise BuildError("by: the support's features came without `protos`")
            missing = [level for level in self.levels if level not in support.protos]
            if missing:
                raise BuildError(f"by: the support has no prototypes of {', '.join(missing)}")
            return dict(support.protos), dict(support.level_tokens)
        if support.vector is None:
            raise BuildError("by: the support's features came without a vector")
        given = {level: self.project[level](support.vector) for level in self.levels}
        protos = {level: functional.normalize(values, dim=-1) for level, values in given.items()}
        return protos, {level: values[:, None] for level, values in given.items()}


def asked_pairs(
    scope: Mapping[Role, Features], asks: Role | None, rows: int, classes: int
) -> Tensor:
    """Return which classes each image is searched for, `[B, W]` long; -1 where there are fewer.

    Without a role that says so, every image is searched for every class.

    Raises:
        BuildError: A class is asked for that the support does not hold.
    """
    some = next(m for f in scope.values() for m in f.maps.values())
    if asks is None:
        every = torch.arange(classes, device=some.device)
        return every.expand(rows, classes)
    given = scope[asks].vector
    if given is None or given.shape[0] != rows:
        got = None if given is None else tuple(given.shape)
        raise BuildError(
            f"asks: role {asks!r} must have a row for each of {rows} images, got {got}"
        )
    return given.round().long().clamp(-1, classes - 1)
