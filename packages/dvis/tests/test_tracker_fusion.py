from dataclasses import replace

import pytest
import torch
from torch import nn

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.model import Model
from mlkit_core.types import (
    Batch,
    Features,
    FeatureSpec,
    ModelOutput,
    RoleSpec,
    SampleMeta,
    Step,
    TrackTarget,
)
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.losses.tracker_set import TrackerSetLoss
from mlkit_dvis.tracker.fusion import TrackerFusion

CLIPS, FRAMES, QUERIES, CLASSES, DIM, SIZE = 2, 4, 6, 3, 8, 16
SPEC = FeatureSpec(
    channels={"p2": DIM},
    strides={"p2": 4},
    token_dim=DIM,
    lead=("clip", "frame"),
    type=SegmenterFeatures,
)


def make_frames(clips=CLIPS, frames=FRAMES):
    g = torch.Generator().manual_seed(1)
    rows, side = clips * frames, SIZE // 4
    return SegmenterFeatures(
        maps={"p2": torch.randn(rows, DIM, side, side, generator=g)},
        tokens=torch.randn(rows, QUERIES, DIM, generator=g),
        valid=torch.ones(clips, frames, dtype=torch.bool),
        logits=torch.randn(rows, QUERIES, CLASSES + 1, generator=g),
        masks=torch.randn(rows, QUERIES, side, side, generator=g),
        queries=torch.randn(QUERIES, DIM, generator=g).expand(rows, -1, -1),
    )


def make_target(clips=CLIPS, frames=FRAMES, instances=5):
    g = torch.Generator().manual_seed(2)
    masks = torch.rand(clips, instances + 1, frames, SIZE, SIZE, generator=g) > 0.7
    labels = torch.arange(instances + 1).expand(clips, -1) % CLASSES
    labels = labels.masked_fill(torch.arange(instances + 1) == instances, -1)
    return TrackTarget(masks, labels)


def make_fusion(**options):
    torch.manual_seed(0)
    sizes = dict(num_queries=QUERIES, layers=2, heads=2, feedforward=16, num_slots=2, points=32)
    return TrackerFusion({"frames": SPEC}, CLASSES, **{**sizes, **options})


def step_at(iteration=0):
    return Step(iteration, 100, torch.Generator().manual_seed(5))


def train(fusion, iteration=0, frames=None, target=None):
    scope = {"frames": make_frames() if frames is None else frames}
    target = make_target() if target is None else target
    return fusion.train()(scope, target=target, step=step_at(iteration))


def part_of(frames, start, stop):
    rows = torch.arange(CLIPS * FRAMES).view(CLIPS, FRAMES)[:, start:stop].flatten()
    return SegmenterFeatures(
        maps={"p2": frames.maps["p2"][rows]},
        tokens=frames.tokens[rows],
        valid=frames.valid[:, start:stop],
        logits=frames.logits[rows],
        masks=frames.masks[rows],
        queries=frames.queries[rows],
    )


def test_training_switches_from_two_frames_to_whole_clips_at_its_iteration():
    fusion = make_fusion(switch_at=10)
    lengths = [len(train(fusion, i).training[0].frames) for i in (0, 9, 10, 99)]
    assert lengths == [2, 2, FRAMES, FRAMES]


def test_the_switch_turns_on_simulated_disappearance():
    fusion = make_fusion(switch_at=10, sub_clip=FRAMES, training_select_threshold=0.0)
    early, late = (train(fusion, i).training[0].slots for i in (9, 10))
    assert not any(output.disappeared for output in early)
    assert all(output.disappeared for output in late)


def test_without_a_switch_whole_clips_are_learned_from_the_start():
    assert len(train(make_fusion()).training[0].frames) == FRAMES


def test_padding_rows_of_the_target_are_no_instances():
    training = train(make_fusion()).training
    assert all(int(o.instances.max()) < 5 for clip in training for o in clip.frames)


def test_training_without_a_target_says_so():
    with pytest.raises(TrainingError, match="no target"):
        make_fusion().train()({"frames": make_frames()}, step=step_at())


def test_a_target_of_other_clips_or_frames_is_refused():
    with pytest.raises(TrainingError, match="2 clips of 4 frames"):
        train(make_fusion(), target=make_target(frames=3))
    with pytest.raises(TrainingError, match="2 clips of 4 frames"):
        train(make_fusion(), target=make_target(clips=1))


def test_in_eval_tracks_of_each_clip_are_those_of_the_tracker_itself():
    fusion = make_fusion().eval()
    frames = make_frames()
    features = fusion({"frames": frames})
    assert features.training is None
    assert len(features.clips) == CLIPS
    second = replace(
        part_of(frames, 0, FRAMES),
        **{name: getattr(frames, name)[FRAMES:] for name in ("tokens", "logits", "masks")},
        maps={"p2": frames.maps["p2"][FRAMES:]},
        queries=frames.queries[FRAMES:],
        valid=frames.valid[1:],
    )
    (alone,) = fusion({"frames": second}).clips
    assert len(alone) == len(features.clips[1])
    for one, other in zip(alone, features.clips[1], strict=True):
        assert torch.equal(one.masks, other.masks)


def test_a_window_goes_on_where_the_last_one_ended():
    fusion = make_fusion(inference_select_threshold=0.4).eval()
    frames = make_frames()
    whole = fusion({"frames": frames}).clips
    first = fusion({"frames": part_of(frames, 0, 3)})
    second = fusion({"frames": part_of(frames, 3, 4)}, state=first.state)
    for clip in range(CLIPS):
        pieces = {}
        for track in (*first.clips[clip], *second.clips[clip]):
            pieces.setdefault(track.id, []).append(track.masks)
        assert sorted(pieces) == [track.id for track in whole[clip]]
        for track in whole[clip]:
            assert torch.equal(torch.cat(pieces[track.id]), track.masks)


def test_a_state_of_other_clips_is_refused():
    fusion = make_fusion().eval()
    state = fusion({"frames": make_frames(clips=1)}).state
    with pytest.raises(BuildError, match="2 clips, got that of 1"):
        fusion({"frames": make_frames()}, state=state)


class _Frames(nn.Module):
    spec, input_shape = SPEC, (3, None, None)

    def forward(self, x):
        return replace(make_frames(), valid=None)


class _Watched(TrackerFusion):
    seen = ()

    def forward(self, scope, *, target=None, state=None, step=None):
        self.seen = (*self.seen, target)
        return super().forward(scope, target=target, state=state, step=step)


def test_a_frozen_tracker_sees_no_target():
    fusion = make_fusion()
    fusion.__class__ = _Watched
    roles = {"frames": RoleSpec(shape=(3, None, None), lead=("clip", "frame"))}
    reads = {"frames": "frames"}
    specs = {"frames": SPEC, "tracks": fusion.spec}
    model = Model(
        {"frames": _Frames()}, {"tracks": fusion}, None, reads=reads, roles=roles, specs=specs
    )
    batch = Batch(
        inputs={"frames": torch.zeros(CLIPS, FRAMES, 3, SIZE, SIZE)},
        meta=tuple(SampleMeta(key=str(clip)) for clip in range(CLIPS)),
        target=make_target(),
        upto="fused",
    )
    trained = model.train()(batch, step=step_at()).scope["tracks"]
    fusion.eval()  # as core does with frozen parts, while the model trains
    frozen = model(batch, step=step_at()).scope["tracks"]
    assert trained.training is not None
    assert frozen.training is None
    assert frozen.clips[0]
    assert fusion.seen == (batch.target, None)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (FeatureSpec(token_dim=DIM, lead=("clip", "frame")), "it gives Features"),
        (replace(SPEC, lead=()), "must have lead"),
        (replace(SPEC, lead=("class", "shot")), "got \\(class, shot\\)"),
        (replace(SPEC, channels={}, strides={}), "no width"),
    ],
)
def test_a_role_that_is_no_segmenter_of_clips_is_refused_at_build(spec, said):
    with pytest.raises(BuildError, match=said):
        TrackerFusion({"image": spec}, CLASSES)


def test_a_segmenter_with_other_queries_is_refused_with_what_to_set():
    with pytest.raises(BuildError, match="100 anchor queries") as caught:
        make_fusion(num_queries=100).eval()({"frames": make_frames()})
    assert "number of queries" in caught.value.hint


def loss_of(features, target, **options):
    loss = TrackerSetLoss({"tracks": FeatureSpec(type=type(features))}, points=32, **options)
    batch = Batch(inputs={}, meta=(), target=target)
    return loss(ModelOutput(head=None, scope={"tracks": features}), batch, step_at())


def values(part):
    return float(part.sum.detach()), float(part.count)


def test_the_loss_has_three_parts_for_each_branch():
    parts = loss_of(train(make_fusion()), make_target())
    assert list(parts) == ["class", "mask", "dice", "slot_class", "slot_mask", "slot_dice"]
    assert all(part.sum.isfinite() and float(part.count) > 0 for part in parts.values())


def test_weights_scale_their_parts_only():
    features, target = train(make_fusion()), make_target()
    ones = loss_of(features, target, class_weight=1, mask_weight=1, dice_weight=1)
    given = loss_of(features, target, class_weight=2, mask_weight=3, dice_weight=5, slot_weight=7)
    worth = {"class": 2, "mask": 3, "dice": 5, "slot_class": 14, "slot_mask": 21, "slot_dice": 35}
    for name, weight in worth.items():
        torch.testing.assert_close(given[name].sum, weight * ones[name].sum)
        assert float(given[name].count) == float(ones[name].count)


def test_parts_of_several_clips_are_divided_by_what_all_of_them_count():
    features, target = train(make_fusion()), make_target()
    both = loss_of(features, target)
    each = [
        loss_of(
            replace(features, training=features.training[clip : clip + 1]),
            TrackTarget(target.masks[clip : clip + 1], target.labels[clip : clip + 1]),
        )
        for clip in range(CLIPS)
    ]
    for name, part in both.items():
        assert float(part.count) == pytest.approx(sum(float(one[name].count) for one in each))
    torch.testing.assert_close(both["class"].sum, each[0]["class"].sum + each[1]["class"].sum)


def test_a_clip_without_instances_teaches_no_masks():
    target = make_target()
    empty = TrackTarget(torch.zeros_like(target.masks), target.labels)
    parts = loss_of(train(make_fusion(), target=empty), empty)
    assert values(parts["mask"]) == values(parts["dice"]) == (0, 0)
    assert values(parts["class"])[0] > 0


def test_a_clip_of_one_frame_teaches_the_slot_branch_nothing():
    target = make_target(frames=1)
    features = train(make_fusion(), frames=make_frames(frames=1), target=target)
    parts = loss_of(features, target)
    assert values(parts["slot_class"]) == values(parts["slot_mask"]) == (0, 0)


def test_the_loss_of_a_frozen_tracker_is_refused():
    features = make_fusion().eval()({"frames": make_frames()})
    with pytest.raises(TrainingError, match="the tracker is frozen"):
        loss_of(features, make_target())


def test_a_model_without_tracker_has_no_such_loss():
    with pytest.raises(BuildError, match="TrackFeatures"):
        TrackerSetLoss({"image": FeatureSpec(type=Features)})


def test_a_clip_is_learned_by_heart_in_80_steps():
    frames, fusion = make_frames(clips=1, frames=3), make_fusion(layers=1)
    shapes = frames.maps["p2"][:, :2].transpose(0, 1) > 0  # what the mask features can draw
    masks = shapes.repeat_interleave(4, -1).repeat_interleave(4, -2)[None]
    target = TrackTarget(masks, torch.tensor([[0, 2]]))
    optimizer = torch.optim.AdamW(fusion.parameters(), lr=1e-2)
    classes = []
    for _ in range(80):
        parts = loss_of(train(fusion, frames=frames, target=target), target)
        loss = sum(part.sum / part.count for part in parts.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        classes.append(values(parts["class"])[0] / values(parts["class"])[1])
    assert classes[-1] < classes[0] / 10
    tracks = fusion.eval()({"frames": frames}).clips[0]
    tracks = [track for track in tracks if float(scores_of(track).max()) > 0.5]
    assert sorted(int(scores_of(track).argmax()) for track in tracks) == [0, 2]
    for track in tracks:
        assert (track.start, len(track.masks)) == (0, 3)
        shape = shapes[int(scores_of(track).argmax()) // 2]
        # Mask losses look mostly at edges, where interpolated truth has no sharp answer.
        assert overlap(track.masks > 0, shape) > 0.9


def scores_of(track):
    return track.logits.mean(0).softmax(-1)[:-1]


def overlap(one, other):
    return float((one & other).sum() / (one | other).sum())
