"""Weights of a segmenter: its own, or those of a Mask2Former of transformers."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from mlkit_core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_LOG = logging.getLogger("mlkit.dvis")
_THEIRS = "model.pixel_level_module."
# A file on the hub names Swin's layers as transformers 4 did; later releases rename on loading.
_FROM_TRANSFORMERS: tuple[tuple[str, str], ...] = (
    (r"^model\.pixel_level_module\.encoder\.", "backbone."),
    (r"^model\.pixel_level_module\.decoder\.", "pixel_decoder."),
    (r"^model\.transformer_module\.", "transformer."),
    (r"^backbone\.(embeddings|encoder\.layers|layernorm)\.", r"backbone.swin.\1."),
    (r"\.attention\.self\.query\.", ".attention.q_proj."),
    (r"\.attention\.self\.key\.", ".attention.k_proj."),
    (r"\.attention\.self\.value\.", ".attention.v_proj."),
    (
        r"\.attention\.self\.relative_position_bias_table$",
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)
# Class weights of the loss; tables of indices, made anew from the window's size.
_UNUSED = re.compile(r"^criterion\.empty_weight$|\.relative_position_index$")
_LAST_NORM = "backbone.swin.layernorm."  # maps do not pass it, and files on the hub lack it
_CLASSES, _REID = "class_predictor.", "reid_embed."


def fitting_state(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state that loads strictly, from an own one or from that of transformers.

    Of transformers' the ReID head does not exist, and the class predictor may be of another number
    of classes: then they stay as they were drawn, and a line says so.

    Args:
        given: What the file holds.
        wanted: The encoder's own.

    Raises:
        WeightsError: Keys are missing, unknown or of another shape.
    """
    if any(key.startswith(_THEIRS) for key in given):
        state = _completed(_renamed(given), wanted)
    else:
        state = dict(given)
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
        if _UNUSED.search(key):
            continue
        name = key
        for pattern, new in _FROM_TRANSFORMERS:
            name = re.sub(pattern, new, name)
        state[name] = tensor
    return state


def _completed(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return transformers' state with what it lacks as it was drawn; a line says what."""
    fresh = [key for key in wanted if key.startswith((_REID, _LAST_NORM)) and key not in state]
    theirs, ours = state.get(f"{_CLASSES}bias"), wanted[f"{_CLASSES}bias"]
    if theirs is not None and theirs.shape != ours.shape:
        fresh += [key for key in wanted if key.startswith(_CLASSES)]
        _LOG.info(
            "mask2former: class_predictor starts fresh: the weights are of %d classes, not of %d",
            len(theirs) - 1,
            len(ours) - 1,
        )
    if any(key.startswith(_REID) for key in fresh):
        _LOG.info("mask2former: reid_embed starts fresh: the weights have none")
    return state | {key: wanted[key] for key in fresh}
