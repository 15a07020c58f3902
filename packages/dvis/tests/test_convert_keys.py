"""Official keys become ours: against torchvision's backbones and recorded official weights.

The way back to official names is written here anew, from the specification's tables of keys.
"""

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformer
from transformers import Mask2FormerConfig, ResNetBackbone, ResNetConfig, SwinBackbone, SwinConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerTransformerModule,
)

from mlkit_core.errors import WeightsError
from mlkit_dvis.convert import convert_segmenter, convert_state
from mlkit_dvis.vit_adapter import ViTAdapter

STAGES = ["stage1", "stage2", "stage3", "stage4"]


@pytest.fixture(scope="module")
def segmenter(oracle):
    return oracle("segmenter_case1")["state_dict"]


def under(prefix, state):
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def with_prefix(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def shaken(module):
    """Return a module with every tensor random, statistics of norms included."""
    torch.manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith(("running_var", "norm.weight")) else -0.1
            tensor.uniform_(low, low + 0.3)
    return module.eval()


def detectron2_resnet(state):
    """Return torchvision's ResNet weights under detectron2's names; its classifier is dropped."""
    norms = {"bn1": "conv1.norm", "bn2": "conv2.norm", "bn3": "conv3.norm"}
    renamed = {}
    for name, tensor in state.items():
        first, *rest = name.split(".")
        if first == "fc" or rest[-1] == "num_batches_tracked":
            continue
        if first in ("conv1", "bn1"):
            renamed[".".join(["stem", norms.get(first, first), *rest])] = tensor
            continue
        block, layer, *leaf = rest
        if layer == "downsample":
            layer, leaf = ("shortcut", leaf[1:]) if leaf[0] == "0" else ("shortcut.norm", leaf[1:])
        stage = f"res{int(first.removeprefix('layer')) + 1}"
        renamed[".".join([stage, block, norms.get(layer, layer), *leaf])] = tensor
    return renamed


def test_a_detectron2_resnet_gives_torchvisions_maps(segmenter):
    reference = shaken(ResNet(Bottleneck, [1, 2, 1, 1]))
    official = with_prefix("backbone.", detectron2_resnet(reference.state_dict()))
    renamed = under("backbone.", convert_segmenter(segmenter | official))
    backbone = ResNetBackbone(ResNetConfig(depths=[1, 2, 1, 1], out_features=STAGES)).eval()
    backbone.load_state_dict(renamed)  # torch itself forgives absent counters of batches
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(image).feature_maps
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        for layer, found in zip("1234", maps, strict=True):
            x = getattr(reference, f"layer{layer}")(x)
            torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def detectron2_swin(reference, norms):
    """Return torchvision's Swin weights under the names of detectron2's Swin."""
    parts = {
        "norm1": "norm1", "norm2": "norm2", "attn.qkv": "attn.qkv", "attn.proj": "attn.proj",
        "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2",
    }  # fmt: skip
    renamed = with_prefix("patch_embed.proj.", reference.features[0][0].state_dict())
    renamed |= with_prefix("patch_embed.norm.", reference.features[0][2].state_dict())
    for stage in range(4):
        for index, block in enumerate(reference.features[1 + 2 * stage]):
            prefix = f"layers.{stage}.blocks.{index}."
            for old, new in parts.items():
                renamed |= with_prefix(f"{prefix}{new}.", block.get_submodule(old).state_dict())
            for table in ("relative_position_bias_table", "relative_position_index"):
                renamed[f"{prefix}attn.{table}"] = getattr(block.attn, table).detach()
        if stage < 3:
            merging = reference.features[2 + 2 * stage].state_dict()
            renamed |= with_prefix(f"layers.{stage}.downsample.", merging)
        renamed |= with_prefix(f"norm{stage}.", norms[stage].state_dict())
    return renamed


def test_a_detectron2_swin_gives_torchvisions_maps(segmenter):
    # No map is smaller than two windows: torchvision would not shift windows there.
    sizes = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 4]}
    reference = shaken(SwinTransformer([4, 4], window_size=[4, 4], **sizes))
    norms = [shaken(torch.nn.LayerNorm(8 * 2**stage)) for stage in range(4)]
    official = with_prefix("backbone.", detectron2_swin(reference, norms))
    renamed = under("backbone.", convert_segmenter(segmenter | official))
    config = SwinConfig(image_size=256, window_size=4, out_features=STAGES, **sizes)
    backbone = SwinBackbone(config).eval()
    missing, unexpected = backbone.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert missing == ["swin.layernorm.weight", "swin.layernorm.bias"]
    image = torch.randn(1, 3, 256, 192)
    with torch.no_grad():
        maps = backbone(image).feature_maps
        x = reference.features[0](image)
        for stage, found in enumerate(maps):
            x = reference.features[1 + 2 * stage](x)
            torch.testing.assert_close(
                found, norms[stage](x).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5
            )
            x = reference.features[2 + 2 * stage](x) if stage < 3 else x


def test_recorded_segmenter_weights_fit_transformers_modules(segmenter):
    renamed = convert_segmenter(segmenter)
    config = Mask2FormerConfig(
        num_labels=5, num_queries=12, feature_size=64, mask_feature_size=64, hidden_dim=64,
        encoder_layers=2, decoder_layers=5, num_attention_heads=4, dim_feedforward=128,
    )  # fmt: skip
    pixel_decoder = Mask2FormerPixelDecoder(config, [16, 32, 48, 64])
    pixel_decoder.load_state_dict(under("pixel_decoder.", renamed))
    transformer = Mask2FormerTransformerModule(64, config)
    transformer.load_state_dict(under("transformer.", renamed))
    heads = [name for name in renamed if not name.startswith(("pixel_decoder.", "transformer."))]
    layers = [f"reid_embed.layers.{i}" for i in range(3)]
    assert heads == [
        f"{n}.{leaf}" for n in ("class_predictor", *layers) for leaf in ("weight", "bias")
    ]


def test_joint_attention_weights_are_cut_in_query_key_value_order(segmenter):
    renamed = convert_segmenter(segmenter)
    joint = "sem_seg_head.predictor.transformer_self_attention_layers.2.self_attn.in_proj_weight"
    ours = "transformer.decoder.layers.2.self_attn.{}_proj.weight"
    parts = [renamed[ours.format(letter)] for letter in "qkv"]
    assert torch.equal(torch.cat(parts), segmenter[joint])


def test_recorded_tracker_refiner_and_vit_adapter_keep_their_names(segmenter, oracle):
    tracker = oracle("tracker_case1")["state_dict"]
    refiner = oracle("refiner_case1")["state_dict"]
    adapter = oracle("vitadapter_case1")["state_dict"]
    official = segmenter | with_prefix("backbone.", adapter)
    official |= with_prefix("tracker.", tracker) | with_prefix("refiner.", refiner)
    tensors = convert_state(official).tensors
    for prefix, expected in (
        ("fusions.tracks.tracker.", tracker),
        ("fusions.refined.refiner.", refiner),
        ("encoders.frames.backbone.", adapter),
    ):
        found = under(prefix, tensors)
        assert found.keys() == expected.keys()
        assert all(found[name] is expected[name] for name in expected)


@pytest.mark.parametrize("depth", [8, 12])
def test_the_list_of_vit_adapter_keys_is_the_modules_own(segmenter, depth):
    blocks = depth // 4
    stages = [[i * blocks, (i + 1) * blocks - 1] for i in range(4)]
    adapter = ViTAdapter(16, depth, 2, 2, 64, 4, 2, 4, 0.25, stages)
    official = segmenter | with_prefix("backbone.", adapter.state_dict())
    renamed = under("backbone.", convert_segmenter(official))
    assert renamed.keys() == adapter.state_dict().keys()


def test_what_a_checkpoint_holds_is_read_from_its_tensors(segmenter, oracle):
    official = segmenter | with_prefix("backbone.", oracle("vitadapter_case1")["state_dict"])
    official |= with_prefix("tracker.", oracle("tracker_case1")["state_dict"])
    found = convert_state(official).detected
    shape = found.segmenter
    assert (shape.num_classes, shape.num_queries, shape.dim, shape.mask_dim) == (5, 12, 64, 64)
    assert (shape.encoder_layers, shape.encoder_ffn, shape.heads) == (2, 1024, 4)
    assert (shape.decoder_layers, shape.ffn, shape.reid_dim) == (4, 128, 64)
    assert (found.backbone.family, found.backbone.depths, found.backbone.width) == (
        "vit-adapter", (2, 2, 2, 2), 32,
    )  # fmt: skip
    assert (found.tracker.layers, found.tracker.num_slots, found.tracker.ffn) == (3, 3, 64)
    assert found.refiner is None


@pytest.fixture
def official(segmenter):
    reference = ResNet(Bottleneck, [1, 1, 1, 1])
    return segmenter | with_prefix("backbone.", detectron2_resnet(reference.state_dict()))


def test_missing_keys_are_named(official):
    del official["backbone.res3.0.conv2.norm.running_var"]
    del official["sem_seg_head.predictor.decoder_norm.bias"]
    said = "missing 2 .*decoder_norm.bias, backbone.res3.0.conv2.norm.running_var"
    with pytest.raises(WeightsError, match=said):
        convert_state(official)


def test_unknown_keys_are_named(official):
    official["sem_seg_head.predictor.memory.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"unknown 1 \(sem_seg_head.predictor.memory.weight\)"):
        convert_state(official)


def test_adapter_injectors_are_unknown(segmenter, oracle):
    official = segmenter | with_prefix("backbone.", oracle("vitadapter_case1")["state_dict"])
    official["backbone.interactions.0.injector.gamma"] = torch.zeros(32)
    with pytest.raises(WeightsError, match=r"unknown 1 \(backbone.interactions.0.injector.gamma\)"):
        convert_state(official)


def test_every_key_is_accounted_for_once(official):
    official["daq_criterion.empty_weight"] = torch.ones(6)
    official["backbone.stem.conv1.norm.num_batches_tracked"] = torch.tensor(3)
    converted = convert_state(official)
    told = [move.old for move in converted.moves] + [one.old for one in converted.unused]
    assert sorted(told) == sorted(official)
    assert [one.old for one in converted.unused] == [
        "daq_criterion.empty_weight",
        "backbone.stem.conv1.norm.num_batches_tracked",
    ]
    assert all(one.reason for one in converted.unused)
    news = [name for move in converted.moves for name in move.new]
    assert sorted(news) == sorted(converted.tensors)


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("sem_seg_head.predictor.query_feat", "no key 'sem_seg_head.predictor.query_feat.weight'"),
        ("backbone.", "no key under 'backbone.'"),
        ("backbone.stem.conv1.weight", "no known backbone"),
    ],
)
def test_checkpoints_of_other_systems_are_refused(official, prefix, said):
    left = {name: t for name, t in official.items() if not name.startswith(prefix)}
    with pytest.raises(WeightsError, match=said):
        convert_state(left)


def test_a_refiner_without_tracker_is_refused(official, oracle):
    official |= with_prefix("refiner.", oracle("refiner_case1")["state_dict"])
    with pytest.raises(WeightsError, match="refiner, but no tracker"):
        convert_state(official)


def test_parts_of_other_classes_are_refused(official, oracle):
    tracker = oracle("tracker_case1")["state_dict"]
    tracker = tracker | {"class_embed.weight": torch.zeros(9, 32)}
    with pytest.raises(WeightsError, match="the tracker has 8 classes, the segmenter 5"):
        convert_state(official | with_prefix("tracker.", tracker))
