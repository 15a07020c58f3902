"""What became of every key of a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlkit_dvis.convert.layout import Converted


@dataclass(frozen=True)
class Added:
    """A tensor of ours that the checkpoint lacks."""

    new: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The whole of a conversion.

    Args:
        source: The file that was read.
        sha256: Of that file.
        out: The folder that was written.
        classes: Names, by label.
        converted: Tensors and moves.
        shapes: Of the official tensors, by official key.
        added: What the checkpoint lacked.
    """

    source: Path
    sha256: str
    out: Path
    classes: tuple[str, ...]
    converted: Converted
    shapes: Mapping[str, tuple[int, ...]]
    added: tuple[Added, ...]

    @property
    def provenance(self) -> str:
        """What checkpoints and reports say of the weights."""
        return f"sha256:{self.sha256} ({self.source.name})"

    def summary(self) -> dict[str, Any]:
        """Return what was found and how many keys went which way."""
        found = asdict(self.converted.detected)
        return {
            "out": str(self.out),
            "source": {"file": self.source.name, "sha256": self.sha256},
            "detected": found,
            "classes": len(self.classes),
            "converted": len(self.converted.moves),
            "unused": len(self.converted.unused),
            "added": len(self.added),
        }

    def record(self) -> dict[str, Any]:
        """Return the content of `conversion.json`: each official key once, under one of two."""
        moves = [
            {"old": m.old, "new": list(m.new), "shape": list(self.shapes[m.old])}
            for m in self.converted.moves
        ]
        unused = [
            {"old": u.old, "shape": list(self.shapes[u.old]), "reason": u.reason}
            for u in self.converted.unused
        ]
        kept = {k: v for k, v in self.summary().items() if k in ("source", "detected")}
        return {
            **kept,
            "classes": list(self.classes),
            "converted": moves,
            "unused": unused,
            "added": [asdict(one) for one in self.added],
        }

    def text(self) -> str:
        """Return the summary, as lines."""
        found = self.converted.detected
        parts = {"segmenter": found.segmenter, "tracker": found.tracker, "refiner": found.refiner}
        backbone = found.backbone.family if found.backbone is not None else "none"
        shape = found.segmenter
        return "\n".join(
            (
                f"{self.source}: {', '.join(name for name, part in parts.items() if part)}",
                f"backbone {backbone}, {shape.num_queries} queries, {shape.num_classes} classes",
                f"{len(self.converted.moves)} keys converted, {len(self.converted.unused)} unused, "
                f"{len(self.added)} tensors added",
                f"{self.out}: every key in conversion.json",
            )
        )
