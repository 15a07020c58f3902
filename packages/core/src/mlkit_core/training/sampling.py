"""Who sees which unit when: pure functions of seed, stage, epoch and position."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlkit_core.interfaces import Data
    from mlkit_core.types import Batch, Draw


def derive(*parts: object) -> int:
    """Return a seed, 0 … 2^63 - 1, that depends on every part."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def seed_all(seed: int) -> torch.Generator:
    """Seed every generator that a forward pass may draw from; return one of the step's own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Deal:
    """How units become optimiser steps, ranks and micro-steps.

    Args:
        batch_size: Units per optimiser step over all ranks.
        ranks: Processes.
        accumulate: Micro-steps per optimiser step and rank.
    """

    batch_size: int
    ranks: int
    accumulate: int

    def __post_init__(self) -> None:
        if self.batch_size % (self.ranks * self.accumulate):
            raise DataError(
                f"trainer.batch_size: {self.batch_size} does not divide by {self.ranks} ranks x "
                f"{self.accumulate} micro-steps"
            )

    def steps(self, units: int) -> int:
        """Return the optimiser steps of an epoch; the last one is filled from the epoch's start."""
        return -(-units // self.batch_size)

    def micro_step(self, rank: int, turn: int) -> int:
        """Return the global number of a rank's `turn`-th micro-step within an optimiser step."""
        return turn * self.ranks + rank

    def chosen(self, units: int, step: int, micro: int) -> list[int]:
        """Return the unit indices of one global micro-step of one optimiser step."""
        size = self.batch_size // (self.ranks * self.accumulate)
        start = step * self.batch_size + micro * size
        return [index % units for index in range(start, start + size)]


class _MicroSteps(Dataset["list[Batch]"]):
    """Loads and collates one micro-step at a time, in a worker or here."""

    def __init__(self, data: Data, units: Sequence[Sequence[Draw]], plan: list[list[int]]) -> None:
        self.data, self.units, self.plan = data, units, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> list[Batch]:
        samples = [[self.data.load(d) for d in self.units[i]] for i in self.plan[position]]
        return self.data.collate(samples)


def training_batches(
    data: Data, units: Sequence[Sequence[Draw]], deal: Deal, *, rank: int, start: int, workers: int
) -> Iterator[list[list[Batch]]]:
    """Yield this rank's micro-steps, each a list of batches, for each step from `start` on."""
    if not units:
        raise DataError("data: the split 'train' has no units")
    steps = deal.steps(len(units))
    plan = [
        deal.chosen(len(units), step, deal.micro_step(rank, turn))
        for step in range(start, steps)
        for turn in range(deal.accumulate)
    ]
    loader = iter(_loader(_MicroSteps(data, units, plan), workers))
    for _ in range(start, steps):
        yield [next(loader) for _ in range(deal.accumulate)]


def _loader(dataset: Dataset[list[Batch]], workers: int) -> DataLoader[Any]:
    pin = torch.cuda.is_available()
    return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=workers, pin_memory=pin)


def evaluation_batches(
    data: Data, units: Sequence[Sequence[Draw]], *, rank: int, ranks: int, workers: int = 0
) -> Iterable[list[Batch]]:
    """Yield this rank's draws in order, each loaded and collated alone; units stay whole."""
    draws = [[draw] for unit in units[rank::ranks] for draw in unit]
    plan = [[index] for index in range(len(draws))]
    return _loader(_MicroSteps(data, draws, plan), workers)
