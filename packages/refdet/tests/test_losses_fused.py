"""Contrast on fused maps: positive anchors by class (SupCon) and the head's own boxes (CPE)."""

import math
from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning import losses, reducers
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError
from mlkit_core.types import FeatureSpec, ModelOutput, Step
from mlkit_refdet.features import LEVELS, PairFeatures
from mlkit_refdet.losses.branches import dense_rows
from mlkit_refdet.losses.contrast import contrastive_terms
from mlkit_refdet.losses.example import fused_example
from mlkit_refdet.losses.proposal_contrast import ProposalContrast
from mlkit_refdet.losses.region_supcon import RegionSupCon
from mlkit_refdet.results import BINS, BranchLogits


def unit(rows, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1)


@pytest.fixture
def fused_case(tmp_path):
    """Output, batch and specs of six pairs."""
    torch.manual_seed(0)
    example = fused_example(tmp_path)
    output, batch, _ = example.args
    return output, batch, example.context["inputs"]


def step():
    return Step(0, 1, torch.Generator().manual_seed(0))


def value(part):
    return float((part.sum / part.count).detach())


# SupCon


def test_contrastive_terms_equal_pytorch_metric_learning_on_labels():
    z, labels = unit(16, 8), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 4, 5, 5, 6, 6])
    same = labels[:, None] == labels
    positives = same & ~torch.eye(16, dtype=torch.bool)
    ours = contrastive_terms(z @ z.T / 0.07, positives, ~same)
    theirs = losses.SupConLoss(temperature=0.07)(z, labels)
    assert len(ours) == 15  # label 3 is alone, and does not dilute the mean
    torch.testing.assert_close(ours.mean(), theirs, rtol=1e-5, atol=1e-5)


def test_one_positive_is_cross_entropy():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    positives = torch.zeros(5, 7, dtype=torch.bool)
    positives[:, 2] = True
    wanted = F.cross_entropy(logits, torch.full((5,), 2), reduction="none")
    torch.testing.assert_close(contrastive_terms(logits, positives, ~positives), wanted)


def test_anchors_prototypes_and_background_equal_pytorch_metric_learning(fused_case):
    _, _, specs = fused_case
    loss = RegionSupCon(specs)
    classes, categories = torch.tensor([0, 0, 2, 1, 0, 2]), torch.arange(4)
    anchors, background, protos = unit(6, 128, 1), unit(9, 128, 2), unit(4, 128, 3)
    own = protos.expand(6, -1, -1)
    ours = loss.terms(torch.cat([anchors, background]), own, classes, categories)
    labels = torch.cat([classes, categories, torch.arange(10, 19)])  # background: all alone
    each = losses.SupConLoss(temperature=0.07, reducer=reducers.DoNothingReducer())
    theirs = each(torch.cat([anchors, protos, background]), labels)["loss"]["losses"][:6]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_anchor_meets_the_prototypes_of_its_own_level(fused_case):
    _, _, specs = fused_case
    loss = RegionSupCon(specs, temperature=1.0)
    z, categories = torch.eye(2, 128), torch.arange(2)
    own = torch.stack([torch.eye(2, 128), torch.eye(2, 128).flip(0)])  # each its level's
    terms = loss.terms(z, own, torch.tensor([0, 1]), categories)
    # Anchor 0: cosine 1 with its own prototype, 0 with the other one and with the other anchor.
    # Anchor 1 is on a level whose prototypes are swapped: 0 with its own, 1 with the other.
    good, bad = math.log(1 + 2 * math.exp(-1)), math.log(2 + math.e)
    assert terms.tolist() == pytest.approx([good, bad])
    swapped = loss.terms(z, own.flip(0), torch.tensor([0, 1]), categories)
    assert swapped.tolist() == pytest.approx([bad, good])


def test_anchors_and_prototypes_of_one_category_are_no_negatives(fused_case):
    _, _, specs = fused_case
    loss, z, own = RegionSupCon(specs), unit(2, 128), unit(3, 128, 1).expand(2, -1, -1)
    kin = loss.terms(z, own, torch.tensor([0, 1]), torch.tensor([5, 5, 6]))
    for index in range(2):
        logits = torch.stack([z[index] @ own[0, index], z[index] @ own[0, 2]]) / 0.07
        wanted = F.cross_entropy(logits[None], torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(kin[index], wanted)


def test_supcon_reads_positive_anchors_of_the_fused_pairs(fused_case):
    output, batch, specs = fused_case
    fused = output.scope["fused"]
    pairs = {level: maps.clone().requires_grad_() for level, maps in fused.pairs.items()}
    protos = {level: p.clone().requires_grad_() for level, p in fused.class_protos.items()}
    scope = {"fused": replace(fused, pairs=pairs, class_protos=protos)}
    part = RegionSupCon(specs, background=0)(ModelOutput(output.head, scope), batch, step())[
        "pairs"
    ]
    part.sum.backward()
    found = dense_rows(output, batch, step(), "pairs")
    reached = torch.cat(
        [(maps.grad.flatten(0, 1).abs().sum(1) > 0).flatten(1) for maps in pairs.values()], 1
    )
    wanted = torch.zeros_like(reached)
    wanted[found.rows[found.assignment.rows], found.assignment.anchors] = True
    assert torch.equal(reached, wanted)
    assert part.count == wanted.sum() > 3
    assert all(p.grad.abs().sum() > 0 for p in protos.values())


def test_background_anchors_are_negatives_that_are_drawn_alike_by_one_seed(fused_case):
    output, batch, specs = fused_case
    loss = RegionSupCon(specs, background=64)
    once, again = (value(loss(output, batch, step())["pairs"]) for _ in range(2))
    none = RegionSupCon(specs, background=0)
    none.load_state_dict(loss.state_dict())
    assert once == again > value(none(output, batch, step())["pairs"])


def test_supcon_without_positive_anchors_counts_nothing(fused_case):
    output, batch, specs = fused_case
    empty = replace(batch.target, labels=torch.full_like(batch.target.labels, -1))
    for loss in (RegionSupCon(specs), ProposalContrast(specs)):
        part = loss(output, replace(batch, target=empty), step())["pairs"]
        assert (float(part.sum.detach()), part.count) == (0, 0)


@pytest.mark.parametrize("kind", [RegionSupCon, ProposalContrast])
def test_missing_pairs_are_refused(fused_case, kind):
    output, batch, specs = fused_case
    loss, fused = kind(specs), output.scope["fused"]
    with pytest.raises(BuildError, match="needs the head's pairs logits, got none"):
        loss(replace(output, head=replace(output.head, pairs=None)), batch, step())
    with pytest.raises(BuildError, match="needs `pairs` of levels p3, p4, p5, got none"):
        loss(replace(output, scope={"fused": replace(fused, pairs={})}), batch, step())
    with pytest.raises(BuildError, match="role 'fused': needs PairFeatures, got NoneType"):
        loss(replace(output, scope={}), batch, step())
    with pytest.raises(BuildError, match="needs ReferenceLogits and ReferenceTarget, got NoneType"):
        loss(replace(output, head=None), batch, step())
    with pytest.raises(BuildError, match="on: a role with PairFeatures is needed"):
        kind({"support": specs["support"]})


def test_supcon_without_prototypes_or_their_width_is_refused(fused_case):
    output, batch, specs = fused_case
    scope = {"fused": replace(output.scope["fused"], class_protos={})}
    with pytest.raises(BuildError, match="needs `class_protos` of every level, got none"):
        RegionSupCon(specs)(replace(output, scope=scope), batch, step())
    with pytest.raises(BuildError, match="no support role publishes the prototypes' width"):
        RegionSupCon({"fused": specs["fused"]})
    RegionSupCon({"fused": specs["fused"]}, proto_dim=8)
    even = FeatureSpec(
        channels=dict.fromkeys(LEVELS, 8), strides=specs["fused"].strides, type=PairFeatures
    )
    RegionSupCon({"fused": even})


def test_prototypes_go_through_the_level_s_own_projection_where_widths_agree(fused_case):
    _, _, specs = fused_case
    projection = RegionSupCon(specs).projection  # prototypes have 8, p3 8, p4 12, p5 16 channels
    assert sorted(projection.first_of_prototypes) == ["p4", "p5"]
    protos = unit(2, 8)
    z = projection.of_prototypes(dict.fromkeys(LEVELS, protos))
    by_hand = projection.second(projection.first["p3"](protos).relu())
    torch.testing.assert_close(z[0], F.normalize(by_hand, dim=1))


# CPE


def test_proposal_contrast_by_hand(fused_case):
    _, _, specs = fused_case
    loss = ProposalContrast(specs)
    # Two boxes of class 0 that fit (.9, .7), one that fits less (.6), one of background (.2), one
    # of class 1 (.8) that is alone in its class. Directions: e0, e0, e1, e1, e2.
    z = torch.eye(3)[[0, 0, 1, 1, 2]]
    fit, classes = torch.tensor([0.9, 0.7, 0.6, 0.2, 0.8]), torch.tensor([0, 0, 0, 0, 1])
    terms = loss.terms(z, classes, fit, torch.arange(2))
    # Anchors 0 and 1: e^5 for the other, 1 for the three others; partners: e^5's and 1's box.
    whole = math.log(math.exp(5) + 3)
    by_hand = ((whole - 5) + whole) / 2
    assert terms.tolist() == pytest.approx([by_hand, by_hand])
    linear = ProposalContrast(specs, reweight="linear").terms(z, classes, fit, torch.arange(2))
    assert linear.tolist() == pytest.approx([0.9 * by_hand, 0.7 * by_hand])
    growing = ProposalContrast(specs, reweight="exp").terms(z, classes, fit, torch.arange(2))
    gains = [math.exp(0.9) - 1, math.exp(0.7) - 1]
    assert growing.tolist() == pytest.approx([gain * by_hand for gain in gains])
    strict = ProposalContrast(specs, min_iou=0.8).terms(z, classes, fit, torch.arange(2))
    assert strict.tolist() == pytest.approx([by_hand])


def test_proposal_contrast_equals_supcon_where_every_box_fits(fused_case):
    _, _, specs = fused_case
    z, classes = unit(10, 128), torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 1, 2])
    terms = ProposalContrast(specs).terms(z, classes, torch.ones(10), torch.arange(3))
    theirs = losses.SupConLoss(temperature=0.2)(z, classes)
    torch.testing.assert_close(terms.mean(), theirs, rtol=1e-5, atol=1e-5)


def exact_head(output, batch):
    """Return the head's output with every pair's first true box predicted, with certainty, once."""
    head, asked = output.head, output.head.asked.flatten()
    distances = torch.full((len(asked), len(head.points), 4, BINS), 0.0)
    distances[..., 0] = 50.0  # no size
    logits = torch.full((len(asked), len(head.points), 1), -5.0)
    for pair, label in enumerate(asked.tolist()):
        own = (batch.target.labels[pair // 2] == label) & (label >= 0)
        for box in batch.target.boxes_xyxy[pair // 2][own][:1]:
            logits[pair, -1] = 5.0  # a cell of p5: its centre is whole bins from no edge in general
            sides = torch.cat([head.points[-1] - box[:2], box[2:] - head.points[-1]]) / 32
            low = sides.floor().clamp(0, 14).long()
            share = (sides - low).clamp(1e-6, 1 - 1e-6)
            distances[pair, -1] = -50.0
            distances[pair, -1, range(4), low] = (1 - share).log()
            distances[pair, -1, range(4), low + 1] = share.log()
    return replace(head, pairs=BranchLogits(distances.flatten(2), logits))


def test_proposals_are_the_best_boxes_of_a_pair_and_the_true_ones(fused_case):
    output, batch, specs = fused_case
    # The boxes hold the centre of the last cell, (48, 48), so that it can predict them.
    box = torch.tensor([34.0, 36.0, 60.0, 61.0])
    target = replace(
        batch.target,
        boxes_xyxy=box.expand(3, 2, -1),
        labels=torch.tensor([[0, -1], [0, 1], [-1, -1]]),
    )
    batch = replace(batch, target=target)
    rows = dense_rows(replace(output, head=exact_head(output, batch)), batch, step(), "pairs")
    loss = ProposalContrast(specs, proposals=2)
    boxes, row, fit = loss._proposals(rows)
    assert row.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 2, 3]
    shown = {0, 2, 3}  # pairs asked for a class that the image shows: image 1 shows 1 and 0
    assert fit[:10:2].tolist() == pytest.approx([float(r in shown) for r in range(5)], abs=1e-3)
    assert fit[1:10:2].max() < 0.5
    assert (fit[10:] == 1).all()
    torch.testing.assert_close(boxes[10:], box.expand(3, 4))
    alone = ProposalContrast(specs, proposals=2, true_boxes=False)._proposals(rows)
    assert torch.equal(alone[2], fit[:10])


def test_a_box_on_another_class_s_object_is_background(fused_case):
    output, batch, specs = fused_case
    box = torch.tensor([34.0, 36.0, 60.0, 61.0])
    shows_1 = torch.tensor([[1, -1], [1, -1], [-1, -1]])  # pairs 1 and 2 ask for it, 0 and 3 not
    right = replace(batch.target, boxes_xyxy=box.expand(3, 2, -1), labels=shows_1)
    both = replace(right, labels=torch.tensor([[1, 0], [1, 0], [-1, -1]]))
    head = exact_head(output, replace(batch, target=both))  # boxes in all four pairs
    rows = dense_rows(replace(output, head=head), replace(batch, target=right), step(), "pairs")
    loss = ProposalContrast(specs, proposals=1, true_boxes=False)
    assert loss._proposals(rows)[2].tolist() == pytest.approx([0, 1, 1, 0, 0], abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "options"), [(RegionSupCon, {"background": 0}), (ProposalContrast, {})]
)
def test_the_order_of_images_changes_nothing_with_a_left_out_pair_among_them(
    fused_case, kind, options
):
    output, batch, specs = fused_case
    loss, fused, head, target = (
        kind(specs, **options),
        output.scope["fused"],
        output.head,
        batch.target,
    )
    wanted = value(loss(output, batch, step())["pairs"])
    assert wanted > 0

    def turned(rows):
        return rows.unflatten(0, (3, 2)).flip(0).flatten(0, 1)

    assert head.asked.flip(0).flatten().tolist().index(-1) == 1
    pairs = BranchLogits(turned(head.pairs.distances), turned(head.pairs.logits))
    maps = {level: values.flip(0) for level, values in fused.pairs.items()}
    moved = replace(
        output,
        head=replace(head, pairs=pairs, asked=head.asked.flip(0)),
        scope={"fused": replace(fused, pairs=maps)},
    )
    flipped = replace(target, boxes_xyxy=target.boxes_xyxy.flip(0), labels=target.labels.flip(0))
    got = value(loss(moved, replace(batch, target=flipped), step())["pairs"])
    assert got == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", [RegionSupCon, ProposalContrast])
def test_both_reach_the_fused_maps_and_the_projection(fused_case, kind):
    output, batch, specs = fused_case
    fused = output.scope["fused"]
    pairs = {level: maps.clone().requires_grad_() for level, maps in fused.pairs.items()}
    scope, loss = {"fused": replace(fused, pairs=pairs)}, kind(specs)
    part = loss(replace(output, scope=scope), batch, step())["pairs"]
    assert part.count > 0
    part.sum.backward()
    assert all(maps.grad.abs().sum() > 0 for maps in pairs.values())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


def test_thirty_steps_of_supcon_pull_a_class_together(fused_case):
    output, batch, specs = fused_case
    fused, loss = output.scope["fused"], RegionSupCon(specs)
    pairs = {level: maps.clone().requires_grad_() for level, maps in fused.pairs.items()}
    scope = {"fused": replace(fused, pairs=pairs)}
    optimizer = torch.optim.Adam([*pairs.values(), *loss.parameters()], lr=0.02)
    seen = []
    for _ in range(30):
        optimizer.zero_grad()
        part = loss(replace(output, scope=scope), batch, step())["pairs"]
        (part.sum / part.count).backward()
        optimizer.step()
        seen.append(value(part))
    assert seen[-1] < seen[0] / 2
