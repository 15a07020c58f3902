"""Weights as the hub keeps them, and backbones that are refused."""

import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
    SwinConfig,
)

from mlkit_core.errors import BuildError, WeightsError
from mlkit_core.weights import load_pretrained
from mlkit_dvis.segmenter import backbones
from mlkit_dvis.segmenter.backbones import make_backbone
from mlkit_dvis.segmenter.encoder import Mask2FormerEncoder

OPTIONS = {
    "dim": 32, "mask_dim": 16, "num_queries": 7, "encoder_layers": 1, "encoder_feedforward": 32,
    "decoder_layers": 2, "heads": 4, "feedforward": 32, "reid_dim": 8,
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN = (8, [1, 1, 2, 1], [1, 2, 2, 4], 4)


def theirs(backbone):
    torch.manual_seed(2)
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=16, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=3, num_attention_heads=4,
        dim_feedforward=32, dropout=0.0, num_queries=7, num_labels=3,
    )  # fmt: skip
    return Mask2FormerForUniversalSegmentation(config).eval()


@pytest.fixture
def swin(monkeypatch):
    monkeypatch.setitem(backbones._SWIN, "swin-tiny", SWIN)
    width, depths, heads, window = SWIN
    return theirs(
        SwinConfig(
            embed_dim=width, depths=depths, num_heads=heads, window_size=window,
            drop_path_rate=0.0, out_features=STAGES,
        )
    )  # fmt: skip


def published(model, folder):
    """Return the tensors of a file as it lies on the hub, in the names of transformers 4."""
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    assert any(".attention.self.query." in key for key in state)
    state = {key: t for key, t in state.items() if ".swin.layernorm." not in key}
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    return state | {f"{block}.relative_position_index": torch.zeros(16, 16, dtype=torch.int64)}


def same_outputs(encoder, model):
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(pixel_values=(images - encoder.mean) / encoder.std)
        found = encoder.eval()(images)
    torch.testing.assert_close(found.masks, expected.masks_queries_logits, atol=1e-4, rtol=0)
    return found, expected


def test_a_swin_file_of_the_hub_gives_transformers_outputs(swin, tmp_path):
    encoder = Mask2FormerEncoder(3, backbone="swin-tiny", **OPTIONS)
    encoder.load_pretrained(published(swin, tmp_path))
    found, expected = same_outputs(encoder, swin)
    torch.testing.assert_close(found.logits, expected.class_queries_logits, atol=1e-4, rtol=0)


def test_a_file_of_the_hub_loads_by_its_path_with_provenance(swin, tmp_path, caplog):
    swin.save_pretrained(tmp_path)
    encoder = Mask2FormerEncoder(5, backbone="swin-tiny", **OPTIONS)
    with caplog.at_level(logging.INFO, "mlkit.dvis"):
        said = load_pretrained("encoders.frames", encoder, str(tmp_path / "model.safetensors"))
    assert said.startswith("sha256:")
    assert said.endswith("(model.safetensors)")
    assert "class_predictor starts fresh: the weights are of 3 classes, not of 5" in caplog.text
    assert "reid_embed starts fresh: the weights have none" in caplog.text


def test_equal_classes_are_not_fresh(swin, caplog):
    encoder = Mask2FormerEncoder(3, backbone="swin-tiny", **OPTIONS | {"reid_dim": 0})
    with caplog.at_level(logging.INFO, "mlkit.dvis"):
        encoder.load_pretrained(swin.state_dict())
    assert torch.equal(encoder.class_predictor.weight, swin.class_predictor.weight)
    assert caplog.text == ""


def test_a_resnet_of_transformers_gives_its_outputs(monkeypatch):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 1, 1]}
    monkeypatch.setattr(backbones, "_FOUR_MAPS", {**sizes, "out_features": STAGES})
    model = theirs(ResNetConfig(**sizes, out_features=STAGES))
    encoder = Mask2FormerEncoder(3, backbone="resnet50", **OPTIONS)
    encoder.load_pretrained(model.state_dict())
    same_outputs(encoder, model)


def test_what_transformers_weights_lack_or_have_too_much_is_an_error(swin):
    state = swin.state_dict()
    del state["model.transformer_module.level_embed.weight"]
    del state["class_predictor.bias"]
    state["model.transformer_module.more"] = torch.zeros(1)
    encoder = Mask2FormerEncoder(3, backbone="swin-tiny", **OPTIONS)
    with pytest.raises(WeightsError) as found:
        encoder.load_pretrained(state)
    for part in ("level_embed.weight is missing", "predictor.bias is missing", "more is unknown"):
        assert part in str(found.value)


def test_weights_of_another_number_of_queries_name_both_numbers(swin):
    encoder = Mask2FormerEncoder(3, backbone="swin-tiny", **OPTIONS | {"num_queries": 9})
    with pytest.raises(WeightsError, match=r"queries_embedder.weight is \(7, 32\), not \(9, 32\)"):
        encoder.load_pretrained(swin.state_dict())


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("timm:swin_tiny_patch4_window7_224", "takes images of one size only", "swin-tiny"),
        ("timm:resnet18.nope", "Invalid pretrained tag", None),
        ("resnet18", "no backbone 'resnet18'", "'timm:resnet18'"),
        ("swin_tiny", "no backbone 'swin_tiny'", "'swin-tiny'"),
    ],
)
def test_backbones_that_do_not_serve_are_refused(name, said, hint):
    with pytest.raises(BuildError, match=said) as found:
        make_backbone(name, None)
    assert hint is None or hint in (found.value.hint or "")


def test_options_of_a_vit_adapter_are_neither_ignored_nor_guessed():
    with pytest.raises(BuildError, match="vit_adapter: backbone 'resnet50' has none"):
        make_backbone("resnet50", {"depth": 4})
    with pytest.raises(BuildError, match="vit_adapter: no argument 'dept'") as found:
        make_backbone("vit-adapter", {"dept": 4})
    assert found.value.hint == "did you mean 'depth'?"
