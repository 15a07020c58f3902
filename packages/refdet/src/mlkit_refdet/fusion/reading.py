"""What the fusion reads: query embeddings, prototypes, tokens, from any encoder that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError
from mlkit_core.types import tracing
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
    """Gives shots' prototypes and tokens by level: the role's own, or projections.

    Of a plain encoder a linear layer for each level projects the vector, else the mean of its
    tokens, else that of its coarsest map; the prototype is then the only token.

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
        coarsest = list(spec.channels.values())[-1] if spec.channels else 0
        width = spec.vector_dim or spec.token_dim or coarsest
        if not own and not width:
            raise BuildError(f"by: role {role!r} has no prototypes, vector, tokens or maps")
        self.levels = tuple(levels)
        self.project = None
        if not own and width:
            self.project = nn.ModuleDict({level: nn.Linear(width, dim) for level in levels})

    def forward(self, support: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return level to prototypes `[R, D]` of unit length, and to tokens `[R, T, D]`."""
        if self.project is None:
            return self._own(support)
        whole = _whole(support)
        given = {level: self.project[level](whole) for level in self.levels}
        protos = {level: functional.normalize(values, dim=-1) for level, values in given.items()}
        return protos, {level: values[:, None] for level, values in given.items()}

    def _own(self, support: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if not isinstance(support, SupportFeatures) or not support.protos:
            raise BuildError("by: the support's features came without `protos`")
        missing = [level for level in self.levels if level not in support.protos]
        if missing:
            raise BuildError(f"by: the support has no prototypes of {', '.join(missing)}")
        protos = {level: support.protos[level] for level in self.levels}
        tokens = {n: support.level_tokens.get(n, protos[n][:, None]) for n in self.levels}
        return protos, tokens


def _whole(support: Features) -> Tensor:
    """Return one vector for each photo, `[R, C]`, in the order that widths are looked for."""
    if support.vector is not None:
        return support.vector
    if support.tokens is not None:
        return support.tokens.mean(1)
    if not support.maps:
        raise BuildError("by: the support's features came without vector, tokens and maps")
    return list(support.maps.values())[-1].mean((2, 3))


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
    asked = given.round().long().clamp_min(-1)
    # On a device, indexing finds it out: to ask here would wait for the device at every step.
    if not tracing() and not asked.is_cuda and asked.numel() and int(asked.max()) >= classes:
        raise BuildError(
            f"asks: class {int(asked.max())} is asked for, the support holds {classes}"
        )
    return asked
