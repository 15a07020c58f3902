"""Encoder `view-angle`: the C-arm's two angles as a vector and as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Example, Features, FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def wrap_degrees(angles: Tensor) -> Tensor:
    """Return angles in (-180, 180]: learned frequencies are not whole turns, so -180 is 180."""
    return 180.0 - torch.remainder(180.0 - angles, 360.0)


def beam_direction(angles: Tensor) -> Tensor:
    """Return the unit vector `[R, 3]` from the isocentre towards the detector.

    Args:
        angles: `[R, 2]`, primary and secondary in degrees, DICOM signs. The axes are patient left,
            front and head.
    """
    primary, secondary = torch.deg2rad(angles).unbind(1)
    flat = secondary.cos()
    return torch.stack((primary.sin() * flat, primary.cos() * flat, secondary.sin()), dim=1)


def bins_of(angles: Tensor, primary_edges: Tensor, secondary_edges: Tensor) -> Tensor:
    """Return the bin of each view, `[R]` long: the primary angle's bins lie side by side.

    An angle on an edge belongs to the bin below it.

    Args:
        angles: `[R, 2]`, degrees.
        primary_edges: Rising, degrees.
        secondary_edges: Rising, degrees.
    """
    columns = torch.bucketize(angles[:, 0].contiguous(), primary_edges)
    rows = torch.bucketize(angles[:, 1].contiguous(), secondary_edges)
    return rows * (len(primary_edges) + 1) + columns


class ViewAngle(nn.Module):
    """C-arm angles in degrees `[R, 2]` to a vector `[R, dim]` and tokens `[R, tokens, dim]`.

    Sines and cosines of both angles at learned frequencies pass a small perceptron. Frequencies
    start log-spaced from 0.5 to 8 cycles per turn: enough to tell views apart, low enough that one
    degree changes little (at 64 cycles views 5.6 degrees apart coincide). NaN in either angle means
    "unknown" and gives a learned embedding.

    Args:
        dim: Width of vector and tokens.
        encoding: "sinusoidal"; "unit-vector" for the beam's direction in space; "categorical" for a
            learned code of each bin, between which nothing is shared.
        frequencies: Number of learned frequencies.
        lowest: Lowest frequency at the start.
        highest: Highest frequency at the start.
        tokens: Number of tokens.
        primary_edges_deg: Between the bins of the primary angle, "categorical" only.
        secondary_edges_deg: Likewise of the secondary angle.
    """

    input_shape = (2,)
    primary_edges: Tensor
    secondary_edges: Tensor

    def __init__(
        self,
        dim: int = 256,
        encoding: str = "sinusoidal",
        frequencies: int = 32,
        lowest: float = 0.5,
        highest: float = 8.0,
        tokens: int = 4,
        primary_edges_deg: Sequence[float] = (-10.0, 10.0),
        secondary_edges_deg: Sequence[float] = (-10.0, 10.0),
    ) -> None:
        super().__init__()
        if encoding not in ("sinusoidal", "unit-vector", "categorical"):
            raise ValueError(
                f"encoding must be sinusoidal, unit-vector or categorical, got {encoding!r}"
            )
        if not 0 < lowest <= highest:
            raise ValueError(f"frequencies must rise from above 0, got {lowest} to {highest}")
        self.frequencies: nn.Parameter | None = None
        width = 3
        if encoding == "sinusoidal":
            ratio = torch.linspace(0, 1, frequencies)
            self.frequencies = nn.Parameter(lowest * (highest / lowest) ** ratio)
            width = 4 * frequencies
        self.bins: nn.Embedding | None = None
        if encoding == "categorical":
            self._add_bins(primary_edges_deg, secondary_edges_deg, dim)
            width = dim
        self.unknown = nn.Parameter(torch.randn(width) * 0.02)
        self.trunk = nn.Sequential(nn.Linear(width, dim), nn.GELU())
        self.to_vector = nn.Linear(dim, dim)
        self.to_tokens = nn.Linear(dim, tokens * dim)
        self.spec = FeatureSpec(vector_dim=dim, token_dim=dim)

    def _add_bins(self, primary: Sequence[float], secondary: Sequence[float], dim: int) -> None:
        for name, edges in (("primary_edges", primary), ("secondary_edges", secondary)):
            if list(edges) != sorted(set(edges)):
                raise BuildError(f"view-angle: {name}_deg must rise, got {list(edges)}")
            self.register_buffer(name, torch.tensor(edges, dtype=torch.float32), persistent=False)
        self.bins = nn.Embedding((len(primary) + 1) * (len(secondary) + 1), dim)

    def forward(self, angles: Tensor) -> Features:
        """Return vector and tokens of angles `[R, 2]` in degrees."""
        if angles.ndim != 2 or angles.shape[1] != 2:
            raise BuildError(f"view-angle: expected angles [R, 2], got {tuple(angles.shape)}")
        unknown = angles.isnan().any(1, keepdim=True)  # [R, 1]
        encoded = self._encode(wrap_degrees(angles.nan_to_num(0.0)))
        hidden = self.trunk(torch.where(unknown, self.unknown, encoded))
        tokens = self.to_tokens(hidden).unflatten(1, (-1, self.spec.token_dim or 0))
        return Features(vector=self.to_vector(hidden), tokens=tokens)

    def _encode(self, angles: Tensor) -> Tensor:
        if self.bins is not None:
            return self.bins(bins_of(angles, self.primary_edges, self.secondary_edges))
        if self.frequencies is None:
            return beam_direction(angles)
        phase = torch.deg2rad(angles)[:, :, None] * self.frequencies  # [R, 2, F]
        return torch.cat((phase.sin(), phase.cos()), dim=-1).flatten(1)


def example(folder: Path) -> Example:
    """Return tiny options and three views, one of them unknown."""
    views = torch.tensor([[30.0, 20.0], [-25.0, -10.0], [float("nan"), float("nan")]])
    return Example(options={"dim": 8, "frequencies": 4}, args=(views,))
