"""TensorBoard: what is written can be read back; it is off unless switched on."""

from __future__ import annotations

import logging
import sys

import pytest

import mlkit_core.report.tensorboard
from mlkit_core.plugins import Catalogue, using


@pytest.fixture
def relay():
    catalogue = Catalogue.from_plugins({"tensorboard": mlkit_core.report.tensorboard})
    assert not catalogue.failures
    return catalogue.hook


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def tell(hook, folder, *records, status="finished"):
    hook.mlkit_run_started(folder=folder, config={})
    for record in records:
        hook.mlkit_metrics(folder=folder, record=record)
    hook.mlkit_run_finished(folder=folder, status=status)


def test_numbers_arrive_under_their_kind_and_name(relay, tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_TENSORBOARD", "1")
    train = {"kind": "train", "stage": "main", "epoch": 0, "step": 2, "loss": 1.5, "bce.bce": 0.25}
    table = {"kind": "gradients", "stage": "main", "step": 2, "table": {"bce": {"head": 0.5}}}
    tell(relay, tmp_path, train, {"kind": "val", "step": 4, "disc-dice.dice": 0.75}, table)
    found = scalars(tmp_path)
    assert found["train/loss"] == [(2, 1.5)]
    assert found["train/bce.bce"] == [(2, 0.25)]
    assert found["val/disc-dice.dice"] == [(4, 0.75)]
    assert found["gradients/table/bce/head"] == [(2, 0.5)]
    assert "train/stage" not in found


def test_a_resumed_run_hides_what_the_interrupted_one_wrote_beyond(relay, tmp_path, monkeypatch):
    monkeypatch.setenv("MLKIT_TENSORBOARD", "1")
    lines = [{"kind": "train", "step": step, "loss": float(step)} for step in (1, 2, 3)]
    tell(relay, tmp_path, *lines, status="interrupted")
    tell(relay, tmp_path, {"kind": "train", "step": 2, "loss": 20.0})
    assert scalars(tmp_path)["train/loss"] == [(1, 1.0), (2, 20.0)]


def test_nothing_is_written_unless_it_is_switched_on(relay, tmp_path, monkeypatch):
    monkeypatch.delenv("MLKIT_TENSORBOARD", raising=False)
    tell(relay, tmp_path, {"kind": "train", "step": 1, "loss": 1.0})
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_extra_is_said_once_and_the_run_goes_on(relay, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLKIT_TENSORBOARD", "1")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING):
        tell(relay, tmp_path, *[{"kind": "train", "step": n, "loss": 1.0} for n in range(3)])
    assert caplog.text.count("pip install 'mlkit-core[tensorboard]'") == 1
    assert not (tmp_path / "tensorboard").exists()


def test_a_real_run_writes_its_losses(make_run, miniatures, monkeypatch):
    import mlkit_core.plugin

    monkeypatch.setenv("MLKIT_TENSORBOARD", "1")
    plugins = {"core": mlkit_core.plugin, "mini": miniatures, "tb": mlkit_core.report.tensorboard}
    with using(Catalogue.from_plugins(plugins)):
        run = make_run("trainer.epochs=1")
        run.fit()
    assert [step for step, _ in scalars(run.folder)["train/loss"]] == [1, 2, 3, 4]
