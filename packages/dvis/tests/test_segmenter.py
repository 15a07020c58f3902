"""The segmenter against recorded outputs, against transformers, and by its own promises."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from mlkit_core.config.frame import LoraOptions
from mlkit_core.errors import BuildError, InputError, WeightsError
from mlkit_core.training.adapters import inject, merge
from mlkit_core.training.optim import set_train_mode
from mlkit_dvis.convert import convert_segmenter
from mlkit_dvis.segmenter import backbones
from mlkit_dvis.segmenter.attention import capture_attention
from mlkit_dvis.segmenter.backbones import make_backbone, maps_of
from mlkit_dvis.segmenter.encoder import Mask2FormerEncoder
from mlkit_dvis.segmenter.parts import DecoderSizes, SegmenterParts

TINY = {
    "backbone": "timm:test_resnet", "dim": 32, "mask_dim": 16, "num_queries": 7,
    "encoder_layers": 1, "encoder_feedforward": 32, "decoder_layers": 3, "heads": 4,
    "feedforward": 32, "reid_dim": 8,
}  # fmt: skip
# The official float32 outputs differ from its own float64 ones by up to 1.2e-5.
CLOSE = {"atol": 2e-4, "rtol": 0}


def tiny(**more):
    torch.manual_seed(0)
    return Mask2FormerEncoder(3, **TINY | more)


def frames(count=2, height=64, width=96):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def statistics(encoder):
    return {k: v.clone() for k, v in encoder.state_dict().items() if "running_" in k}


@pytest.fixture(scope="module")
def recorded(oracle):
    case = oracle("segmenter_case1")
    parts = SegmenterParts(
        [16, 32, 48, 64], DecoderSizes(64, 64, 12, 2, 1024, 4, 4, 128), 5, reid_dim=64
    )
    parts.load_state_dict(convert_segmenter(case["state_dict"]))
    maps = [case["inputs"][name] for name in ("res2", "res3", "res4", "res5")]
    return parts.eval(), maps, case["outputs"]["f32"]


@pytest.fixture(scope="module", params=[False, True], ids=["inference", "with-gradient"])
def decoded(recorded, request):
    parts, maps, expected = recorded
    with torch.set_grad_enabled(request.param):
        return parts, parts(maps, every_layer=True), expected


def test_mask_features_and_maps_equal_the_recorded_ones(decoded):
    _, found, expected = decoded
    torch.testing.assert_close(found.mask_features, expected["mask_features"], **CLOSE)
    for level, values in enumerate(found.maps):
        torch.testing.assert_close(values, expected[f"multi_scale_{level}"], **CLOSE)


def test_logits_masks_and_embeddings_equal_the_recorded_ones(decoded):
    parts, found, expected = decoded
    reid = parts.reid_embed(found.embeds).permute(2, 0, 1)[None]
    torch.testing.assert_close(found.logits[-1][None], expected["pred_logits"], **CLOSE)
    torch.testing.assert_close(
        found.masks[-1].transpose(0, 1)[None], expected["pred_masks"], **CLOSE
    )
    torch.testing.assert_close(found.embeds.permute(2, 0, 1)[None], expected["pred_embds"], **CLOSE)
    torch.testing.assert_close(reid, expected["pred_reid_embed"], **CLOSE)


def test_predictions_of_every_earlier_layer_equal_the_recorded_ones(decoded):
    _, found, expected = decoded
    assert len(found.logits) == len(found.masks) == 5
    logits = torch.stack(found.logits[:-1])[:, None]
    masks = torch.stack(found.masks[:-1]).transpose(1, 2)[:, None]
    torch.testing.assert_close(logits, expected["aux_pred_logits"], **CLOSE)
    torch.testing.assert_close(masks, expected["aux_pred_masks"], **CLOSE)


def test_only_the_last_layers_predictions_are_made_where_no_other_is_wanted(recorded):
    parts, maps, expected = recorded
    with torch.no_grad():
        found = parts(maps, every_layer=False)
    assert len(found.logits) == len(found.masks) == 1
    torch.testing.assert_close(found.logits[0][None], expected["pred_logits"], **CLOSE)


def test_captured_attention_is_the_recorded_cross_attention_and_not_self_attention(recorded):
    parts, maps, expected = recorded
    wanted = expected["last_cross_attention_per_head"]
    with torch.no_grad(), capture_attention(parts, [-1, 0]) as captured:
        parts(maps, every_layer=False)
    assert captured.sizes == {-1: (2, 3), 0: (2, 3)}  # the fourth layer is back at level 0
    torch.testing.assert_close(captured.weights[-1], wanted.mean(1), **CLOSE)


def test_attention_rows_sum_to_one_and_stay_within_the_mask_of_the_layer_before(recorded):
    parts, maps, _ = recorded
    with torch.no_grad(), capture_attention(parts, [-1]) as captured:
        found = parts(maps, every_layer=True)
    before = interpolate(found.masks[-2], size=(2, 3), mode="bilinear", align_corners=False)
    outside = (before < 0).flatten(2)
    outside &= ~outside.all(-1, keepdim=True)  # who may look nowhere may look everywhere
    weights = captured.weights[-1]
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 12))
    assert outside.any()
    assert (weights[outside] == 0).all()
    assert (weights[~outside] > 0).all()


def test_a_query_whose_mask_is_empty_everywhere_looks_everywhere():
    encoder = tiny().eval()
    with torch.no_grad(), capture_attention(encoder, [0]) as captured:
        encoder.transformer.decoder.mask_predictor.mask_embedder.get_submodule("2.0").weight.zero_()
        encoder.transformer.decoder.mask_predictor.mask_embedder.get_submodule("2.0").bias.fill_(-1)
        encoder.pixel_decoder.mask_projection.weight.zero_()
        encoder.pixel_decoder.mask_projection.bias.fill_(1)  # all mask logits are -mask_dim
        encoder(frames())
    assert (captured.weights[0] > 0).all()


def test_attention_of_an_unknown_layer_is_refused():
    with pytest.raises(InputError, match="3 decoder layers, got 3"), capture_attention(tiny(), [3]):
        pass


def test_capturing_changes_no_output_and_leaves_no_hook():
    encoder, images = tiny().eval(), frames()
    with torch.no_grad():
        plain = encoder(images)
        with capture_attention(encoder, [-1]):
            watched = encoder(images)
    torch.testing.assert_close(plain.logits, watched.logits, atol=1e-5, rtol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_frames_are_seen_one_by_one():
    encoder, images = tiny().eval(), frames(3)
    with torch.no_grad():
        together = encoder(images)
        alone = [encoder(image[None]) for image in images]
    for name in ("logits", "masks", "tokens", "reid"):
        separate = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), separate, atol=1e-4, rtol=0)


def test_inference_and_training_roads_agree_on_one_input():
    encoder, images = tiny(norm="frozen").train(), frames()
    slow = encoder(images)
    with torch.no_grad():
        quick = encoder.eval()(images)
    for name in ("logits", "masks", "tokens"):
        torch.testing.assert_close(getattr(slow, name), getattr(quick, name), atol=1e-4, rtol=0)


def test_padding_by_the_mean_colour_is_zero_after_normalisation():
    encoder = tiny().eval()
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    padded = torch.tensor(encoder.pad_rgb).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    with torch.no_grad():
        encoder(padded)
    assert seen[0].abs().max() < 1e-6


@pytest.mark.parametrize("switch", [Mask2FormerEncoder.train, set_train_mode])
def test_frozen_norms_stay_constant_in_training(switch):
    encoder = tiny(norm="frozen")
    before = statistics(encoder)
    affine = [p for m in backbones.batch_norms(encoder.backbone) for p in m.parameters()]
    switch(encoder)
    encoder(frames()).masks.sum().backward()
    assert before
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in before.items())
    assert affine
    assert not any(p.requires_grad or p.grad is not None for p in affine)
    assert encoder.training


def test_batch_norms_follow_the_data_where_they_train():
    encoder = tiny(norm="batch").train()
    before = statistics(encoder)
    encoder(frames())
    assert not all(torch.equal(value, encoder.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("pixel_decoder", ["fpn", "deformable"])
def test_every_parameter_gets_a_gradient(pixel_decoder):
    encoder = tiny(pixel_decoder=pixel_decoder).train()
    for norm in backbones.batch_norms(encoder.backbone):
        nn.init.ones_(norm.weight)  # timm draws the last ones of blocks as zero
    for name, parameter in encoder.named_parameters():
        if name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            nn.init.normal_(parameter, std=0.01)  # as long as they are zero, places do not matter
    seen = encoder(frames())
    parts = (seen.logits, seen.masks, seen.reid, seen.aux_logits, seen.aux_masks)
    sum(part.square().mean() for part in parts).backward()
    without = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("pixel_decoder", ["fpn", "deformable"])
def test_there_are_as_many_earlier_predictions_as_layers_and_none_in_evaluation(pixel_decoder):
    encoder = tiny(pixel_decoder=pixel_decoder).train()
    seen = encoder(frames())
    assert seen.aux_logits.shape == (2, 3, 7, 4)
    assert seen.aux_masks.shape == (2, 3, 7, 16, 24)
    assert encoder.eval()(frames()).aux_logits is None


def test_features_have_the_published_shapes():
    encoder = tiny().eval()
    seen = encoder(frames())
    assert {name: tuple(m.shape) for name, m in seen.maps.items()} == {
        "p2": (2, 16, 16, 24), "p3": (2, 32, 8, 12), "p4": (2, 32, 4, 6), "p5": (2, 32, 2, 3)
    }  # fmt: skip
    assert seen.reid.shape == (2, 7, 8)
    assert torch.equal(seen.queries[1], encoder.transformer.queries_features.weight)
    assert tiny(reid_dim=0).eval()(frames()).reid is None


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 64, 70), "multiples of 32 px, got 64 x 70"),
        ((3, 64, 64), r"takes \[R, 3, H, W\], got \(3, 64, 64\)"),
        ((1, 4, 64, 64), r"takes \[R, 3, H, W\], got \(1, 4, 64, 64\)"),
    ],
)
def test_an_input_of_another_size_or_rank_is_refused_with_the_legal_ones(shape, message):
    with pytest.raises(BuildError, match=message):
        tiny().eval()(torch.zeros(shape))


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(BuildError, match="no backbone 'resnet5'") as found:
        make_backbone("resnet5", None)
    assert "'resnet50'" in found.value.hint
    with pytest.raises(BuildError, match="timm has no model 'test_resnt'") as found:
        make_backbone("timm:test_resnt", None)
    assert "test_resnet" in found.value.hint


def test_a_timm_model_without_a_map_at_stride_4_is_refused_with_what_it_has():
    with pytest.raises(BuildError, match=r"maps at strides \[16, 16.*wanted \[4, 8, 16, 32\]"):
        make_backbone("timm:test_vit", None)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(BuildError, match="multiple of 32 for deformable, got 16"):
        tiny(dim=16, heads=4)
    with pytest.raises(BuildError, match="multiple of 4 and of heads 5"):
        tiny(dim=32, heads=5)


def test_a_tiny_vit_adapter_is_built_by_its_options():
    options = {
        "embed_dim": 32, "depth": 4, "vit_heads": 2, "pretrain_img_size": 64, "conv_inplane": 8,
        "deform_heads": 2, "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]],
    }  # fmt: skip
    encoder = tiny(backbone="vit-adapter", vit_adapter=options).eval()
    with torch.no_grad():
        seen = encoder(frames())
    assert seen.masks.shape == (2, 7, 16, 24)
    assert torch.isfinite(seen.masks).all()


def test_swin_gives_four_maps_and_gradients_reach_it(monkeypatch):
    monkeypatch.setitem(backbones._SWIN, "swin-tiny", (8, [1, 1, 2, 1], [1, 2, 2, 4], 4))
    encoder = tiny(backbone="swin-tiny", pixel_decoder="fpn").train()
    encoder(frames()).masks.sum().backward()
    without = [
        n for n, p in encoder.backbone.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert without == []


def test_maps_of_a_timm_model_with_channels_last_come_channels_first():
    class ChannelsLast(nn.Module):
        output_fmt = "NHWC"

        def forward(self, x):
            height, width = x.shape[-2:]
            return [x.new_zeros(1, height // s, width // s, c) for s, c in widths.items()]

    widths = {4: 96, 8: 192, 16: 384, 32: 768}
    maps = maps_of(ChannelsLast(), torch.zeros(1, 3, 384, 64))  # as many rows as channels
    assert [tuple(m.shape) for m in maps] == [
        (1, 96, 96, 16), (1, 192, 48, 8), (1, 384, 24, 4), (1, 768, 12, 2)
    ]  # fmt: skip


def test_the_published_r50_has_44_million_parameters_besides_the_reid_head():
    encoder = Mask2FormerEncoder(40)
    reid = sum(p.numel() for p in encoder.reid_embed.parameters())
    assert reid == 3 * (256 * 256 + 256)
    assert sum(p.numel() for p in encoder.parameters()) - reid == 44_013_097


def test_a_state_comes_back_through_load_pretrained():
    first, second = tiny().eval(), tiny().eval()
    for parameter in second.parameters():
        nn.init.zeros_(parameter)
    second.load_pretrained(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(frames()).masks, second(frames()).masks)


def test_missing_unknown_and_misshapen_weights_are_one_error():
    encoder = tiny()
    state = encoder.state_dict()
    del state["transformer.level_embed.weight"]
    state["transformer.more"] = torch.zeros(1)
    state["class_predictor.bias"] = torch.zeros(9)
    with pytest.raises(WeightsError) as found:
        encoder.load_pretrained(state)
    for part in ("level_embed.weight is missing", "transformer.more is unknown", "(9,), not (4,)"):
        assert part in str(found.value)


@pytest.fixture
def theirs(monkeypatch):
    """Return a tiny random Mask2Former of transformers, and an encoder of its sizes."""
    width, depths, heads, window = 8, [1, 1, 2, 1], [1, 2, 2, 4], 4
    monkeypatch.setitem(backbones._SWIN, "swin-tiny", (width, depths, heads, window))
    swin = SwinConfig(
        embed_dim=width, depths=depths, num_heads=heads, window_size=window, drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=16, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=4, num_attention_heads=4,
        dim_feedforward=32, dropout=0.0, num_queries=7, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(2)
    return Mask2FormerForUniversalSegmentation(config).eval()


def test_weights_of_transformers_give_its_own_outputs(theirs):
    encoder, images = tiny(backbone="swin-tiny").eval(), frames()
    encoder.load_pretrained(theirs.state_dict())
    with torch.no_grad():
        expected = theirs(pixel_values=(images - encoder.mean) / encoder.std)
        found = encoder(images)
    torch.testing.assert_close(found.logits, expected.class_queries_logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.masks, expected.masks_queries_logits, atol=1e-4, rtol=0)
    decoded = expected.pixel_decoder_last_hidden_state
    torch.testing.assert_close(found.maps["p2"], decoded, atol=1e-5, rtol=0)


def test_a_class_predictor_of_other_classes_starts_fresh_and_says_so(theirs, caplog):
    torch.manual_seed(3)
    encoder = Mask2FormerEncoder(5, **TINY | {"backbone": "swin-tiny"})
    fresh = encoder.class_predictor.weight.detach().clone()
    with caplog.at_level(logging.INFO, "mlkit.dvis"):
        encoder.load_pretrained(theirs.state_dict())
    assert torch.equal(encoder.class_predictor.weight, fresh)
    queries = theirs.model.transformer_module.queries_features.weight
    assert torch.equal(encoder.transformer.queries_features.weight, queries)
    assert "class_predictor starts fresh: the weights are of" in caplog.text
    assert "reid_embed starts fresh" in caplog.text


def test_adapters_leave_the_output_as_it_was_train_alone_and_fold_back():
    pytest.importorskip("peft")
    encoder, images = tiny().eval(), frames()
    options = LoraOptions(rank=4)
    with torch.no_grad():
        before = encoder(images)
        inject("encoders.frames", encoder, options)
        after = encoder(images)
    torch.testing.assert_close(before.masks, after.masks, atol=1e-6, rtol=0)
    encoder(images).masks.square().mean().backward()
    adapted = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert len(adapted) == 3 * 4 * 2  # layers, projections, factors
    assert all("transformer.decoder.layers" in n and ".self_attn." in n for n in adapted)
    second = [p for n, p in encoder.named_parameters() if "lora_B" in n]
    assert all(p.grad is not None and p.grad.any() for p in second[:8])
    with torch.no_grad():
        for parameter in second:
            parameter.normal_(std=0.1)
        trained = encoder(images)
        merge(encoder)
        merged = encoder(images)
    assert (trained.masks - before.masks).abs().max() > 1e-3
    torch.testing.assert_close(trained.masks, merged.masks, atol=1e-4, rtol=0)


def test_swin_tiny_has_the_published_widths():
    backbone, channels = make_backbone("swin-tiny", None)
    assert channels == [96, 192, 384, 768]
    with torch.no_grad():
        maps = maps_of(backbone.eval(), torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [
        (1, 96, 16, 16), (1, 192, 8, 8), (1, 384, 4, 4), (1, 768, 2, 2)
    ]  # fmt: skip
