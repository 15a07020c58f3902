"""Nested values of tensors, and features as flat tensors and as files."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from mlkit_core.errors import InputError
from mlkit_core.tensors import (
    flatten,
    load_features,
    map_tensors,
    save_features,
    to_float32,
    unflatten,
)
from mlkit_core.types import Batch, Features, MaskTarget, SampleMeta


@dataclass(frozen=True, kw_only=True)
class Prototypes(Features):
    centres: torch.Tensor | None = None


def prototypes():
    return Prototypes(
        maps={"p3": torch.arange(16.0).reshape(4, 1, 2, 2)},
        tokens=torch.ones(4, 3, 2),
        valid=torch.tensor([[True, False], [True, True]]),
        centres=torch.tensor([[1.0, 2.0]]),
        state={"frame": 7},
    )


def test_every_tensor_of_a_batch_is_reached_and_nothing_else_changes():
    batch = Batch(
        inputs={"image": torch.ones(2, 3, 4, 4)},
        meta=(SampleMeta(key="a"), SampleMeta(key="b")),
        features={"support": Features(vector=torch.full((4, 2), 2.0))},
        target=MaskTarget(torch.full((2, 4, 4), 3.0)),
        kind="mask",
    )
    doubled = map_tensors(batch, lambda tensor: tensor * 2)
    assert doubled.inputs["image"].unique().tolist() == [2.0]
    assert doubled.features["support"].vector.unique().tolist() == [4.0]
    assert doubled.target.masks.unique().tolist() == [6.0]
    assert (doubled.meta, doubled.kind) == (batch.meta, "mask")
    assert batch.inputs["image"].unique().tolist() == [1.0]


def test_lists_tuples_and_mappings_keep_their_kind():
    value = {"a": [torch.zeros(1), "word"], "b": (torch.zeros(1), 3, None)}
    changed = map_tensors(value, lambda tensor: tensor + 1)
    assert changed["a"][0].item() == 1.0
    assert isinstance(changed["a"], list)
    assert isinstance(changed["b"], tuple)
    assert (changed["a"][1], changed["b"][1:]) == ("word", (3, None))


def test_half_precision_becomes_float32_and_gradients_flow_through():
    half = torch.tensor([0.5, 2.0], dtype=torch.bfloat16, requires_grad=True)
    given = {"half": half, "count": torch.tensor([3]), "full": torch.tensor([1.0]).double()}
    changed = to_float32(given)
    assert changed["half"].dtype == torch.float32
    assert changed["count"].dtype == torch.int64
    assert changed["full"].dtype == torch.float64
    (changed["half"] ** 2).sum().backward()
    assert half.grad.tolist() == [1.0, 4.0]


def test_flat_names_are_dotted_and_leave_the_state_out():
    assert list(flatten(prototypes())) == ["maps.p3", "tokens", "valid", "centres"]


def test_flattened_features_come_back_as_their_own_class():
    again = unflatten(flatten(prototypes()), Prototypes)
    assert isinstance(again, Prototypes)
    assert again.maps["p3"].flatten().tolist() == list(range(16))
    assert again.centres.tolist() == [[1.0, 2.0]]
    assert again.state is None


def test_a_field_that_the_class_lacks_is_refused():
    with pytest.raises(InputError, match="Features has no field 'centres'"):
        unflatten({"centres": torch.zeros(1)})


def test_a_field_that_holds_no_tensor_cannot_be_flattened():
    with pytest.raises(InputError, match="features field 'centres': cannot be flattened"):
        flatten(Prototypes(vector=torch.zeros(1, 1), centres="word"))


def test_saved_features_are_read_back_bit_for_bit(tmp_path):
    path = tmp_path / "set.safetensors"
    vector = torch.tensor([[0.1, float("inf")], [1e-30, -0.0]])
    save_features(path, {"support": prototypes(), "support2": Features(vector=vector)})
    roles = load_features(path, {"support": Prototypes})
    assert list(roles["support"].maps) == ["p3"]
    assert torch.equal(roles["support"].valid, torch.tensor([[True, False], [True, True]]))
    assert roles["support2"].vector.numpy().tobytes() == vector.numpy().tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["set.safetensors"]


def test_a_view_into_a_larger_tensor_is_saved_as_itself(tmp_path):
    path = tmp_path / "set.safetensors"
    whole = torch.arange(12.0).reshape(3, 4)
    save_features(path, {"a": Features(vector=whole[:, ::2])})
    assert load_features(path)["a"].vector.tolist() == [[0, 2], [4, 6], [8, 10]]


def test_another_class_than_the_model_reads_is_refused(tmp_path):
    path = tmp_path / "set.safetensors"
    save_features(path, {"support": prototypes()})
    with pytest.raises(InputError, match="role 'support' holds Prototypes, expected Features"):
        load_features(path)


def test_a_file_of_plain_tensors_is_no_feature_file(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match=r"plain.safetensors: holds no saved features"):
        load_features(tmp_path / "plain.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0")
    with pytest.raises(InputError, match=r"cut.safetensors: cannot be read"):
        load_features(tmp_path / "cut.safetensors")


def test_a_named_tuple_is_left_alone():
    point = namedtuple("point", ["x"])(torch.zeros(1))
    assert map_tensors(point, lambda tensor: tensor + 1) is point
