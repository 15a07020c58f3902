"""The grid of angles, and what a model's view encoder and FiLM say at each of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlkit_core.components.film import FiLM
from mlkit_core.errors import BuildError
from mlkit_core.training.evaluation import evaluating

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mlkit_core.model import Model

    Floats = NDArray[np.float64]

PRIMARY_DEG, SECONDARY_DEG = (-60.0, 60.0), (-45.0, 45.0)


@dataclass(frozen=True)
class AngleGrid:
    """Primary angles `[P]` from RAO to LAO, secondary angles `[S]` from caudal to cranial."""

    primary: Floats
    secondary: Floats

    @property
    def views(self) -> Tensor:
        """All nodes, `[S * P, 2]` degrees, primary fastest."""
        first, second = np.meshgrid(self.primary, self.secondary)
        return torch.from_numpy(np.stack([first.ravel(), second.ravel()], 1)).float()

    def shaped(self, values: Tensor) -> Floats:
        """Return values of the nodes `[S * P, C]` as `[C, S, P]`."""
        shape = (len(self.secondary), len(self.primary))
        return values.double().numpy().T.reshape(-1, *shape)


def angle_grid(step_deg: float = 3.0) -> AngleGrid:
    """Return the grid from 60 RAO to 60 LAO and 45 caudal to 45 cranial, ends included."""
    axes = (
        np.linspace(low, high, round((high - low) / step_deg) + 1)
        for low, high in (PRIMARY_DEG, SECONDARY_DEG)
    )
    return AngleGrid(*axes)


@dataclass(frozen=True)
class Modulation:
    """FiLM's gamma and beta of one map, `[C, S, P]` over the grid: `(1 + gamma) x + beta`."""

    fusion: str
    level: str
    gamma: Floats
    beta: Floats


@dataclass(frozen=True, kw_only=True)
class ChannelRange:
    """How far gamma and beta of one channel move over the grid, and at which views."""

    modulation: Modulation
    channel: int
    gamma: tuple[float, float]
    beta: tuple[float, float]
    lowest_at: tuple[float, float]
    highest_at: tuple[float, float]

    @property
    def gamma_range(self) -> float:
        """Largest minus smallest gamma."""
        return self.gamma[1] - self.gamma[0]


def view_encoder(model: Model) -> tuple[str, nn.Module]:
    """Return the role and the encoder that reads the view.

    Raises:
        BuildError: The model reads no view.
    """
    for role, source in model.reads.items():
        if source == "view":
            return role, model.encoders[role]
    raise BuildError("views: the model reads no view, so there is nothing to draw")


def embeddings(encoder: nn.Module, views: Tensor) -> Tensor:
    """Return the view encoder's vectors `[R, D]` of views `[R, 2]` in degrees.

    Raises:
        BuildError: It gives no vector.
    """
    with evaluating(encoder):
        vector = encoder(views).vector
    if vector is None:
        raise BuildError("views: the view encoder gives no vector")
    return vector.float()


def modulations(model: Model, grid: AngleGrid) -> list[Modulation]:
    """Return gamma and beta of every map that a FiLM conditions by the view, fine to coarse."""
    role, encoder = view_encoder(model)
    films: Mapping[str, nn.Module] = dict(model.fusions.items())
    by_view = {n: f for n, f in films.items() if isinstance(f, FiLM) and f.by == role}
    if not by_view:
        return []
    vectors = embeddings(encoder, grid.views)
    found: list[Modulation] = []
    with torch.no_grad():
        for name, film in by_view.items():
            for level, part in film.maps.items():
                gamma, beta = part.to_gamma_beta(vectors).chunk(2, dim=-1)  # pyright: ignore[reportCallIssue]
                found.append(Modulation(name, level, grid.shaped(gamma), grid.shaped(beta)))
    return found


def channel_ranges(found: Sequence[Modulation], grid: AngleGrid) -> list[ChannelRange]:
    """Return all channels, those whose gamma moves most over the grid first."""
    ranges = [
        _range(modulation, channel, grid)
        for modulation in found
        for channel in range(len(modulation.gamma))
    ]
    return sorted(ranges, key=lambda one: -one.gamma_range)


def _range(modulation: Modulation, channel: int, grid: AngleGrid) -> ChannelRange:
    gamma, beta = modulation.gamma[channel], modulation.beta[channel]

    def at(index: int) -> tuple[float, float]:
        row, column = np.unravel_index(index, gamma.shape)
        return float(grid.primary[column]), float(grid.secondary[row])

    return ChannelRange(
        modulation=modulation,
        channel=channel,
        gamma=(float(gamma.min()), float(gamma.max())),
        beta=(float(beta.min()), float(beta.max())),
        lowest_at=at(int(gamma.argmin())),
        highest_at=at(int(gamma.argmax())),
    )


def strength(values: Floats) -> Floats:
    """Return the root mean square over channels, `[C, S, P]` to `[S, P]`."""
    return np.sqrt((values**2).mean(0))


def similarities(
    encoder: nn.Module, chosen: Sequence[tuple[float, float]], grid: AngleGrid
) -> Floats:
    """Return the cosine of each chosen view's embedding to that of every node, `[N, S, P]`."""
    nodes = torch.nn.functional.normalize(embeddings(encoder, grid.views), dim=1)
    asked = torch.nn.functional.normalize(embeddings(encoder, torch.tensor(chosen)), dim=1)
    return grid.shaped(nodes @ asked.T)
