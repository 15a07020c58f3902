"""The image encoders of SAM, MedSAM and SAM 3."""

from __future__ import annotations

import pytest
import torch

from mlkit_angioseg.encoders.sam import SamEncoder
from mlkit_angioseg.encoders.sam3 import Sam3Encoder
from mlkit_angioseg.heads.fpn_mask import FpnMask
from mlkit_core.config.frame import LoraOptions
from mlkit_core.errors import BuildError, WeightsError
from mlkit_core.training import adapters
from mlkit_core.weights import load_pretrained

TINY3 = {"width": 32, "depth": 2, "heads": 2, "fpn_width": 16}


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sam_has_the_published_geometries():
    with torch.device("meta"):
        counts = {v: _count(SamEncoder(v)) for v in ("vit_b", "vit_l", "vit_h")}
    assert counts == {"vit_b": 89_670_912, "vit_l": 308_278_272, "vit_h": 637_026_048}


def test_sam3_builds_the_vision_tower_alone():
    with torch.device("meta"):
        encoder = Sam3Encoder()
    assert _count(encoder) == 454_038_784
    assert encoder.spec.strides == {"fpn0": 3.5, "fpn1": 7, "fpn2": 14, "fpn3": 28}


def test_sam_gives_what_segment_anything_gives():
    encoder = SamEncoder("tiny", 64, blocks=(0, 1)).eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
    with torch.no_grad():
        features, theirs = encoder(images), encoder.encoder((images * 255 - mean) / std)
        hidden = encoder.encoder.neck(features.maps["block1"])
    torch.testing.assert_close(features.maps["neck"], theirs)
    torch.testing.assert_close(hidden, theirs)
    assert features.maps["block0"].shape == (2, 32, 4, 4)


def test_medsam_input_is_stretched_by_each_image_alone():
    encoder = SamEncoder("tiny", 64, normalize="medsam").eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    dim = 0.2 + 0.3 * images
    with torch.no_grad():
        one, two = encoder(images).maps["neck"], encoder(dim).maps["neck"]
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


def test_recomputed_blocks_give_the_same_gradients():
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = SamEncoder("tiny", 64, checkpointing=checkpointing)
        encoder(images).maps["neck"].square().sum().backward()
        gradients.append(encoder.encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("make", "size", "message"),
    [
        (lambda: SamEncoder("tiny", 64), 80, r"sam takes images \[R, 3, 64, 64\]"),
        (lambda: SamEncoder("tiny", 70), 70, "image_size: expected a multiple of 16 px, got 70"),
        (lambda: SamEncoder("vit_x"), 64, "sam has vit_b, vit_l, vit_h, tiny, not 'vit_x'"),
        (lambda: SamEncoder("tiny", 64, (2,)), 64, r"sam tiny has 0 to 1, got \[2\]"),
        (lambda: Sam3Encoder(56, **TINY3), 84, r"sam3 takes images \[R, 3, 56, 56\]"),
        (lambda: Sam3Encoder(1024), 64, "expected a multiple of 28, got 1024"),
        (lambda: Sam3Encoder(56, ("fpn4",), **TINY3), 56, "sam3 has fpn0, fpn1, fpn2, fpn3"),
    ],
)
def test_what_an_encoder_does_not_take_is_refused(make, size, message):
    with pytest.raises(BuildError, match=message):
        make()(torch.rand(1, 3, size, size))


def test_a_whole_checkpoint_gives_its_image_encoder(tmp_path):
    source, encoder = SamEncoder("tiny", 64), SamEncoder("tiny", 64)
    state = {f"image_encoder.{k}": v for k, v in source.encoder.state_dict().items()}
    state["prompt_encoder.no_mask_embed.weight"] = torch.zeros(1, 256)
    torch.save(state, tmp_path / "sam.pth")
    said = load_pretrained("encoders.image", encoder, str(tmp_path / "sam.pth"))
    assert said.startswith("sha256:")
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(
        encoder.eval()(images).maps["neck"], source.eval()(images).maps["neck"]
    )


def test_weights_of_another_size_are_resampled_and_keep_a_linear_position_table():
    source, encoder = SamEncoder("tiny", 64), SamEncoder("tiny", 128)
    ramp = torch.arange(4.0)[None, :, None, None].expand(1, 4, 4, 32)
    with torch.no_grad():
        source.encoder.pos_embed.copy_(ramp)
    encoder.load_pretrained(source.encoder.state_dict())
    rows = encoder.encoder.pos_embed[0, :, 0, 0]
    # Twice as many rows, half a step apart; torch's cubic bends a ramp by up to a tenth.
    torch.testing.assert_close(rows[2:6], torch.tensor([0.75, 1.25, 1.75, 2.25]), atol=0.1, rtol=0)


def test_weights_of_another_variant_are_refused():
    state = dict(SamEncoder("tiny", 64).encoder.state_dict())
    del state["neck.0.weight"]
    with pytest.raises(WeightsError, match=r"neck\.0\.weight is missing"):
        SamEncoder("tiny", 64).load_pretrained(state)


def test_absent_weights_say_what_to_fetch_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch.device("meta"):
        encoder = SamEncoder("vit_b")
    with pytest.raises(WeightsError, match=r"no file .*sam_vit_b_01ec64\.pth") as caught:
        load_pretrained("encoders.image", encoder, None)
    assert "weights: none" in caught.value.hint


def test_sam3_weights_fit_another_size():
    source, encoder = Sam3Encoder(56, **TINY3), Sam3Encoder(84, **TINY3)
    state = {f"vision_encoder.{k}": v for k, v in source.encoder.state_dict().items()}
    encoder.load_pretrained(state | {"text_encoder.w": torch.zeros(1)})
    for name, values in encoder.encoder.state_dict().items():
        torch.testing.assert_close(values, source.encoder.state_dict()[name])


def test_a_mask_head_reads_strides_that_are_no_whole_numbers():
    encoder = Sam3Encoder(56, **TINY3)
    head = FpnMask({"image": encoder.spec})
    logits = head({"image": encoder(torch.rand(2, 3, 56, 56))}).logits
    assert logits.shape == (2, 1, 56, 56)


@pytest.mark.parametrize(
    ("make", "rank", "expected"),
    [
        # 12 blocks x rank x (768 + 3 * 768), as peft counts for SAM's ViT-B
        (lambda: SamEncoder("vit_b"), 16, 589_824),
        # 2 layers x 3 projections x rank x (32 + 32)
        (lambda: Sam3Encoder(56, **TINY3), 4, 1_536),
    ],
)
def test_lora_trains_the_attention_projections_alone(make, rank, expected):
    with torch.device("meta"):
        encoder = make()
    adapters.inject("encoders.image", encoder, LoraOptions(rank=rank))
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == expected


def test_lora_starts_as_the_encoder_and_merges_into_it():
    encoder = SamEncoder("tiny", 64).eval()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = encoder(images).maps["neck"].detach()
    adapters.inject("encoders.image", encoder, LoraOptions(rank=2))
    torch.testing.assert_close(encoder(images).maps["neck"], before)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    moved = encoder(images).maps["neck"].detach()
    assert (moved - before).abs().max() > 1e-3
    adapters.merge(encoder)
    torch.testing.assert_close(encoder(images).maps["neck"], moved, atol=1e-4, rtol=1e-4)
