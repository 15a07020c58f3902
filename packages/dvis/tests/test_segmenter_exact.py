"""Quick ways through the segmenter against transformers' own, on equal weights."""

import pytest
import torch
from torch.nn.functional import interpolate
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerTransformerModule,
    multi_scale_deformable_attention,
)

from mlkit_core.testing.checks import CHECKS
from mlkit_core.testing.subject import Subject
from mlkit_core.types import Example
from mlkit_dvis.convert import convert_segmenter
from mlkit_dvis.plugin import mlkit_components
from mlkit_dvis.segmenter.attention import capture_attention
from mlkit_dvis.segmenter.deformable import read_bags
from mlkit_dvis.segmenter.encoder import Mask2FormerEncoder
from mlkit_dvis.segmenter.parts import DecoderSizes, SegmenterParts

CHANNELS = [8, 12, 16, 24]
SIZES = DecoderSizes(32, 16, 9, 2, 48, 5, 4, 40)
EXACT = {"atol": 1e-11, "rtol": 0}  # float64: sums in another order
OPTIONS = {
    "backbone": "timm:test_resnet", "dim": 32, "mask_dim": 16, "num_queries": 5,
    "encoder_layers": 1, "encoder_feedforward": 32, "decoder_layers": 2, "heads": 4,
    "feedforward": 32, "reid_dim": 8,
}  # fmt: skip
GRIDS = [(2, 3), (4, 6), (8, 12)]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    made = SegmenterParts(CHANNELS, SIZES, 3, reid_dim=8)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.double().eval()


@pytest.fixture(scope="module")
def maps():
    torch.manual_seed(1)
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3))
    return [torch.randn(2, c, *s).double() for c, s in zip(CHANNELS, sizes, strict=True)]


@pytest.fixture(scope="module")
def theirs(parts, maps):
    """Return what transformers' modules say, with the weights of ours."""
    config = SIZES.config(3)
    pixels = Mask2FormerPixelDecoder(config, CHANNELS).double().eval()
    pixels.load_state_dict(parts.pixel_decoder.state_dict())
    queries = Mask2FormerTransformerModule(32, config).double().eval()
    queries.load_state_dict(parts.transformer.state_dict())
    with torch.no_grad():
        seen = pixels(list(maps), output_attentions=False, output_hidden_states=False)
        return seen, queries(list(seen.multi_scale_features), seen.mask_features)


@pytest.mark.parametrize("learning", [False, True])
def test_everything_equals_transformers_in_float64(parts, maps, theirs, learning):
    with torch.set_grad_enabled(learning):
        found = parts(maps, every_layer=True)
    seen, said = theirs
    torch.testing.assert_close(found.mask_features, seen.mask_features, **EXACT)
    for ours, expected in zip(found.maps, seen.multi_scale_features, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)
    for ours, expected in zip(found.masks, said.masks_queries_logits, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)
    last = said.intermediate_hidden_states[-1].transpose(0, 1)
    torch.testing.assert_close(found.embeds, last, **EXACT)
    assert found.embeds.requires_grad is learning


def test_a_frozen_segmenter_reads_quickly_where_gradients_are_on(maps, theirs, monkeypatch):
    frozen = SegmenterParts(CHANNELS, SIZES, 3).double().eval().requires_grad_(False)
    called = []
    monkeypatch.setattr(
        "mlkit_dvis.segmenter.deformable.read_bags",
        lambda *given: called.append(given) or read_bags(*given),
    )
    frozen(maps, every_layer=False)
    assert len(called) == SIZES.encoder_layers
    frozen.pixel_decoder.requires_grad_(True)
    frozen(maps, every_layer=False)
    assert len(called) == SIZES.encoder_layers


def points(spread, dtype=torch.float64):
    """Return values, places in 0..1 and weights, of 2 rows, 5 queries, 4 heads, 3 points."""
    torch.manual_seed(2)
    values = torch.randn(2, sum(h * w for h, w in GRIDS), 4, 8, dtype=dtype)
    places = 0.5 + spread * torch.randn(2, 5, 4, 3, 3, 2, dtype=dtype)
    return values, places, torch.rand(2, 5, 4, 3, 3, dtype=dtype)


def pixels(places):
    lengths = places.new_tensor([(width, height) for height, width in GRIDS])[:, None]
    return (places * lengths - 0.5).unbind(-1)


@pytest.mark.parametrize("spread", [0.1, 0.5, 100])
@torch.no_grad()
def test_bags_equal_grid_sample_inside_at_the_border_and_far_outside(spread):
    values, places, weights = points(spread)
    expected = multi_scale_deformable_attention(values, GRIDS, places, weights)
    found = read_bags(values, GRIDS, *pixels(places), weights)
    torch.testing.assert_close(found, expected, **EXACT)


@torch.no_grad()
def test_bags_read_exact_pixels_and_half_of_a_border_by_hand():
    values, places, weights = points(0)
    x, y = pixels(places)
    x[:], y[:], weights[:] = 0, 0, 0
    x[0, 0, 1, 2, 0], y[0, 0, 1, 2, 0], weights[0, 0, 1, 2, 0] = 11, 7, 2
    x[0, 1, 0, 0, 0], y[0, 1, 0, 0, 0], weights[0, 1, 0, 0, 0] = -0.5, 0, 1
    x[0, 2, 0, 1, 1], y[0, 2, 0, 1, 1], weights[0, 2, 0, 1, 1] = 5.25, 3, 1
    found = read_bags(values, GRIDS, x, y, weights).unflatten(-1, (4, 8))
    torch.testing.assert_close(found[0, 0, 1], 2 * values[0, -1, 1])  # the last pixel of all
    torch.testing.assert_close(found[0, 1, 0], 0.5 * values[0, 0, 0])
    torch.testing.assert_close(found[0, 2, 0], 0.75 * values[0, 6 + 23, 0])
    assert not found[1].any()


@torch.no_grad()
def test_places_that_are_no_numbers_give_no_numbers_and_no_crash():
    values, places, weights = points(0.1, torch.float32)
    places[0, 0], places[0, 1] = float("nan"), float("inf")
    weights[0, 0] = float("nan")
    found = read_bags(values, GRIDS, *pixels(places), weights)
    assert found[0, 0].isnan().all()
    assert not found[0, 1].any()
    assert found[0, 2:].isfinite().all()


@torch.no_grad()
def test_heads_of_captured_attention_are_the_recorded_ones(oracle):
    case = oracle("segmenter_case1")
    recorded = SegmenterParts(
        case["config"]["feature_channels"], DecoderSizes(64, 64, 12, 2, 1024, 4, 4, 128), 5,
        reid_dim=64,
    )  # fmt: skip
    recorded.load_state_dict(convert_segmenter(case["state_dict"]))
    given = [case["inputs"][name].double() for name in ("res2", "res3", "res4", "res5")]
    with capture_attention(recorded.double().eval(), [-1], per_head=True) as captured:
        found = recorded(given, every_layer=False)
    expected = case["outputs"]["f32"]
    heads = expected["last_cross_attention_per_head"]
    close = {"atol": 1e-5, "rtol": 0}  # recorded in float32
    torch.testing.assert_close(captured.weights[-1].float(), heads, **close)
    torch.testing.assert_close(
        found.masks[-1].float(), expected["pred_masks"][0].transpose(0, 1), **close
    )
    torch.testing.assert_close(found.logits[-1].float(), expected["pred_logits"][0], **close)


@torch.no_grad()
def test_each_layers_attention_is_zero_outside_the_mask_before_it(parts, maps):
    layers = range(SIZES.decoder_layers)
    with capture_attention(parts, layers) as captured:
        found = parts(maps, every_layer=True)
    assert list(captured.sizes.values()) == [*GRIDS, *GRIDS[:2]]
    for layer in layers:
        before = interpolate(found.masks[layer], captured.sizes[layer], mode="bilinear")
        outside = (before < 0).flatten(2)
        outside &= ~outside.all(-1, keepdim=True)
        weights = captured.weights[layer]
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 9).double())
        assert torch.equal(weights == 0, outside)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Mask2FormerEncoder(3, **OPTIONS)


@torch.no_grad()
def test_frames_do_not_see_each_other_in_float64(encoder):
    encoder.double().eval()
    images = torch.rand(3, 3, 64, 96).double()
    together, alone = encoder(images), encoder(images[1:2])
    for name in ("logits", "masks", "tokens", "reid", "vector"):
        torch.testing.assert_close(getattr(together, name)[1:2], getattr(alone, name), **EXACT)


@torch.no_grad()
def test_the_pixel_decoder_stays_in_float32_under_autocast(encoder):
    seen = []
    encoder.pixel_decoder.register_forward_hook(lambda _m, given, out: seen.extend([given, out]))
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder.eval()(torch.rand(1, 3, 64, 64))
    (given,), (mask_features, coarse) = seen
    assert {t.dtype for t in (*given, mask_features, *coarse)} == {torch.float32}
    assert features.masks.isfinite().all()


@torch.no_grad()
def test_resnet18_of_timm_gives_masks_at_stride_4(encoder):
    segmenter = Mask2FormerEncoder(3, **OPTIONS | {"backbone": "timm:resnet18"}).eval()
    seen = segmenter(torch.rand(2, 3, 64, 96))
    assert seen.masks.shape == (2, 5, 16, 24)
    assert {level: m.shape[-1] for level, m in seen.maps.items()} == {
        "p2": 24, "p3": 12, "p4": 6, "p5": 3
    }  # fmt: skip


@pytest.mark.parametrize("check", CHECKS["encoder"], ids=lambda check: check.__name__)
def test_the_published_pixel_decoder_keeps_the_contract(check):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    example = Example(options=OPTIONS, args=(images,), context={"num_classes": 3})
    (spec,) = (one for one in mlkit_components() if one.name == "mask2former")
    with torch.random.fork_rng(devices=[]):
        check(Subject(spec, example))


@torch.no_grad()
def test_frames_some_at_a_time_are_the_frames_all_at_once(encoder, monkeypatch):
    encoder.double().eval()
    images = torch.rand(5, 3, 64, 96).double()
    calls = []
    encoder.backbone.register_forward_pre_hook(lambda _m, given: calls.append(len(given[0])))
    with capture_attention(encoder, [0, -1]) as whole:
        together = encoder(images)
    monkeypatch.setattr("mlkit_dvis.segmenter.encoder._PIXELS_AT_ONCE", 2 * 64 * 96 + 1)
    with capture_attention(encoder, [0, -1]) as split:
        encoder(images[:1])  # forgotten when the next call begins
        parted = encoder(images)
    assert calls == [5, 1, 2, 2, 1]
    for name in ("logits", "masks", "tokens", "queries", "reid", "vector"):
        torch.testing.assert_close(getattr(together, name), getattr(parted, name), **EXACT)
    for level, values in together.maps.items():
        torch.testing.assert_close(values, parted.maps[level], **EXACT)
    for layer, weights in whole.weights.items():
        torch.testing.assert_close(weights, split.weights[layer], **EXACT)


def test_frames_stay_together_in_training(encoder, monkeypatch):
    monkeypatch.setattr("mlkit_dvis.segmenter.encoder._PIXELS_AT_ONCE", 1)
    seen = []
    encoder.train().backbone.register_forward_pre_hook(lambda _m, given: seen.append(len(given[0])))
    encoder(torch.rand(3, 3, 64, 64))
    assert seen == [3]  # batch norms see all of them


def test_attention_is_drawn_as_one_matrix_of_query_key_and_value():
    torch.manual_seed(0)
    layer = SegmenterParts(CHANNELS, SIZES, 3).transformer.decoder.layers[0]
    bound = (6 / (32 + 3 * 32)) ** 0.5  # Xavier's, of [3C, C]
    drawn = (layer.cross_attn.in_proj_weight, layer.self_attn.k_proj.weight)
    assert [w.abs().max().item() for w in drawn] == pytest.approx([bound] * 2, rel=0.01)
