import pytest
import torch
from torch import nn

from mlkit_angioseg.encoders.stem import ConvStem
from mlkit_angioseg.heads.conv_mask import ConvMask
from mlkit_angioseg.heads.fpn_mask import FpnMask
from mlkit_core.errors import BuildError
from mlkit_core.types import Features, FeatureSpec, Letterbox, MaskLogits, SampleMeta

SAM = {"image": FeatureSpec(channels={"neck": 256}, strides={"neck": 16})}
STRIDES = {"s4": 4, "s8": 8, "s16": 16}
PYRAMID = {
    "image": FeatureSpec(channels=dict.fromkeys(STRIDES, 8), strides=STRIDES),
    "stem": FeatureSpec(channels={"stem": 4}, strides={"stem": 1}),
    "view": FeatureSpec(vector_dim=6),
    "shots": FeatureSpec(channels={"s4": 8}, strides={"s4": 4}, lead=("class", "shot")),
}


def scope(size=(32, 48), rows=2):
    maps = {n: torch.randn(rows, 8, size[0] // s, size[1] // s) for n, s in STRIDES.items()}
    return {
        "image": Features(maps=maps),
        "stem": Features(maps={"stem": torch.randn(rows, 4, *size)}),
        "view": Features(vector=torch.randn(rows, 6)),
    }


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_conv_mask_on_sams_map_has_the_published_number_of_parameters():
    # 3x3 256 to 128, BN, 3x3 128 to 64, BN, 1x1: 294,912 + 128 + 256 + 73,728 + 64 + 128 + 65.
    assert count(ConvMask(SAM)) == 369_281
    # A 1x1 projection from 768 channels adds 768 * 256 + 256.
    vit = {"image": FeatureSpec(channels={"s16": 768}, strides={"s16": 16})}
    assert count(ConvMask(vit)) - count(ConvMask(SAM)) == 196_864


def test_conv_mask_starts_at_the_share_of_vessel_pixels():
    maps = {"neck": torch.zeros(1, 256, 4, 4)}
    logits = ConvMask(SAM).eval()({"image": Features(maps=maps)}).logits.detach()
    assert logits.shape == (1, 1, 64, 64)
    assert float(logits.sigmoid().mean()) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("merge", ["add", "concat"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("stem", [None, "stem"])
@pytest.mark.parametrize("classes", [1, 3])
def test_fpn_mask_gives_logits_at_the_input_size(merge, norm, stem, classes):
    head = FpnMask(PYRAMID, classes, on="image", stem=stem, merge=merge, norm=norm)
    assert head(scope()).logits.shape == (2, classes, 32, 48)


@pytest.mark.parametrize("merge", ["add", "concat"])
def test_every_map_moves_the_mask(merge):
    torch.manual_seed(0)
    head = FpnMask(PYRAMID, on="image", stem="stem", merge=merge, norm="group").eval()
    inputs = scope()
    tensors = [*inputs["image"].maps.values(), *inputs["stem"].maps.values()]
    for tensor in tensors:
        tensor.requires_grad_()
    head(inputs).logits.square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors)


def test_maps_far_apart_get_steps_of_two_between_them():
    specs = SAM | {"stem": FeatureSpec(channels={"stem": 16}, strides={"stem": 1})}
    head = FpnMask(specs, on="image", stem="stem")
    assert [level.stride for level in head.levels] == [1, 2, 4, 8, 16]
    assert [level.role for level in head.levels] == ["stem", None, None, None, "image"]
    maps = {"neck": torch.randn(1, 256, 2, 3)}
    out = head(
        {"image": Features(maps=maps), "stem": Features(maps={"stem": torch.randn(1, 16, 32, 48)})}
    )
    assert out.logits.shape == (1, 1, 32, 48)


def test_a_patch_of_14_pixels_reaches_the_full_size_too():
    specs = {
        "image": FeatureSpec(channels={"s14": 8}, strides={"s14": 14}),
        "stem": FeatureSpec(channels={"stem": 4}, strides={"stem": 2}),
    }
    head = FpnMask(specs, on="image", stem="stem")
    maps = {"image": Features(maps={"s14": torch.randn(1, 8, 3, 5)})}
    out = head(maps | {"stem": Features(maps={"stem": torch.randn(1, 4, 21, 35)})})
    assert out.logits.shape == (1, 1, 42, 70)


def test_fpn_mask_fits_a_line_of_two_pixels_and_conv_mask_at_stride_16_does_not(one_thread):
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, torch.arange(32), torch.arange(32)] = 1
    image[:, :, torch.arange(31), torch.arange(1, 32)] = 1
    mask = image[:, 0]
    stem = ConvStem(dim=8, norm="group")
    coarse = nn.Conv2d(3, 16, 16, 16)
    specs = {"image": FeatureSpec(channels={"s16": 16}, strides={"s16": 16}), "stem": stem.spec}

    def best_dice(head):
        modules = nn.ModuleList([stem, coarse, head])
        optimizer = torch.optim.AdamW(modules.parameters(), 1e-2)
        for _ in range(60):
            maps = {"image": Features(maps={"s16": coarse(image)}), "stem": stem(image)}
            probs = head(maps).logits[:, 0].sigmoid()
            loss = 1 - 2 * (probs * mask).sum() / (probs + mask).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return 1 - float(loss.detach())

    fine = best_dice(FpnMask(specs, on="image", stem="stem", norm="group"))
    conv = best_dice(ConvMask(specs, on="image", dim=16, hidden=(16, 16), norm="group"))
    assert fine > 0.9
    assert conv < 0.75


def test_decode_cuts_the_padding_and_returns_to_original_pixels():
    logits = torch.full((2, 1, 16, 16), 50.0)
    logits[:, :, :8, :12] = -50.0
    logits[1, :, :8, :6] = 50.0
    metas = [
        SampleMeta(key=k, size=(16, 24), letterbox=Letterbox(scale=0.5, size=(8, 12))) for k in "ab"
    ]
    empty, half = FpnMask(PYRAMID, on="image").decode(MaskLogits(logits), metas)
    assert empty.probabilities.shape == (16, 24)
    assert empty.probabilities.max() < 1e-6
    assert (half.probabilities > 0.5).sum() == 16 * 12
    assert (half.probabilities[:, :12] > 0.5).all()


def test_decode_cuts_centred_padding():
    logits = torch.full((1, 1, 16, 16), 50.0)
    logits[:, :, 4:12, 2:14] = -50.0
    box = Letterbox(scale=0.5, size=(8, 12), offset=(4, 2))
    meta = [SampleMeta(key="a", size=(16, 24), letterbox=box)]
    [prediction] = FpnMask(PYRAMID, on="image").decode(MaskLogits(logits), meta)
    assert prediction.probabilities.shape == (16, 24)
    assert prediction.probabilities.max() < 1e-6


def test_decode_of_several_classes_sums_to_one():
    meta = [SampleMeta(key="a", size=(8, 8), letterbox=Letterbox(scale=1.0, size=(8, 8)))]
    [prediction] = ConvMask(SAM, 3).decode(MaskLogits(torch.randn(1, 3, 8, 8)), meta)
    assert prediction.probabilities.shape == (3, 8, 8)
    assert torch.allclose(prediction.probabilities.sum(0), torch.ones(8, 8))


def test_what_does_not_fit_is_refused_with_its_reason():
    with pytest.raises(BuildError, match="role 'view' has no maps"):
        ConvMask(PYRAMID, on="view")
    with pytest.raises(BuildError, match=r"role 'shots' has lead \(class, shot\)"):
        FpnMask(PYRAMID, on="shots")
    with pytest.raises(BuildError, match="no role 'steam'; there are image, stem, view, shots"):
        FpnMask(PYRAMID, on="image", stem="steam")
    with pytest.raises(BuildError, match="role 'image' must have finer maps than 'stem'"):
        FpnMask(PYRAMID, on="stem", stem="image")
    with pytest.raises(BuildError, match="level: role 'image' has maps s4, s8, s16, not 's32'"):
        ConvMask(PYRAMID, on="image", level="s32")
    with pytest.raises(BuildError, match=r"widths: expected 4 for maps stem\.stem, image\.s4"):
        FpnMask(PYRAMID, on="image", stem="stem", widths=(8, 8))
    odd = scope()
    odd["stem"] = Features(maps={"stem": torch.randn(2, 4, 31, 48)})
    with pytest.raises(BuildError, match=r"map 'stem' of role 'stem' is \(31, 48\), expected \(32"):
        FpnMask(PYRAMID, on="image", stem="stem")(odd)


def test_the_stem_turns_its_mean_into_zero_so_that_padding_is_silent():
    stem = ConvStem(dim=4, stride=2, mean=0.4, std=0.2)
    seen = []
    stem.layers.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    stem(torch.tensor(stem.pad_rgb).view(1, 3, 1, 1).expand(1, 3, 8, 8))
    stem(torch.full((1, 3, 8, 8), 0.6))
    assert seen[0].abs().max() < 1e-6
    assert torch.allclose(seen[1], torch.ones(1, 3, 8, 8))
    with pytest.raises(BuildError, match=r"size must divide by 2, got \(7, 8\)"):
        stem(torch.zeros(1, 3, 7, 8))
