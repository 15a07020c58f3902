"""Losses of regions and prototypes before fusion: triplet and InfoNCE."""

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError
from mlkit_core.types import Batch, FeatureSpec, ModelOutput, SampleMeta, Step
from mlkit_refdet.features import LEVELS, STRIDES, QueryFeatures, SupportFeatures
from mlkit_refdet.losses.contrast import triplet_terms
from mlkit_refdet.losses.region_infonce import RegionInfoNce
from mlkit_refdet.losses.region_triplet import RegionTriplet
from mlkit_refdet.losses.regions import (
    box_levels,
    cell_features,
    hardest_locations,
    in_order,
    level_of,
    region_embeddings,
    region_features,
)
from mlkit_refdet.targets import ReferenceTarget, TripletOnlyTarget, TripletTarget

SIZE, DIM = 256, 6
SIDES = {level: SIZE // STRIDES[level] for level in LEVELS}
SPECS = {
    "query": FeatureSpec(channels=dict.fromkeys(LEVELS, DIM), strides=STRIDES, type=QueryFeatures),
    "support": FeatureSpec(token_dim=DIM, lead=("class", "shot"), type=SupportFeatures),
}
# One box for each level: 40, 80 and 160 px.
BOXES = torch.tensor(
    [[64.0, 64.0, 104.0, 104.0], [32.0, 96.0, 112.0, 176.0], [48.0, 64.0, 208.0, 224.0]]
)


def random_embed(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        level: torch.randn(images, DIM, side, side, generator=generator, dtype=torch.float64)
        for level, side in SIDES.items()
    }


def random_protos(classes, shots=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        level: F.normalize(
            torch.randn(classes * shots, DIM, generator=generator, dtype=torch.float64), dim=-1
        )
        for level in LEVELS
    }


def painted(images, boxes, inside, outside):
    """Return maps that hold one direction where an image's box lies and one elsewhere."""
    embed = {}
    for level, side in SIDES.items():
        values = torch.zeros(images, DIM, side, side, dtype=torch.float64)
        values[:, outside] = 1
        for image, box in enumerate(boxes):
            if box is None:
                continue
            # A cell more on each side: samples near the edge read it by interpolation.
            x0, y0, x1, y1 = (box / STRIDES[level]).tolist()
            rows, columns = slice(int(y0) - 1, int(y1) + 2), slice(int(x0) - 1, int(x1) + 2)
            values[image, :, rows, columns] = 0
            values[image, inside[image], rows, columns] = 1
        embed[level] = values
    return embed


def basis(*directions):
    """Return prototypes of one shot each, the same on every level."""
    eye = torch.eye(DIM, dtype=torch.float64)[list(directions)]
    return dict.fromkeys(LEVELS, eye)


def scope(embed, protos, classes):
    shots = len(protos["p3"]) // classes if protos else 1
    valid = torch.ones(classes, shots, dtype=torch.bool)
    return {
        "query": QueryFeatures(maps={}, embed=embed),
        "support": SupportFeatures(maps={}, protos=protos, valid=valid),
    }


def target_of(boxes, labels, triplets=(), categories=None, kind=TripletTarget):
    """Return a target; triplets are (anchor, positive image, negative image, is background)."""
    boxes, labels = torch.stack(boxes).double(), torch.tensor(labels)
    count = int(labels.max()) + 1 if categories is None else len(categories)
    anchors, positives, negatives, empty = zip(*triplets, strict=True) if triplets else [()] * 4
    every = torch.arange(count)
    return kind(
        boxes_xyxy=boxes,
        labels=labels,
        class_ids=every,
        category_ids=every if categories is None else torch.tensor(categories),
        background=(labels < 0).all(1),
        anchors=torch.tensor(anchors, dtype=torch.long),
        positives=torch.tensor(positives, dtype=torch.long),
        negatives=torch.tensor(negatives, dtype=torch.long),
        is_background=torch.tensor(empty, dtype=torch.bool),
    )


def call(loss, embed, protos, target):
    meta = tuple(SampleMeta(key=str(row)) for row in range(len(target.labels)))
    batch = Batch(inputs={}, meta=meta, target=target)
    output = ModelOutput(head=None, scope=scope(embed, protos, len(target.class_ids)))
    return loss(output, batch, Step(0, 1, torch.Generator()))


def value(part):
    return float((part.sum / part.count).detach())


# Regions


def test_a_boxes_level_follows_the_root_of_its_area():
    sides = torch.tensor(
        [[63.9, 63.9], [64.0, 64.0], [32.0, 512.0], [127.9, 127.9], [128.0, 128.0]]
    )
    boxes = torch.cat([torch.zeros(5, 2), sides], 1)
    assert box_levels(boxes, [8, 16, 32]).tolist() == [0, 1, 2, 1, 2]


def test_a_region_of_a_ramp_is_the_centre_of_its_box():
    # Bilinear samples of a linear map are exact, so their mean is the map at the centre.
    maps = {}
    for level, side in SIDES.items():
        steps = (torch.arange(side, dtype=torch.float64) + 0.5) * STRIDES[level]
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        maps[level] = torch.stack([torch.stack([x, y]), torch.stack([-x, y])])
    boxes = torch.cat([BOXES, BOXES + 10]).double()
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    parts, level = region_features(maps, boxes, rows)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    centres[3:, 0] *= -1
    torch.testing.assert_close(in_order(parts), centres)
    assert level.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(level_of(parts), level)


def test_moving_the_box_changes_the_embedding():
    embed = random_embed(1)
    rows = torch.zeros(3, dtype=torch.long)
    z, _ = region_embeddings(embed, BOXES.double(), rows)
    moved, _ = region_embeddings(embed, BOXES.double() + torch.tensor([[20], [40], [80]]), rows)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert ((z * moved).sum(1) < 0.95).all()


def test_cells_are_read_as_the_head_counts_them():
    embed = random_embed(2)
    flat = torch.cat([values.flatten(2) for values in embed.values()], 2)  # [2, D, A]
    anchors = torch.tensor([0, 1343, 1024, 5, 1279, 1280])
    rows = torch.tensor([0, 1, 1, 0, 1, 0])
    torch.testing.assert_close(
        in_order(cell_features(embed, rows, anchors)), flat[rows, :, anchors]
    )


def test_hardest_locations_are_the_highest_cosines_of_all_levels():
    embed, protos = random_embed(3), torch.stack([*random_protos(2, shots=1).values()])
    got = hardest_locations(embed, torch.tensor([2, 0]), protos, 7)
    for i, column in ((0, 0), (1, 1)):
        for b, image in enumerate((2, 0)):
            cosines = torch.cat(
                [
                    F.cosine_similarity(
                        embed[name][image].flatten(1), protos[order, column, :, None], 0
                    )
                    for order, name in enumerate(LEVELS)
                ]
            )
            torch.testing.assert_close(got[i, b], cosines.sort(descending=True).values[:7])


# Triplet


def test_triplet_terms_equal_pytorch_metric_learning():
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(12, DIM, generator=generator), dim=1)
    anchors, positives, negatives = (torch.arange(4) + 4 * part for part in range(3))
    cosine = z @ z.T
    ours = triplet_terms(cosine[anchors, positives], cosine[anchors, negatives], 0.3)
    for reducer, mine in (
        (reducers.MeanReducer(), ours.mean()),
        (reducers.AvgNonZeroReducer(), ours[ours > 0].mean()),
    ):
        theirs = losses.TripletMarginLoss(
            margin=0.3, distance=distances.CosineSimilarity(), reducer=reducer
        )
        torch.testing.assert_close(mine, theirs(z, indices_tuple=(anchors, positives, negatives)))
    assert 0 < (ours > 0).sum() < 4


@pytest.mark.parametrize("reduction", ["mean", "active"])
def test_the_component_equals_pytorch_metric_learning_on_its_regions(reduction):
    embed, protos = random_embed(4), random_protos(4, shots=1)
    boxes = [BOXES[[order % 3]].repeat(1, 1) for order in range(4)]
    triplets = [(0, 0, 1, False), (1, 1, 2, False), (2, 2, 3, False), (3, 3, 0, False)]
    target = target_of(boxes, [[0], [1], [2], [3]], triplets)
    part = call(RegionTriplet(SPECS, reduction=reduction), embed, protos, target)["cross_class"]
    z, level = region_embeddings(embed, torch.cat(boxes).double(), torch.arange(4))
    rows = []
    for anchor, positive, negative, _ in triplets:
        # The anchor differs by level, so that each comparison has a prototype of its own.
        own = [protos[LEVELS[level[image]]][anchor] for image in (positive, negative)]
        cosines = [
            F.cosine_similarity(p, z[i], 0) for p, i in zip(own, (positive, negative), strict=True)
        ]
        rows.append(torch.stack(cosines))
    cosines = torch.stack(rows)
    theirs = (cosines[:, 1] - cosines[:, 0] + 0.3).clamp_min(0)
    wanted = theirs.mean() if reduction == "mean" else theirs[theirs > 0].mean()
    assert value(part) == pytest.approx(float(wanted))
    # Where all boxes lie on one level, the library itself can be asked.
    boxes = [BOXES[[0]] + 8 * order for order in range(4)]
    target = target_of(boxes, [[0], [1], [2], [3]], triplets)
    part = call(RegionTriplet(SPECS, reduction=reduction), embed, protos, target)["cross_class"]
    z, _ = region_embeddings(embed, torch.cat(boxes).double(), torch.arange(4))
    reducer = reducers.MeanReducer() if reduction == "mean" else reducers.AvgNonZeroReducer()
    library = losses.TripletMarginLoss(0.3, distance=distances.CosineSimilarity(), reducer=reducer)
    every = torch.cat([protos["p3"], z])
    a, p, n = (torch.tensor(column) for column in list(zip(*triplets, strict=True))[:3])
    assert value(part) == pytest.approx(float(library(every, indices_tuple=(a, p + 4, n + 4))))


def test_a_perfect_embedding_has_no_triplet_loss_and_a_swapped_one_more_than_the_margin():
    # Image 0 shows class 0, image 1 class 1, image 2 nothing; direction 5 is background.
    boxes = [BOXES[[1]], BOXES[[0]], BOXES[[0]] * 0]
    triplets = [(0, 0, 1, False), (0, 0, 2, True), (1, 1, 0, False), (1, 1, 2, True)]
    target = target_of(boxes, [[0], [1], [-1]], triplets)
    embed = painted(3, [BOXES[1], BOXES[0], None], inside=[0, 1, None], outside=5)
    perfect = call(RegionTriplet(SPECS), embed, basis(0, 1), target)
    assert [value(part) for part in perfect.values()] == [0, 0]
    swapped = call(RegionTriplet(SPECS), embed, basis(1, 0), target)
    assert value(swapped["cross_class"]) == pytest.approx(1.3)
    empty = painted(3, [None, None, BOXES[2]], inside=[None, None, 0], outside=5)
    like_class_0 = call(RegionTriplet(SPECS), empty, basis(0, 1), target)
    # The object's region is like nothing, the empty image like class 0: 1 + .3 and .3.
    assert value(like_class_0["background"]) == pytest.approx((1.3 + 0.3) / 2)


def test_the_hardest_cells_of_an_empty_image_are_the_negatives():
    target = target_of([BOXES[[0]], BOXES[[0]] * 0], [[0], [-1]], [(0, 0, 1, True)])
    embed = painted(2, [BOXES[0], None], inside=[0, None], outside=5)
    embed["p4"][1, :, 3, 4] = torch.tensor([0.8, 0.6, 0, 0, 0, 0], dtype=torch.float64)
    one = call(RegionTriplet(SPECS, k=1), embed, basis(0), target)
    assert value(one["background"]) == pytest.approx(0.8 - 1 + 0.3)
    two = call(RegionTriplet(SPECS, k=2), embed, basis(0), target)
    assert value(two["background"]) == pytest.approx(0.1 / 2)
    active = call(RegionTriplet(SPECS, k=2, reduction="active"), embed, basis(0), target)
    assert value(active["background"]) == pytest.approx(0.1)


def test_type_weights_scale_their_part_and_zero_leaves_it_out():
    boxes = [BOXES[[0]], BOXES[[1]], BOXES[[0]] * 0]
    target = target_of(boxes, [[0], [1], [-1]], [(0, 0, 1, False), (0, 0, 2, True)])
    given = (random_embed(3), random_protos(2), target)
    plain = call(RegionTriplet(SPECS, margin=2.0), *given)
    weighed = call(RegionTriplet(SPECS, margin=2.0, cross_class_weight=5.0), *given)
    assert value(weighed["cross_class"]) == pytest.approx(5 * value(plain["cross_class"]))
    assert set(call(RegionTriplet(SPECS, background_weight=0), *given)) == {"cross_class"}
    with pytest.raises(BuildError, match="must not both be 0"):
        RegionTriplet(SPECS, background_weight=0, cross_class_weight=0)


def test_objects_of_the_anchors_category_are_no_negatives():
    boxes = [BOXES[[0, 1]], BOXES[[1, 0]]]
    labels, triplets = [[0, -1], [1, 2]], [(0, 0, 1, False)]
    given = random_embed(2), random_protos(3)
    every = call(RegionTriplet(SPECS, margin=2.0), *given, target_of(boxes, labels, triplets))
    kin = target_of(boxes, labels, triplets, categories=[7, 7, 9])  # class 1 is of 0's category
    got = call(RegionTriplet(SPECS, margin=2.0), *given, kin)
    alone = target_of(boxes, [[0, -1], [-1, 2]], triplets, categories=[7, 7, 9])
    wanted = call(RegionTriplet(SPECS, margin=2.0), *given, alone)
    assert value(got["cross_class"]) == pytest.approx(value(wanted["cross_class"]))
    assert value(got["cross_class"]) != pytest.approx(value(every["cross_class"]), abs=1e-3)
    kin = target_of(boxes, labels, triplets, categories=[7, 7, 7])
    with pytest.raises(BuildError, match="no object of another category"):
        call(RegionTriplet(SPECS), *given, kin)


def test_both_kinds_of_triplet_targets_serve():
    boxes, triplets = [BOXES[[0]], BOXES[[1]]], [(0, 0, 1, False)]
    given = random_embed(2), random_protos(2)
    parts = [
        value(
            call(RegionTriplet(SPECS), *given, target_of(boxes, [[0], [1]], triplets, kind=kind))[
                "cross_class"
            ]
        )
        for kind in (TripletTarget, TripletOnlyTarget)
    ]
    assert parts[0] == parts[1] > 0


def test_triplets_reach_queries_and_references():
    embed, protos = random_embed(2), random_protos(2)
    for values in (*embed.values(), *protos.values()):
        values.requires_grad_()
    target = target_of([BOXES, BOXES], [[0, 0, 0], [1, 1, 1]], [(0, 0, 1, False)])
    call(RegionTriplet(SPECS, margin=2.0), embed, protos, target)["cross_class"].sum.backward()
    for level in LEVELS:
        assert embed[level].grad.abs().sum() > 0
        assert protos[level].grad[:2].abs().sum() > 0


def test_triplets_without_what_they_need_are_refused():
    boxes = [BOXES[[0]], BOXES[[1]]]
    target = target_of(boxes, [[0], [1]], [(0, 0, 1, False)])
    embed, protos = random_embed(2), random_protos(2)
    with pytest.raises(BuildError, match="'query': has no `embed`"):
        call(RegionTriplet(SPECS), {}, protos, target)
    with pytest.raises(BuildError, match="'support': has no `protos`"):
        call(RegionTriplet(SPECS), embed, {}, target)
    with pytest.raises(BuildError, match="no prototypes of level p5"):
        call(RegionTriplet(SPECS), embed, {"p3": protos["p3"], "p4": protos["p4"]}, target)
    with pytest.raises(BuildError, match="the batch has none"):
        call(RegionTriplet(SPECS), embed, protos, target_of(boxes, [[0], [1]]))
    with pytest.raises(BuildError, match="shows no box of the anchor's class"):
        call(RegionTriplet(SPECS), embed, protos, target_of(boxes, [[0], [1]], [(0, 1, 0, False)]))
    with pytest.raises(BuildError, match="support: a role with SupportFeatures is needed"):
        RegionTriplet({"query": SPECS["query"]})


# InfoNCE


def loop_infonce(embed, protos, target, temperature=0.1, hardest=10):
    """Return both parts by loops over objects and `cross_entropy`."""
    categories, shots = target.category_ids.tolist(), len(protos["p3"]) // len(target.class_ids)
    found = [
        (row, label, box)
        for row, labels in enumerate(target.labels.tolist())
        for box, label in zip(target.boxes_xyxy[row], labels, strict=True)
        if label >= 0
    ]

    def proto(level, label):
        return F.normalize(protos[level][label * shots : (label + 1) * shots].mean(0), dim=0)

    regions = []
    for row, _, box in found:
        z, level = region_embeddings(embed, box[None], torch.tensor([row]))
        regions.append((z[0], LEVELS[int(level)]))
    first = torch.zeros(1, dtype=torch.long)
    to_region, to_prototype = [], []
    for index, (_, label, _) in enumerate(found):
        z, level = regions[index]
        wrong = [c for c, k in enumerate(categories) if k != categories[label]]
        logits = torch.stack([z @ proto(level, c) for c in (label, *wrong)])
        to_region.append(F.cross_entropy(logits[None] / temperature, first))
        logits = [z @ proto(level, label)]
        for (other, at), (_, theirs, _) in zip(regions, found, strict=True):
            if categories[theirs] != categories[label]:
                logits.append(other @ proto(at, label))
        for image in target.background.nonzero()[:, 0].tolist():
            cosines = [
                F.cosine_similarity(embed[at][image].flatten(1), proto(at, label)[:, None], 0)
                for at in LEVELS
            ]
            logits += list(torch.cat(cosines).sort(descending=True).values[:hardest])
        to_prototype.append(F.cross_entropy(torch.stack(logits)[None] / temperature, first))
    return float(torch.stack(to_region).mean()), float(torch.stack(to_prototype).mean())


def infonce_case(categories=None):
    boxes = [BOXES[[0, 2]], BOXES[[1, 0]], BOXES[[0, 1]] * 0, BOXES[[2, 1]], BOXES[[0, 1]] * 0]
    labels = [[0, 0], [1, 0], [-1, -1], [2, -1], [-1, -1]]
    target = target_of(boxes, labels, categories=categories or [0, 1, 2, 3, 4])
    return random_embed(5), random_protos(5), target


@pytest.mark.parametrize("categories", [None, [0, 1, 0, 2, 2]])
def test_region_infonce_equals_cross_entropy_object_by_object(categories):
    case = infonce_case(categories)
    parts = call(RegionInfoNce(SPECS), *case)
    region, prototype = loop_infonce(*case)
    assert value(parts["region"]) == pytest.approx(region)
    assert value(parts["prototype"]) == pytest.approx(prototype)
    few = call(RegionInfoNce(SPECS, hardest=2, temperature=0.5), *case)
    wanted = loop_infonce(*case, temperature=0.5, hardest=2)
    assert [value(part) for part in few.values()] == pytest.approx(wanted)


def test_every_class_of_the_bank_is_a_negative_of_a_region():
    embed, protos, target = infonce_case()
    whole = call(RegionInfoNce(SPECS), embed, protos, target)
    fewer = {level: values[:6] for level, values in protos.items()}
    asked = target_of([*target.boxes_xyxy], target.labels.tolist(), categories=[0, 1, 2])
    part = call(RegionInfoNce(SPECS), embed, fewer, asked)
    assert value(whole["region"]) > value(part["region"]) + 0.01
    assert value(whole["prototype"]) == pytest.approx(value(part["prototype"]))


def test_a_class_without_photos_is_no_negative():
    embed, protos, target = infonce_case()
    output = ModelOutput(head=None, scope=scope(embed, protos, 5))
    output.scope["support"].valid[4] = False
    part = RegionInfoNce(SPECS)(
        output, Batch(inputs={}, meta=(), target=target), Step(0, 1, torch.Generator())
    )["region"]
    fewer = {level: values[:8] for level, values in protos.items()}
    known = target_of([*target.boxes_xyxy], target.labels.tolist(), categories=[0, 1, 2, 3])
    wanted = call(RegionInfoNce(SPECS), embed, fewer, known)["region"]
    assert value(part) == pytest.approx(value(wanted))


def test_perfect_regions_have_nearly_no_infonce():
    # 40 px and 80 px boxes of classes 0 and 1, one empty image: cosine 1 against 0, over 0.1.
    target = target_of([BOXES[[0]], BOXES[[1]], BOXES[[0]] * 0], [[0], [1], [-1]])
    embed = painted(3, [BOXES[0], BOXES[1], None], inside=[0, 1, None], outside=5)
    good = call(RegionInfoNce(SPECS), embed, basis(0, 1), target)
    # log(1 + n e^-10): n = 1 other class, or 1 other region and 10 cells.
    assert value(good["region"]) == pytest.approx(4.54e-5, rel=1e-3)
    assert value(good["prototype"]) == pytest.approx(11 * 4.54e-5, rel=1e-2)


def test_infonce_reaches_queries_and_all_references():
    embed, protos, target = infonce_case()
    for values in (*embed.values(), *protos.values()):
        values.requires_grad_()
    parts = call(RegionInfoNce(SPECS), embed, protos, target)
    (parts["region"].sum + parts["prototype"].sum).backward()
    for level in LEVELS:
        assert embed[level].grad.abs().sum() > 0
        assert (protos[level].grad.abs().sum(1) > 0).all()


def test_infonce_with_nothing_to_compare_is_refused():
    one = target_of([BOXES[[0]]], [[0]])
    with pytest.raises(BuildError, match="no class of another category and no background"):
        call(RegionInfoNce(SPECS), random_embed(1), random_protos(1), one)
    kin = target_of([BOXES[[0]]], [[0]], categories=[3, 3])
    with pytest.raises(BuildError, match="no class of another category and no background"):
        call(RegionInfoNce(SPECS), random_embed(1), random_protos(2), kin)
    embed, protos, target = infonce_case()
    with pytest.raises(BuildError, match="has no `embed`"):
        call(RegionInfoNce(SPECS), {}, protos, target)
    with pytest.raises(BuildError, match="has no `protos`"):
        call(RegionInfoNce(SPECS), embed, {}, target)
    with pytest.raises(BuildError, match="5 images do not fit 1"):
        call(RegionInfoNce(SPECS), embed, random_protos(1), one)


def test_infonce_of_empty_images_alone_counts_nothing():
    target = target_of([BOXES[[0]] * 0], [[-1]], categories=[0, 1])
    parts = call(RegionInfoNce(SPECS), random_embed(1), random_protos(2), target)
    assert [(float(part.sum), part.count) for part in parts.values()] == [(0, 0), (0, 0)]


def test_regions_are_read_once_for_all_losses_of_a_batch(monkeypatch):
    from mlkit_refdet.losses import roles

    calls = []
    monkeypatch.setattr(
        roles, "region_embeddings", lambda *args: calls.append(1) or region_embeddings(*args)
    )
    boxes = [BOXES[[0]], BOXES[[1]]]
    target = target_of(boxes, [[0], [1]], [(0, 0, 1, False)])
    assert isinstance(target, ReferenceTarget)
    output = ModelOutput(head=None, scope=scope(random_embed(2), random_protos(2), 2))
    batch, step = Batch(inputs={}, meta=(), target=target), Step(0, 1, torch.Generator())
    RegionTriplet(SPECS)(output, batch, step)
    RegionInfoNce(SPECS)(output, batch, step)
    assert len(calls) == 1
