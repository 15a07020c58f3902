"""From tracks to the refiner's rows, and from its rows to masks of the original frames.

Source: Zhou et al., "Improving Video Segmentation via Dynamic Anchor Queries", ECCV 2024, whose
offline inference this is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from pycocotools import mask as coco_masks
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlkit_dvis.features import Window
    from mlkit_dvis.results import Rle
    from mlkit_dvis.tracker import Track

OUTSIDE = -1e4
"""Mask logit in the frames in which a track does not exist."""


@dataclass(frozen=True)
class Assembled:
    """Rows over a whole clip.

    Args:
        logits: `[n, K + 1]`, mean over a track's frames, seen or not.
        masks: `[n, T, h, w]` logits, -1e4 where a track does not exist.
        embeds: `[n, T, C]`; before and after a track stands its last fused position.
        padding: `[n, T]` bool, True where a track does not exist.
    """

    logits: Tensor
    masks: Tensor
    embeds: Tensor
    padding: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    def rows(self, index: Tensor) -> Assembled:
        """Return some of the rows, in the order of `index`."""
        return Assembled(*(getattr(self, f.name)[index] for f in fields(self)))

    def joined(self, other: Assembled) -> Assembled:
        """Return these rows, then the others'."""
        if not len(self):
            return other
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return Assembled(*(torch.cat(pair) for pair in pairs))


def kept_tracks(tracks: Sequence[Track], frames: int, noise_frames: int) -> list[Track]:
    """Return the tracks of at least `noise_frames` frames, and those that reach the last one.

    Raises:
        InputError: A track lies outside the `frames`, as the later part of a longer one does.
    """
    kept: list[Track] = []
    for track in tracks:
        stop = track.start + len(track.embeds)
        if stop > frames:
            raise InputError(
                f"track {track.id}: reaches frame {stop - 1} of a clip of {frames} frames",
                hint="assemble whole tracks of a whole video",
            )
        if len(track.embeds) >= noise_frames or stop == frames:
            kept.append(track)
    return kept


def spread_embeds(track: Track, frames: int) -> Tensor:
    """Return a track's embeddings over all frames, `[T, C]`, its last fused position around."""
    spread = track.pos_embed.to(track.embeds.dtype).repeat(frames, 1)
    spread[track.start : track.start + len(track.embeds)] = track.embeds
    return spread


def spread_masks(track: Track, frames: int) -> Tensor:
    """Return a track's mask logits over all frames, `[T, h, w]`, -1e4 where it does not exist."""
    spread = track.masks.new_full((frames, *track.masks.shape[1:]), OUTSIDE)
    spread[track.start : track.start + len(track.masks)] = track.masks
    return spread


def assemble(tracks: Sequence[Track], frames: int, noise_frames: int) -> Assembled:
    """Return the tracks as rows over all `frames`, in order of birth; there may be none.

    Args:
        tracks: Of the whole clip.
        frames: T of the clip.
        noise_frames: Shorter tracks are dropped, unless they reach the last frame.

    Raises:
        InputError: A track lies outside the frames.
    """
    kept = kept_tracks(tracks, frames, noise_frames)
    if not kept:
        nothing = torch.zeros(0, frames)
        return Assembled(
            nothing[:, :1], nothing[..., None, None], nothing[..., None], nothing.bool()
        )
    starts = torch.tensor([track.start for track in kept])[:, None]
    stops = starts + torch.tensor([len(track.embeds) for track in kept])[:, None]
    time = torch.arange(frames)
    return Assembled(
        logits=torch.stack([track.logits.mean(0) for track in kept]),
        masks=torch.stack([spread_masks(track, frames) for track in kept]),
        embeds=torch.stack([spread_embeds(track, frames) for track in kept]),
        padding=((time < starts) | (time >= stops)).to(kept[0].embeds.device),
    )


class Linker:
    """Follows the segmenter's queries from frame to frame by their likeness.

    Source: Huang, Yu and Anandkumar, "MinVIS", NeurIPS 2022, section 3.2.
    """

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def add(self, embeds: Tensor) -> Tensor:
        """Return which query of this frame continues each row, `[Q]`; rows are frame 0's queries.

        Args:
            embeds: `[Q, C]` of the next frame.
        """
        unit = _unit(embeds)
        if self._last is None:
            self._last = unit
            return torch.arange(len(unit), device=unit.device)
        cost = (1 - self._last @ unit.T).cpu().double()
        _, columns = linear_sum_assignment(cost.numpy())
        order = torch.as_tensor(columns, device=unit.device)
        self._last = unit[order]
        return order


def naive_link(pred_embds: Tensor) -> Tensor:
    """Return the order of each frame's queries, `[T, Q]`: that of `Linker`, in one transfer.

    Args:
        pred_embds: `[T, Q, C]`.
    """
    unit = _unit(pred_embds)
    costs = (1 - unit[:-1] @ unit[1:].mT).cpu().double().numpy()
    orders = [np.arange(unit.shape[1])]
    for cost in costs:
        orders.append(linear_sum_assignment(cost[orders[-1]])[1])
    return torch.as_tensor(np.stack(orders), device=unit.device)


def _unit(embeds: Tensor) -> Tensor:
    dtype = torch.promote_types(embeds.dtype, torch.float32)
    return F.normalize(embeds.detach().to(dtype), dim=-1)


def best_scores(logits: Tensor) -> Tensor:
    """Return the probability of the likeliest class but "no object", `[N]`, of `[N, K + 1]`."""
    return logits.softmax(-1)[:, :-1].amax(-1)


def top_tracks(logits: Tensor, topk: int) -> Tensor:
    """Return the indices of the rows of the best scores; of all, in their order, where all fit.

    Args:
        logits: `[N, K + 1]`.
        topk: At most so many.
    """
    if len(logits) <= topk:
        return torch.arange(len(logits), device=logits.device)
    return best_scores(logits).topk(topk, sorted=False).indices


def fill(found: Assembled, window: Window, num_rows: int) -> Assembled:
    """Return the rows, filled up to `num_rows` with the best of the segmenter's linked queries.

    A filler may show an object that is tracked already, as in the published code.

    Args:
        found: Tracks of the clip; left as they are where there are enough.
        window: All frames of the clip.
        num_rows: Rows in all; the segmenter's number of queries where that is less.
    """
    embeds = window.pred_embds[0].permute(1, 2, 0)  # [T, Q, C]
    left = min(num_rows, embeds.shape[1]) - len(found)
    if left <= 0:
        return found
    order = naive_link(embeds)
    time = torch.arange(len(order), device=order.device)[:, None]
    logits = window.pred_logits[0][time, order].mean(0)
    best = top_tracks(logits, left)
    order = order[:, best]  # [T, q]
    linked = Assembled(
        logits=logits[best],
        masks=window.pred_masks[0].transpose(0, 1)[time, order].transpose(0, 1),
        embeds=embeds[time, order].transpose(0, 1),
        padding=torch.zeros_like(order.T, dtype=torch.bool),
    )
    return found.joined(linked)


def refiner_rows(
    tracks: Sequence[Track], window: Window, *, noise_frames: int, topk_tracks: int, num_rows: int
) -> tuple[Assembled, int]:
    """Return what the refiner takes of a clip, and how many of the rows, the first, are tracks.

    Args:
        tracks: Of the whole clip.
        window: All of its frames.
        noise_frames: Shorter tracks are dropped, unless they reach the last frame.
        topk_tracks: Tracks that are kept at most.
        num_rows: Rows in all, as in `fill`; more where more tracks are kept.

    Raises:
        InputError: A track lies outside the frames.
    """
    found = assemble(tracks, window.frames, noise_frames)
    best = found.rows(top_tracks(found.logits, topk_tracks))
    return fill(best, window, num_rows), len(best)


def flattened_topk(logits: Tensor, max_num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, labels and rows of the best (row, class) pairs; a row may come repeatedly.

    Unlike the published code, fewer than `max_num` pairs are no error: then all are returned.

    Args:
        logits: `[N, K + 1]`; the last class is "no object".
        max_num: At most so many pairs.
    """
    scores = logits.softmax(-1)[:, :-1]
    classes = max(scores.shape[1], 1)
    best, index = scores.flatten().topk(min(max_num, scores.numel()), sorted=False)
    return best, index % classes, index // classes


def resize_masks(
    logits: Tensor,
    padded_size: tuple[int, int],
    image_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Tensor:
    """Return masks of the original frames, `[n, t, H, W]` bool: resized twice, as published.

    Args:
        logits: `[n, t, h, w]`.
        padded_size: Height and width of the model's input.
        image_size: Of its part that shows the frame, top left.
        output_size: Of the original frame.
    """
    at_input = _resize(logits, padded_size)[..., : image_size[0], : image_size[1]]
    return _resize(at_input, output_size) > 0


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)


def to_rles(masks: Tensor) -> list[Rle | None]:
    """Return COCO's compressed run lengths of masks `[N, H, W]` bool; None for an empty one."""
    filled = masks.flatten(1).any(1).tolist()
    pixels = masks.to(torch.uint8).cpu().numpy().transpose(1, 2, 0)
    coded: list[Rle] = coco_masks.encode(np.asfortranarray(pixels))  # pyright: ignore[reportAssignmentType]  # one for each mask
    return [
        {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} if some else None
        for rle, some in zip(coded, filled, strict=True)
    ]
