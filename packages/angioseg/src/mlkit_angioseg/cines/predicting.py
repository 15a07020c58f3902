"""A run's masks of every frame of a cine, with measurements and where the threshold came from."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from mlkit_angioseg.cines.contrast import best_frame, contrast_score
from mlkit_angioseg.cines.measure import measure
from mlkit_angioseg.cines.reading import Cine, open_cine
from mlkit_angioseg.cines.writing import overlay, read_mask, write_mask
from mlkit_angioseg.dicom.header import describe
from mlkit_angioseg.dicom.segmentation import SegmentedBy, write_segmentation
from mlkit_angioseg.dicom.segmented import segmented_cine
from mlkit_core.errors import BuildError, InputError
from mlkit_core.report.video import VideoWriter
from mlkit_core.run import load_run
from mlkit_core.tensors import to_device
from mlkit_core.training.evaluation import evaluating, stream
from mlkit_core.types import MaskPrediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from mlkit_core.types import Batch

Spacing = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a cine is predicted.

    Args:
        checkpoint: "best", "last", a checkpoint's name or path.
        view: "primary,secondary" in degrees, or a JSON or CSV file; None: the cine's own.
        threshold: Probability that is vessel; None: the run's own, else 0.5.
        spacing_mm: Millimetres per pixel; None: the file's, else pixels.
        write_video: Whether overlay.mp4 is written.
        write_dicom_seg: Whether segmentation.dcm is written; of a DICOM file only.
        told: Called with frames done and frames in all.
    """

    checkpoint: str = "best"
    view: str | None = None
    threshold: float | None = None
    spacing_mm: float | None = None
    write_video: bool = True
    write_dicom_seg: bool = False
    told: Callable[[int, int], None] = lambda _done, _all: None


def predict_cine(run_folder: Path, cine_path: Path, out: Path, wanted: Wanted) -> dict[str, object]:
    """Write masks, overlay and `result.json` of a cine into a folder; return the result.

    Files: `masks/frame-00000.png` (0 and 255), `overlay.mp4`, `best.png` (the frame with the most
    contrast), `result.json`; if wanted `segmentation.dcm`, which alone holds the cine's UIDs.
    Nothing in them names a patient.

    Raises:
        InputError: Run or cine cannot be read, the model gives no binary mask, or a DICOM
            segmentation of what is no DICOM file is wanted.
    """
    segmented = segmented_cine(cine_path) if wanted.write_dicom_seg else None
    cine = open_cine(cine_path)
    threshold, origin = chosen_threshold(run_folder, wanted.threshold)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    spacing, spacing_from = _spacing(cine, wanted.spacing_mm)
    rows: list[dict[str, object]] = []
    scores: list[float] = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for index, probabilities in enumerate(_probabilities(run_folder, cine_path, wanted, about)):
            grey = cine.grey(index)
            mask = _inside(cine, probabilities >= threshold)
            scores.append(contrast_score(grey, cine.inside(grey.shape)))
            write_mask(_mask_path(out, index), mask)
            row = {"frame": index, "contrast": round(scores[-1], 5)}
            rows.append(row | measure(mask, spacing).summary() | _view(cine, index))
            wanted.told(index + 1, len(cine.places))
            yield overlay(grey, mask)

    about: dict[str, object] = {}
    with ExitStack() as files:
        film = out / "overlay.mp4"
        writer = files.enter_context(VideoWriter(film, cine.fps)) if wanted.write_video else None
        for picture in frames():
            if writer is not None:
                writer.write(picture)
    best = best_frame(scores, cine.representative)
    shown = read_mask(_mask_path(out, best))
    Image.fromarray(overlay(cine.grey(best), shown)).save(out / "best.png")
    if segmented is not None:
        by = SegmentedBy(checkpoint=str(about["checkpoint"]), threshold=threshold)
        masks = (read_mask(_mask_path(out, index)) for index in range(len(rows)))
        write_segmentation(out / "segmentation.dcm", segmented, masks, by)
    result: dict[str, object] = {
        "cine": describe(cine.header) if cine.header is not None else {"cine": cine.name},
        **about,
        "threshold": threshold,
        "threshold_from": origin,
        "spacing_mm": list(spacing) if spacing is not None else None,
        "spacing_from": spacing_from,
        "best_frame": best,
        "frames": rows,
    }
    aside = out / ".result.json.part"
    aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    aside.replace(out / "result.json")
    return result


def _mask_path(out: Path, index: int) -> Path:
    return out / "masks" / f"frame-{index:05d}.png"


def chosen_threshold(run_folder: Path, given: float | None) -> tuple[float, str]:
    """Return the threshold and where it came from; test data never chooses it."""
    if given is not None:
        return given, "given"
    path = run_folder / "eval-val.json"
    if path.is_file():
        metrics = json.loads(path.read_text(encoding="utf-8")).get("metrics", {})
        best = metrics.get("mask-overlap.best_threshold")
        if isinstance(best, float):
            return best, "best Dice on split val (eval-val.json)"
    return 0.5, "default; `mlkit eval RUN` on split val chooses one"


def _probabilities(
    run_folder: Path, cine_path: Path, wanted: Wanted, about: dict[str, object]
) -> Iterator[NDArray[np.float32]]:
    """Yield `[H, W]` probabilities of every frame in original pixels; note where they came from."""
    if not run_folder.is_dir():
        raise InputError(f"{run_folder}: not the folder of a run", hint="train one: `mlkit train`")
    stage, engine, path = load_run(run_folder).ready(wanted.checkpoint)
    about |= {
        "checkpoint": path.resolve().name,
        "stage": stage.config.name,
        "weights": dict(stage.weights),
    }
    inputs = {"image": cine_path} | ({"view": wanted.view} if wanted.view is not None else {})
    opened: Iterator[Batch] = stage.data.open(inputs)  # pyright: ignore[reportArgumentType]  # a literal view
    batches = (to_device(batch, engine.device) for batch in opened)
    with evaluating(stage.model), engine.autocast():
        for _, predictions in stream(stage.model, batches):
            (prediction,) = predictions
            if not isinstance(prediction, MaskPrediction) or prediction.probabilities.ndim != 2:
                raise BuildError(f"{run_folder}: its model gives no binary masks")
            yield prediction.probabilities.to(torch.float32).numpy()


def _inside(cine: Cine, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask without what lies under collimator or shutter."""
    open_area = cine.inside(mask.shape)
    return mask if open_area is None else mask & open_area


def _view(cine: Cine, index: int) -> dict[str, object]:
    if cine.header is None or cine.header.angles is None:
        return {}
    primary, secondary = cine.header.angles[index]
    return {"primary_angle": primary, "secondary_angle": secondary}


def _spacing(cine: Cine, given: float | None) -> tuple[Spacing | None, str]:
    if given is not None:
        return (given, given), "given"
    header = cine.header
    if header is None or header.spacing_mm is None:
        return None, "unknown: measured in pixels"
    return header.spacing_mm, header.spacing_at
