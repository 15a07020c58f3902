"""The refiner against recorded outputs, and what must or must not change its classes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mlkit_core.errors import BuildError
from mlkit_dvis.refiner import TemporalRefiner
from mlkit_dvis.refiner.temporal import change

CASES = [("f64", torch.float64, 1e-6), ("f32", torch.float32, 2e-4)]


def loaded(case, dtype):
    refiner = TemporalRefiner(**case["config"])
    refiner.load_state_dict(case["state_dict"], strict=True)
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in case["inputs"].items()
    }
    return refiner.to(dtype), inputs


def call(refiner, inputs):
    names = ("instance_embeds", "frame_embeds", "mask_features", "padding_mask")
    return refiner(*(inputs[name] for name in names))


def small(seed=0, **options):
    torch.manual_seed(seed)
    refiner = TemporalRefiner(
        hidden_channel=16, feedforward_channel=32, num_head=2, decoder_layer_num=2,
        mask_dim=8, class_num=3, **options,
    )  # fmt: skip
    return refiner.double().eval()


def clip(frames=7, rows=4, queries=5):
    torch.manual_seed(1)
    return (
        torch.randn(1, 16, frames, rows, dtype=torch.float64),
        torch.randn(1, 16, frames, queries, dtype=torch.float64),
        torch.randn(1, frames, 8, 3, 4, dtype=torch.float64),
    )


@pytest.mark.parametrize(("key", "dtype", "atol"), CASES)
def test_evaluation_equals_the_recorded_outputs(oracle, key, dtype, atol):
    case = oracle("refiner_case1")
    refiner, inputs = loaded(case, dtype)
    with torch.no_grad():
        output = call(refiner.eval(), inputs)
    # The recorded ones were rounded to float32, hence 1e-6 in float64.
    for name, want in case["outputs"][f"eval_{key}"].items():
        assert torch.allclose(getattr(output, name).to(want.dtype), want, rtol=0, atol=atol), name
    assert output.aux == ()


@pytest.mark.parametrize(("key", "dtype", "atol"), [(*CASES[0][:2], 1e-9), CASES[1]])
def test_training_and_its_gradients_equal_the_recorded_ones(oracle, key, dtype, atol):
    case = oracle("refiner_case1")
    refiner, inputs = loaded(case, dtype)
    inputs["instance_embeds"].requires_grad_()
    output = call(refiner.train(), inputs)
    want = case["outputs"][f"train_{key}"]
    (output.pred_logits.square().mean() + output.pred_masks.square().mean()).backward()
    got = {
        "pred_logits": output.pred_logits,
        "pred_masks": output.pred_masks,
        "pred_embds": output.pred_embds,
        "aux_pred_logits": torch.stack([logits for logits, _ in output.aux]),
        "aux_pred_masks": torch.stack([masks for _, masks in output.aux]),
        "grad_instance_embeds": inputs["instance_embeds"].grad,
        "grad_activation_proj_weight": refiner.activation_proj.weight.grad,
    }
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert torch.allclose(got[name], values, rtol=0, atol=atol), name


def test_windows_of_masks_change_no_result():
    inputs = clip()
    whole, parts = small(windows=7), small(windows=1)
    parts.load_state_dict(whole.state_dict())
    with torch.no_grad():
        a, b = whole(*inputs), parts(*inputs)
    assert torch.equal(a.pred_logits, b.pred_logits)
    assert torch.allclose(a.pred_masks, b.pred_masks, rtol=0, atol=1e-12)


def test_the_padding_mask_changes_nothing():
    refiner, inputs = small(), clip()
    with torch.no_grad():
        a = refiner(*inputs, torch.zeros(1, 4, 7, dtype=torch.bool))
        b = refiner(*inputs, torch.ones(1, 4, 7, dtype=torch.bool))
    assert torch.equal(a.pred_logits, b.pred_logits)
    assert torch.equal(a.pred_masks, b.pred_masks)


def shuffled(refiner):
    """Return how far class logits move when the frames change places."""
    inputs, order = clip(), torch.tensor([3, 0, 6, 2, 5, 1, 4])
    moved = (inputs[0][:, :, order], inputs[1][:, :, order], inputs[2][:, order])
    with torch.no_grad():
        difference = refiner(*inputs).pred_logits[:, 0] - refiner(*moved).pred_logits[:, 0]
    return difference.abs().max().item()


@pytest.mark.parametrize("options", [{}, {"amplify_change": True}])
def test_without_convolutions_or_encoding_the_order_of_frames_is_not_seen(options):
    assert shuffled(small(**options)) < 1e-9


@pytest.mark.parametrize("options", [{"use_local_attn": True}, {"time_encoding": "sine"}])
def test_convolutions_and_time_encoding_see_it(options):
    assert shuffled(small(**options)) > 1e-3


@pytest.mark.parametrize("options", [{"time_encoding": "sine"}, {"amplify_change": True}])
def test_neither_encoding_nor_amplifying_adds_a_parameter(options):
    assert small().state_dict().keys() == small(**options).state_dict().keys()


def test_a_change_is_the_distance_from_the_mean_over_time_in_units_of_the_spread():
    rows = torch.zeros(1, 4, 2, 1, dtype=torch.float64)
    rows[0, :, 0, 0] = torch.tensor([5.001, 5.003, 5.001, 5.003])  # mean 5.002, spread 0.001
    rows[0, :, 1, 0] = 7.0
    got = change(rows, least=1e-12)
    want = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    assert torch.allclose(got[0, :, 0, 0], want, rtol=0, atol=1e-5)
    assert got[0, :, 1, 0].abs().max() == 0


def turning(clips, generator):
    """Return clips whose row turns one way or the other, a little around a constant, and ways."""
    ways = torch.randint(0, 2, (clips,), generator=generator)
    begin = torch.rand(clips, 1, generator=generator) * 6.28
    angle = begin + torch.arange(8) * 6.28 / 6 * (2 * ways[:, None] - 1)
    plane, constant = torch.randn(2, 16), torch.randn(16)
    rows = constant + 0.03 * torch.stack([angle.cos(), angle.sin()], -1) @ plane  # [B, T, C]
    return rows.transpose(1, 2)[..., None], ways


@pytest.mark.parametrize(("amplified", "least", "most"), [(True, 0.95, 1.0), (False, 0.0, 0.7)])
def test_a_small_turn_is_learned_where_changes_are_amplified(amplified, least, most):
    refiner = small(use_local_attn=True, amplify_change=amplified).float().train()
    optimizer = torch.optim.AdamW(refiner.parameters(), 3e-3)
    torch.manual_seed(2)
    rows, ways = turning(256, torch.Generator().manual_seed(3))
    for step in range(60):
        some = slice(32 * (step % 6), 32 * (step % 6) + 32)
        decoded, activations = refiner.refine(rows[some], rows[some])
        logits, _ = refiner.classify(decoded, activations)
        optimizer.zero_grad()
        functional.cross_entropy(logits[:, 0], ways[some]).backward()
        optimizer.step()
    with torch.no_grad():
        logits, _ = refiner.classify(*refiner.eval().refine(rows[192:], rows[192:]))
    assert least <= (logits[:, 0].argmax(-1) == ways[192:]).float().mean() <= most


def test_frame_weights_sum_to_one_and_make_the_class():
    refiner = small()
    with torch.no_grad():
        output = refiner(*clip())
        decoded = refiner.decoder_norm(output.pred_embds[0].permute(1, 2, 0))  # [T, N, C]
        by_hand = sum(
            output.frame_weights[t, :, None] * decoded[t] for t in range(7)
        )  # weights differ between frames, so a plain mean would not do
        assert torch.allclose(refiner.class_embed(by_hand), output.pred_logits[0, 0])
    assert torch.allclose(output.frame_weights.sum(0), torch.ones(4, dtype=torch.float64))
    assert output.frame_weights.std(0).min() > 1e-3


def repeated(rows, ends):
    return functional.pad(rows, (ends, ends), mode="replicate")


def test_the_short_convolution_repeats_the_ends_and_comes_between_time_and_objects():
    refiner, (instances, frames, _) = small(use_local_attn=True), clip()
    x = instances[0].permute(1, 2, 0)  # [T, N, C]
    memory = frames[0].permute(2, 1, 0)  # [Q, T, C]
    with torch.no_grad():
        for layer in range(2):
            x = refiner.transformer_time_self_attention_layers[layer](x)
            first, _, second = refiner.conv_short_aggregate_layers[layer]
            rows = x.permute(1, 2, 0)
            inner = functional.conv1d(repeated(rows, 2), first.weight, first.bias).relu()
            outer = functional.conv1d(repeated(inner, 1), second.weight, second.bias)
            x = refiner.conv_norms[layer]((outer + rows).permute(2, 0, 1))
            x = refiner.transformer_obj_self_attention_layers[layer](x.transpose(0, 1))
            x = refiner.transformer_cross_attention_layers[layer](x, memory)
            x = refiner.transformer_ffn_layers[layer](x).transpose(0, 1)
        (got,) = refiner.levels(instances, frames)
    assert torch.allclose(got[0], x, rtol=0, atol=1e-12)


def test_clips_of_a_batch_do_not_see_each_other():
    refiner = small(use_local_attn=True)
    a, b = clip(), tuple(values.flip(1) for values in clip())
    with torch.no_grad():
        both = refiner(*(torch.cat(pair) for pair in zip(a, b, strict=True)))
        alone = refiner(*b)
    assert torch.allclose(both.pred_masks[1:], alone.pred_masks, rtol=0, atol=1e-12)
    assert both.frame_weights.shape == (2, 7, 4)


def test_many_rows_go_through_the_feed_forward_layer_in_slices(monkeypatch):
    refiner, inputs = small(), clip()
    with torch.no_grad():
        whole = refiner(*inputs).pred_masks
        monkeypatch.setattr("mlkit_dvis.refiner.temporal._FFN_ROWS", 3)
        assert torch.allclose(refiner(*inputs).pred_masks, whole, rtol=0, atol=1e-12)


def test_parameters_have_the_published_names_and_shapes():
    refiner = TemporalRefiner(
        hidden_channel=16, feedforward_channel=32, num_head=2, decoder_layer_num=1,
        mask_dim=8, class_num=3, use_local_attn=True,
    )  # fmt: skip
    attention = {
        "in_proj_weight": (48, 16), "in_proj_bias": (48,),
        "out_proj.weight": (16, 16), "out_proj.bias": (16,),
    }  # fmt: skip
    norm = {"norm.weight": (16,), "norm.bias": (16,)}
    own = {f"self_attn.{name}": shape for name, shape in attention.items()} | norm
    cross = {f"multihead_attn.{name}": shape for name, shape in attention.items()} | norm
    ffn = {
        "linear1.weight": (32, 16), "linear1.bias": (32,),
        "linear2.weight": (16, 32), "linear2.bias": (16,),
    } | norm  # fmt: skip
    short = {"0.weight": (16, 16, 5), "0.bias": (16,), "2.weight": (16, 16, 3), "2.bias": (16,)}
    layers = {
        "transformer_time_self_attention_layers.0": own,
        "transformer_obj_self_attention_layers.0": own,
        "transformer_cross_attention_layers.0": cross,
        "transformer_ffn_layers.0": ffn,
        "conv_short_aggregate_layers.0": short,
        "conv_norms.0": {"weight": (16,), "bias": (16,)},
        "decoder_norm": {"weight": (16,), "bias": (16,)},
        "class_embed": {"weight": (4, 16), "bias": (4,)},
        "mask_embed.layers": {
            "0.weight": (16, 16), "0.bias": (16,), "1.weight": (16, 16), "1.bias": (16,),
            "2.weight": (8, 16), "2.bias": (8,),
        },
        "activation_proj": {"weight": (1, 16), "bias": (1,)},
    }  # fmt: skip
    want = {f"{part}.{name}": shape for part, own in layers.items() for name, shape in own.items()}
    assert {name: tuple(value.shape) for name, value in refiner.state_dict().items()} == want


@pytest.mark.parametrize(("conv", "millions"), [(False, 11.26), (True, 14.41)])
def test_the_published_sizes_have_the_published_number_of_parameters(conv, millions):
    with torch.device("meta"):
        refiner = TemporalRefiner(class_num=25, use_local_attn=conv)
    count = sum(parameter.numel() for parameter in refiner.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(BuildError, match="multiple of num_head 3"):
        TemporalRefiner(hidden_channel=16, num_head=3, class_num=2)
