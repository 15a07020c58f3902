"""What a tracker learns from: annotated instances of a clip, and what it said of each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mlkit_dvis.matching import Weights


@dataclass(frozen=True)
class ClipTruth:
    """The annotated instances of one clip.

    Args:
        masks: `[M, T, H, W]`, 0 or 1.
        labels: `[M]` class index.
        present: `[M, T]` bool, on the CPU: which instance is visible in which frame.
    """

    masks: Tensor
    labels: Tensor
    present: Tensor

    @classmethod
    def of(cls, masks: Tensor, labels: Tensor) -> ClipTruth:
        """Return the truth of masks and labels; an instance is visible where its mask is not empty.

        Args:
            masks: `[M, T, H, W]`, 0 or 1.
            labels: `[M]`, class index.

        Raises:
            InputError: Their numbers of instances differ.
        """
        if masks.ndim != 4 or labels.shape != masks.shape[:1]:
            raise InputError(
                f"truth: expected masks [M, T, H, W] and labels [M], got {tuple(masks.shape)} "
                f"and {tuple(labels.shape)}"
            )
        return cls(masks, labels, masks.flatten(2).any(-1).cpu())

    def visible(self, t: int) -> Tensor:
        """Return the instances that frame `t` shows, `[V]`, on the CPU."""
        return self.present[:, t].nonzero()[:, 0]


@dataclass(frozen=True)
class TrainOptions:
    """How a clip is gone through in training.

    Args:
        stage: 2 hands on the better half of the matched rows, so that the others must be found
            again; 3 hands on whatever scores well, and simulates that an object disappears.
        generator: On the CPU; gives all randomness.
        num_points: At which masks are compared in matching.
        points: `[1, P, 2]`, x, y, each 0..1: used in the place of random points.
        pick: Which of the matched tracks disappears; None: at random.
        aux_threshold: Segmenter's score above which an unmatched query stands for its cheapest
            instance.
        weights: Worth of class, cross-entropy and Dice in the matching cost.
    """

    stage: Literal[2, 3]
    generator: torch.Generator
    num_points: int = 12544
    points: Tensor | None = None
    pick: int | None = None
    aux_threshold: float = 0.01
    weights: Weights = (2.0, 5.0, 5.0)

    def __post_init__(self) -> None:
        if self.stage not in (2, 3):
            raise InputError(f"stage: must be 2 or 3, got {self.stage}")


@dataclass(frozen=True)
class FrameMatch:
    """What the segmenter's queries of one frame stand for; on the CPU.

    Args:
        rows: `[p]`, matched queries.
        instances: `[p]`, theirs, ascending.
        targets: `[Q]`, each query's instance: the matched, else the cheapest; -1 where not valid.
        valid: `[Q]` bool, matched or of a high score.
    """

    rows: Tensor
    instances: Tensor
    targets: Tensor
    valid: Tensor


@dataclass(frozen=True)
class FrameOutput:
    """What a branch says of one frame, on every level, and what it should have said.

    Args:
        logits: `[L, R, K + 1]`, the last level last.
        kernels: `[L, R, Cm + 1]`, what makes the masks: a weight per channel, and a bias.
        features: `[Cm, P]`, the frame's mask features.
        size: h and w; P = h * w.
        rows: `[p]`, matched rows; on the CPU, as all indices here.
        instances: `[p]`, theirs.
        disappeared: Instances that count as gone in this frame.
    """

    logits: Tensor
    kernels: Tensor
    features: Tensor
    size: tuple[int, int]
    rows: Tensor
    instances: Tensor
    disappeared: tuple[int, ...] = ()

    def masks(self, level: int = -1, rows: Tensor | None = None) -> Tensor:
        """Return mask logits `[r, h, w]` of a level: of all rows, or of some."""
        kernels = self.kernels[level]
        kernels = kernels if rows is None else kernels[rows.to(kernels.device)]
        masks = kernels[:, :-1] @ self.features + kernels[:, -1:]
        return masks.unflatten(1, self.size)


@dataclass(frozen=True)
class TrackerTraining:
    """What tracker and slot branch said of a clip.

    Args:
        frames: The tracker's L + 1 levels in each of the T frames.
        slots: The slot branch's L levels in the frames from the second on; rows are the tracks
            that were handed on, then the background slots.
        matches: What the segmenter's queries stand for, in each frame.
    """

    frames: tuple[FrameOutput, ...]
    slots: tuple[FrameOutput, ...]
    matches: tuple[FrameMatch, ...]
