"""Raw outputs, targets and two references for the kernel's tests: formulas, and ultralytics'."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from mlkit_cluster.kernel import Grid, Targets, decode_mask, encode_mask, to_canonical
from mlkit_cluster.kernel.raw import RawOutput

STRIDES = (8, 16, 32)


def random_raw(seed: int, grid: Grid, depth: int = 0) -> RawOutput:
    """A raw output whose boxes reach a few cells and whose scores are spread."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    anchors, side = grid.num_anchors, grid.mask_side
    return RawOutput(
        boxes=normal(1, 4 * grid.reg_max, anchors) * 2,
        scores=normal(1, grid.num_classes, anchors) * 2 - 2,
        coefs=normal(1, depth, anchors) if depth else None,
        protos=normal(1, depth, side, side) if depth else None,
        maps={
            f"p{level}": torch.zeros(1, 1, size, size)
            for level, size in zip((3, 4, 5), grid.sides, strict=False)
        },
    )


def random_targets(seed: int, grid: Grid, counts, masks: bool = False) -> Targets:
    """Targets of all sizes for images of so many targets each; masks are discs in the boxes."""
    rng = np.random.default_rng(seed)
    total, side = int(np.sum(counts)), grid.image_size
    sizes = side * rng.uniform(0.02, 1, (total, 2)) ** 2 + 1
    low = rng.uniform(0, 1, (total, 2)) * (side - sizes).clip(0)
    boxes = np.concatenate([low, (low + sizes).clip(max=side)], 1)
    return Targets(
        boxes_xywhn=to_canonical(boxes, side),
        labels=rng.integers(0, grid.num_classes, total).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        masks=tuple(encode_mask(disc(box / 4, side // 4)) for box in boxes) if masks else None,
    )


def disc(box, side: int) -> np.ndarray:
    """The ellipse in a box, `[side, side]` bool."""
    y, x = np.mgrid[:side, :side] + 0.5
    centre, half = (box[:2] + box[2:]) / 2, np.maximum((box[2:] - box[:2]) / 2, 1e-3)
    return ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1


def criterion_of(grid: Grid, masks: bool = False, overlap: bool = False):
    """Ultralytics' own loss for a grid: `(raw, targets of several images) -> items by name`."""
    from ultralytics.utils.loss import v8DetectionLoss, v8SegmentationLoss

    model = torch.nn.Linear(1, 1)
    model.args = SimpleNamespace(box=1.0, cls=1.0, dfl=1.0, overlap_mask=overlap)
    strides = torch.tensor([float(stride) for stride in grid.strides])
    model.model = [SimpleNamespace(stride=strides, nc=grid.num_classes, reg_max=grid.reg_max)]
    loss = (v8SegmentationLoss if masks else v8DetectionLoss)(model)

    @torch.inference_mode()
    def ask(raw: RawOutput, *images) -> dict[str, float]:
        said = {"boxes": raw.boxes, "scores": raw.scores, "feats": [*raw.maps.values()]}
        counts = [len(labels) for _, labels, _ in images]
        batch = {
            "batch_idx": torch.arange(len(images)).repeat_interleave(torch.tensor(counts)),
            "cls": torch.from_numpy(np.concatenate([labels for _, labels, _ in images])).float(),
            "bboxes": torch.from_numpy(np.concatenate([boxes for boxes, _, _ in images])),
        }
        if masks:
            said |= {"mask_coefficient": raw.coefs, "proto": raw.protos}
            batch["masks"] = _masks(images, grid.mask_side, overlap)
        items = loss((None, said), batch)[1]
        return {name.removesuffix("_loss"): float(value) for name, value in items.items()}

    return ask


def _masks(images, side: int, overlap: bool) -> torch.Tensor:
    stacks = [
        np.stack([*map(decode_mask, m)]) if m else np.zeros((0, side, side)) for *_, m in images
    ]
    if not overlap:
        return torch.from_numpy(np.concatenate(stacks)).float()
    merged = np.zeros((len(images), side, side), np.float32)
    for image, stack in zip(merged, stacks, strict=True):
        for index, mask in enumerate(stack):
            image[mask] = index + 1
    return torch.from_numpy(merged)


def relative(found, expected) -> float:
    """Largest `|found - expected| / max(1, |expected|)`; NaN must meet NaN."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if (np.isnan(found) != np.isnan(expected)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def dense_losses(raw: RawOutput, grid: Grid, boxes, labels, masks=None) -> dict[str, float]:
    """One pair's losses in float64 over all anchors and targets, straight from the formulas.

    `sure` says whether every target found ten anchors of positive metric, or all inside it have.
    """
    centres, strides = _anchors(grid)
    logits = raw.scores[0].double().numpy()  # [nc, A]
    bins = raw.boxes[0].double().numpy().reshape(4, grid.reg_max, -1)
    log_probs = bins - np.log(np.exp(bins).sum(1, keepdims=True))
    reach = (np.exp(log_probs) * np.arange(grid.reg_max)[:, None]).sum(1)  # [4, A]
    ours = np.stack([*(centres - reach[:2]), *(centres + reach[2:])]) * strides  # [4, A]
    theirs = _corners(boxes, grid)  # [g, 4]
    inside = _inside(theirs, centres * strides, grid)  # [g, A]
    overlap = np.where(inside, ciou(theirs.T[:, :, None], ours[:, None]).clip(0), 0)
    metric = np.sqrt(1 / (1 + np.exp(-logits[labels]))) * overlap**6
    own, fore, soft = _soft_targets(metric, overlap)
    norm = max(soft.sum(), 1)
    target = theirs[own].T / strides[fore]
    distance = np.stack([*(centres[:, fore] - target[:2]), *(target[2:] - centres[:, fore])])
    box = (soft * (1 - ciou(target, ours[:, fore] / strides[fore]))).sum()
    dfl = (soft * _focal(log_probs[:, :, fore], distance)).sum()
    cls = np.logaddexp(0, logits).sum() - (soft * logits[labels[own], fore]).sum()
    found = {"box": box / norm, "cls": cls / norm, "dfl": dfl / norm, "score_sum": soft.sum()}
    if masks is not None:
        found["seg"] = _mask_loss(raw, theirs[own] / 4, fore, [masks[g] for g in own])
    enough = ((metric > 0).sum(1) >= 10) | ((metric > 0) == inside).all(1)
    return found | {"n_pos": len(fore), "sure": bool(enough.all())}


def _soft_targets(metric, overlap):
    """Targets, anchors and soft scores of the positives, from `[g, A]`."""
    picked = np.zeros(metric.shape, bool)
    for g, row in enumerate(metric):
        best = np.argsort(-row, kind="stable")[:10]
        picked[g, best[row[best] > 0]] = True
    owner = np.where(picked.sum(0) > 1, overlap.argmax(0), picked.argmax(0))
    fore = np.flatnonzero(picked.any(0))
    own = owner[fore]
    held = np.zeros(metric.shape, bool)
    held[own, fore] = True
    top, widest = (metric * held).max(1), (overlap * held).max(1)
    return own, fore, metric[own, fore] * widest[own] / (top[own] + 1e-9)


def ciou(one, two):
    """Complete IoU of corners `[4, …]`, with the criterion's 1e-7."""
    eps = 1e-7
    (x1, y1, x2, y2), (a1, b1, a2, b2) = one, two
    w, h, v, k = x2 - x1, y2 - y1 + eps, a2 - a1, b2 - b1 + eps
    shared = (np.minimum(x2, a2) - np.maximum(x1, a1)).clip(0)
    shared = shared * (np.minimum(y2, b2) - np.maximum(y1, b1)).clip(0)
    iou = shared / (w * h + v * k - shared + eps)
    hull = (np.maximum(x2, a2) - np.minimum(x1, a1)) ** 2
    hull = hull + (np.maximum(y2, b2) - np.minimum(y1, b1)) ** 2 + eps
    away = ((a1 + a2 - x1 - x2) ** 2 + (b1 + b2 - y1 - y2) ** 2) / 4
    shape = 4 / np.pi**2 * (np.arctan(v / k) - np.arctan(w / h)) ** 2
    return iou - away / hull - shape**2 / (1 - iou + shape + eps)


def _anchors(grid: Grid):
    centres, strides = [], []
    for stride in grid.strides:
        side = grid.image_size // stride
        y, x = np.mgrid[:side, :side] + 0.5
        centres.append(np.stack([x.ravel(), y.ravel()]))
        strides.append(np.full(side * side, float(stride)))
    return np.concatenate(centres, 1), np.concatenate(strides)


def _corners(boxes, grid: Grid):
    boxes = np.asarray(boxes, np.float64) * grid.image_size
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def _inside(corners, points, grid: Grid):
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    half = np.where(size < grid.strides[1], grid.strides[1], size) / 2
    away = half[:, :, None] - np.abs(points[None] - centre[:, :, None])  # [g, 2, A]
    return (away > 1e-9).all(1)


def _focal(log_probs, distance):
    far = log_probs.shape[1] - 1 - 0.01
    distance = distance.clip(0, far)
    lower = distance.astype(int)
    sides, places = np.ogrid[:4, : distance.shape[1]]
    near, next_ = log_probs[sides, lower, places], log_probs[sides, lower + 1, places]
    share = distance - lower
    return -(near * (1 - share) + next_ * share).mean(0)


def _mask_loss(raw: RawOutput, crops, anchors, masks) -> float:
    protos, coefs = raw.protos[0].double().numpy(), raw.coefs[0].double().numpy()
    side = protos.shape[1]
    y, x = np.mgrid[:side, :side]
    each = []
    for anchor, (x1, y1, x2, y2), mask in zip(anchors, crops, masks, strict=True):
        logit = np.tensordot(coefs[:, anchor], protos, 1)
        loss = np.logaddexp(0, logit) - logit * decode_mask(mask)
        loss = loss * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2))
        each.append(loss.mean() / ((x2 - x1) * (y2 - y1) / side**2))
    return float(np.mean(each)) if each else 0.0
