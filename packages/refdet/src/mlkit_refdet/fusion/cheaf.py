"""Fusion `cheaf`: every query image meets every class that it is searched for."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_on
from mlkit_core.types import Example, FeatureSpec
from mlkit_refdet.features import (
    AskedFeatures,
    EmbedSpec,
    PairFeatures,
    QueryFeatures,
    SupportFeatures,
)
from mlkit_refdet.fusion.reading import QueryReader, SupportReader, asked_pairs, embed_width
from mlkit_refdet.fusion.relations import Asked, LevelFusion
from mlkit_refdet.prototypes import Aggregate, aggregate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlkit_core.types import Features, Role


class CheafFusion(nn.Module):
    """Cross-scale fusion by attention of query images with the photos of asked classes.

    At each level positions of the query attend to tokens of the class (all shots), are correlated
    channel by channel with its prototype and modulated by it, and get two maps of likeness; then
    levels exchange, coarse to fine and back. It works pair by pair: an image sees one class at a
    time, so that classes neither share nor compete for features, and their order means nothing. At
    the start it is a 1x1 projection of the query, whatever the photos.

    Args:
        inputs: Role to spec.
        on: Role of the query images, with maps.
        by: Role of the photos, with lead (class, shot); None: the one that there is.
        asks: Role that says which classes an image is searched for; None: the one that there is,
            else every class.
        dim: Width of embeddings where the query's encoder gives none itself.
        channels: Of the fused maps, fine to coarse; None: the embedding's width.
        heads: Of the cross-attention.
        aggregate: How K shots become one prototype.
        attention: Whether positions attend to tokens.
        channel: Whether channels are correlated and modulated.
        spatial: Whether maps of likeness are joined.
        pyramid: Whether levels exchange.

    Raises:
        BuildError: No role fits, or widths do not.
    """

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        by: Role | None = None,
        *,
        asks: Role | None = None,
        dim: int = 256,
        channels: Sequence[int] | None = None,
        heads: int = 4,
        aggregate: Aggregate = "mean",
        attention: bool = True,
        channel: bool = True,
        spatial: bool = True,
        pyramid: bool = True,
    ) -> None:
        super().__init__()
        self.on = choose_on(inputs, on)
        self.how: Aggregate = aggregate
        self.by, self.asks = _support(inputs, self.on, by), _asks(inputs, asks)
        query = inputs[self.on]
        dim = embed_width(query) or dim
        levels = tuple(query.channels)
        widths = tuple(channels) if channels is not None else (dim,) * len(levels)
        if len(widths) != len(levels):
            raise BuildError(f"channels: expected {len(levels)} for {levels}, got {list(widths)}")
        if dim % heads:
            raise BuildError(f"heads: {heads} must divide the embedding's {dim}")
        self.query = QueryReader(self.on, query, dim)
        self.support = SupportReader(self.by, inputs[self.by], levels, dim)
        ways = {"attention": attention, "channel": channel, "spatial": spatial}
        self.levels = nn.ModuleDict(
            {n: LevelFusion(dim, c, heads, **ways) for n, c in zip(levels, widths, strict=True)}
        )
        self.pyramid = Pyramid(dict(zip(levels, widths, strict=True))) if pyramid else None
        self.spec = EmbedSpec(
            channels=dict(zip(levels, widths, strict=True)),
            strides=dict(query.strides),
            lead=query.lead,
            type=PairFeatures,
            embed_dim=dim,
        )

    def forward(self, scope: Mapping[Role, Features]) -> PairFeatures:
        """Return the pairs of all images, and their maximum over the classes asked."""
        query, support = scope[self.on], scope[self.by]
        if support.valid is None:
            raise BuildError(f"by: the features of {self.by!r} came without `valid`")
        embed = self.query(query)
        protos, tokens = self.support(support)
        rows = next(iter(embed.values())).shape[0]
        asked = asked_pairs(scope, self.asks, rows, support.valid.shape[0])
        classes = {name: aggregate(protos[name], support.valid, self.how) for name in self.levels}
        fused = {
            name: level(embed[name], _gathered(classes[name], tokens[name], support.valid, asked))
            for name, level in self.levels.items()
        }
        fused = self.pyramid(fused) if self.pyramid is not None else fused
        pairs = {name: values.unflatten(0, asked.shape) for name, values in fused.items()}
        return PairFeatures(
            maps={name: _strongest(values, asked) for name, values in pairs.items()},
            valid=query.valid,
            mask=query.mask,
            pairs=pairs,
            class_protos=classes,
            asked=asked,
        )


def _gathered(protos: Tensor, tokens: Tensor, valid: Tensor, asked: Tensor) -> Asked:
    """Return prototypes and tokens of each pair; a pair of -1 gets class 0 and is left out."""
    classes, shots = valid.shape
    index = asked.clamp_min(0)
    count = tokens.shape[1]
    by_class = tokens.reshape(classes, shots * count, -1)  # [N, K * T, D]
    real = valid[:, :, None].expand(classes, shots, count).flatten(1)  # [N, K * T]
    return Asked(protos[index], by_class[index], real[index])


def _strongest(pairs: Tensor, asked: Tensor) -> Tensor:
    """Return the maximum over asked classes, `[B, W, C, h, w]` to `[B, C, h, w]`."""
    # An image of which nothing is asked keeps its first pair: a maximum over nothing is infinite.
    missing = (asked < 0) & (asked >= 0).any(1, keepdim=True)
    return pairs.masked_fill(missing[..., None, None, None], float("-inf")).amax(1)


class Pyramid(nn.Module):
    """Levels exchange: coarse to fine, then fine to coarse; every exchange starts at zero.

    Source: Lin et al., "Feature Pyramid Networks", CVPR 2017; Liu et al., "PANet", CVPR 2018.

    Args:
        channels: Level to width, fine to coarse.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        super().__init__()
        names = list(channels)
        self.down = nn.ModuleDict(
            {
                fine: nn.Conv2d(channels[coarse], channels[fine], 1)
                for fine, coarse in pairwise(names)
            }
        )
        self.up = nn.ModuleDict(
            {
                coarse: nn.Sequential(
                    nn.Conv2d(channels[fine], channels[fine], 3, 2, 1, groups=channels[fine]),
                    nn.Conv2d(channels[fine], channels[coarse], 1),
                )
                for fine, coarse in pairwise(names)
            }
        )
        for last in (*self.down.values(), *(block[-1] for block in self.up.values())):  # pyright: ignore[reportIndexIssue]  # Sequential
            nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]  # a convolution's
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]  # a convolution's

    def forward(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return maps of the same shapes."""
        names, found = list(maps), dict(maps)
        for fine, coarse in reversed(list(pairwise(names))):
            size = found[fine].shape[2:]
            coarser = functional.interpolate(self.down[fine](found[coarse]), size, mode="nearest")
            found[fine] = found[fine] + coarser
        for fine, coarse in pairwise(names):
            size = found[coarse].shape[2:]
            finer = self.up[coarse](found[fine])[..., : size[0], : size[1]]
            found[coarse] = found[coarse] + finer
        return found


def _support(inputs: Mapping[Role, FeatureSpec], on: Role, by: Role | None) -> Role:
    if by is not None:
        if by not in inputs:
            raise BuildError(f"by: no role {by!r}; there are {', '.join(inputs)}")
        return by
    fits = [r for r, s in inputs.items() if r != on and len(s.lead) == 2]
    if len(fits) != 1:
        what = ", ".join(fits) or "none"
        raise BuildError(f"by: one role must have a lead (class, shot), there is {what}")
    return fits[0]


def _asks(inputs: Mapping[Role, FeatureSpec], asks: Role | None) -> Role | None:
    if asks is not None:
        if asks not in inputs or not issubclass(inputs[asks].type, AskedFeatures):
            raise BuildError(f"asks: role {asks!r} does not say which classes are asked")
        return asks
    return next((r for r, s in inputs.items() if issubclass(s.type, AskedFeatures)), None)


def example(folder: Path) -> Example:
    """Return two images, and three classes of two shots of which each image asks for two."""
    del folder
    generator = torch.Generator().manual_seed(0)
    strides = {"p3": 8, "p4": 16, "p5": 32}
    channels = {"p3": 6, "p4": 8, "p5": 10}
    maps = {
        n: torch.rand(2, channels[n], 64 // s, 64 // s, generator=generator)
        for n, s in strides.items()
    }
    embed = {
        n: torch.randn(2, 8, 64 // s, 64 // s, generator=generator) for n, s in strides.items()
    }
    protos = {
        n: functional.normalize(torch.randn(6, 8, generator=generator), dim=-1) for n in strides
    }
    tokens = {n: torch.randn(6, 4, 8, generator=generator) for n in strides}
    valid = torch.ones(3, 2, dtype=torch.bool)
    scope = {
        "query": QueryFeatures(maps=maps, embed=embed),
        "support": SupportFeatures(
            vector=torch.randn(6, 8, generator=generator),
            valid=valid,
            protos=protos,
            level_tokens=tokens,
        ),
        "asked": AskedFeatures(vector=torch.tensor([[0.0, 2.0], [1.0, 0.0]])),
    }
    inputs = {
        "query": EmbedSpec(channels=channels, strides=strides, type=QueryFeatures, embed_dim=8),
        "support": EmbedSpec(
            vector_dim=8, type=SupportFeatures, embed_dim=8, lead=("class", "shot")
        ),
        "asked": FeatureSpec(vector_dim=2, type=AskedFeatures),
    }
    return Example(options={"heads": 2}, args=(scope,), context={"inputs": inputs, "on": "query"})
