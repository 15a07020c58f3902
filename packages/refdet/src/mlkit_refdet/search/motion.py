"""Where a box goes on to: a Kalman filter of constant velocity for each of its four numbers."""

from __future__ import annotations

from dataclasses import dataclass

Xyxy = tuple[float, float, float, float]

_POSITION, _VELOCITY = 1 / 20, 1 / 20  # standard deviations, shares of the box's side


@dataclass
class _Axis:
    """One number with its velocity per frame, and their covariance `[[a, b], [b, c]]`."""

    place: float
    speed: float
    a: float
    b: float
    c: float

    def step(self, place_noise: float, speed_noise: float) -> None:
        """Go one frame on; noises are variances."""
        self.place += self.speed
        self.a += 2 * self.b + self.c + place_noise
        self.b += self.c
        self.c += speed_noise

    def correct(self, seen: float, noise: float) -> None:
        """Take a measurement of the number with this variance."""
        spread, off = self.a + noise, seen - self.place
        self.place += self.a / spread * off
        self.speed += self.b / spread * off
        self.c -= self.b * self.b / spread
        self.b -= self.a * self.b / spread
        self.a -= self.a * self.a / spread


class ConstantVelocity:
    """Follows a box's centre, width and height; noises grow with its sides.

    Source: Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960; noises in
    shares of the box's sides as in Wojke, Bewley and Paulus, "Simple Online and Realtime Tracking
    with a Deep Association Metric", ICIP 2017. Unlike there, velocity is 1/20 of a side a frame
    and not 1/160: a drone's own motion moves a small object by half its size in a frame.

    Args:
        box: The first one.
        position: Standard deviation of a measured number, as a share of the side.
        velocity: Of the velocity's change in a frame; at the start it is ten times that.
    """

    def __init__(
        self, box: Xyxy, *, position: float = _POSITION, velocity: float = _VELOCITY
    ) -> None:
        self._position, self._velocity = position, velocity
        x, y, width, height = _numbers(box)
        self._axes = [
            _Axis(number, 0.0, (2 * position * side) ** 2, 0.0, (10 * velocity * side) ** 2)
            for number, side in zip(
                (x, y, width, height), (width, height, width, height), strict=True
            )
        ]

    def _sides(self) -> tuple[float, float, float, float]:
        width, height = (max(axis.place, 1.0) for axis in self._axes[2:])
        return width, height, width, height

    def step(self, frames: int = 1) -> None:
        """Go on by some frames without a measurement."""
        for _ in range(frames):
            for axis, side in zip(self._axes, self._sides(), strict=True):
                axis.step((self._position * side) ** 2, (self._velocity * side) ** 2)

    def correct(self, box: Xyxy) -> None:
        """Take the box that was detected in the frame where the filter stands."""
        rows = zip(self._axes, _numbers(box), self._sides(), strict=True)
        for axis, seen, side in rows:
            axis.correct(seen, (self._position * side) ** 2)

    @property
    def box(self) -> Xyxy:
        """Where it stands, xyxy; no side is below one pixel."""
        x, y, _, _ = (axis.place for axis in self._axes)
        width, height, _, _ = self._sides()
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _numbers(box: Xyxy) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
