"""YOLO labels: a text file for each image, a line for each object, all values over the image.

`…/images/….jpg` has its labels in `…/labels/….txt` (the last folder named `images` decides; without
one, the file lies beside the image). An empty file says that there is nothing to see. A missing
file says the same where the folder it would lie in holds labels of other listed images, as training
takes it; where it holds none, nothing is known of these images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlkit_cluster.images.annotations import Annotations
from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from mlkit_cluster.images.annotations import Outline
    from mlkit_cluster.images.listing import ImageEntry, Listing

_SLACK = 0.01  # rounding of whoever wrote the labels


class YoloLabels:
    """Boxes (`class x y w h`) and polygons (`class x1 y1 x2 y2 x3 y3 …`) from text files.

    Args:
        listing: The images.
        folder: What takes the place of `images` in a path: "labels", "labels_seg".
        names: Of the classes, where the listing's data set gives none; they bound the numbers.
    """

    kind = "yolo"

    def __init__(
        self, listing: Listing, folder: str = "labels", names: tuple[str, ...] = ()
    ) -> None:
        self.names, self._folder = listing.names or names, folder
        files = {entry.path: self.file_of(entry.path) for entry in listing.images}
        self._labelled = {file.parent for file in files.values() if file.is_file()}
        self.labelled = sum(file.parent in self._labelled for file in files.values())

    def file_of(self, image: Path) -> Path:
        """Return where an image's labels are, or would be."""
        parts = list(image.parts[:-1])
        places = [index for index, part in enumerate(parts) if part == "images"]
        if places:
            parts[places[-1]] = self._folder
        return image.parents[-1].joinpath(*parts) / f"{image.stem}.txt"

    def of(self, entry: ImageEntry, size: tuple[int, int]) -> Annotations | None:
        """Return an image's labels; equal lines count once.

        Raises:
            DataError: A line is malformed; file and line are named.
        """
        file = self.file_of(entry.path)
        if not file.is_file():
            known = file.parent in self._labelled
            return Annotations(np.zeros((0, 4)), np.zeros(0, np.int32), ()) if known else None
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as err:
            raise DataError(f"{file}: not a readable label file: {err}") from err
        rows = {line.strip(): number for number, line in enumerate(lines, 1) if line.strip()}
        parsed = [self._parse(line, f"{file}:{number}") for line, number in rows.items()]
        scale = np.array([size[1], size[0]], np.float64)
        outlines = [outline for _, outline in parsed if len(outline) > 2]
        return Annotations(
            boxes=np.array([_box(points) for _, points in parsed]).reshape(-1, 4)
            * np.tile(scale, 2),
            labels=np.array([label for label, _ in parsed], np.int32),
            outlines=_scaled(outlines, scale) if len(outlines) == len(parsed) else None,
        )

    def _parse(self, line: str, where: str) -> tuple[int, np.ndarray]:
        """Return the class, and two corners or a polygon, `[K, 2]`, over the image."""
        words = line.split()
        if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
            got = f"{len(words)} values"
            raise DataError(
                f"{where}: expected class and 4 values, or class and a polygon, got {got}"
            )
        try:
            label, values = float(words[0]), np.array(words[1:], np.float64)
        except ValueError as err:
            raise DataError(f"{where}: expected numbers, got {line[:80]!r}") from err
        if label < 0 or label != int(label) or (self.names and label >= len(self.names)):
            legal = f"0 to {len(self.names) - 1}" if self.names else "a class number"
            raise DataError(f"{where}: class: expected {legal}, got {words[0]}")
        if not ((values >= -_SLACK) & (values <= 1 + _SLACK)).all():  # NaN fails as well
            hint = "labels are over the image's width and height, not pixels"
            raise DataError(f"{where}: expected values from 0 to 1, got {line[:80]!r}", hint=hint)
        points = values.reshape(-1, 2)
        if len(points) == 2:
            middle, extent = points
            points = np.stack([middle - extent / 2, middle + extent / 2])
        return int(label), points


def _box(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points.min(0), points.max(0)])


def _scaled(outlines: list[np.ndarray], scale: np.ndarray) -> tuple[Outline, ...]:
    return tuple((outline * scale,) for outline in outlines)
