"""From single frames' detections to tracks: hysteresis, association, gaps, blips."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlkit_refdet.search.motion import ConstantVelocity, Xyxy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlkit_refdet.search.config import TrackOptions


@dataclass(frozen=True)
class Detection:
    """A box of one frame: xyxy in original pixels, score, and the object's index."""

    box: Xyxy
    score: float
    label: int


@dataclass
class Track:
    """One object over frames.

    Args:
        label: Index of the object.
        boxes: Frame to box; bridged frames are in it.
        scores: Frame to score, of frames with a detection.
    """

    label: int
    boxes: dict[int, Xyxy] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The mean over its detections."""
        return sum(self.scores.values()) / len(self.scores)


class _Alive:
    """A track that may go on."""

    def __init__(self, found: Detection, frame: int) -> None:
        self.track = Track(found.label, {frame: found.box}, {frame: found.score})
        self.last, self.last_box = frame, found.box
        self._motion, self._at = ConstantVelocity(found.box), frame

    def box_at(self, frame: int) -> Xyxy:
        """Go on to a frame and return where the object should be there."""
        self._motion.step(frame - self._at)
        self._at = frame
        return self._motion.box

    def take(self, found: Detection, frame: int) -> None:
        """Add the detection of the frame that it has gone on to."""
        self._motion.correct(found.box)
        self.track.boxes[frame], self.track.scores[frame] = found.box, found.score
        self.last, self.last_box = frame, found.box


def tracks_of(
    detections: Mapping[int, Sequence[Detection]], options: TrackOptions, *, stride: int = 1
) -> list[Track]:
    """Return the tracks of a video's detections, frame by frame.

    Greedy association by overlap, best score first, and no assignment over all pairs: a detection
    goes to the track of its object that it overlaps best, where the object should be by
    `ConstantVelocity`, or where it was last. Boxes grow by `buffer` before overlaps count, so that
    small things which move by more than their size are followed. A track lives on while no more
    than `max_gap` frames pass without a detection; these are filled in a straight line. It counts
    if one score reaches `high` (hysteresis) and it has at least `min_frames` detections.

    Source: the buffer is that of Yang et al., "Hard to Track Objects with Irregular Motions and
    Similar Appearances?", WACV 2023, sec. 3.2, in one round instead of two.

    Args:
        detections: Frame to detections.
        options: As above.
        stride: Frames between searched ones; `min_frames` counts in all frames, and asks for at
            least two detections unless it is 1.
    """
    alive: list[_Alive] = []
    done: list[Track] = []
    reach = max(options.max_gap + 1, stride)
    for frame in sorted(detections):
        done += [one.track for one in alive if frame - one.last > reach]
        alive = [one for one in alive if frame - one.last <= reach]
        own = [d for d in detections[frame] if d.score >= options.low]
        _associate(sorted(own, key=lambda d: -d.score), alive, frame, options)
    least = max(min(options.min_frames, 2), -(-options.min_frames // stride))
    every = done + [one.track for one in alive]
    counted = [
        track
        for track in every
        if max(track.scores.values()) >= options.high and len(track.scores) >= least
    ]
    for track in counted:
        _fill(track)
    return sorted(counted, key=lambda track: (min(track.boxes), track.label))


def _associate(
    found: Sequence[Detection], alive: list[_Alive], frame: int, options: TrackOptions
) -> None:
    """Give each detection to a track, or begin one."""
    free = [(one, one.box_at(frame)) for one in alive]
    for detection in found:
        grown = _grown(detection.box, options.buffer)
        best, most = None, 0.0
        for one, ahead in free:
            if one.track.label != detection.label:
                continue
            own = max(
                iou(grown, _grown(ahead, options.buffer)),
                iou(grown, _grown(one.last_box, options.buffer)),
            )
            if own > most:
                best, most = one, own
        if best is None or most < options.min_iou:
            alive.append(_Alive(detection, frame))
            continue
        free = [pair for pair in free if pair[0] is not best]
        best.take(detection, frame)


def _grown(box: Xyxy, share: float) -> Xyxy:
    """Return a box that is larger by a share of its sides, on each side."""
    x, y = share * (box[2] - box[0]), share * (box[3] - box[1])
    return box[0] - x, box[1] - y, box[2] + x, box[3] + y


def _fill(track: Track) -> None:
    """Put boxes between detections, on a straight line."""
    frames = sorted(track.scores)
    for first, last in itertools.pairwise(frames):
        start, stop = track.boxes[first], track.boxes[last]
        for frame in range(first + 1, last):
            share = (frame - first) / (last - first)
            x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(start, stop, strict=True))
            track.boxes[frame] = (x1, y1, x2, y2)


def single_frames(detections: Mapping[int, Sequence[Detection]], least: float) -> list[Track]:
    """Return every detection from a score on as a track of one frame, for unrelated images."""
    return [
        Track(found.label, {frame: found.box}, {frame: found.score})
        for frame in sorted(detections)
        for found in detections[frame]
        if found.score >= least
    ]


def best_of_each_frame(tracks: Sequence[Track]) -> dict[tuple[int, int], tuple[Xyxy, float]]:
    """Return frame and object to box and track's score: of several tracks the best one's."""
    found: dict[tuple[int, int], tuple[Xyxy, float]] = {}
    for track in sorted(tracks, key=lambda t: t.score):
        found |= {(frame, track.label): (box, track.score) for frame, box in track.boxes.items()}
    return found


def iou(a: Xyxy, b: Xyxy) -> float:
    """Return intersection over union of two boxes xyxy."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (areas - inter) if areas > inter else 0.0
