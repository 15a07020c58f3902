"""Which tracks of a video are reported, and the model rows that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING

from mlkit_core.errors import InputError
from mlkit_dvis.drawing.colours import TrackColours
from mlkit_dvis.drawing.shapes import area
from mlkit_dvis.drawing.text import plain

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from mlkit_dvis.drawing.colours import Colour
    from mlkit_dvis.results import InstanceTrack

_LISTED = 12


def class_labels(names: Iterable[str], classes: Sequence[str]) -> frozenset[int]:
    """Return the labels of some classes; all of them where no name is given.

    Raises:
        InputError: The model has no class of that name; the hint names the nearest.
    """
    wanted = [name.strip() for name in names if name.strip()]
    for name in wanted:
        if name not in classes:
            near = get_close_matches(name, classes, n=1, cutoff=0.4)
            guess = f"did you mean {near[0]!r}?" if near else f"there are {_listed(classes)}"
            raise InputError(f"--classes: the model has no class {name!r}", hint=guess)
    return frozenset(label for label, name in enumerate(classes) if not wanted or name in wanted)


def _listed(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - _LISTED} more" if len(classes) > _LISTED else ""
    return ", ".join(classes[:_LISTED]) + more


def reported_tracks(
    tracks: Iterable[InstanceTrack], labels: Collection[int], score: float
) -> tuple[InstanceTrack, ...]:
    """Return, best first, the tracks of these classes whose score is at least `score`."""
    kept = [track for track in tracks if track.label in labels and track.score >= score]
    return tuple(sorted(kept, key=lambda track: -track.score))


@dataclass(frozen=True)
class TrackRow:
    """One object of a video: its best track, and what else its row might be.

    Args:
        track: With the best label.
        name: Of that class.
        others: Further labels of the row and their scores, best first.
        colour: In all pictures.
    """

    track: InstanceTrack
    name: str
    others: tuple[tuple[int, float], ...]
    colour: Colour

    @property
    def id(self) -> int:
        """The row, which is what people see as the object's number."""
        return self.track.row

    @property
    def title(self) -> str:
        """What stands beside the object."""
        return object_title(self.name, self.id, self.track.score)

    @cached_property
    def areas(self) -> tuple[int, ...]:
        """Pixels of the mask in each frame."""
        return tuple(area(rle) for rle in self.track.rles)

    @cached_property
    def visible(self) -> tuple[int, ...]:
        """Frames in which there is a mask with pixels."""
        return tuple(t for t, pixels in enumerate(self.areas) if pixels)

    def query(self, frame: int) -> int:
        """Return the segmenter's query that the track follows in a frame, -1 where none."""
        queries = self.track.frame_queries
        return queries[frame] if frame < len(queries) else -1


def object_title(name: str, number: int, score: float) -> str:
    """Return class, number and score on one line."""
    return f"{plain(name, 32)} #{number} {score:.2f}"


def track_rows(tracks: Iterable[InstanceTrack], classes: Sequence[str]) -> tuple[TrackRow, ...]:
    """Return the objects, best first: tracks that share a model row are one object."""
    grouped: dict[int, list[InstanceTrack]] = {}
    for track in tracks:
        grouped.setdefault(track.row, []).append(track)
    for labels in grouped.values():
        labels.sort(key=lambda track: -track.score)
    ordered = sorted(grouped.values(), key=lambda labels: -labels[0].score)
    colours = _colours(ordered)
    return tuple(
        TrackRow(
            track=labels[0],
            name=classes[labels[0].label],
            others=tuple((other.label, other.score) for other in labels[1:]),
            colour=colours[labels[0].row],
        )
        for labels in ordered
    )


def _colours(ordered: Iterable[Sequence[InstanceTrack]]) -> Mapping[int, Colour]:
    colours = TrackColours()
    return {labels[0].row: colours.of(labels[0].row) for labels in ordered}


def key_frames(row: TrackRow, count: int) -> tuple[int, ...]:
    """Return, in order of time, the frames to show an object in.

    Those that counted most for its class, among the frames in which it is seen; where the model
    gives no such weights, frames that are spread evenly over these.
    """
    seen, weights = row.visible, row.track.frame_weights
    if len(seen) <= count:
        return seen
    if not weights:
        steps = (round(i * (len(seen) - 1) / max(count - 1, 1)) for i in range(count))
        return tuple(seen[step] for step in steps)
    return tuple(sorted(sorted(seen, key=lambda t: (-weights[t], t))[:count]))


def top_frame(row: TrackRow) -> int:
    """Return the frame that counted most for the class, else the one with the largest mask."""
    values: Sequence[float] = row.track.frame_weights or row.areas
    return max(row.visible, key=lambda t: (values[t], -t), default=0)
