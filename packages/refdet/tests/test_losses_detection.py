"""Detection losses against ultralytics' criterion, and what they teach background anchors."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mlkit_core.errors import BuildError
from mlkit_core.types import Batch, ModelOutput, SampleMeta, Step
from mlkit_refdet.losses.assignment import task_aligned
from mlkit_refdet.losses.branches import dense_rows
from mlkit_refdet.losses.detection import AnchorBce, BoxDfl, BoxIou, distribution_focal
from mlkit_refdet.results import BranchLogits, ReferenceLogits
from mlkit_refdet.targets import ReferenceTarget

SIZE, STRIDES = 96, (8, 16, 32)
GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}


@pytest.fixture
def ultralytics_modules(monkeypatch, tmp_path):
    """Ultralytics' assigner and losses, which ask no network and write into the test's folder."""
    for name, value in (("YOLO_OFFLINE", "1"), ("YOLO_AUTOINSTALL", "0"), ("YOLO_VERBOSE", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    from ultralytics.utils import loss, tal

    return SimpleNamespace(loss=loss, tal=tal)


def grid(size=SIZE):
    """Return centres `[A, 2]` and strides `[A]`."""
    points, strides = [], []
    for stride in STRIDES:
        steps = (torch.arange(size // stride) + 0.5) * stride
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
        strides.append(torch.full((len(points[-1]),), float(stride)))
    return torch.cat(points), torch.cat(strides)


def random_boxes(images, most, seed, size=SIZE):
    """Return boxes `[B, M, 4]` of 3 to 90 px and labels `[B, M]` of 4 classes; image 0 is empty."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(images, most, 2, generator=generator) * size
    sides = 3 + torch.rand(images, most, 2, generator=generator) ** 2 * 87
    boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1).clamp(0, size)
    labels = torch.randint(0, 4, (images, most), generator=generator)
    boxes[0], labels[0] = 0, -1
    boxes[1, 1:], labels[1, 1:] = 0, -1
    return boxes, labels


def target_of(boxes, labels, classes=4):
    every = torch.arange(classes)
    return ReferenceTarget(boxes, labels, every, every, (labels < 0).all(1))


def branch(rows, classes, anchors, seed):
    generator = torch.Generator().manual_seed(seed)
    distances = torch.randn(rows, anchors, 64, generator=generator)
    logits = torch.randn(rows, anchors, classes, generator=generator) - 1
    return BranchLogits(distances.requires_grad_(), logits.requires_grad_())


def call(loss, head, target):
    meta = tuple(SampleMeta(key=str(row)) for row in range(len(target.labels)))
    batch = Batch(inputs={}, meta=meta, target=target)
    return loss(ModelOutput(head=head, scope={}), batch, Step(0, 1, torch.Generator()))


def value(part):
    return part.sum / part.count


def their_losses(modules, distances, logits, boxes, labels):
    """Return ultralytics' box, class and distribution losses with its gains, before times batch."""
    detect = SimpleNamespace(stride=torch.tensor(STRIDES, dtype=torch.float), reg_max=16)
    detect.nc = logits.shape[-1]
    model = nn.Linear(1, 1)
    model.args, model.model = SimpleNamespace(**GAINS), [detect]
    rows, columns = (labels >= 0).nonzero(as_tuple=True)
    corners = boxes[rows, columns] / SIZE
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    batch = {
        "batch_idx": rows.float(),
        "cls": labels[rows, columns].float(),
        "bboxes": torch.cat([centres, corners[:, 2:] - corners[:, :2]], 1),
    }
    preds = {
        "boxes": distances.transpose(1, 2),
        "scores": logits.transpose(1, 2),
        "feats": [torch.zeros(len(labels), 1, SIZE // s, SIZE // s) for s in STRIDES],
    }
    return modules.loss.v8DetectionLoss(model)(preds, batch)[0] / len(labels)


def our_losses(head, target, part):
    losses = (BoxIou(variant="ciou"), AnchorBce(), BoxDfl())
    parts = [value(call(loss, head, target)[part]) for loss in losses]
    return torch.stack([p * gain for p, gain in zip(parts, GAINS.values(), strict=True)])


@pytest.mark.parametrize("seed", range(3))
def test_the_standard_branch_equals_ultralytics_criterion(ultralytics_modules, seed):
    points, strides = grid()
    boxes, labels = random_boxes(4, 5, seed)
    given = branch(4, 4, len(points), seed)
    head = ReferenceLogits(points, strides, standard=given)
    ours = our_losses(head, target_of(boxes, labels), "standard")
    theirs = their_losses(ultralytics_modules, given.distances, given.logits, boxes, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours.sum().backward()
    grads = given.distances.grad, given.logits.grad
    want = torch.autograd.grad(theirs.sum(), (given.distances, given.logits))
    for got, wanted in zip(grads, want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


def test_images_without_objects_equal_ultralytics_criterion(ultralytics_modules):
    points, strides = grid()
    boxes, labels = torch.zeros(3, 2, 4), torch.full((3, 2), -1)
    given = branch(3, 4, len(points), seed=5)
    head = ReferenceLogits(points, strides, standard=given)
    ours = our_losses(head, target_of(boxes, labels), "standard")
    theirs = their_losses(ultralytics_modules, given.distances, given.logits, boxes, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours[1] > 1
    assert ours[0] == ours[2] == 0


def test_each_pair_is_a_detector_of_one_class(ultralytics_modules):
    points, strides = grid()
    boxes, labels = random_boxes(3, 4, seed=1)
    asked = torch.tensor([[0, 2], [3, 1], [2, -1]])
    given = branch(6, 1, len(points), seed=2)
    head = ReferenceLogits(points, strides, pairs=given, asked=asked)
    kept = [0, 1, 2, 3, 4]  # the last pair is none
    own = torch.stack([torch.where(labels[k // 2] == asked.flatten()[k], 0, -1) for k in kept])
    truth = torch.stack([boxes[k // 2] for k in kept]) * (own >= 0)[..., None]
    theirs = their_losses(
        ultralytics_modules, given.distances[kept], given.logits[kept], truth, own
    )
    assert (own >= 0).any()
    ours = our_losses(head, target_of(boxes, labels), "pairs")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_columns_of_classes_outside_the_support_learn_nothing():
    points, strides = grid()
    boxes, labels = random_boxes(3, 4, seed=1)
    labels = torch.where(labels > 1, -1, labels)
    target = ReferenceTarget(
        boxes, labels, torch.tensor([5, 2]), torch.arange(2), (labels < 0).all(1)
    )
    given = branch(3, 7, len(points), seed=2)
    parts = call(AnchorBce(), ReferenceLogits(points, strides, standard=given), target)
    value(parts["standard"]).backward()
    touched = given.logits.grad.abs().sum((0, 1)) > 0
    assert touched.nonzero().flatten().tolist() == [2, 5]
    alone = BranchLogits(given.distances, given.logits[..., [5, 2]].detach())
    same = call(
        AnchorBce(),
        ReferenceLogits(points, strides, standard=alone),
        target_of(boxes, labels, classes=2),
    )
    torch.testing.assert_close(value(parts["standard"]), value(same["standard"]))


@pytest.mark.parametrize("loss", [AnchorBce, BoxIou, BoxDfl])
def test_two_rows_of_one_class_teach_its_logit_as_one_row_does(loss):
    points, strides = grid()
    boxes, labels = random_boxes(4, 4, seed=1)
    rows = torch.where(labels > 2, -1, labels)  # rows 0 and 2 are class 1 by different photos
    whole = torch.where(rows == 2, 0, rows)
    ids, empty = torch.tensor([1, 0, 1]), (rows < 0).all(1)
    twice = ReferenceTarget(boxes, rows, ids, ids, empty)
    once = ReferenceTarget(boxes, whole, ids[:2], ids[:2], empty)
    assert {0, 1, 2} <= {*rows.flatten().tolist()}
    found = []
    for target in (twice, once):
        given = branch(4, 4, len(points), seed=2)
        head = ReferenceLogits(points, strides, standard=given)
        part = value(call(loss(), head, target)["standard"])
        free = (given.distances, given.logits)
        grads = torch.autograd.grad(part, free, allow_unused=True, materialize_grads=True)
        found.append((part, *grads))
    for two_rows, one_row in zip(*found, strict=True):
        torch.testing.assert_close(two_rows, one_row)


@pytest.mark.parametrize("seed", range(6))
def test_the_assignment_equals_ultralytics_exactly(ultralytics_modules, seed):
    points, strides = grid()
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = random_boxes(5, 7, seed)
    scores = torch.rand(5, len(points), 4, generator=generator)
    sides = torch.rand(5, len(points), 4, generator=generator) * 40
    predicted = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    # Some anchors predict a true box nearly, so that several boxes compete for them.
    near = boxes[:, torch.arange(len(points)) % 7] + torch.randn(
        5, len(points), 4, generator=generator
    )
    predicted = torch.where(
        torch.rand(5, len(points), 1, generator=generator) < 0.5, near, predicted
    )
    ours = task_aligned(scores, predicted, (points, strides), boxes, labels)
    assigner = ultralytics_modules.tal.TaskAlignedAssigner(
        topk=10, num_classes=4, alpha=0.5, beta=6.0, stride=list(STRIDES)
    )
    real = (labels >= 0)[..., None]
    _, their_boxes, their_scores, foreground, index = assigner(
        scores, predicted, points, labels.clamp_min(0)[..., None], boxes, real
    )
    assert torch.equal(ours.foreground, foreground)
    assert torch.equal(ours.truth, index[foreground])
    assert torch.equal(boxes[ours.rows, ours.truth], their_boxes[foreground])
    torch.testing.assert_close(ours.quality, their_scores.sum(-1)[foreground], rtol=1e-5, atol=1e-6)
    assert len(ours.rows) > 20


def test_distribution_focal_equals_ultralytics(ultralytics_modules):
    generator = torch.Generator().manual_seed(0)
    distances = torch.randn(9, 64, generator=generator)
    targets = torch.rand(9, 4, generator=generator) * 14.99
    targets[0] = torch.tensor([0.0, 14.99, 3.0, 7.5])
    theirs = ultralytics_modules.loss.DFLoss(16)(distances.view(-1, 16), targets.clone())
    torch.testing.assert_close(distribution_focal(distances, targets), theirs[:, 0])


def test_only_background_gives_a_loss_that_falls():
    points, strides = grid()
    target = target_of(torch.zeros(2, 1, 4), torch.full((2, 1), -1))
    given = branch(2, 4, len(points), seed=0)
    pairs = branch(4, 1, len(points), seed=1)
    asked = torch.tensor([[0, 1], [2, 3]])
    head = ReferenceLogits(points, strides, given, pairs, asked)
    optimizer = torch.optim.Adam([given.logits, pairs.logits], lr=0.1)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        parts = call(AnchorBce(), head, target)
        assert {part.count.item() for part in parts.values()} == {1.0}
        total = sum(value(part) for part in parts.values())
        total.backward()
        optimizer.step()
        seen.append(float(total.detach()))
    assert seen[0] > 100
    assert all(later < earlier for earlier, later in pairwise(seen))


def test_fifty_steps_on_four_images_leave_background_below_a_tenth():
    points, strides = grid()
    boxes = torch.zeros(4, 2, 4)  # image 0 shows nothing
    boxes[1, 0] = torch.tensor([20.0, 30.0, 52.0, 58.0])
    boxes[2, 0] = torch.tensor([2.0, 2.0, 40.0, 44.0])
    boxes[2, 1] = torch.tensor([50.0, 48.0, 94.0, 90.0])
    boxes[3, 0] = torch.tensor([10.0, 8.0, 88.0, 86.0])
    labels = torch.tensor([[-1, -1], [1, -1], [0, 3], [2, -1]])
    target = target_of(boxes, labels)
    asked = torch.tensor([[0, 1, 2, 3]] * 4)
    given, pairs = branch(4, 4, len(points), 0), branch(16, 1, len(points), 1)
    head = ReferenceLogits(points, strides, given, pairs, asked)
    losses = nn.ModuleList([BoxIou(), AnchorBce(), BoxDfl()])
    free = [given.distances, given.logits, pairs.distances, pairs.logits]
    optimizer = torch.optim.Adam(free, lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        step = Step(0, 1, torch.Generator())
        meta = tuple(SampleMeta(key=str(row)) for row in range(4))
        batch, output = Batch(inputs={}, meta=meta, target=target), ModelOutput(head=head, scope={})
        parts = [loss(output, batch, step) for loss in losses]
        gains = GAINS.values()
        sum(
            g * value(p) for g, part in zip(gains, parts, strict=True) for p in part.values()
        ).backward()
        optimizer.step()
    for name in ("standard", "pairs"):
        rows = dense_rows(output, batch, Step(0, 1, torch.Generator()), name)
        scores = rows.logits.sigmoid().amax(-1)
        found = rows.assignment
        assert scores[~found.foreground].max() < 0.1, name
        for row, box in (rows.truth_labels >= 0).nonzero().tolist():
            own = (found.rows == row) & (found.truth == box)
            assert scores[found.rows[own], found.anchors[own]].max() > 0.5, (name, row)


def test_positives_only_never_sees_background_and_is_best_at_yes():
    points, strides = grid()
    boxes, labels = random_boxes(3, 3, seed=2)
    target = target_of(boxes, labels)
    given = branch(3, 4, len(points), seed=0)
    head = ReferenceLogits(points, strides, standard=given)
    part = call(AnchorBce(positives_only=True), head, target)["standard"]
    value(part).backward()
    found = dense_rows(
        ModelOutput(head=head, scope={}),
        Batch(inputs={}, meta=(), target=target),
        Step(0, 1, torch.Generator()),
        "standard",
    ).assignment
    assert torch.equal(given.logits.grad.abs().sum(-1) > 0, found.foreground)
    picked = given.logits.detach()[found.rows, found.anchors]
    wanted = nn.functional.one_hot(labels[found.rows, found.truth], 4).float()
    by_hand = nn.functional.binary_cross_entropy(picked.sigmoid(), wanted, reduction="sum")
    torch.testing.assert_close(value(part).detach(), by_hand / len(found.rows))


def test_one_assignment_serves_all_losses_of_a_batch(monkeypatch):
    from mlkit_refdet.losses import branches

    calls = []
    monkeypatch.setattr(
        branches, "task_aligned", lambda *args: calls.append(1) or task_aligned(*args)
    )
    points, strides = grid()
    boxes, labels = random_boxes(2, 3, seed=2)
    head = ReferenceLogits(points, strides, standard=branch(2, 4, len(points), 0))
    output = ModelOutput(head=head, scope={})
    batch = Batch(inputs={}, meta=(), target=target_of(boxes, labels))
    step = Step(0, 1, torch.Generator())
    for loss in (BoxIou(), AnchorBce(), BoxDfl()):
        loss(output, batch, step)
    assert len(calls) == 1


@pytest.mark.parametrize("loss", [AnchorBce, BoxIou, BoxDfl])
def test_a_branch_with_weight_that_the_head_lacks_is_refused(loss):
    points, strides = grid()
    boxes, labels = random_boxes(2, 3, seed=2)
    head = ReferenceLogits(points, strides, standard=branch(2, 4, len(points), 0))
    target = target_of(boxes, labels)
    assert set(call(loss(), head, target)) == {"standard"}
    with pytest.raises(BuildError, match="needs the head's pairs logits, got standard"):
        call(loss(pairs_weight=1.0), head, target)
    with pytest.raises(BuildError, match="needs the head's standard or pairs logits"):
        call(loss(standard_weight=0.0), head, target)
    with pytest.raises(BuildError, match="nor both 0"):
        loss(standard_weight=0.0, pairs_weight=0.0)


def test_branch_weights_scale_their_parts():
    points, strides = grid()
    boxes, labels = random_boxes(2, 3, seed=2)
    asked = torch.tensor([[0, 1], [2, 3]])
    head = ReferenceLogits(
        points, strides, branch(2, 4, len(points), 0), branch(4, 1, len(points), 1), asked
    )
    target = target_of(boxes, labels)
    for loss in (AnchorBce, BoxDfl):
        plain = call(loss(), head, target)
        weighed = call(loss(standard_weight=3.0, pairs_weight=0.5), head, target)
        torch.testing.assert_close(weighed["standard"].sum, 3 * plain["standard"].sum)
        torch.testing.assert_close(weighed["pairs"].sum, 0.5 * plain["pairs"].sum)


def test_asked_classes_and_rows_must_fit_the_target():
    points, strides = grid()
    boxes, labels = random_boxes(2, 3, seed=2)
    target = target_of(boxes, labels)
    pairs = branch(4, 1, len(points), 1)
    outside = ReferenceLogits(points, strides, None, pairs, torch.tensor([[0, 4], [1, 2]]))
    with pytest.raises(BuildError, match="class 4, but the support has 4 classes"):
        call(AnchorBce(), outside, target)
    with pytest.raises(BuildError, match="does not say which classes were asked"):
        call(AnchorBce(), ReferenceLogits(points, strides, None, pairs), target)
    novel = ReferenceLogits(points, strides, standard=branch(2, 3, len(points), 0))
    with pytest.raises(BuildError, match="has 3 classes, the target's highest is 3"):
        call(AnchorBce(), novel, target)
