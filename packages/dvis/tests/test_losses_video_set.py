from dataclasses import replace

import pytest
import torch

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import Batch, FeatureSpec, ModelOutput, SampleMeta, Step, TrackTarget
from mlkit_dvis.losses.criterion import SetOptions, set_losses
from mlkit_dvis.losses.video_set import (
    VideoSetLoss,
    clip_instances,
    match_clips,
    refined_layers,
)
from mlkit_dvis.refiner.features import RefinedFeatures

SPEC = FeatureSpec(type=RefinedFeatures)
POINTS = torch.rand(1, 80, 2, generator=torch.Generator().manual_seed(4))
FIRST, SECOND = (0, 10), (5, 10)  # iteration and iterations: before and after the switch


@pytest.fixture
def fixed_points(monkeypatch):
    """Read all masks of the loss at the same points, so that order plays no part."""
    monkeypatch.setattr(SetOptions, "sampler", lambda *_: lambda logits: POINTS)


def unread(rows):
    """Return fields of the refiner that the loss does not read."""
    return {"embeds": torch.zeros(1, rows, 1, 1), "frame_weights": torch.zeros(1, 1, rows)}


def refined(seed=0, clips=1, rows=6, frames=3, layers=2, classes=3):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(clips, *shape, generator=generator).requires_grad_()

    return RefinedFeatures(
        logits=rand(rows, classes + 1),
        masks=rand(rows, frames, 4, 5),
        online_logits=rand(rows, classes + 1),
        online_masks=rand(rows, frames, 4, 5),
        **unread(rows),
        aux_logits=rand(layers - 1, rows, classes + 1),
        aux_masks=rand(layers - 1, rows, frames, 4, 5),
    )


def annotated(clips=1, frames=3, labels=(2, 0, 1)):
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(clips, len(labels), frames, 16, 20, generator=generator) > 0.7
    return TrackTarget(masks, torch.tensor(labels).long().expand(clips, -1).clone())


def run(features, target, when=FIRST, seed=0, **options):
    loss = VideoSetLoss({"refined": SPEC}, points=30, **options)
    output = ModelOutput(head=None, scope={"refined": features})
    meta = tuple(SampleMeta(key=str(clip)) for clip in range(len(target.labels)))
    step = Step(*when, torch.Generator().manual_seed(seed))
    return loss(output, Batch(inputs={}, meta=meta, target=target), step)


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name].sum, other[name].sum)
        assert float(one[name].count) == pytest.approx(float(other[name].count))


def recorded(case, dtype):
    """Return the recorded inputs as features and target; logits are repeated over frames there."""
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in case["inputs"].items()
    }
    features = RefinedFeatures(
        logits=inputs["refined_pred_logits"][:, 0],
        masks=inputs["refined_pred_masks"],
        online_logits=inputs["online_pred_logits"],
        online_masks=inputs["online_pred_masks"],
        **unread(8),
        aux_logits=inputs["aux_pred_logits"].transpose(0, 1)[:, :, 0],
        aux_masks=inputs["aux_pred_masks"].transpose(0, 1),
    )
    target = TrackTarget(case["inputs"]["gt_masks"][None] > 0, inputs["gt_labels"][None])
    return features, target, inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mode", "when"), [("online", FIRST), ("refined", SECOND)])
def test_matching_and_losses_equal_the_recorded_ones(oracle, mode, when, dtype):
    case = oracle("losses_case1")
    features, target, inputs = recorded(case, dtype)
    expected = case["outputs"][f"matched_by_{mode}"]
    found = clip_instances(target, features.masks)
    step = Step(*when, torch.Generator())
    queries = match_clips(features, found, inputs["matcher_points"], step, SetOptions())
    # The recording keeps the indices of the layer that was matched last: the auxiliary one.
    order = queries[0].argsort()
    assert torch.equal(queries[0][order], expected["src_idx"])
    assert torch.equal(order, expected["tgt_idx"])
    for index, suffix in enumerate(("_0", "")):
        layer, chosen = refined_layers(features)[index], queries[index]
        parts = set_losses([layer], found, chosen[None], lambda _: inputs["loss_points"])
        for part, name in (("class", "ce"), ("mask", "mask"), ("dice", "dice")):
            value = (parts[part].sum / parts[part].count).item()
            want = expected["losses_unweighted"][f"loss_{name}{suffix}"].item()
            assert value == pytest.approx(want, abs=1e-5)


def contradicting():
    """Return tracks of which the tracker says row 0 and the refiner row 1 is the instance."""
    masks = torch.zeros(1, 1, 2, 8, 8, dtype=torch.bool)
    masks[..., 2:6, 2:6] = True
    right = masks[0, 0, :, ::2, ::2].float() * 20 - 10
    wrong = torch.full_like(right, -10.0)
    logits = torch.zeros(1, 2, 3)
    features = RefinedFeatures(
        logits=logits.clone().requires_grad_(),
        masks=torch.stack([wrong, right])[None],
        online_logits=logits,
        online_masks=torch.stack([right, wrong])[None],
        **unread(2),
        aux_logits=logits[:, None].clone().requires_grad_(),
        aux_masks=torch.stack([wrong, right])[None, None],
    )
    return features, TrackTarget(masks, torch.tensor([[1]]))


@pytest.mark.parametrize(
    ("when", "row"), [((0, 10), 0), ((4, 10), 0), ((5, 10), 1), ((9, 10), 1), ((5, 11), 0)]
)
def test_matching_switches_from_the_tracker_to_the_refiner_at_half(fixed_points, when, row):
    features, target = contradicting()
    parts = run(features, target, when)
    parts["class"].sum.backward()
    for grad in (features.logits.grad[0], features.aux_logits.grad[0, 0]):
        # The matched row is pulled to class 1, the other one to no object.
        assert grad[row].argmin() == 1
        assert grad[1 - row].argmin() == 2
    layers, found = refined_layers(features), clip_instances(target, features.masks)
    expected = set_losses(layers, found, torch.full((2, 1), row), lambda _: POINTS)
    same(parts, SetOptions().weigh(expected))


def test_each_layer_is_matched_by_its_own_outputs_in_the_second_half():
    features, target = contradicting()
    other = replace(features, aux_masks=features.aux_masks.flip(2))
    found, points = clip_instances(target, features.masks), POINTS
    step = Step(*SECOND, torch.Generator())
    queries = match_clips(other, found, points, step, SetOptions())
    assert queries.tolist() == [[0], [1]]
    assert match_clips(features, found, points, step, SetOptions()).tolist() == [[1], [1]]


@pytest.mark.parametrize("when", [FIRST, SECOND])
def test_rows_of_padding_and_instances_never_seen_do_not_matter(fixed_points, when):
    target = annotated()
    noise = torch.rand(1, 1, 3, 16, 20) > 0.5
    masks = torch.cat([noise, target.masks, torch.zeros_like(noise)], 1)
    more = TrackTarget(masks, torch.tensor([[-1, 2, 0, 1, 1]]))
    same(run(refined(), target, when), run(refined(), more, when))


@pytest.mark.parametrize("when", [FIRST, SECOND])
def test_order_of_instances_does_not_matter(fixed_points, when):
    target, order = annotated(), torch.tensor([1, 2, 0])
    moved = TrackTarget(target.masks[:, order], target.labels[:, order])
    same(run(refined(), target, when), run(refined(), moved, when))


@pytest.mark.parametrize("when", [FIRST, SECOND])
def test_two_clips_are_the_sum_of_their_ratios(fixed_points, when):
    features, target = refined(clips=2), annotated(clips=2)
    names = ("logits", "masks", "online_logits", "online_masks", "aux_logits", "aux_masks")
    halves = []
    for clip in (0, 1):
        one = replace(features, **{name: getattr(features, name)[clip, None] for name in names})
        part = TrackTarget(target.masks[clip, None], target.labels[clip, None])
        halves.append(run(one, part, when))
    for name, part in run(features, target, when).items():
        torch.testing.assert_close(part.sum, halves[0][name].sum + halves[1][name].sum)
        counts = float(halves[0][name].count) + float(halves[1][name].count)
        assert float(part.count) == pytest.approx(counts)


@pytest.mark.parametrize("when", [FIRST, SECOND])
def test_gradients_reach_every_layer_but_not_the_tracker(when):
    features = refined(layers=3)
    sum(part.sum for part in run(features, annotated(), when).values()).backward()
    assert (features.aux_logits.grad.abs().sum((0, 3)) > 0).all()
    assert (features.aux_masks.grad.abs().sum((0, 2, 3, 4, 5)) > 0).all()
    assert (features.logits.grad.abs().sum(-1) > 0).all()
    assert features.masks.grad.abs().sum() > 0
    assert features.online_logits.grad is features.online_masks.grad is None


@pytest.mark.parametrize("labels", [(), (-1, -1)])
def test_a_clip_without_instances_still_teaches_the_class(labels):
    features = refined()
    parts = run(features, annotated(labels=labels))
    assert parts["mask"].count == parts["dice"].count == 0.0
    assert float(parts["class"].count) == pytest.approx(0.1 * 6)
    sum(part.sum for part in parts.values()).backward()
    assert (features.logits.grad.abs().sum(-1) > 0).all()


def test_masks_are_counted_by_instance_not_by_frame():
    parts = run(refined(), annotated())
    assert parts["mask"].count == parts["dice"].count == 3.0


def test_a_refiner_without_earlier_layers_trains_its_last_one():
    features = replace(refined(), aux_logits=None, aux_masks=None)
    parts = run(features, annotated())
    assert parts["class"].sum < run(refined(), annotated())["class"].sum


def test_a_missing_input_is_refused():
    with pytest.raises(BuildError, match="a role with RefinedFeatures is needed"):
        VideoSetLoss({"frames": FeatureSpec(vector_dim=2)})
    with pytest.raises(TrainingError, match="1 clips of 3 frames, but the target has 1 of 2"):
        run(refined(), annotated(frames=2))
    with pytest.raises(TrainingError, match="1 clips of 3 frames, but the target has 2 of 3"):
        run(refined(), annotated(clips=2))
    loss = VideoSetLoss({"refined": SPEC})
    batch = Batch(inputs={}, meta=(), target=annotated())
    with pytest.raises(TrainingError, match="role 'refined': expected RefinedFeatures"):
        loss(ModelOutput(head=None, scope={}), batch, Step(0, 1, torch.Generator()))
