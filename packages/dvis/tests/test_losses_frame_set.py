from dataclasses import replace

import pytest
import torch

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import (
    Batch,
    Features,
    FeatureSpec,
    MaskTarget,
    ModelOutput,
    SampleMeta,
    Step,
    TrackTarget,
)
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.losses import frame_set
from mlkit_dvis.losses.criterion import Layer, SetOptions, assign, set_losses
from mlkit_dvis.losses.frame_set import FrameSetLoss, frame_instances
from mlkit_dvis.losses.points import random_points
from mlkit_dvis.losses.reid import ReidLoss

CLASSES, QUERIES, LAYERS = 3, 5, 3
SPEC = FeatureSpec(lead=("clip", "frame"), type=SegmenterFeatures)
POINTS = torch.rand(1, 60, 2, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def fixed_points(monkeypatch):
    """Read all masks of the loss at the same points, so that order plays no part."""
    monkeypatch.setattr(SetOptions, "sampler", lambda *_: lambda logits: POINTS)


def segmented(seed=0, clips=1, frames=3, aux=True):
    generator = torch.Generator().manual_seed(seed)
    rows = clips * frames

    def rand(*shape):
        return torch.randn(rows, *shape, generator=generator).requires_grad_()

    return SegmenterFeatures(
        maps={"p2": torch.zeros(rows, 2, 4, 5)},
        valid=torch.ones(clips, frames, dtype=torch.bool),
        logits=rand(QUERIES, CLASSES + 1),
        masks=rand(QUERIES, 4, 5),
        queries=torch.zeros(rows, QUERIES, 2),
        reid=rand(QUERIES, 6),
        aux_logits=rand(LAYERS - 1, QUERIES, CLASSES + 1) if aux else None,
        aux_masks=rand(LAYERS - 1, QUERIES, 4, 5) if aux else None,
    )


def annotated(seed=0, clips=1, frames=3, labels=(2, 0, 1)):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(clips, len(labels), frames, 16, 20, generator=generator) > 0.7
    if len(labels) > 1:
        masks[:, 1, 0] = False  # the second instance comes later
    return TrackTarget(masks, torch.tensor(labels).long().expand(clips, -1).clone())


def run(loss, features, target, seed=0):
    output = ModelOutput(head=None, scope={"frames": features})
    meta = tuple(SampleMeta(key=str(clip)) for clip in range(len(target.labels)))
    step = Step(0, 1, torch.Generator().manual_seed(seed))
    return loss(output, Batch(inputs={}, meta=meta, target=target), step)


def frame_set_loss(**options):
    return FrameSetLoss({"frames": SPEC}, points=60, **options)


def total(parts):
    return sum(part.sum for part in parts.values())


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name].sum, other[name].sum)
        assert float(one[name].count) == pytest.approx(float(other[name].count))


def test_loss_is_the_sum_over_frames_of_single_image_losses(fixed_points):
    features, target = segmented(), annotated()
    parts = run(frame_set_loss(), features, target)
    points = random_points(60, torch.Generator().manual_seed(0), "cpu", torch.float32)
    sums, counts = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)
    for frame in range(3):
        one = replace(
            features,
            **{
                name: getattr(features, name)[frame : frame + 1]
                for name in ("logits", "masks", "queries", "reid", "aux_logits", "aux_masks")
            },
            maps={},
            valid=torch.ones(1, 1, dtype=torch.bool),
        )
        alone = TrackTarget(target.masks[:, :, frame : frame + 1], target.labels)
        _, found = frame_instances(alone, one, "frames")
        layers = [Layer(one.aux_logits[:, n], one.aux_masks[:, n]) for n in range(LAYERS - 1)]
        layers.append(Layer(one.logits, one.masks))
        queries = assign(layers, found, points, (2.0, 5.0, 5.0))
        for name, part in set_losses(layers, found, queries, lambda _: POINTS).items():
            sums[name] += part.sum.item()
            counts[name] += float(part.count)
    for name, worth in (("class", 2), ("mask", 5), ("dice", 5)):
        assert parts[name].sum.item() == pytest.approx(worth * sums[name], rel=1e-5)
        assert float(parts[name].count) == pytest.approx(counts[name])


def test_only_instances_that_a_frame_shows_are_matched_there():
    target = annotated()
    visible, found = frame_instances(target, segmented(), "frames")
    assert visible[0].tolist() == [[True] * 3, [False, True, True], [True] * 3]
    assert found.rows.tolist() == [0, 1, 2, 1, 2, 0, 1, 2]
    assert found.labels.tolist() == [2, 2, 2, 0, 0, 1, 1, 1]
    parts = run(frame_set_loss(), segmented(), target)
    assert parts["mask"].count == parts["dice"].count == 8.0
    assert float(parts["class"].count) == pytest.approx(8 + 0.1 * 7)


def test_rows_of_padding_do_not_matter(fixed_points):
    target = annotated()
    noise = torch.rand(1, 2, 3, 16, 20) > 0.5  # whatever stands in rows without label
    padded = TrackTarget(
        torch.cat([noise[:, :1], target.masks, noise[:, 1:]], 1), torch.tensor([[-1, 2, 0, 1, -1]])
    )
    same(
        run(frame_set_loss(), segmented(), target),
        run(frame_set_loss(), segmented(), padded),
    )


def test_order_of_instances_does_not_matter(fixed_points):
    target, order = annotated(), torch.tensor([1, 2, 0])
    moved = TrackTarget(target.masks[:, order], target.labels[:, order])
    same(run(frame_set_loss(), segmented(), target), run(frame_set_loss(), segmented(), moved))


def test_two_clips_are_the_sum_of_their_ratios(fixed_points):
    both = segmented(clips=2), annotated(clips=2)
    parts = run(frame_set_loss(), *both)
    halves = []
    for clip in range(2):
        rows = slice(clip * 3, clip * 3 + 3)
        cut = {
            name: getattr(both[0], name)[rows]
            for name in ("logits", "masks", "queries", "reid", "aux_logits", "aux_masks")
        }
        one = replace(both[0], **cut, maps={}, valid=torch.ones(1, 3, dtype=torch.bool))
        target = TrackTarget(both[1].masks[clip, None], both[1].labels[clip, None])
        halves.append(run(frame_set_loss(), one, target))
    for name, part in parts.items():
        torch.testing.assert_close(part.sum, halves[0][name].sum + halves[1][name].sum)
        counts = float(halves[0][name].count) + float(halves[1][name].count)
        assert float(part.count) == pytest.approx(counts)


@pytest.mark.parametrize("labels", [(), (-1, -1)])
def test_a_clip_without_instances_still_teaches_the_class(labels):
    features = segmented()
    parts = run(frame_set_loss(), features, annotated(labels=labels))
    assert parts["mask"].count == parts["dice"].count == 0.0
    assert parts["mask"].sum.item() == 0
    assert float(parts["class"].count) == pytest.approx(0.1 * 15)
    total(parts).backward()
    assert (features.logits.grad.abs().sum(-1) > 0).all()


def test_gradients_reach_every_layers_logits_and_masks():
    features = segmented()
    total(run(frame_set_loss(), features, annotated())).backward()
    assert (features.aux_logits.grad.abs().sum((0, 2, 3)) > 0).all()
    assert (features.aux_masks.grad.abs().sum((0, 2, 3, 4)) > 0).all()
    assert (features.logits.grad.abs().sum(-1) > 0).all()
    assert features.masks.grad.abs().sum() > 0


def test_a_segmenter_without_recorded_layers_trains_its_last_one():
    whole = run(frame_set_loss(), segmented(), annotated())
    last = run(frame_set_loss(), segmented(aux=False), annotated())
    assert last["class"].sum < whole["class"].sum
    assert last["class"].count == whole["class"].count


def test_frames_that_are_padding_do_not_count(fixed_points):
    features = replace(segmented(), valid=torch.tensor([[True, False, True]]))
    changed = annotated()
    changed.masks[:, :, 1] = False
    same(run(frame_set_loss(), features, annotated()), run(frame_set_loss(), features, changed))
    parts = run(frame_set_loss(), features, annotated())
    assert float(parts["class"].count) == pytest.approx(5 + 0.1 * 5)


def test_losses_keep_double_precision():
    wide = {
        name: getattr(segmented(), name).detach().double()
        for name in ("logits", "masks", "aux_logits", "aux_masks")
    }
    parts = run(frame_set_loss(), replace(segmented(), **wide), annotated())
    assert all(part.sum.dtype == torch.float64 for part in parts.values())


def test_frame_set_and_reid_share_one_matching(monkeypatch):
    drawn = []

    def counted(*args):
        drawn.append(args[0])
        return random_points(*args)

    monkeypatch.setattr(frame_set, "random_points", counted)
    features, target = segmented(), annotated()
    output = ModelOutput(head=None, scope={"frames": features})
    batch = Batch(inputs={}, meta=(SampleMeta(key="clip"),), target=target)
    step = Step(0, 1, torch.Generator())
    for loss in (ReidLoss({"frames": SPEC}, points=60), frame_set_loss()):
        loss(output, batch, step)
    assert drawn == [60]
    ReidLoss({"frames": SPEC}, points=30)(output, batch, step)
    assert drawn == [60, 30]  # asked for another matching


def test_a_missing_input_is_refused():
    loss = frame_set_loss()
    with pytest.raises(TrainingError, match="role 'frames': expected SegmenterFeatures"):
        run(loss, Features(vector=torch.zeros(3, 2)), annotated())
    output = ModelOutput(head=None, scope={"frames": segmented()})
    batch = Batch(inputs={}, meta=(), target=MaskTarget(torch.zeros(1, 4, 4)))
    with pytest.raises(TrainingError, match="TrackTarget, got SegmenterFeatures and MaskTarget"):
        loss(output, batch, Step(0, 1, torch.Generator()))
    with pytest.raises(BuildError, match="a role with SegmenterFeatures is needed"):
        FrameSetLoss({})
    with pytest.raises(BuildError, match=r"must have lead \(clip, frame\), got \(\)"):
        FrameSetLoss({"frames": FeatureSpec(type=SegmenterFeatures)})


def test_a_target_of_other_clips_or_frames_is_refused():
    with pytest.raises(TrainingError, match="target has 1 clips of 2 frames"):
        run(frame_set_loss(), segmented(), annotated(frames=2))
    with pytest.raises(TrainingError, match="target has 2 clips of 3 frames"):
        run(frame_set_loss(), segmented(), annotated(clips=2))
