import pytest
import torch

from mlkit_core.errors import BuildError, TrainingError
from mlkit_core.types import Features, FeatureSpec
from mlkit_dvis.features import SegmenterFeatures
from mlkit_dvis.losses.criterion import (
    Instances,
    Layer,
    SetOptions,
    assign,
    choose_role,
    set_losses,
)

POINTS = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(9))


def fixed(logits):
    return POINTS.to(logits.dtype)


def layer(seed, rows=3, queries=4, classes=2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, queries, classes + 1, generator=generator)
    masks = torch.randn(rows, queries, 4, 5, generator=generator)
    return Layer(logits.requires_grad_(), masks.requires_grad_())


def instances(rows=(0, 0, 2), labels=(1, 0, 1)):
    generator = torch.Generator().manual_seed(7)
    masks = (torch.rand(len(rows), 8, 10, generator=generator) > 0.6).float()
    return Instances(torch.tensor(rows), torch.tensor(labels), masks)


def losses(layers, found, **more):
    queries = assign(layers, found, POINTS, (2.0, 5.0, 5.0))
    return set_losses(layers, found, queries, fixed, **more), queries


def test_every_layer_and_row_is_matched_on_its_own():
    layers, found = [layer(0), layer(1)], instances()
    queries = assign(layers, found, POINTS, (2.0, 5.0, 5.0))
    assert queries.shape == (2, 3)
    for index, one in enumerate(layers):
        assert torch.equal(assign([one], found, POINTS, (2.0, 5.0, 5.0))[0], queries[index])
    assert queries[0, 0] != queries[0, 1]  # two instances of one row


def test_a_query_whose_mask_is_the_instance_is_matched_with_it():
    found, one = instances(), layer(0)
    perfect = torch.nn.functional.avg_pool2d(found.masks[:, None], 2)[:, 0] * 20 - 10
    masks = one.masks.detach() - 10
    for index, (row, query) in enumerate(((0, 3), (0, 1), (2, 2))):
        masks[row, query] = perfect[index]
    queries = assign([Layer(one.logits, masks)], found, POINTS, (0.0, 5.0, 5.0))
    assert queries.tolist() == [[3, 1, 2]]


def test_parts_are_summed_over_layers_with_one_count():
    layers, found = [layer(0), layer(1)], instances()
    both, _ = losses(layers, found)
    first, second = (losses([one], found)[0] for one in layers)
    for name in ("class", "mask", "dice"):
        torch.testing.assert_close(both[name].sum, first[name].sum + second[name].sum)
        assert float(both[name].count) == float(first[name].count) == float(second[name].count)
    assert both["mask"].count == 3.0
    assert float(both["class"].count) == pytest.approx(3 + 0.1 * 9)  # 12 queries, 3 matched


def test_gradients_reach_the_logits_and_masks_of_every_layer():
    layers = [layer(0), layer(1), layer(2)]
    parts, queries = losses(layers, instances())
    sum(part.sum for part in parts.values()).backward()
    for one, chosen in zip(layers, queries, strict=True):
        assert (one.logits.grad.abs().sum(-1) > 0).all()  # every query learns a class
        touched = one.masks.grad.abs().sum((-1, -2)) > 0
        expected = torch.zeros_like(touched)
        expected[instances().rows, chosen] = True
        assert torch.equal(touched, expected)  # only matched queries learn a mask


def test_order_of_instances_does_not_matter():
    layers, found, order = [layer(0), layer(1)], instances(), torch.tensor([2, 0, 1])
    moved = Instances(found.rows[order], found.labels[order], found.masks[order])
    (one, queries), (other, permuted) = losses(layers, found), losses(layers, moved)
    assert torch.equal(queries[:, order], permuted)
    for name in one:
        torch.testing.assert_close(one[name].sum, other[name].sum)


def test_without_instances_all_queries_learn_to_be_no_object():
    one = layer(0)
    empty = Instances(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 8, 10))
    parts, _ = losses([one], empty)
    targets = torch.full((12,), 2)
    expected = torch.nn.functional.cross_entropy(one.logits.flatten(0, 1), targets)
    torch.testing.assert_close(parts["class"].sum / parts["class"].count, expected)
    assert parts["mask"].count == parts["dice"].count == 0
    assert parts["mask"].sum.item() == parts["dice"].sum.item() == 0
    sum(part.sum for part in parts.values()).backward()
    assert one.logits.grad.abs().sum() > 0


def test_more_instances_than_queries_leave_some_unmatched():
    one, found = layer(0, queries=2), instances(rows=(0, 0, 0), labels=(0, 1, 0))
    parts, queries = losses([one], found)
    assert sorted(queries[0].tolist()) == [-1, 0, 1]
    kept = queries[0] >= 0
    some = Instances(found.rows[kept], found.labels[kept], found.masks[kept])
    expected, _ = losses([one], some)
    torch.testing.assert_close(parts["mask"].sum, expected["mask"].sum)
    assert parts["mask"].count == 3.0  # normalised by all annotated instances


def test_rows_that_are_padding_do_not_count():
    one, found = layer(0), instances(rows=(0, 0, 0))
    parts, _ = losses([one], found, valid=torch.tensor([True, False, False]))
    alone, _ = losses([Layer(one.logits[:1], one.masks[:1])], found)
    torch.testing.assert_close(parts["class"].sum, alone["class"].sum)
    assert float(parts["class"].count) == float(alone["class"].count)


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(TrainingError, match="label 2, but the logits have 2 classes"):
        losses([layer(0)], instances(labels=(0, 2, 1)))


@pytest.mark.parametrize("wrong", [{"points": 0}, {"importance": 1.5}, {"weights": (2, -5, 5)}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(BuildError, match=r"points|weights"):
        SetOptions(**wrong)


def test_parts_are_weighed_each_with_its_own():
    parts, _ = losses([layer(0)], instances())
    weighed = SetOptions(weights=(2.0, 3.0, 7.0)).weigh(parts)
    for name, worth in (("class", 2), ("mask", 3), ("dice", 7)):
        torch.testing.assert_close(weighed[name].sum, parts[name].sum * worth)
        assert weighed[name].count is parts[name].count


def test_the_only_role_of_a_kind_is_read_and_doubt_is_refused():
    segmenter, plain = FeatureSpec(type=SegmenterFeatures), FeatureSpec(vector_dim=2)
    kind = SegmenterFeatures
    assert choose_role({"plain": plain, "frames": segmenter}, None, kind) == "frames"
    assert choose_role({"a": segmenter, "b": segmenter}, "b", kind) == "b"
    assert choose_role({"a": plain, "b": plain}, "b", Features) == "b"
    with pytest.raises(BuildError, match=r"several roles.*a, b"):
        choose_role({"a": segmenter, "b": segmenter}, None, kind)
    with pytest.raises(BuildError, match=r"a role with SegmenterFeatures is needed.*plain"):
        choose_role({"plain": plain}, None, kind)
    with pytest.raises(BuildError, match="role 'plain' with SegmenterFeatures"):
        choose_role({"plain": plain, "frames": segmenter}, "plain", kind)
