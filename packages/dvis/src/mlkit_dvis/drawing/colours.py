"""Colours of tracks: told apart by colour-blind readers, the same in every picture of a video."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Colour = tuple[int, int, int]  # RGB, 0..255

# Okabe and Ito, "Color Universal Design", 2008, without black and ordered for contrast between
# neighbours; then the same hues dark, for videos with more than seven objects.
_BASE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
)
PALETTE: tuple[Colour, ...] = (
    *_BASE,
    *((r * 11 // 20, g * 11 // 20, b * 11 // 20) for r, g, b in _BASE),
)
NEUTRAL: Colour = (150, 150, 150)  # what belongs to no track


class TrackColours:
    """Gives every track a colour and keeps it; with few tracks at once no two share one.

    Memory does not grow: a track that has not been asked for longest lends its colour to a new
    one.

    Args:
        tracks: Ids that are known beforehand, in order.
    """

    def __init__(self, tracks: Iterable[int] = ()) -> None:
        self._places: dict[int, int] = {}  # track -> index in the palette, least recent first
        for track in tracks:
            self.of(track)

    def of(self, track: int) -> Colour:
        """Return a track's colour."""
        place = self._places.pop(track, None)
        if place is None:
            used = set(self._places.values())
            free = (index for index in range(len(PALETTE)) if index not in used)
            place = next(free, -1)
            if place < 0:
                place = self._places.pop(next(iter(self._places)))
        self._places[track] = place
        return PALETTE[place]


def ink(colour: Colour) -> Colour:
    """Return black or white: what is read better on a colour.

    Source: W3C, "Web Content Accessibility Guidelines 2.1", relative luminance.
    """
    linear = [
        value / 12.92 if (value := channel / 255) <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
        for channel in colour
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def hexadecimal(colour: Colour) -> str:
    """Return `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
