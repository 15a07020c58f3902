"""The timm encoder against timm itself, over families that differ."""

from __future__ import annotations

import time

import pytest
import timm
import torch

from mlkit_core.components.timm_encoder import TimmEncoder
from mlkit_core.errors import BuildError, WeightsError

MODELS = [
    ("test_resnet", {}, (64, 96)),
    ("test_efficientnet", {}, (64, 32)),
    ("test_convnext", {"out_indices": (1, -1)}, (64, 64)),
    ("test_mambaout", {}, (64, 64)),  # gives channels last unless told otherwise
    ("test_maxvit", {}, (160, 160)),  # one size only
    ("test_vit", {}, (48, 96)),
    ("test_vit3", {"image_size": 32, "out_indices": (2, 5, -1)}, (32, 32)),
    ("test_vit_relpos", {}, (160, 160)),
    ("vit_tiny_patch16_224", {"out_indices": (5, 11)}, (32, 32)),
    ("levit_128s", {"out_indices": (0, 1)}, (224, 224)),
]


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    return TimmEncoder(name, **options).eval()


@pytest.mark.parametrize(("name", "options", "size"), MODELS, ids=[m[0] for m in MODELS])
def test_a_real_forward_gives_what_is_published(name, options, size):
    encoder = build(name, **options)
    with torch.no_grad():
        features = encoder(torch.rand(2, 3, *size))
    for level, channels in encoder.spec.channels.items():
        stride = encoder.spec.strides[level]
        assert features.maps[level].shape == (2, channels, size[0] // stride, size[1] // stride)
    assert features.vector.shape == (2, encoder.spec.vector_dim)
    token_dim = None if features.tokens is None else features.tokens.shape[2]
    assert token_dim == encoder.spec.token_dim
    if encoder.sizes:
        assert encoder.sizes == size[:1]


def test_maps_equal_timms_features_only_after_its_own_normalisation():
    reference = timm.create_model("test_resnet", features_only=True).eval()
    encoder = build("test_resnet")
    # features_only drops the classifier and keeps the names.
    encoder.backbone.load_state_dict(reference.state_dict())
    images = torch.rand(2, 3, 64, 64)
    config = timm.get_pretrained_cfg("test_resnet")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.mean, config.std))
    with torch.no_grad():
        want, got = reference((images - mean) / std), encoder(images)
    assert list(got.maps) == ["p1", "p2", "p3", "p4", "p5"]
    for values, expected in zip(got.maps.values(), want, strict=True):
        torch.testing.assert_close(values, expected)
    torch.testing.assert_close(got.vector, want[-1].mean((2, 3)))


def test_a_vits_vector_is_timms_own_pooling_and_its_map_is_its_tokens():
    encoder = build("test_vit", normalize="none")
    images = torch.rand(2, 3, 48, 96)
    with torch.no_grad():
        got, want = encoder(images), encoder.backbone(images)
        tokens = encoder.backbone.forward_features(images)[:, encoder.backbone.num_prefix_tokens :]
    torch.testing.assert_close(got.vector, want)
    torch.testing.assert_close(got.tokens, tokens)
    # Row-major: token 6 * row + column is the map's (row, column).
    torch.testing.assert_close(got.maps["p4"][:, :, 2, 1], tokens[:, 6 * 2 + 1])


def test_padding_with_pad_rgb_is_zero_after_normalisation():
    encoder = build("test_resnet")
    seen = []
    encoder.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pad = torch.tensor(encoder.pad_rgb).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    encoder(pad)
    assert seen[0].abs().max() == 0


def test_normalize_none_hands_rgb_through():
    assert build("test_resnet", normalize="none").pad_rgb == (0.0, 0.0, 0.0)


def test_stages_of_one_stride_are_named_by_block():
    encoder = build("test_vit", out_indices=(1, 3, -1))
    assert dict(encoder.spec.strides) == {"block1": 16, "block3": 16, "block5": 16}


def test_a_stride_that_is_no_power_of_two_keeps_its_number():
    encoder = build("vit_small_patch14_dinov2", image_size=28)
    assert dict(encoder.spec.channels) == {"s14": 384}
    assert encoder.size_multiple == 14


def test_dinov2_small_has_its_published_number_of_parameters():
    with torch.device("meta"):
        encoder = TimmEncoder("vit_small_patch14_dinov2")
    assert sum(p.numel() for p in encoder.backbone.parameters()) == 22_056_192


@pytest.mark.parametrize(
    ("name", "size", "legal"),
    [
        ("test_resnet", (64, 80), r"multiples of 32 px, got 64 x 80"),
        ("test_vit", (64, 40), r"multiples of 16 px, got 64 x 40"),
        ("test_maxvit", (192, 192), r"160 x 160 px, got 192 x 192"),
    ],
)
def test_a_wrong_size_names_the_legal_ones(name, size, legal):
    with pytest.raises(BuildError, match=legal):
        build(name)(torch.rand(1, 3, *size))


def test_grey_images_are_refused():
    with pytest.raises(BuildError, match=r"takes \[R, 3, H, W\], got \(1, 1, 64, 64\)"):
        build("test_resnet")(torch.rand(1, 1, 64, 64))


def test_an_unknown_model_names_near_ones():
    with pytest.raises(BuildError, match="timm has no model 'resnet81'") as caught:
        TimmEncoder("resnet81")
    assert "'resnet18'" in caught.value.hint


def test_an_unknown_tag_lists_the_known_ones():
    with pytest.raises(BuildError, match="bogus") as caught:
        TimmEncoder("resnet18.bogus")
    assert "resnet18.a1_in1k" in caught.value.hint


def test_a_hub_address_is_no_model_name():
    with pytest.raises(BuildError, match="timm has no model 'hf-hub:timm/resnet18'"):
        TimmEncoder("hf-hub:timm/resnet18")


def test_an_unknown_stage_is_refused():
    with pytest.raises(BuildError, match=r"has 0 to 4, got \[7\]"):
        TimmEncoder("test_resnet", out_indices=(7,))


def test_image_size_is_refused_where_the_model_takes_any():
    with pytest.raises(BuildError, match="not built for one size"):
        TimmEncoder("test_resnet", image_size=64)


def test_a_stage_whose_stride_does_not_divide_the_only_size_is_refused():
    with pytest.raises(BuildError, match="takes 224 px only, which its stride 64 does not divide"):
        TimmEncoder("levit_128s")


def test_lora_targets_exist_as_linear_layers():
    encoder = build("test_vit")
    linear = [n for n, m in encoder.named_modules() if isinstance(m, torch.nn.Linear)]
    assert encoder.lora_targets == ("qkv",)
    assert sum(name.endswith(".qkv") for name in linear) == 6
    assert build("test_resnet").lora_targets == ()


def test_attention_that_reads_its_weight_past_the_module_gets_no_adapter():
    with torch.device("meta"):
        assert TimmEncoder("beit_base_patch16_224").lora_targets == ()


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 64), ("test_maxvit", 160), ("eva02_tiny_patch14_224", 28)]
)
def test_adapters_on_the_lora_targets_change_the_output(name, size):
    peft = pytest.importorskip("peft", reason="LoRA is the extra [lora]")
    encoder = build(name)
    if not encoder.lora_targets:
        return  # none is better than one that is never called
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        before = encoder(images).vector
        config = peft.LoraConfig(r=2, target_modules=list(encoder.lora_targets))
        peft.inject_adapter_in_model(config, encoder)
        for parameter_name, parameter in encoder.named_parameters():
            if "lora_B" in parameter_name:
                parameter.add_(0.1)
                change = (encoder(images).vector - before).abs().max()
                parameter.sub_(0.1)
                assert change > 0


def test_the_constructor_draws_random_weights():
    a, b = (build("test_resnet", seed=s).backbone.conv1[0].weight for s in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])
def test_published_weights_load_up_to_the_classifier(name):
    published = timm.create_model(name)  # with a classifier, as timm publishes them
    encoder = build(name, seed=5)
    encoder.load_pretrained(published.state_dict())
    own = encoder.backbone.state_dict()
    assert all(torch.equal(own[key], published.state_dict()[key]) for key in own)


def test_a_vits_position_table_is_resampled_to_the_size_it_is_built_for():
    published = timm.create_model("test_vit")  # 160 px: 10 x 10 positions
    encoder = build("test_vit", image_size=96)
    encoder.load_pretrained(published.state_dict())
    table = published.pos_embed.detach()
    grid = table[:, table.shape[1] - 100 :].reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
    want = torch.nn.functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True)
    got = encoder.backbone.pos_embed[:, encoder.backbone.pos_embed.shape[1] - 36 :]
    torch.testing.assert_close(got.reshape(1, 6, 6, -1).permute(0, 3, 1, 2), want)


def test_weights_of_another_model_are_refused_by_key():
    other = timm.create_model("test_resnet")
    with pytest.raises(WeightsError, match="the weights do not fit"):
        build("test_efficientnet").load_pretrained(other.state_dict())


def test_a_missing_key_and_another_shape_are_named():
    state = timm.create_model("test_resnet").state_dict()
    del state["conv1.0.weight"]
    state["bn1.weight"] = torch.zeros(3)
    with pytest.raises(WeightsError, match=r"conv1.0.weight is missing; bn1.weight is \(3,\), not"):
        build("test_resnet").load_pretrained(state)


def test_pretrained_weights_without_a_network_fail_at_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    encoder, start = build("test_vit"), time.perf_counter()
    with pytest.raises(WeightsError, match=r"test_vit\.r160_in1k") as caught:
        encoder.pretrained_file()
    assert time.perf_counter() - start < 2
    assert "model.safetensors" in caught.value.hint


def test_a_model_without_published_weights_says_so():
    with torch.device("meta"):
        encoder = TimmEncoder("botnet50ts_256")
    with pytest.raises(WeightsError, match="publishes no weights"):
        encoder.pretrained_file()
