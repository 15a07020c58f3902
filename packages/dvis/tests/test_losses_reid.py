import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812  # torch's own habit

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import Batch, FeatureSpec, ModelOutput, SampleMeta, Step, TrackTarget
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.losses.reid import (
    ReidLoss,
    contrastive_loss,
    cosine_loss,
    draw_negatives,
    fused_memory,
)

SPEC = FeatureSpec(lead=("clip", "frame"), type=SegmenterFeatures)
# Queries of three instances in three frames: always there; late; gone in the middle frame.
TABLE = torch.tensor([[[0, 1, 2], [-1, 4, 0], [3, -1, 1]]])


def reid_loss(**options):
    return ReidLoss({"frames": SPEC}, points=40, **options)


def embeddings(clips=1, frames=3, queries=5, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, frames, queries, dim, generator=generator, dtype=torch.float64)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def loop_memory(reid, row, until):
    """Return the running mean after frame `until`, by a loop over frames."""
    seen, mean = [], None
    for frame in range(until + 1):
        if row[frame] < 0:
            continue
        embed = reid[frame, row[frame]]
        if mean is None:
            mean = embed
        else:
            cosines = [float(F.cosine_similarity(embed, one, dim=0)) for one in seen]
            share = max(0.0, sum(cosines) / len(cosines))
            mean = (1 - share) * mean + share * embed
        seen.append(embed)
    return mean


def loop_items(reid, table, use_memory):
    """Return (anchor, positive, negatives) of every item, by loops over instances and frames."""
    items = []
    for row in table.tolist():
        for frame in range(1, len(row)):
            if row[frame] < 0:
                continue
            before = [time for time in range(frame) if row[time] >= 0]
            after = [time for time in range(frame + 1, len(row)) if row[time] >= 0]
            if before and use_memory:
                positive = loop_memory(reid, row, frame - 1)
            elif before or after:
                time = before[-1] if before else after[0]
                positive = reid[time, row[time]]
            else:
                continue
            others = [q for q in range(reid.shape[1]) if q != row[frame - 1]]
            items.append((reid[frame, row[frame]], positive, reid[frame - 1, others]))
    return items


def loop_losses(items):
    contrastive = aux = 0.0
    for anchor, positive, negatives in items:
        terms = [math.exp(float(n @ anchor - positive @ anchor)) for n in negatives]
        contrastive += math.log(1 + sum(terms))
        errors = [(float(F.cosine_similarity(anchor, positive, dim=0)) - 1) ** 2]
        errors += [float(F.cosine_similarity(anchor, n, dim=0)) ** 2 for n in negatives]
        aux += sum(errors) / len(errors)
    return contrastive, aux


def test_losses_equal_the_recorded_ones(oracle):
    case = oracle("losses_case1")
    given = [case["inputs"][f"reid_{name}"] for name in ("anchor", "positive", "negatives")]
    expected = case["outputs"]["reid_losses_unweighted"]
    for tensors in (given, [tensor.double() for tensor in given]):
        contrastive, aux = contrastive_loss(*tensors).mean(), cosine_loss(*tensors).mean()
        assert contrastive.item() == pytest.approx(expected["loss_reid"].item(), abs=1e-5)
        assert aux.item() == pytest.approx(expected["loss_aux_reid"].item(), abs=1e-5)


def test_losses_of_one_item_are_those_worked_by_hand():
    anchor, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    negatives = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])
    contrastive = contrastive_loss(anchor, positive, negatives)
    assert contrastive.item() == pytest.approx(math.log(1 + math.exp(2 - 3) + math.exp(0 - 3)))
    aux = cosine_loss(anchor, positive, negatives)  # cosines 0.6, 1 and 0
    assert aux.item() == pytest.approx(((0.6 - 1) ** 2 + 1 + 0) / 3)
    kept = torch.tensor([[False, True]])
    contrastive = contrastive_loss(anchor, positive, negatives, kept)
    assert contrastive.item() == pytest.approx(math.log(1 + math.exp(0 - 3)))
    assert cosine_loss(anchor, positive, negatives, kept).item() == pytest.approx(0.4**2 / 2)


def test_contrastive_loss_does_not_overflow():
    anchor, large = torch.tensor([[100.0]]), torch.tensor([[[100.0]]])
    assert contrastive_loss(anchor, -large[0], large).item() == pytest.approx(20000.0)


def test_memory_moves_by_the_mean_cosine_with_what_was_seen():
    embeds = torch.tensor([[[1.0, 0.0], [9.0, 9.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]])
    exists = torch.tensor([[True, False, True, True, True]])
    memory = fused_memory(embeds, exists)[0]
    assert memory[0].tolist() == [1.0, 0.0]
    assert memory[1].tolist() == [1.0, 0.0]  # absent: nothing changes
    second = [0.4 * 1 + 0.6 * 0.6, 0.6 * 0.8]  # cosine 0.6
    assert memory[2].tolist() == pytest.approx(second)
    third = [0.6 * second[0], 0.6 * second[1] + 0.4]  # mean of cosines 0 and 0.8
    assert memory[3].tolist() == pytest.approx(third)
    assert memory[4].tolist() == pytest.approx(third)  # cosines -1, -0.6, 0: not below nothing


@pytest.mark.parametrize("use_memory", [False, True])
def test_items_and_losses_equal_explicit_loops(use_memory):
    reid = embeddings()
    given = reid_loss(memory_chance=float(use_memory)).items(reid, TABLE, rng())
    expected = loop_items(reid[0], TABLE[0], use_memory)
    assert len(given[0]) == len(expected) == 5  # frames 1, 2; 1, 2; 2
    for index, (anchor, positive, negatives) in enumerate(expected):
        torch.testing.assert_close(given[0][index], anchor)
        torch.testing.assert_close(given[1][index], positive)
        torch.testing.assert_close(given[2][index][given[3][index]], negatives)
    contrastive, aux = loop_losses(expected)
    assert contrastive_loss(*given).sum().item() == pytest.approx(contrastive, rel=1e-9)
    assert cosine_loss(*given).sum().item() == pytest.approx(aux, rel=1e-9)


def test_an_instance_absent_before_has_its_next_frame_and_all_negatives():
    reid = embeddings()
    late = torch.tensor([[[-1, 4, 0]]])
    anchors, positives, _, kept = reid_loss(memory_chance=1.0).items(reid, late, rng())
    assert torch.equal(anchors[0], reid[0, 1, 4])
    assert torch.equal(positives[0], reid[0, 2, 0])
    assert kept[0].all()  # nothing in frame 0 is the instance
    assert kept[1].tolist() == [True, True, True, True, False]


def test_an_instance_seen_once_gives_nothing_to_compare():
    once = torch.tensor([[[-1, 4, -1], [2, -1, -1], [-1, -1, 3]]])
    given = reid_loss().items(embeddings(), once, rng())
    assert [len(tensor) for tensor in given] == [0, 0, 0, 0]
    assert contrastive_loss(*given).sum() == cosine_loss(*given).sum() == 0


def test_clips_are_not_compared_with_each_other():
    reid, table = embeddings(clips=2), torch.cat([TABLE, TABLE.flip(1)])
    both = reid_loss(memory_chance=0.0).items(reid, table, rng())
    alone = [
        reid_loss(memory_chance=0.0).items(reid[n, None], table[n, None], rng()) for n in (0, 1)
    ]
    for whole, first, second in zip(both, *alone, strict=True):
        assert torch.equal(whole, torch.cat([first, second]))


def test_half_of_the_positives_are_the_memory():
    always = torch.zeros(1, 400, 3, dtype=torch.int64)
    reid = embeddings()
    single = reid_loss(memory_chance=0.0).items(reid, always, rng())[1]
    mixed = reid_loss().items(reid, always, rng())[1]
    late = (mixed != single).any(1)[1::2]  # in frame 1 memory and embedding are the same
    assert 0.4 < late.float().mean() < 0.6


def test_negatives_are_as_many_as_asked_and_never_the_instance():
    own = torch.tensor([3, -1] * 500)
    kept = draw_negatives(own, 10, 4, rng())
    assert (kept[::2].sum(1) == 4).all()
    assert not kept[::2, 3].any()
    assert kept[1::2].all()  # it was absent: every query is a negative
    share = kept[::2].float().mean(0)
    assert share[[0, 1, 2, 4, 5, 6, 7, 8, 9]].tolist() == pytest.approx([4 / 9] * 9, abs=0.07)
    assert (draw_negatives(own[:1], 10, 99, rng()).sum(1) == 9).all()


def segmented(table, reid, masks):
    """Return features whose queries show the instances that the table says."""
    frames, queries = reid.shape[1:3]
    logits = torch.full((frames, queries, masks.shape[2], masks.shape[3]), -8.0)
    for row, instance in zip(table.tolist(), masks, strict=True):
        for frame, query in enumerate(row):
            if query >= 0:
                logits[frame, query] = instance[frame].float() * 16 - 8
    return SegmenterFeatures(
        maps={},
        valid=torch.ones(1, frames, dtype=torch.bool),
        logits=torch.zeros(frames, queries, 3),
        masks=logits,
        queries=torch.zeros(frames, queries, 2),
        reid=reid[0],
    )


def scene():
    masks = torch.zeros(3, 3, 8, 8, dtype=torch.bool)
    for instance, row in enumerate(TABLE[0].tolist()):
        for frame, query in enumerate(row):
            top = 2 * instance + frame % 2
            masks[instance, frame, top : top + 2] = query >= 0
    return masks, TrackTarget(masks[None], torch.tensor([[0, 1, 0]]))


def run(loss, features, target):
    output = ModelOutput(head=None, scope={"frames": features})
    batch = Batch(inputs={}, meta=(SampleMeta(key="clip"),), target=target)
    return loss(output, batch, Step(0, 1, rng()))


def test_loss_matches_frames_and_weighs_its_means():
    reid, (masks, target) = embeddings().requires_grad_(), scene()
    parts = run(reid_loss(memory_chance=0.0), segmented(TABLE[0], reid, masks), target)
    contrastive, aux = loop_losses(loop_items(reid.detach()[0], TABLE[0], use_memory=False))
    assert parts["contrastive"].count == parts["aux"].count == 5.0
    assert parts["contrastive"].sum.item() == pytest.approx(2 * contrastive, rel=1e-9)
    assert parts["aux"].sum.item() == pytest.approx(3 * aux, rel=1e-9)
    (parts["contrastive"].sum + parts["aux"].sum).backward()
    assert (reid.grad.abs().sum((0, 2, 3)) > 0).all()  # every frame learns


def test_order_and_padding_of_instances_do_not_matter():
    reid, (masks, target) = embeddings(), scene()
    features, loss = segmented(TABLE[0], reid, masks), reid_loss(memory_chance=1.0)
    order = torch.tensor([2, 0, 1, 1])
    moved = TrackTarget(target.masks[:, order], torch.tensor([[0, 0, 1, -1]]))
    one, other = run(loss, features, target), run(loss, features, moved)
    for name in one:
        torch.testing.assert_close(one[name].sum, other[name].sum)
        assert one[name].count == other[name].count


def test_a_clip_without_instances_has_a_count_of_zero():
    reid, (masks, target) = embeddings().requires_grad_(), scene()
    empty = TrackTarget(target.masks, torch.full((1, 3), -1))
    parts = run(reid_loss(), segmented(TABLE[0], reid, masks), empty)
    assert all(part.sum.item() == part.count == 0 for part in parts.values())
    single = TrackTarget(target.masks[:, :, :1], target.labels)
    features = segmented(TABLE[0, :, :1], reid[:, :1], masks[:, :1])
    assert run(reid_loss(), features, single)["aux"].count == 0.0


def test_a_segmenter_without_reid_head_is_refused():
    reid, (masks, target) = embeddings(), scene()
    features = segmented(TABLE[0], reid, masks)
    object.__setattr__(features, "reid", None)
    with pytest.raises(TrainingError, match="role 'frames': has no ReID embeddings"):
        run(reid_loss(), features, target)
    with pytest.raises(BuildError, match="a role with SegmenterFeatures is needed"):
        ReidLoss({"image": FeatureSpec(vector_dim=2)})
    with pytest.raises(BuildError, match="memory_chance"):
        reid_loss(memory_chance=2.0)
