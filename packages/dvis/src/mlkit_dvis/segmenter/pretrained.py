"""Weights of a segmenter: its own, or those of a Mask2Former of transformers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_LOG = logging.getLogger("mlkit.dvis")
# Longest first: `model.pixel_level_module.encoder` holds all of a backbone.
_FROM_TRANSFORMERS = (
    ("model.pixel_level_module.encoder.", "backbone."),
    ("model.pixel_level_module.decoder.", "pixel_decoder."),
    ("model.transformer_module.", "transformer."),
    ("class_predictor.", "class_predictor."),
)
_FRESH = ("class_predictor.", "reid_embed.")
_UNUSED = ("criterion.empty_weight",)


def fitting_state(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state that loads strictly, from an own one or from that of transformers.

    Of transformers' the ReID head does not exist, and the class predictor may be of other classes:
    then they stay as they were drawn, and a line says so.

    Args:
        given: What the file holds.
        wanted: The encoder's own.

    Raises:
        WeightsError: Keys are missing, unknown or of another shape.
    """
    theirs = any(key.startswith("model.pixel_level_module.") for key in given)
    state = _renamed(given) if theirs else dict(given)
    fresh = {
        key
        for key, tensor in wanted.items()
        if theirs
        and key.startswith(_FRESH)
        and (key not in state or state[key].shape != tensor.shape)
    }
    if fresh:
        heads = ", ".join(sorted({key.partition(".")[0] for key in fresh}))
        _LOG.warning("segmenter: %s start fresh: the weights are of other classes", heads)
        state |= {key: wanted[key] for key in fresh}
    problems = [f"{key} is missing" for key in wanted if key not in state]
    problems += [f"{key} is unknown" for key in state if key not in wanted]
    problems += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise WeightsError(
            f"mask2former: the weights do not fit: {'; '.join(problems[:4])}{more}",
            hint="check that backbone, sizes and classes are those of the weights; a checkpoint of "
            "the authors first goes through `mlkit dvis convert`",
        )
    return state


def _renamed(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, tensor in given.items():
        prefix = next((p for p in _FROM_TRANSFORMERS if key.startswith(p[0])), None)
        if prefix is not None:
            state[prefix[1] + key.removeprefix(prefix[0])] = tensor
        elif key not in _UNUSED:
            state[key] = tensor
    return state
