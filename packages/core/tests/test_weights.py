"""Weights from files and hubs: never a silent random start, never a pickle that runs code."""

from __future__ import annotations

import hashlib
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlkit_core import weights
from mlkit_core.errors import WeightsError
from mlkit_core.weights import RANDOM, hub_file, load_pretrained, read_state_dict


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("code ran",))


class Published(nn.Linear):
    """An encoder with weights that `auto` finds."""

    file = None

    def pretrained_file(self):
        return self.file


@pytest.fixture
def linear_file(tmp_path):
    torch.manual_seed(0)
    state = nn.Linear(3, 2).state_dict()
    save_file(state, tmp_path / "linear.safetensors")
    return tmp_path / "linear.safetensors", state


def test_a_file_is_loaded_and_named_by_its_hash(linear_file):
    path, state = linear_file
    encoder = nn.Linear(3, 2)
    source = load_pretrained("encoders.image", encoder, str(path))
    assert torch.equal(encoder.weight, state["weight"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert source == f"sha256:{digest} (linear.safetensors)"


def test_none_says_random_weights_and_changes_nothing():
    encoder = Published(3, 2)
    before = encoder.weight.clone()
    assert load_pretrained("encoders.image", encoder, "none") == RANDOM
    assert torch.equal(encoder.weight, before)


def test_nothing_said_means_auto_where_weights_are_published(linear_file):
    encoder = Published(3, 2)
    encoder.file = linear_file[0]
    assert load_pretrained("encoders.image", encoder, None).startswith("sha256:")
    assert load_pretrained("encoders.view", nn.Linear(3, 2), None) == RANDOM


def test_auto_without_published_weights_is_refused():
    with pytest.raises(WeightsError, match=r"encoders\.view\.weights: .* no published weights"):
        load_pretrained("encoders.view", nn.Linear(3, 2), "auto")


def test_weights_of_another_shape_name_part_and_file(linear_file):
    with pytest.raises(WeightsError, match=r"encoders\.image\.weights: .*size mismatch for weight"):
        load_pretrained("encoders.image", nn.Linear(4, 2), str(linear_file[0]))


def test_a_missing_file_says_where_and_how_to_start_without(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file") as caught:
        load_pretrained("encoders.image", nn.Linear(3, 2), str(tmp_path / "absent.pt"))
    assert "weights: none" in caught.value.hint


def test_a_pickle_that_needs_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"model": Runs()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="cannot be loaded as plain tensors"):
        read_state_dict(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["short.safetensors", "short.pt"])
def test_a_file_cut_short_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"short")
    with pytest.raises(WeightsError, match=name):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_wrapped_state_dict_is_unwrapped(tmp_path, key):
    torch.save({key: {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "w.pt")
    assert torch.equal(read_state_dict(tmp_path / "w.pt")["weight"], torch.ones(2))


def test_a_hub_that_cannot_be_reached_fails_within_two_seconds(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(WeightsError, match=r"hf:owner/repo/w\.bin: hub not reachable") as caught:
        hub_file("owner/repo", "w.bin")
    assert time.perf_counter() - started < 2
    assert "fetch w.bin of owner/repo" in caught.value.hint


def test_a_hub_name_without_a_file_says_what_was_expected():
    with pytest.raises(WeightsError, match=r"expected hf:owner/repo/file, got 'hf:owner/repo'"):
        load_pretrained("encoders.image", nn.Linear(3, 2), "hf:owner/repo")
