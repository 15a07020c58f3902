"""Parts of the ViT-Adapter, against timm and against values worked out by hand."""

import math

import pytest
import timm
import torch
from torch import nn

from mlkit_core.errors import BuildError, InputError, WeightsError
from mlkit_dvis.vit_adapter import ViTAdapter
from mlkit_dvis.vit_adapter.deformable import DeformableAttention, compass, pixel_centres
from mlkit_dvis.vit_adapter.vit import resized_patch_kernel, resized_positions

SMALL = {
    "embed_dim": 20,
    "depth": 12,
    "vit_heads": 5,
    "mlp_ratio": 2.0,
    "pretrain_img_size": 112,
    "conv_inplane": 6,
    "deform_heads": 4,
    "n_points": 3,
    "cffn_ratio": 0.5,
    "interaction_indexes": [[0, 2], [3, 5], [6, 8], [9, 11]],
}


def build(**changes):
    torch.manual_seed(0)
    return ViTAdapter(**SMALL | changes)


def cubic(distance):
    """Return Keys' cubic kernel with a = -0.75."""
    d = abs(distance)
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def resampling(source, target):
    """Return `[target, source]` weights: row i reads (i + 0.5) * source / (target + 0.1) - 0.5."""
    weights = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        at = (i + 0.5) * source / (target + 0.1) - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            weights[i, min(max(tap, 0), source - 1)] += cubic(at - tap)
    return weights


@pytest.mark.parametrize("grid", [(4, 6), (9, 3), (7, 11)])
def test_positions_are_resampled_by_a_factor_and_not_to_a_size(grid):
    torch.manual_seed(0)
    side, dim = 7, 3
    table = torch.randn(1, 1 + side * side, dim)
    rows, columns = (resampling(side, length) for length in grid)
    patches = table[0, 1:].double().unflatten(0, (side, side))
    expected = torch.einsum("iy,jx,yxc->ijc", rows, columns, patches).flatten(0, 1)
    resized = resized_positions(table, *grid)
    torch.testing.assert_close(resized[:, :1], table[:, :1], atol=0, rtol=0)
    torch.testing.assert_close(resized[0, 1:].double(), expected, atol=1e-5, rtol=0)


def test_positions_of_their_own_grid_stay():
    table = torch.randn(1, 1 + 49, 3)
    assert resized_positions(table, 7, 7) is table


def test_positions_keep_the_class_row_exact_in_float64():
    table = torch.randn(1, 10, 4, dtype=torch.float64)
    resized = resized_positions(table, 2, 5)
    assert resized.dtype == torch.float64
    assert torch.equal(resized[:, 0], table[:, 0])


def test_patch_kernels_are_resized_corner_to_corner():
    ramp = torch.arange(14.0).expand(2, 3, 14, 14)
    resized = resized_patch_kernel(ramp, 16)
    expected = torch.linspace(0, 13, 16).expand(2, 3, 16, 16)
    torch.testing.assert_close(resized, expected)


def test_centres_are_of_each_grid_by_itself():
    centres = pixel_centres([(1, 2), (2, 1)], torch.device("cpu"))
    expected = [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]
    assert centres.tolist() == expected
    assert centres.dtype == torch.float32


def test_compass_points_each_head_its_own_way():
    offsets = compass(8, 2)
    torch.testing.assert_close(offsets[0], torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    torch.testing.assert_close(offsets[1], torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    torch.testing.assert_close(offsets[6, 0], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)


def test_deformable_attention_reads_a_linear_field_at_its_points():
    height, width = 12, 16
    attention = DeformableAttention(2, heads=1, points=2).double()
    for layer in (attention.value_proj, attention.output_proj):
        nn.init.eye_(layer.weight)
    attention.sampling_offsets.bias.data = torch.tensor([1.5, 0.0, 0.0, -2.0]).double()
    attention.attention_weights.bias.data = torch.tensor([0, math.log(3)], dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    field = torch.stack([x, y], dim=-1).double().flatten(0, 1)[None]
    place = torch.tensor([[0.5, 0.5]])
    with torch.no_grad():
        read = attention(torch.zeros(1, 1, 2).double(), place, field, (height, width))
    centre = (width / 2 - 0.5, height / 2 - 0.5)
    expected = [centre[0] + 0.25 * 1.5, centre[1] - 0.75 * 2]
    assert read[0, 0].tolist() == pytest.approx(expected, abs=1e-9)


def test_the_vit_is_timms():
    adapter = build()
    reference = timm.models.VisionTransformer(
        img_size=112, patch_size=16, embed_dim=20, depth=12, num_heads=5, mlp_ratio=2,
        init_values=0.1, num_classes=0,
    ).eval()  # fmt: skip
    state = reference.state_dict()
    assert adapter.vit_module.state_dict().keys() - state.keys() == {"mask_token"}
    adapter.load_dinov2(state)
    image = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        found = adapter.vit_module(image, (2, 5, 8, 11))
        expected = reference.forward_intermediates(
            image, indices=[2, 5, 8, 11], norm=False, output_fmt="NLC", intermediates_only=True
        )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[:, 1:], theirs)


def test_vit_l_has_the_published_keys():
    with torch.device("meta"):
        adapter = ViTAdapter()
        published = timm.create_model(
            "vit_large_patch14_dinov2", img_size=592, patch_size=16, num_classes=0
        )
    state = adapter.state_dict()
    assert len(state) == 530
    ours = {n[11:]: t.shape for n, t in state.items() if n.startswith("vit_module.")}
    assert ours.pop("mask_token") == (1, 1024)
    assert ours == {name: tensor.shape for name, tensor in published.state_dict().items()}
    learning = [p.numel() for p in adapter.parameters() if p.requires_grad]
    assert (sum(learning), sum(p.numel() for p in adapter.parameters())) == (22948800, 327501760)


def test_dinov2_kernels_of_14_are_taken_at_16():
    adapter = build()
    state = dict(adapter.vit_module.state_dict())
    state["patch_embed.proj.weight"] = torch.ones(20, 3, 14, 14)
    del state["mask_token"]
    adapter.load_dinov2(state)
    kernel = adapter.vit_module.patch_embed.proj.weight.detach()
    torch.testing.assert_close(kernel, torch.ones(20, 3, 16, 16))


def test_weights_of_another_vit_are_refused_with_their_keys():
    adapter = build()
    state = dict(adapter.vit_module.state_dict()) | {"register_tokens": torch.zeros(1, 4, 20)}
    with pytest.raises(WeightsError, match="register_tokens"):
        adapter.load_dinov2(state)


@pytest.mark.parametrize("size", [(48, 96), (96, 80), (64, 70), (0, 32)])
def test_sizes_that_do_not_divide_by_32_are_refused(size):
    height, width = size
    with pytest.raises(InputError, match=f"multiples of 32, got {height} x {width}"):
        build()(torch.zeros(1, 3, *size))


def test_the_smallest_image_has_maps_of_all_strides():
    with torch.no_grad():
        maps = build().eval()(torch.zeros(1, 3, 32, 32))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "res2": (1, 20, 8, 8),
        "res3": (1, 20, 4, 4),
        "res4": (1, 20, 2, 2),
        "res5": (1, 20, 1, 1),
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 14}, "patch_size: the pyramid needs 16, got 14"),
        ({"vit_heads": 3}, "vit_heads"),
        ({"deform_heads": 3}, "deform_heads"),
        ({"pretrain_img_size": 100}, "pretrain_img_size"),
        ({"depth": 13}, "blocks 0..12"),
        ({"interaction_indexes": [[0, 5], [6, 11]]}, "expected 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(BuildError, match=said):
        build(**changes)


def test_a_fresh_adapter_starts_as_published():
    adapter = build(embed_dim=64, vit_heads=4, conv_inplane=32)
    conv = adapter.spm.conv3[0]  # 64 -> 128, 3x3
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert adapter.up.weight.std().item() == pytest.approx(math.sqrt(2 / (4 * 64)), rel=0.02)
    extractor = adapter.interactions[3].extra_extractors[1]
    depthwise = extractor.ffn.dwconv.dwconv.weight
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert extractor.ffn.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not extractor.ffn.fc1.bias.any()
    assert adapter.level_embed.std().item() == pytest.approx(1, rel=0.15)
    assert not extractor.attn.sampling_offsets.weight.any()
    assert torch.equal(extractor.attn.sampling_offsets.bias, compass(4, 3).flatten())
    assert not extractor.attn.attention_weights.weight.any()
    bound = math.sqrt(6 / 128)  # xavier, 64 + 64
    assert extractor.attn.value_proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert torch.equal(adapter.norm1.weight, torch.ones(64))


def test_layer_norms_are_dinov2s_and_batch_norms_torchs():
    norms = [m for m in build().modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    batch_norms = [m for m in build().modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in batch_norms} == {1e-5}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_maps_keep_the_models_type(dtype):
    with torch.no_grad():
        maps = build().eval().to(dtype)(torch.randn(1, 3, 32, 64, dtype=dtype))
    assert {m.dtype for m in maps.values()} == {dtype}
    assert all(m.isfinite().all() for m in maps.values())
