"""Feature-wise linear modulation: a vector scales and shifts every channel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.scope import align_rows, check_lead, choose_by, choose_on, pooled
from mlkit_core.types import Example, Features, FeatureSpec, Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def modulate(values: Tensor, gamma: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    """Return `(1 + gamma) * values + beta`, channel by channel.

    Source: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018,
    eq. 2, with 1 + gamma in the place of gamma.

    Args:
        values: `[R, …]` with C channels at `channel_dim`.
        gamma: `[R, C]`.
        beta: `[R, C]`.
        channel_dim: 1 for maps, -1 for tokens and vectors.
    """
    shape = [gamma.shape[0]] + [1] * (values.ndim - 1)
    shape[channel_dim] = gamma.shape[1]
    return (1 + gamma.view(shape)) * values + beta.view(shape)


class _Modulation(nn.Module):
    """Projects values to `width` where theirs differs, then modulates them."""

    def __init__(self, channels: int, width: int, by_dim: int, hidden: int | None) -> None:
        super().__init__()
        self.project = nn.Linear(channels, width) if channels != width else nn.Identity()
        last = nn.Linear(hidden or by_dim, 2 * width)
        # Zero: training starts from the unconditioned features, not from scrambled ones.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        before = [nn.Linear(by_dim, hidden), nn.GELU()] if hidden else []
        self.to_gamma_beta = nn.Sequential(*before, last)

    def forward(self, values: Tensor, condition: Tensor, channel_dim: int) -> Tensor:
        gamma, beta = self.to_gamma_beta(condition).chunk(2, dim=-1)  # [R, C] each
        values = self.project(values.movedim(channel_dim, -1)).movedim(-1, channel_dim)
        return modulate(values, gamma, beta, channel_dim)


class FiLM(nn.Module):
    """Conditions the maps, the vector and the tokens of `on` by the vector of `by`.

    It starts as the identity (after the projection, where `dim` asks for one). It is uniform over
    positions: it cannot say "look left" unless the features carry position.

    Args:
        inputs: Role to spec.
        on: Role to condition; None takes the first of `inputs`.
        by: Role whose vector conditions; None takes the one other role that has a vector.
        dim: Width that maps, vector and tokens are projected to first; None keeps theirs.
        hidden: Width of a hidden layer between the vector and gamma, beta; None: one linear layer.
        pool: Whether `by` is averaged over its lead, to one row for all.
    """

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        on: Role | None = None,
        by: Role | None = None,
        *,
        dim: int | None = None,
        hidden: int | None = None,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.on, self.pool = choose_on(inputs, on), pool
        self.by = choose_by(inputs, self.on, by, lambda spec: bool(spec.vector_dim), "a vector")
        check_lead(inputs, self.on, self.by, pool=pool)
        source, by_dim = inputs[self.on], inputs[self.by].vector_dim or 0
        widths = {level: dim or channels for level, channels in source.channels.items()}
        parts = {
            level: _Modulation(channels, widths[level], by_dim, hidden)
            for level, channels in source.channels.items()
        }
        self.maps = nn.ModuleDict(parts)
        vector_dim = source.vector_dim and (dim or source.vector_dim)
        token_dim = source.token_dim and (dim or source.token_dim)
        self.vector, self.tokens = (
            _Modulation(width, out, by_dim, hidden) if width and out else None
            for width, out in ((source.vector_dim, vector_dim), (source.token_dim, token_dim))
        )
        self.spec = replace(
            source, channels=widths, vector_dim=vector_dim, token_dim=token_dim, type=Features
        )

    def forward(self, scope: Mapping[Role, Features]) -> Features:
        """Return the conditioned features; valid, mask and state are those of `on`."""
        on, by = scope[self.on], scope[self.by]
        if by.vector is None:
            raise BuildError(f"by: the features of role {self.by!r} came without a vector")
        condition = pooled(by.vector, by.valid) if self.pool else by.vector
        present = [*on.maps.values(), on.vector, on.tokens]
        rows = next(values.shape[0] for values in present if values is not None)
        condition = align_rows(condition, on, rows)  # [R, D]
        return Features(
            maps={level: part(on.maps[level], condition, 1) for level, part in self.maps.items()},
            vector=self.vector(on.vector, condition, -1) if self.vector else None,
            tokens=self.tokens(on.tokens, condition, -1) if self.tokens else None,
            valid=on.valid,
            mask=on.mask,
            state=on.state,
        )


def film_example(folder: Path) -> Example:
    """Return an image role with maps, vector and tokens, and a role with a vector."""
    del folder
    image = FeatureSpec(
        channels={"p3": 6, "p4": 8}, strides={"p3": 8, "p4": 16}, vector_dim=8, token_dim=10
    )
    maps = {"p3": torch.randn(2, 6, 8, 8), "p4": torch.randn(2, 8, 4, 4)}
    features = Features(maps=maps, vector=torch.randn(2, 8), tokens=torch.randn(2, 5, 10))
    scope = {"image": features, "view": Features(vector=torch.randn(2, 4))}
    inputs = {"image": image, "view": FeatureSpec(vector_dim=4)}
    return Example(options={"hidden": 6}, args=(scope,), context={"inputs": inputs})
