"""Contrastive terms over likenesses: supervised contrast, InfoNCE and triplets are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def contrastive_terms(logits: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean over an anchor's positives of `-log(e^l / sum of e^l)`, `[I']`.

    The sum runs over the anchor's positives and negatives; what is neither, as the anchor itself,
    does not count. Anchors without a positive are left out, so that they do not dilute a mean.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2; with one positive
    it is InfoNCE: van den Oord et al., arXiv:1807.03748, eq. 4.

    Args:
        logits: `[I, J]`, likeness over temperature.
        positives: `[I, J]` bool.
        negatives: `[I, J]` bool.
    """
    kept = positives.any(1)
    logits, positives, negatives = logits[kept], positives[kept], negatives[kept]
    compared = logits.masked_fill(~(positives | negatives), -torch.inf)
    logs = logits - compared.logsumexp(1, keepdim=True)
    return -logs.masked_fill(~positives, 0).sum(1) / positives.sum(1)


def triplet_terms(positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Return `max(0, d(a, p) - d(a, n) + margin)` of cosine distances, broadcast.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, eq. 3, with cosine distance.

    Args:
        positives: Cosine of anchor and positive.
        negatives: Cosine of anchor and negative.
        margin: By how much the positive must be nearer.
    """
    return (negatives - positives + margin).clamp_min(0)
