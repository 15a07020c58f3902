import pytest
import torch

from mlkit_core.errors import InputError
from mlkit_dvis.features import Window
from mlkit_dvis.losses.tracker_set import level_losses, make_lesson
from mlkit_dvis.tracker import ClipTruth, DAQTracker, TrainOptions
from mlkit_dvis.tracker.training import add_newcomers, better_half, find_absent, match_frames
from mlkit_dvis.tracker.truth import FrameMatch, FrameOutput

CRITERION = ("stage", "eos_coef", "forced_disappear_pick", "aux_select_threshold")
CRITERION += ("params_without_grad", "cost_class", "cost_mask", "cost_dice")
NAMES = {"class": "loss_ce", "mask": "loss_mask", "dice": "loss_dice"}
QUERIES, DIM, CLASSES = 8, 8, 3


@pytest.fixture(scope="module")
def case(oracle):
    return oracle("train_tracker_stage2")


@pytest.fixture(scope="module")
def trained(case):
    """The recorded case's tracker in float64, what it said, and its unweighted losses by name."""
    config, given = case["config"], case["inputs"]
    tracker = DAQTracker(**{k: v for k, v in config.items() if k not in CRITERION})
    tracker.load_state_dict(case["state_dict"], strict=True)
    tracker.double().train()
    given = {k: v.double() if v.is_floating_point() else v for k, v in given.items()}
    names = ("pred_embds", "mask_features", "pred_logits", "pred_masks", "seg_query_feat")
    said = tracker.train_clip(
        Window(*[given[name] for name in names]),
        given["gt_masks"],
        given["gt_labels"],
        stage=config["stage"],
        generator=torch.Generator(),
        matcher_points=given["matcher_points"],
        disappear_pick=config["forced_disappear_pick"],
        aux_select_threshold=config["aux_select_threshold"],
    )
    truth = ClipTruth.of(given["gt_masks"], given["gt_labels"])
    branches = {"tracker": (said.frames, 0), "slots": (said.slots, 1)}
    losses = {
        name: unweighted(outputs, truth, first, given["loss_points"])
        for name, (outputs, first) in branches.items()
    }
    return tracker, said, losses


def unweighted(outputs, truth, first, points):
    lesson = make_lesson(outputs, truth, first)
    last = len(outputs[0].logits) - 1
    losses = {}
    for level in range(last + 1):
        for name, part in level_losses(outputs, lesson, level, lambda _: points).items():
            losses[NAMES[name] + ("" if level == last else f"_{level}")] = part.sum / part.count
    return losses


def test_the_segmenters_queries_stand_for_what_was_recorded(case, trained):
    out = case["outputs"]["f64"]
    for t, match in enumerate(trained[1].matches):
        rows, instances = out["frame_indices"][t]
        assert torch.equal(match.rows, rows)
        assert torch.equal(match.instances, instances)
        assert torch.equal(match.targets, out["aux_target"][t])
        assert torch.equal(match.valid, out["valid"][t])


@pytest.mark.parametrize("branch", ["frames", "slots"])
def test_rows_pairs_and_predictions_of_each_frame_are_as_recorded(case, trained, branch):
    said, recorded = getattr(trained[1], branch), case["outputs"]["f64"][branch]
    assert len(said) == len(recorded)
    for output, other in zip(said, recorded, strict=True):
        assert torch.equal(output.rows, other["src_idx"])
        assert torch.equal(output.instances, other["tgt_idx"])
        assert list(output.disappeared) == other["disappear_ids"].tolist()
        # 1e-7, as for inference: constants that the recording rounds to float32.
        for mine, theirs in ((output.logits[-1], "pred_logits"), (output.masks(), "pred_masks")):
            torch.testing.assert_close(mine, other[theirs][0], atol=1e-7, rtol=0)


def test_unweighted_losses_of_every_level_are_as_recorded(case, trained):
    out = case["outputs"]["f64"]
    for name, key in (("tracker", "losses_unweighted"), ("slots", "slot_losses_unweighted")):
        losses = trained[2][name]
        assert losses.keys() == out[key].keys()
        for part, value in out[key].items():
            torch.testing.assert_close(losses[part], value, atol=1e-7, rtol=0)


def test_every_gradient_is_as_recorded(case, trained):
    tracker, _, losses = trained
    total = torch.stack([v for branch in losses.values() for v in branch.values()]).sum()
    recorded = case["outputs"]["f64"]["grad"]
    names, parameters = zip(*tracker.named_parameters(), strict=True)
    grads = torch.autograd.grad(total, parameters, retain_graph=True)
    assert set(names) == recorded.keys()
    for name, grad in zip(names, grads, strict=True):
        # Largest gradients are near 1: 1e-8 leaves room for sums in another order.
        torch.testing.assert_close(grad, recorded[name], atol=1e-8, rtol=0, msg=name)


def make_tracker(**options):
    torch.manual_seed(0)
    sizes = dict(hidden_dim=DIM, mask_dim=DIM, feedforward_dim=16, num_head=2, decoder_layer_num=2)
    counts = dict(num_classes=CLASSES, num_new_ins=QUERIES, num_slots=2)
    return DAQTracker(**sizes, **counts, **options)


def make_clip(frames, instances=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    window = Window(
        torch.randn(1, DIM, frames, QUERIES, generator=g),
        torch.randn(1, frames, DIM, 4, 5, generator=g),
        torch.randn(1, frames, QUERIES, CLASSES + 1, generator=g),
        torch.randn(1, QUERIES, frames, 4, 5, generator=g),
        torch.randn(QUERIES, DIM, generator=g),
    )
    masks = torch.rand(instances, frames, 16, 20, generator=g) > 0.7
    return window, masks, torch.arange(instances) % CLASSES


def train(tracker, clip, **options):
    options = {"generator": torch.Generator().manual_seed(3), "num_points": 32, **options}
    return tracker.train_clip(*clip, **options)


def options_for(stage, pick=None):
    return TrainOptions(stage, torch.Generator().manual_seed(0), num_points=32, pick=pick)


def match_of(targets, instances):
    targets = torch.tensor(targets)
    rows = torch.tensor([int((targets == i).nonzero()[0]) for i in instances])
    return FrameMatch(rows, torch.tensor(instances), targets, targets >= 0)


def test_stage_2_hands_on_the_better_half_in_row_order():
    scores = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.2])
    assert better_half(scores, torch.tensor([3, 0, 1])).tolist() == [0, 3]
    assert better_half(scores, torch.tensor([4])).tolist() == [4]
    assert better_half(scores, torch.tensor([4, 2, 1, 0])).tolist() == [0, 2]
    assert better_half(scores, torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_stage_2_simulates_no_disappearance():
    match = match_of([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    absence = find_absent(torch.tensor([0, 1, 2, 3, 4]), match, options_for(2, pick=0))
    assert (absence.tracker, absence.slots, absence.blocked) == ((), (), None)


def test_three_matched_tracks_are_too_few_for_one_to_disappear():
    match = match_of([0, 1, 2, -1], [0, 1, 2])
    absence = find_absent(torch.tensor([0, -1, 1, 2, -1]), match, options_for(3, pick=0))
    assert (absence.tracker, absence.slots, absence.blocked) == ((), (), None)


def test_a_simulated_disappearance_alone_is_known_to_the_slot_branch_only():
    match = match_of([4, 2, 2, -1, 0, 3], [0, 2, 3, 4])
    absence = find_absent(torch.tensor([-1, 4, 2, 0, 3]), match, options_for(3, pick=1))
    assert absence.tracker == ()
    assert absence.slots == (2,)
    assert absence.blocked.tolist() == [False, True, True, False, False, False]


def test_beside_a_natural_disappearance_the_simulated_one_is_known_to_both():
    match = match_of([4, 2, -1, 0], [0, 2, 4])  # instance 3 has gone
    absence = find_absent(torch.tensor([4, 3, 2, 0]), match, options_for(3, pick=0))
    assert absence.tracker == absence.slots == (3, 4)
    assert absence.blocked.tolist() == [True, False, False, False]


def test_a_natural_disappearance_is_known_to_both_in_stage_2_too():
    absence = find_absent(torch.tensor([1, 0]), match_of([0, -1], [0]), options_for(2))
    assert absence.tracker == absence.slots == (1,)
    assert absence.blocked is None


def test_an_object_that_all_queries_stand_for_stays_visible_to_the_slot_branch():
    targets = torch.tensor([0, 1, 2, 3])
    absence = find_absent(targets, match_of([2, 2], [2]), options_for(3, pick=2))
    assert absence.slots == (0, 1, 3, 2)
    assert absence.blocked is None


def test_the_random_pick_comes_from_the_generator():
    targets = torch.arange(8)
    match = match_of(list(range(8)), list(range(8)))
    picks = set()
    for seed in range(40):
        options = TrainOptions(3, torch.Generator().manual_seed(seed))
        first, second = (
            find_absent(targets, match, TrainOptions(3, torch.Generator().manual_seed(seed))).slots
            for _ in range(2)
        )
        assert first == second == find_absent(targets, match, options).slots
        picks |= set(first)
    assert len(picks) > 4


def test_queries_stand_for_their_cheapest_instance_unless_they_score_low():
    window, masks, labels = make_clip(1, instances=3)
    masks[1, 0] = False  # not visible
    loose, strict = (
        match_frames(
            window,
            ClipTruth.of(masks, labels),
            TrainOptions(3, torch.Generator(), num_points=64, aux_threshold=threshold),
        )[0]
        for threshold in (0.0, 1.0)
    )
    assert loose.instances.tolist() == [0, 2]
    assert set(loose.targets.tolist()) == {0, 2}
    assert loose.valid.all()
    assert sorted(strict.targets[strict.targets >= 0].tolist()) == [0, 2]
    assert int(strict.valid.sum()) == 2


def test_a_frame_without_instances_has_no_pairs():
    window, masks, labels = make_clip(2)
    masks[:, 1] = False
    match = match_frames(window, ClipTruth.of(masks, labels), options_for(3))[1]
    assert len(match.rows) == len(match.instances) == 0
    assert match.targets.tolist() == [-1] * QUERIES


def test_newcomers_are_matched_to_anchors_only():
    window, masks, labels = make_clip(1)
    kernels = torch.randn(3, QUERIES + 2, DIM + 1)
    output = FrameOutput(
        logits=torch.randn(3, QUERIES + 2, CLASSES + 1),
        kernels=kernels,
        features=window.mask_features[0, 0].flatten(1),
        size=(4, 5),
        rows=torch.tensor([1]),
        instances=torch.tensor([3]),
    )
    truth = ClipTruth.of(masks, labels)
    found = add_newcomers(output, torch.tensor([-1, 3]), 0, truth, options_for(3))
    assert found.rows[0] == 1
    assert found.instances.tolist() == [3, 0, 1, 2, 4]
    assert int(found.rows[1:].min()) >= 2
    assert len(set(found.rows.tolist())) == 5


def test_stage_3_hands_on_unmatched_rows_that_score_well():
    tracker = make_tracker(training_select_threshold=0.0)
    said = train(tracker, make_clip(3, instances=2), stage=3)
    assert [len(o.logits[-1]) for o in said.frames] == [QUERIES, 2 * QUERIES, 3 * QUERIES]
    assert [len(o.logits[-1]) for o in said.slots] == [QUERIES + 2, 2 * QUERIES + 2]
    assert [len(o.rows) for o in said.slots] == [2, 2]


def test_stage_3_drops_matched_rows_that_score_low_and_finds_them_again():
    tracker = make_tracker(training_select_threshold=1.0)
    said = train(tracker, make_clip(3), stage=3)
    assert [o.logits.shape[1] for o in said.frames] == [QUERIES] * 3
    assert all(o.instances.tolist() == [0, 1, 2, 3, 4] for o in said.frames)
    assert all(len(o.rows) == 0 and o.logits.shape[1] == 2 for o in said.slots)


def test_a_tracked_row_keeps_its_instance_through_frames_that_do_not_show_it():
    window, masks, labels = make_clip(3, instances=2)
    masks[0, 1] = False
    said = train(make_tracker(training_select_threshold=0.0), (window, masks, labels), stage=3)
    pairs = [dict(zip(o.instances.tolist(), o.rows.tolist(), strict=True)) for o in said.frames]
    assert pairs[1].keys() == pairs[2].keys() == {0, 1}
    assert pairs[1] == pairs[2]
    assert said.frames[1].disappeared == said.slots[0].disappeared == (0,)


def test_the_number_of_levels_is_one_more_than_layers_and_of_slots_that_of_layers():
    said = train(make_tracker(), make_clip(2), stage=2)
    assert said.frames[1].logits.shape[0] == said.frames[0].kernels.shape[0] == 3
    assert said.slots[0].logits.shape[0] == 2


def test_gradients_flow_from_the_last_frame_to_the_first():
    window, masks, labels = make_clip(3)
    window.pred_embds.requires_grad_()
    said = train(make_tracker(training_select_threshold=0.0), (window, masks, labels), stage=3)
    said.frames[2].logits[-1, :QUERIES].square().sum().backward()
    assert window.pred_embds.grad[:, :, 0].abs().sum() > 0


def test_a_blocked_query_is_hidden_from_the_slot_branch_but_not_from_the_tracker():
    tracker = make_tracker(training_select_threshold=0.0)
    clip = make_clip(2)
    one, other = (train(tracker, clip, stage=3, disappear_pick=pick) for pick in (0, 3))
    assert one.slots[0].disappeared != other.slots[0].disappeared
    assert not torch.equal(one.slots[0].logits, other.slots[0].logits)
    assert torch.equal(one.frames[1].logits, other.frames[1].logits)


def lesson_of(disappeared=()):
    masks = torch.zeros(3, 2, 4, 4)
    masks[0, :, 0], masks[1, :, 1], masks[2, 0, 2] = 1, 1, 1  # the third only in frame 0
    truth = ClipTruth.of(masks, torch.tensor([2, 0, 1]))
    outputs = [
        FrameOutput(
            logits=torch.zeros(1, 4, 4),
            kernels=torch.zeros(1, 4, 3),
            features=torch.zeros(2, 16),
            size=(4, 4),
            rows=torch.tensor([3, 0, 1]),
            instances=torch.tensor([0, 1, 2]),
            disappeared=gone,
        )
        for gone in ((), disappeared)
    ]
    return make_lesson(outputs, truth, 0)


def test_a_matched_row_whose_instance_is_not_visible_is_no_object_and_still_counts():
    lesson = lesson_of()
    assert lesson.classes.tolist() == [0, 1, 3, 2, 0, 3, 3, 2]
    assert [rows.tolist() for rows in lesson.rows] == [[3, 0, 1], [3, 0]]
    assert len(lesson.masks) == 5
    assert lesson.pairs == 6


def test_an_instance_that_counts_as_gone_is_no_object_though_visible():
    lesson = lesson_of(disappeared=(0, 2))
    assert lesson.classes.tolist() == [0, 1, 3, 2, 0, 3, 3, 3]
    assert [rows.tolist() for rows in lesson.rows] == [[3, 0, 1], [0]]
    assert lesson.pairs == 6


def test_an_unknown_stage_is_refused():
    with pytest.raises(InputError, match="stage"):
        train(make_tracker(), make_clip(2), stage=1)


def test_masks_and_labels_that_differ_in_number_are_refused():
    window, masks, labels = make_clip(2)
    with pytest.raises(InputError, match="labels"):
        train(make_tracker(), (window, masks, labels[:-1]), stage=2)


def test_masks_of_another_number_of_frames_are_refused():
    window, masks, labels = make_clip(3)
    with pytest.raises(InputError, match="2 frames for a clip of 3"):
        train(make_tracker(), (window, masks[:, :2], labels), stage=2)


@pytest.mark.parametrize("stage", [2, 3])
def test_half_precision_trains_and_tracks(stage):
    tracker = make_tracker(ovis_infer=True)
    with torch.autocast("cpu", torch.bfloat16):
        said = train(tracker, make_clip(3), stage=stage)
        said.frames[-1].logits.float().square().sum().backward()
        state, records = tracker.eval().step(None, make_clip(3)[0], "offline")
    assert said.frames[-1].logits.isfinite().all()
    assert len(records) == 3
    assert len(state.ids)
