"""Cross-attention: positions of an image ask the tokens of another role."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError
from mlkit_core.scope import align_rows, check_lead, choose_by, choose_on, pooled
from mlkit_core.types import Example, Features, FeatureSpec, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class _Level(nn.Module):
    """One map's question, and what it does with the answer."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, dim)
        self.out = nn.Linear(dim, channels)
        # Zero: training starts from the unconditioned map.
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, values: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `values [R, C, H, W]` plus what `key` and `value [R, heads, L, D]` answer."""
        heads = key.shape[1]
        positions = values.flatten(2).transpose(1, 2)  # [R, H * W, C]
        query = _split(self.query(self.norm(positions)), heads)
        answer = F.scaled_dot_product_attention(query, key, value)  # [R, heads, H * W, D]
        answer = self.out(answer.transpose(1, 2).flatten(2))  # [R, H * W, C]
        return values + answer.transpose(1, 2).reshape(values.shape)


def _split(values: Tensor, heads: int) -> Tensor:
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)  # [R, heads, L, D]


class CrossAttention(nn.Module):
    """Adds to every position of `on`'s maps what it finds among the tokens of `by`.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. 1, pre-norm, residual.
    The output projection starts at zero. A role without tokens lends its vector, made into
    `num_tokens` learned tokens: with one key alone attention cannot choose.

    Args:
        inputs: Role to spec.
        on: Role whose positions ask; None takes the first of `inputs`.
        by: Role that answers; None takes the one other role that has tokens or a vector.
        levels: Map levels that ask; None: all. Vector, tokens and other levels pass through.
        dim: Width of the attention over all heads.
        heads: Attention heads; must divide `dim`.
        num_tokens: Tokens made out of a vector.
        pool: Whether `by` is averaged over its lead, to one row for all.
    """

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        by: Role | None = None,
        *,
        levels: Sequence[str] | None = None,
        dim: int = 256,
        heads: int = 8,
        num_tokens: int = 4,
        pool: bool = False,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise BuildError(f"heads: {heads} must divide dim {dim}")
        self.on = choose_on(inputs, on)
        self.by = choose_by(inputs, self.on, by, _can_answer, "tokens or a vector")
        check_lead(inputs, self.on, self.by, pool=pool)
        source, answers = inputs[self.on], inputs[self.by]
        self.pool, self.heads, self.num_tokens = pool, heads, num_tokens
        asking = _levels(source, levels)
        self.levels = nn.ModuleDict({name: _Level(source.channels[name], dim) for name in asking})
        expands = answers.vector_dim if not answers.token_dim else None
        self.expand = nn.Linear(expands, num_tokens * dim) if expands else None
        width = answers.token_dim or dim
        self.norm = nn.LayerNorm(width)
        # No bias: a constant added to every key moves no attention weight.
        self.key = nn.Linear(width, dim, bias=False)
        self.value = nn.Linear(width, dim)
        self.spec = replace(source, type=Features)

    def forward(self, scope: Mapping[Role, Features]) -> Features:
        """Return the conditioned features; valid, mask and state are those of `on`."""
        on, by = scope[self.on], scope[self.by]
        tokens = by.tokens if self.expand is None else by.vector
        if tokens is None:
            raise BuildError(f"by: the features of role {self.by!r} came without tokens or vector")
        tokens = pooled(tokens, by.valid) if self.pool else tokens
        if self.expand is not None:
            tokens = self.expand(tokens).unflatten(-1, (self.num_tokens, -1))
        rows = next(iter(on.maps.values())).shape[0]
        tokens = self.norm(align_rows(tokens, on, rows))  # [R, L, D]
        key, value = _split(self.key(tokens), self.heads), _split(self.value(tokens), self.heads)
        asked = {level: part(on.maps[level], key, value) for level, part in self.levels.items()}
        return Features(
            maps={level: asked.get(level, values) for level, values in on.maps.items()},
            vector=on.vector,
            tokens=on.tokens,
            valid=on.valid,
            mask=on.mask,
            state=on.state,
        )


def _can_answer(spec: FeatureSpec) -> bool:
    return bool(spec.token_dim or spec.vector_dim)


def _levels(spec: FeatureSpec, levels: Sequence[str] | None) -> list[str]:
    if not spec.channels:
        raise BuildError("on: cross-attention needs a role with maps, got none")
    unknown = [level for level in levels or () if level not in spec.channels]
    if unknown:
        raise BuildError(f"levels: no map {unknown[0]!r}; there are {', '.join(spec.channels)}")
    return list(spec.channels if levels is None else levels)


def cross_attention_example(folder: Path) -> Example:
    """Return an image role with two maps and a role with a vector, which becomes tokens."""
    del folder
    image = FeatureSpec(channels={"p3": 6, "p4": 8}, strides={"p3": 8, "p4": 16})
    maps = {"p3": torch.randn(2, 6, 8, 8), "p4": torch.randn(2, 8, 4, 4)}
    scope = {"image": Features(maps=maps), "view": Features(vector=torch.randn(2, 4))}
    inputs = {"image": image, "view": FeatureSpec(vector_dim=4)}
    return Example(options={"dim": 16, "heads": 2}, args=(scope,), context={"inputs": inputs})
