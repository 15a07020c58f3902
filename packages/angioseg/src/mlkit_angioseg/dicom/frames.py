"""Single frames of an XA cine as grey 0..1: decode, rescale, window, invert, in that order."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mlkit_angioseg.dicom.header import read_dataset
from mlkit_core.errors import DataError, PluginError

if TYPE_CHECKING:
    from pathlib import Path

_DECODERS = "pip install 'mlkit-angioseg[gdcm]' (BSD), or 'mlkit-angioseg[jpeg]' (GPL-3.0)"


def read_frame(path: Path, index: int, window: str = "file") -> np.ndarray:
    """Return one frame as grey `[H, W]` float32, 0..1; vessels are dark. No other is decoded.

    Source: DICOM PS3.3 C.11.1 and C.11.2: modality rescale, then the VOI window, then, for
    MONOCHROME1, inversion.

    Args:
        path: An XA cine.
        index: From 0.
        window: "file" takes the file's first window, or all stored bits where it has none; "full"
            takes all stored bits.

    Raises:
        DataError: There is no such frame, it cannot be decoded, or it is no grey picture.
        PluginError: A decoder for its compression is not installed; the message names the extras.
    """
    dataset = _opened(path, path.stat().st_mtime_ns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 0 <= index < frames:
        raise DataError(f"{path}: frame {index} of {frames}: it has 0 to {frames - 1}")
    stored = _decoded(path, index)
    if stored.ndim != 2:
        raise DataError(f"{path}: expected grey frames, got {list(stored.shape)}")
    grey = _scaled(dataset, stored, window)
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        grey = 1 - grey
    return grey.astype(np.float32)


@lru_cache(maxsize=8)
def _opened(path: Path, changed: int) -> Any:  # noqa: ANN401  # pydicom's dataset
    del changed  # a key only: a file that was written anew is read anew
    return read_dataset(path, pixels=False)


def _decoded(path: Path, index: int) -> np.ndarray:
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(path, index=index)
    except (ImportError, RuntimeError, NotImplementedError) as err:
        text = " ".join(str(err).split())
        if "missing dependencies" in text or "plugin" in text or "no available" in text.lower():
            message = f"{path}: no decoder for its compression is installed"
            raise PluginError(message, hint=_DECODERS) from err
        raise DataError(f"{path}: frame {index} cannot be decoded: {text[:200]}") from err
    except (ValueError, AttributeError, KeyError, OSError, EOFError) as err:
        raise DataError(f"{path}: frame {index} cannot be decoded: {err}") from err


def _scaled(dataset: Any, stored: np.ndarray, window: str) -> np.ndarray:  # noqa: ANN401  # pydicom's dataset
    from pydicom.pixels import apply_rescale, apply_voi

    values = apply_rescale(stored, dataset).astype(np.float64)
    if window == "file" and dataset.get("WindowWidth") not in (None, ""):
        return _windowed(dataset, values)
    if window == "file" and dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        looked = apply_voi(stored, dataset).astype(np.float64)
        bits = int(table.LUTDescriptor[2])
        return np.clip(looked / (2**bits - 1), 0, 1)
    low, high = _stored_range(dataset)
    slope = float(dataset.get("RescaleSlope") or 1)
    offset = float(dataset.get("RescaleIntercept") or 0)
    low, high = sorted((low * slope + offset, high * slope + offset))
    return np.clip((values - low) / (high - low), 0, 1)


def _windowed(dataset: Any, values: np.ndarray) -> np.ndarray:  # noqa: ANN401  # pydicom's dataset
    """Return the first window's output 0..1 (PS3.3 C.11.2.1.2.1 and C.11.2.1.3)."""
    centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    kind = str(dataset.get("VOILUTFunction", "LINEAR") or "LINEAR").upper()
    if width <= 0 or (kind == "LINEAR" and width < 1):
        raise DataError(f"window of width {width:g}: it must be positive")
    if kind == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if kind == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _first(value: Any) -> float:  # noqa: ANN401  # pydicom's number or list
    many = hasattr(value, "__iter__") and not isinstance(value, str)
    return float(value[0] if many else value)


def _stored_range(dataset: Any) -> tuple[float, float]:  # noqa: ANN401  # pydicom's dataset
    bits = int(dataset.get("BitsStored") or 8)
    if int(dataset.get("PixelRepresentation") or 0) == 1:
        return -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    return 0.0, 2.0**bits - 1
