"""Query and photos meet, pair by pair; the head scores what comes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from mlkit_core.errors import BuildError
from mlkit_core.types import Features, FeatureSpec, Letterbox, SampleMeta
from mlkit_refdet.encoders.projection import ChannelNorm
from mlkit_refdet.features import AskedFeatures, EmbedSpec, QueryFeatures, SupportFeatures
from mlkit_refdet.fusion.cheaf import CheafFusion, example
from mlkit_refdet.fusion.relations import JoinedConv
from mlkit_refdet.head.dual import DualHead
from mlkit_refdet.results import BranchLogits, ReferenceLogits

LEVELS = ("p3", "p4", "p5")


def nudged(module):
    """Move all parameters a little: gates that start at zero pass nothing."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture
def built():
    torch.manual_seed(0)
    made = example(None)
    fusion = CheafFusion(**made.context, **made.options)
    return nudged(fusion).eval(), made.args[0], made.context["inputs"]


def with_support(scope, protos, tokens, valid=None):
    support = scope["support"]
    changed = replace(
        support, protos=protos, level_tokens=tokens, valid=support.valid if valid is None else valid
    )
    return {**scope, "support": changed}


def test_at_the_start_photos_change_nothing():
    torch.manual_seed(0)
    made = example(None)
    fusion, scope = CheafFusion(**made.context, **made.options).eval(), made.args[0]
    other = with_support(
        scope,
        {n: p.roll(1, 1) for n, p in scope["support"].protos.items()},
        {n: t.flip(0) for n, t in scope["support"].level_tokens.items()},
    )
    one, two = fusion(scope), fusion(other)
    for level in LEVELS:
        torch.testing.assert_close(one.pairs[level], two.pairs[level])
        # A 1x1 projection that starts as the embedding itself.
        torch.testing.assert_close(one.pairs[level][:, 0], scope["query"].embed[level])


def test_other_photos_move_every_level(built):
    fusion, scope, _ = built
    generator = torch.Generator().manual_seed(9)
    protos = {
        n: functional.normalize(torch.randn(p.shape, generator=generator), dim=-1)
        for n, p in scope["support"].protos.items()
    }
    tokens = {
        n: torch.randn(t.shape, generator=generator)
        for n, t in scope["support"].level_tokens.items()
    }
    one, two = fusion(scope), fusion(with_support(scope, protos, tokens))
    for level in LEVELS:
        moved = (one.pairs[level] - two.pairs[level]).norm() / one.pairs[level].norm()
        assert moved > 0.01, level


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_reaches_the_photos(built, level):
    fusion, scope, _ = built
    protos = {n: p.clone().requires_grad_() for n, p in scope["support"].protos.items()}
    tokens = {n: t.clone().requires_grad_() for n, t in scope["support"].level_tokens.items()}
    found = fusion(with_support(scope, protos, tokens))
    weights = torch.randn(found.pairs[level].shape, generator=torch.Generator().manual_seed(2))
    (found.pairs[level] * weights).sum().backward()
    assert protos[level].grad.abs().sum() > 0
    assert tokens[level].grad.abs().sum() > 0


def asked(scope, rows):
    return {**scope, "asked": AskedFeatures(vector=torch.tensor(rows))}


def test_the_order_of_classes_means_nothing(built):
    fusion, scope, _ = built
    order = torch.tensor([2, 0, 1])
    rows = order.repeat_interleave(2) * 2 + torch.arange(2).repeat(3)
    moved = with_support(
        asked(scope, [[0.0, 1.0, 2.0]] * 2),
        {n: p[rows] for n, p in scope["support"].protos.items()},
        {n: t[rows] for n, t in scope["support"].level_tokens.items()},
        scope["support"].valid[order],
    )
    one = fusion(asked(scope, [[0.0, 1.0, 2.0]] * 2))
    two = fusion(moved)
    for level in LEVELS:
        torch.testing.assert_close(two.pairs[level], one.pairs[level][:, order])


def test_many_classes_at_once_equal_each_alone(built):
    fusion, scope, _ = built
    together = fusion(asked(scope, [[0.0, 1.0, 2.0]] * 2))
    for number in range(3):
        alone = fusion(asked(scope, [[float(number)]] * 2))
        for level in LEVELS:
            torch.testing.assert_close(
                together.pairs[level][:, number], alone.pairs[level][:, 0], atol=1e-5, rtol=1e-5
            )


def test_images_of_a_batch_do_not_see_each_other(built):
    fusion, scope, _ = built
    query = scope["query"]
    other = replace(
        query, embed={n: torch.cat((e[:1], -3 * e[1:])) for n, e in query.embed.items()}
    )
    one, two = fusion(scope), fusion({**scope, "query": other})
    for level in LEVELS:
        torch.testing.assert_close(one.pairs[level][0], two.pairs[level][0])


def test_a_positions_norm_does_not_depend_on_other_positions():
    norm, values = ChannelNorm(8), torch.randn(1, 8, 6, 6)
    lone = values.clone()
    lone[..., 2:, :] = 0
    torch.testing.assert_close(norm(lone)[..., :2, :], norm(values)[..., :2, :])
    expected = torch.nn.functional.layer_norm(values[0, :, 1, 4], (8,))
    torch.testing.assert_close(norm(values)[0, :, 1, 4], expected)


def test_shots_that_are_not_real_do_not_count(built):
    fusion, scope, _ = built
    valid = scope["support"].valid.clone()
    valid[0, 1] = False
    tokens = {n: t.clone() for n, t in scope["support"].level_tokens.items()}
    protos = {n: p.clone() for n, p in scope["support"].protos.items()}
    for level in LEVELS:
        tokens[level][1], protos[level][1] = 7.0, functional.normalize(torch.ones(8), dim=0)
    one = fusion(with_support(scope, scope["support"].protos, scope["support"].level_tokens, valid))
    two = fusion(with_support(scope, protos, tokens, valid))
    torch.testing.assert_close(one.pairs["p3"], two.pairs["p3"])


def test_what_is_not_asked_is_in_no_map(built):
    fusion, scope, _ = built
    found = fusion(asked(scope, [[0.0, 2.0], [1.0, -1.0]]))
    torch.testing.assert_close(found.maps["p3"][0], found.pairs["p3"][0].amax(0))
    torch.testing.assert_close(found.maps["p3"][1], found.pairs["p3"][1, 0])
    assert found.asked.tolist() == [[0, 2], [1, -1]]


def test_plain_encoders_are_projected_and_misfits_are_refused():
    torch.manual_seed(0)
    query = FeatureSpec(channels={"p3": 6, "p4": 8}, strides={"p3": 8, "p4": 16})
    support = FeatureSpec(vector_dim=5, lead=("class", "shot"))
    fusion = nudged(CheafFusion({"query": query, "support": support}, dim=8, heads=2))
    scope = {
        "query": Features(maps={"p3": torch.randn(2, 6, 8, 8), "p4": torch.randn(2, 8, 4, 4)}),
        "support": Features(vector=torch.randn(4, 5), valid=torch.ones(2, 2, dtype=torch.bool)),
    }
    assert fusion(scope).pairs["p3"].shape == (2, 2, 8, 8, 8)
    with pytest.raises(BuildError, match="there is none"):
        CheafFusion({"query": query, "support": FeatureSpec(vector_dim=5)})
    wide = EmbedSpec(
        channels=query.channels, strides=query.strides, type=QueryFeatures, embed_dim=8
    )
    narrow = EmbedSpec(type=SupportFeatures, embed_dim=4, lead=("class", "shot"), vector_dim=4)
    with pytest.raises(BuildError, match="embeds in 4 numbers, the query in 8"):
        CheafFusion({"query": wide, "support": narrow})


def head_of(built, **options):
    fusion, scope, inputs = built
    torch.manual_seed(1)
    head = DualHead({**inputs, "fused": fusion.spec}, 3, "fused", hidden=8, **options)
    return head.eval(), {**scope, "fused": fusion(scope)}


def test_an_unrelated_cell_scores_a_hundredth_not_a_half(built):
    head, scope = head_of(built, relation=False)
    fused = scope["fused"]
    protos = {n: torch.zeros_like(p) for n, p in fused.class_protos.items()}  # cosine 0 everywhere
    logits = head({**scope, "fused": replace(fused, class_protos=protos)}).pairs.logits
    torch.testing.assert_close(
        logits.sigmoid(), torch.full_like(logits, 0.00995), atol=1e-4, rtol=0
    )


def test_it_starts_as_prototype_matching_on_the_embeddings():
    torch.manual_seed(0)
    made = example(None)
    fusion, scope = CheafFusion(**made.context, **made.options).eval(), made.args[0]
    head = DualHead({**made.context["inputs"], "fused": fusion.spec}, 1, "fused", hidden=8).eval()
    logits = head({**scope, "fused": fusion(scope)}).pairs.logits  # [B * W, A, 1]
    protos = functional.normalize(
        functional.normalize(scope["support"].protos["p3"], dim=-1).unflatten(0, (3, 2)).mean(1),
        dim=-1,
    )
    place = functional.normalize(scope["query"].embed["p3"][0, :, 0, 0], dim=0)
    assert logits[1, 0, 0].item() == pytest.approx(10 * (place @ protos[2]).item() - 4.6, abs=1e-4)


def test_background_prototypes_lower_what_resembles_them(built):
    head, scope = head_of(built, relation=False, background=2, margin=-1.0)
    with_bank = head(scope).pairs.logits
    branch = head.pairs
    kept, branch.background = branch.background, None
    without = head(scope).pairs.logits
    branch.background = kept
    assert (with_bank < without).all()


def test_modes_give_their_branches(built):
    for mode, has in (("standard", (1, 0)), ("prototype", (0, 1)), ("dual", (1, 1))):
        head, scope = head_of(built, mode=mode)
        output = head(scope)
        assert (output.standard is not None, output.pairs is not None) == tuple(map(bool, has))


def test_a_standard_head_takes_any_maps_and_a_prototype_head_needs_pairs():
    spec = FeatureSpec(channels={"p3": 8, "p4": 8}, strides={"p3": 8, "p4": 16})
    head = DualHead({"image": spec}, 2, "image", mode="standard")
    scope = {"image": Features(maps={"p3": torch.rand(1, 8, 4, 4), "p4": torch.rand(1, 8, 2, 2)})}
    assert head(scope).standard.logits.shape == (1, 20, 2)
    with pytest.raises(BuildError, match="needs pairs of image and class"):
        DualHead({"image": spec}, 2, "image")


def test_boxes_come_back_in_original_pixels_and_unasked_pairs_do_not():
    points, strides = torch.tensor([[8.0, 8.0], [40.0, 24.0]]), torch.tensor([8.0, 8.0])
    distances = torch.full((2, 2, 64), -50.0)
    for side, bins in enumerate((1, 1, 2, 1)):
        distances[:, :, side * 16 + bins] = 50.0
    logits = torch.full((2, 2, 1), -9.0)
    logits[0, 1], logits[1, 0] = 3.0, 9.0  # the second pair is not asked
    output = ReferenceLogits(
        points, strides, None, BranchLogits(distances, logits), torch.tensor([[4, -1]])
    )
    meta = SampleMeta(
        key="a", size=(32, 24), letterbox=Letterbox(scale=2.0, size=(64, 48), offset=(0, 8))
    )
    spec = EmbedSpec(channels={"p3": 8}, strides={"p3": 8}, embed_dim=8)
    head = DualHead({"m": spec}, 1, "m", mode="standard", conf=0.5)
    (found,) = head.decode(output, [meta])
    assert found.labels.tolist() == [4]
    # Cell (40, 24), 8 px a bin: 32, 16, 56, 32 of the input; less 8, halved; clipped to 24 wide.
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([[12.0, 8.0, 24.0, 16.0]]))


def test_a_threshold_of_zero_keeps_everything():
    points, strides = torch.tensor([[8.0, 8.0], [200.0, 200.0]]), torch.tensor([8.0, 8.0])
    distances = torch.full((1, 2, 64), -50.0)
    distances[:, :, [1, 17, 33, 49]] = 50.0
    output = ReferenceLogits(
        points,
        strides,
        None,
        BranchLogits(distances, torch.full((1, 2, 1), -20.0)),
        torch.tensor([[0]]),
    )
    spec = EmbedSpec(channels={"p3": 8}, strides={"p3": 8}, embed_dim=8)
    head = DualHead({"m": spec}, 1, "m", mode="standard", conf=0.0)
    (found,) = head.decode(output, [SampleMeta(key="a", size=(256, 256))])
    assert len(found.scores) == 2


def test_maps_that_are_joined_in_passing_give_what_joined_maps_give():
    generator = torch.Generator().manual_seed(3)
    layer = JoinedConv(13, 5, 1)
    parts = [torch.randn(2, c, 4, 6, generator=generator) for c in (8, 3, 2)]
    joined = functional.conv2d(torch.cat(parts, 1), layer.weight, layer.bias)
    torch.testing.assert_close(layer(parts), joined)
    with pytest.raises(ValueError, match="maps of 11 channels in all, expected 13"):
        layer(parts[:2])
