"""Head `unet-mask` against a U-Net decoder written by hand, and against a published count."""

import pytest
import torch
from torch.nn import functional

from mlkit_angioseg.heads.unet_mask import UNetMask
from mlkit_core.errors import BuildError
from mlkit_core.types import Features, FeatureSpec

STRIDES = {"s2": 2, "s4": 4, "s16": 16}
PYRAMID = {"image": FeatureSpec(channels={"s2": 3, "s4": 5, "s16": 7}, strides=STRIDES)}
STEM = FeatureSpec(channels={"stem": 4}, strides={"stem": 2})


def by_hand(head, maps):
    """U-Net's decoder written out: enlarge, join, two convolutions with norm and ReLU."""

    def twice(step, values):
        for conv, norm, _ in step:
            values = functional.conv2d(values, conv.weight, padding=1)
            values = functional.group_norm(values, norm.num_groups, norm.weight, norm.bias)
            values = values.clamp_min(0)
        return values

    def larger(values):
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)

    full, half, quarter, eighth = head.steps
    found = twice(eighth, larger(maps["s16"]))
    found = twice(quarter, torch.cat((larger(found), maps["s4"]), 1))
    found = twice(half, torch.cat((larger(found), maps["s2"]), 1))
    found = twice(full, larger(found))
    return functional.conv2d(found, head.classify.weight, head.classify.bias)


def test_the_unet_decoder_is_what_one_writes_by_hand():
    torch.manual_seed(0)
    head = UNetMask(PYRAMID, 2, widths=(4, 8, 8, 16), norm="group")
    maps = {
        n: torch.randn(2, PYRAMID["image"].channels[n], 32 // s, 48 // s)
        for n, s in STRIDES.items()
    }
    found = head({"image": Features(maps=maps)}).logits
    assert found.shape == (2, 2, 32, 48)
    torch.testing.assert_close(found, by_hand(head, maps))
    # Weights of each step: 9 (coarser + skip) width + 9 width^2, and two norms of 2 width.
    pairs = [(8, 0, 4), (8, 3, 8), (16, 5, 8), (7, 0, 16)]
    steps = sum(9 * (c + s) * w + 9 * w * w + 4 * w for c, s, w in pairs)
    assert sum(p.numel() for p in head.parameters()) == steps + 4 * 2 + 2


def test_every_map_reaches_the_unets_mask_and_a_vit_gets_steps():
    head = UNetMask(PYRAMID, widths=(4, 4, 4, 4), norm="group")
    maps = {
        n: torch.randn(1, PYRAMID["image"].channels[n], 32 // s, 32 // s).requires_grad_()
        for n, s in STRIDES.items()
    }
    head({"image": Features(maps=maps)}).logits.square().sum().backward()
    assert all(values.grad.abs().sum() > 0 for values in maps.values())
    vit = {"image": FeatureSpec(channels={"s16": 8}, strides={"s16": 16})}
    assert [level.stride for level in UNetMask(vit).levels] == [1, 2, 4, 8, 16]
    with pytest.raises(BuildError, match="widths: expected 4 for strides 1, 2, 4, 8, got 2"):
        UNetMask(vit, widths=(4, 4))
    same = FeatureSpec(channels={"block1": 8, "block2": 8}, strides={"block1": 16, "block2": 16})
    with pytest.raises(BuildError, match="one map of each stride"):
        UNetMask({"image": same})


def test_over_a_resnet18_it_is_as_large_as_the_decoder_of_segmentation_models_pytorch():
    # smp.Unet("resnet18"): 14,328,209 parameters, of them 11,176,512 in the encoder and 145 in the
    # last 3x3 convolution. Here the last one is 1x1: 16 weights and a bias.
    widths = {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}
    spec = FeatureSpec(
        channels={f"s{s}": w for s, w in widths.items()}, strides={f"s{s}": s for s in widths}
    )
    head = UNetMask({"image": spec})
    assert head.widths == [16, 32, 64, 128, 256]
    count = sum(p.numel() for p in head.parameters())
    assert count - 17 == 14_328_209 - 11_176_512 - 145


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("patch", "grid"), [(16, (2, 3)), (14, (3, 5))])
def test_a_vits_one_map_and_a_stem_give_the_inputs_size_and_both_are_heard(norm, patch, grid):
    specs = {
        "image": FeatureSpec(channels={"vit": 8}, strides={"vit": patch}),
        "stem": STEM,
    }
    head = UNetMask(specs, on="image", stem="stem", widths=(4, 4, 8, 8), norm=norm)
    assert [level.role for level in head.levels] == [None, "stem", None, None, "image"]
    assert [level.stride for level in head.levels] == [1, 2, 4, 8, patch]
    height, width = (patch * cells for cells in grid)
    vit = torch.randn(2, 8, *grid, requires_grad=True)
    stem = torch.randn(2, 4, height // 2, width // 2, requires_grad=True)
    logits = head(
        {"image": Features(maps={"vit": vit}), "stem": Features(maps={"stem": stem})}
    ).logits
    assert logits.shape == (2, 1, height, width)
    logits.square().sum().backward()
    assert vit.grad.abs().sum() > 0
    assert stem.grad.abs().sum() > 0


def test_strides_that_are_no_powers_of_two_reach_the_inputs_size():
    strides = {"fpn0": 3.5, "fpn1": 7, "fpn2": 14, "fpn3": 28}
    spec = FeatureSpec(channels=dict.fromkeys(strides, 4), strides=strides)
    head = UNetMask({"image": spec}, widths=(4, 4, 4, 4, 4))
    maps = {name: torch.randn(1, 4, round(56 / s), round(84 / s)) for name, s in strides.items()}
    assert head({"image": Features(maps=maps)}).logits.shape == (1, 1, 56, 84)


def test_batch_norm_uses_its_running_values_in_evaluation():
    torch.manual_seed(0)
    head = UNetMask(PYRAMID, widths=(4, 4, 4, 4), norm="batch").eval()
    maps = {
        n: torch.randn(2, PYRAMID["image"].channels[n], 32 // s, 32 // s)
        for n, s in STRIDES.items()
    }
    both = head({"image": Features(maps=maps)}).logits
    first = head({"image": Features(maps={n: values[:1] for n, values in maps.items()})}).logits
    torch.testing.assert_close(both[:1], first)
    moved = head.train()({"image": Features(maps=maps)}).logits
    assert (moved - both).abs().max() > 1e-2


def test_a_skip_of_another_size_than_its_stride_says_is_refused():
    maps = {"s2": torch.zeros(1, 3, 15, 16), "s4": torch.zeros(1, 5, 8, 8)}
    maps["s16"] = torch.zeros(1, 7, 2, 2)
    with pytest.raises(
        BuildError, match=r"map 's2' of role 'image' is \(15, 16\), expected \(16, "
    ):
        UNetMask(PYRAMID)({"image": Features(maps=maps)})
