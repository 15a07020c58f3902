"""The ViT-Adapter against recorded outputs of the authors' module (random weights)."""

import pytest
import torch

from mlkit_dvis.vit_adapter import ViTAdapter

KEYWORDS = (
    "embed_dim", "depth", "vit_heads", "mlp_ratio", "pretrain_img_size", "conv_inplane",
    "deform_heads", "n_points", "cffn_ratio", "interaction_indexes", "patch_size",
)  # fmt: skip
EXACT = {"atol": 1e-9, "rtol": 0}  # float64, the recorded float32 casts reproduced
MAPS = ("res2", "res3", "res4", "res5")


@pytest.fixture(scope="module")
def case(oracle):
    return oracle("vitadapter_case1")


@pytest.fixture
def adapter(case):
    built = ViTAdapter(**{name: case["config"][name] for name in KEYWORDS})
    built.load_state_dict(case["state_dict"], strict=True)
    return built.eval()


def loss_of(maps):
    """Return the loss that the recorded gradients are of."""
    return sum(weight * (maps[name] ** 3).mean() for weight, name in enumerate(MAPS, start=1))


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_maps_equal_the_recorded_ones_in_float32(adapter, case, index):
    maps = adapter(case["inputs"][f"x_{index}"])
    assert tuple(maps) == MAPS
    for name, expected in case["outputs"][f"f32_{index}"].items():
        torch.testing.assert_close(maps[name], expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_maps_equal_the_recorded_ones_in_float64(adapter, case, index):
    maps = adapter.double()(case["inputs"][f"x_{index}"].double())
    for name, expected in case["outputs"][f"f64_{index}"].items():
        torch.testing.assert_close(maps[name], expected, **EXACT)


@torch.no_grad()
def test_every_intermediate_equals_the_recorded_one(adapter, case):
    adapter.double()
    image, expected = case["inputs"]["x_0"].double(), case["outputs"]["intermediate_f64_0"]
    entered, left = {}, {}
    for stage in (0, 3):
        module = adapter.interactions[stage]
        module.register_forward_pre_hook(lambda _, given, s=stage: entered.update({s: given}))
        module.register_forward_hook(lambda _m, _i, out, s=stage: left.update({s: out}))
    adapter(image)
    for found, wanted in zip(adapter.spm(image), expected["spm"], strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)
    stages = adapter.vit_module(image, adapter.stage_ends)
    for found, name in (
        (adapter.vit_module.tokens(image), "tokens"),
        (entered[0][0], "c0"),
        (stages[0], "stage0_x"),
        (stages[3], "stage3_x"),
        (left[0], "stage0_c"),
        (left[3], "stage3_c"),
    ):
        torch.testing.assert_close(found, expected[name], **EXACT)


def test_a_training_step_equals_the_recorded_one(adapter, case):
    expected = case["outputs"]["train_f64_0"]
    adapter.double().train()
    maps = adapter(case["inputs"]["x_0"].double())
    for name, wanted in expected["out"].items():
        torch.testing.assert_close(maps[name], wanted, **EXACT)
    loss = loss_of(maps)
    torch.testing.assert_close(loss, expected["loss"], **EXACT)
    loss.backward()
    parameters, buffers = dict(adapter.named_parameters()), dict(adapter.named_buffers())
    for name, wanted in expected["grad_norms"].items():
        torch.testing.assert_close(parameters[name].grad.norm(), wanted, **EXACT)
    for name, wanted in expected["grads"].items():
        torch.testing.assert_close(parameters[name].grad, wanted, **EXACT)
    assert expected["buffers_after"].keys() == buffers.keys()
    for name, wanted in expected["buffers_after"].items():
        torch.testing.assert_close(buffers[name], wanted, **EXACT)


def test_the_recorded_parameters_learn_and_the_vit_does_not(adapter, case):
    adapter.train()
    parameters = dict(adapter.named_parameters())
    learns = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert learns == set(case["config"]["trainable"])
    assert parameters.keys() - learns == set(case["config"]["frozen"])
    assert adapter.spm.training
    assert not any(module.training for module in adapter.vit_module.modules())
    loss_of(adapter(case["inputs"]["x_1"])).backward()
    assert all(parameters[name].grad is None for name in case["config"]["frozen"])


@torch.no_grad()
def test_frames_do_not_see_each_other(adapter, case):
    frames = case["inputs"]["x_0"].double()
    adapter.double()
    together, alone = adapter(frames), adapter(frames[1:])
    for name in MAPS:
        torch.testing.assert_close(together[name][1:], alone[name], atol=1e-12, rtol=0)
