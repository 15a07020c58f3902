"""What a folder of pseudo-labels says of itself: a line for each mask, and how all were made."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mlkit_core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

PROVENANCE, MASKS = "provenance.json", "pseudo_masks"
_LINES = ".masks.jsonl"


@dataclass(frozen=True)
class MaskRecord:
    """One mask.

    Args:
        name: Of the frame, and of the file without suffix.
        confidence: Mean probability of the mask's pixels; 0 of an empty mask.
        expected_dice: Dice of probabilities and mask: also low where much is undecided outside.
        vessel_share: Of the picture, 0..1.
        is_kept: Whether it reached the least confidence, and is in the table.
    """

    name: str
    confidence: float
    expected_dice: float
    vessel_share: float
    is_kept: bool


def measure_mask(
    name: str, probabilities: NDArray[np.float32], mask: NDArray[np.bool_], least: float
) -> MaskRecord:
    """Return what a mask `[H, W]` and its probabilities measure.

    Args:
        name: Of the frame.
        probabilities: 0..1.
        mask: Those at or above the threshold, within the collimator.
        least: Confidence to be kept.
    """
    p = probabilities.astype(np.float64)
    count = int(mask.sum())
    confidence = float(p[mask].mean()) if count else 0.0
    total = float(p.sum()) + count
    expected = 2 * float(p[mask].sum()) / total if total else 0.0
    share = count / mask.size
    return MaskRecord(
        name, round(confidence, 5), round(expected, 5), round(share, 6), confidence >= least
    )


class Record:
    """Keeps the record of a folder; what an earlier try wrote stands.

    Args:
        out: Made if it is not there.
        about: How all masks are made; the same for every try.

    Raises:
        DataError: The folder holds something else.
    """

    def __init__(self, out: Path, about: Mapping[str, object]) -> None:
        self.out, self.about = out, json.loads(json.dumps(about))
        self.masks: dict[str, MaskRecord] = {}
        path = out / PROVENANCE
        if path.is_file():
            self._take(json.loads(path.read_text(encoding="utf-8")))
        elif out.exists() and any(out.iterdir()):
            raise DataError(f"{out}: is not empty", hint="name a new folder")
        else:
            (out / MASKS).mkdir(parents=True)
            self._write(complete=False)
        self._take_lines()

    def _take(self, known: Mapping[str, object]) -> None:
        if known.get("made_by") != self.about:
            hint = "name a new folder; labelling goes on only where run, source and options are"
            raise DataError(f"{self.out}: holds other pseudo-labels", hint=f"{hint} the same")
        for row in known.get("masks", ()):  # pyright: ignore[reportGeneralTypeIssues]  # our own list
            self._note(MaskRecord(**row))

    def _take_lines(self) -> None:
        path = self.out / _LINES
        if not path.is_file():
            return
        whole, _, _ = path.read_bytes().rpartition(b"\n")  # a cut last line was never finished
        for line in whole.splitlines():
            self._note(MaskRecord(**json.loads(line)))
        path.write_bytes(whole + b"\n" if whole else b"")

    def _note(self, one: MaskRecord) -> None:
        self.masks[one.name] = one

    def add(self, one: MaskRecord, mask: NDArray[np.bool_]) -> None:
        """Write a mask, unless it is not kept, then its line."""
        if one.is_kept:
            self._write_mask(one, mask)
        with (self.out / _LINES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(one)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._note(one)

    def _write_mask(self, one: MaskRecord, mask: NDArray[np.bool_]) -> None:
        """Write 0 and 255, with the provenance inside the PNG."""
        about = PngInfo()
        about.add_text("mlkit", json.dumps({**self.about, **asdict(one)}))
        path = self.out / MASKS / f"{one.name}.png"
        aside = path.with_name(f".{path.name}.part")
        picture = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
        picture.save(aside, format="PNG", pnginfo=about)
        aside.replace(path)

    def close(self) -> None:
        """Write the record as complete."""
        self._write(complete=True)
        (self.out / _LINES).unlink(missing_ok=True)

    def _write(self, *, complete: bool) -> None:
        content = {
            "complete": complete,
            "made_by": self.about,
            "masks": [asdict(self.masks[name]) for name in sorted(self.masks)],
        }
        aside = self.out / f".{PROVENANCE}.part"
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        aside.replace(self.out / PROVENANCE)
