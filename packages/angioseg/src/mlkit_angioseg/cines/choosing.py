"""The frame of a whole cine that is filled best with contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_angioseg.cines.contrast import best_frame, contrast_score

if TYPE_CHECKING:
    from mlkit_angioseg.cines.reading import Cine


def proposed_frame(cine: Cine) -> int:
    """Return the index that `mlkit angioseg frames` proposes; every frame is decoded once."""
    scores = [contrast_score(grey, cine.inside(grey.shape)) for grey in cine]
    return best_frame(scores, cine.representative)
