"""Fused maps of pairs, and the projection through which their regions and prototypes compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError
from mlkit_refdet.features import EmbedSpec, PairFeatures, SupportFeatures
from mlkit_refdet.losses.regions import LevelPart, in_order
from mlkit_refdet.losses.roles import read_role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_core.types import FeatureSpec, ModelOutput, Role


class LevelProjection(nn.Module):
    """Two layers to embeddings of unit length; the first is each level's own, by its width.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, section 3.1.

    Args:
        channels: Level to width, fine to coarse.
        dim: Of the embeddings.
        proto_dim: Width of prototypes. A level of that width takes them through its own layer; a
            level of another width has a first layer more, for prototypes. None: no prototypes.
    """

    def __init__(self, channels: Mapping[str, int], dim: int, proto_dim: int | None = None) -> None:
        super().__init__()
        self.first = nn.ModuleDict({level: nn.Linear(c, dim) for level, c in channels.items()})
        wider = {} if proto_dim is None else channels
        self.first_of_prototypes = nn.ModuleDict(
            {level: nn.Linear(proto_dim or 0, dim) for level, c in wider.items() if c != proto_dim}
        )
        self.second = nn.Linear(dim, dim)

    def forward(self, parts: Sequence[LevelPart]) -> Tensor:
        """Return the items' embeddings in their own order, `[n, dim]`."""
        hidden = [LevelPart(p.level, p.index, self.first[p.level](p.values)) for p in parts]
        return self._finish(in_order(hidden))

    def of_prototypes(self, prototypes: Mapping[str, Tensor]) -> Tensor:
        """Return prototypes' embeddings by level, `[L, N, dim]`.

        Args:
            prototypes: Level to `[N, D]`.
        """
        first = dict(self.first.items()) | dict(self.first_of_prototypes.items())
        return self._finish(torch.stack([first[level](p) for level, p in prototypes.items()]))

    def _finish(self, hidden: Tensor) -> Tensor:
        return F.normalize(self.second(hidden.relu()), dim=-1)


def prototype_width(
    inputs: Mapping[Role, FeatureSpec], fused: Role, proto_dim: int | None = None
) -> int:
    """Return the prototypes' width: the one that is given, or what the specs publish.

    Raises:
        BuildError: Nothing publishes it.
    """
    supports = [spec for spec in inputs.values() if issubclass(spec.type, SupportFeatures)]
    own = [spec.embed_dim for spec in supports if isinstance(spec, EmbedSpec) and spec.embed_dim]
    told = own or [w for spec in supports for w in (spec.token_dim, spec.vector_dim) if w]
    widths = set(inputs[fused].channels.values())
    known = [proto_dim] if proto_dim else told or (widths if len(widths) == 1 else [])
    if not known:
        raise BuildError(
            f"proto_dim: role {fused!r} has levels of {sorted(widths)} channels, and no support "
            "role publishes the prototypes' width",
            hint="set proto_dim",
        )
    return next(iter(known))


def fused_pairs(
    output: ModelOutput, role: Role, channels: Mapping[str, int], rows: int, anchors: int
) -> tuple[PairFeatures, dict[str, Tensor]]:
    """Return a fusion's features and its pairs' maps, level to `[B * W, C, h, w]`.

    Args:
        output: Its scope is read.
        role: Of the fusion.
        channels: Level to the width that was published.
        rows: Pairs of the head's output.
        anchors: Of the head's output.

    Raises:
        BuildError: The pairs' maps are missing, or do not fit the head's output.
    """
    fused = read_role(output, role, PairFeatures)
    if list(fused.pairs) != list(channels):
        got = ", ".join(fused.pairs) or "none"
        raise BuildError(f"role {role!r}: needs `pairs` of levels {', '.join(channels)}, got {got}")
    maps = {level: values.flatten(0, 1) for level, values in fused.pairs.items()}
    cells = sum(values.shape[2] * values.shape[3] for values in maps.values())
    if cells != anchors or {len(values) for values in maps.values()} != {rows}:
        raise BuildError(
            f"role {role!r}: pairs {[tuple(v.shape) for v in maps.values()]} do not fit the head's "
            f"{rows} pairs of {anchors} anchors"
        )
    return fused, maps
