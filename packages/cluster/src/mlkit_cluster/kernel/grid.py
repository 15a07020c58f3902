"""The anchors of a square input: levels of cells, fine to coarse, each row by row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from mlkit_core.errors import InputError


@dataclass(frozen=True)
class Grid:
    """What a detector's raw output is laid out on.

    Args:
        image_size: Side S of the square input, pixels.
        strides: Of the levels, pixels, fine to coarse; each divides S.
        reg_max: Bins of each side's distance, at least 2.
        num_classes: Classes scored by every anchor.

    Raises:
        InputError: A stride does not divide the side, or a count is too small.
    """

    image_size: int
    strides: tuple[int, ...]
    reg_max: int
    num_classes: int

    def __post_init__(self) -> None:
        if not self.strides or any(self.image_size % stride for stride in self.strides):
            raise InputError(
                f"grid: expected strides that divide {self.image_size}, got {self.strides}"
            )
        if self.reg_max < 2 or self.num_classes < 1:
            raise InputError(
                "grid: expected 2 bins and 1 class or more, "
                f"got {self.reg_max} bins and {self.num_classes} classes"
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Cells along a side of each level."""
        return tuple(self.image_size // stride for stride in self.strides)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First anchor of each level."""
        return tuple(accumulate((side**2 for side in self.sides[:-1]), initial=0))

    @property
    def num_anchors(self) -> int:
        """Anchors A of all levels."""
        return sum(side**2 for side in self.sides)

    @property
    def floor(self) -> float:
        """The side, pixels, to which a smaller target is enlarged when its anchors are sought."""
        return float(self.strides[min(1, len(self.strides) - 1)])

    @property
    def mask_side(self) -> int:
        """Side of the masks and their prototypes, cells."""
        return self.image_size // 4
