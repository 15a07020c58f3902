"""Kill at any instant, resume, and be where an uninterrupted run would be, bit for bit."""

from __future__ import annotations

import json

import pytest
import torch

from mlkit_core.errors import TrainingError
from mlkit_core.training import checkpoint

STAGED = """
name: mini
seed: 5
data: {name: blobs, count: 12, augment: true, mixed: true}
model:
  encoders:
    image: {name: tiny-conv, dropout: 0.2, norm: true}
    hint: {name: hint}
  fusion: {name: film}
  head: {name: tiny-mask}
losses: [{name: bce}, {name: counted}, {name: projected}]
metrics: [{name: disc-dice}]
optimizer: {name: adamw, lr: 0.02, warmup: 0.2}
trainer:
  epochs: 4
  batch_size: 4
  accumulate: 2
  monitor: disc-dice.dice
  log_every: 1
  checkpoint_every: 2
  ema: 0.9
stages:
  - {name: first}
  - {name: second, trainer: {epochs: 3}, freeze: [encoders.image.conv]}
"""

# One process imports torch and forks a child for each attempt; the child kills itself with SIGKILL
# at the n-th time that it passes a named instant.
KILLS = """
import os, signal, sys, threading
from pathlib import Path
from mlkit_core.training import checkpoint, evaluation, journal, loop, objective, supervised

def at(owner, name, label, when):
    inner = getattr(owner, name)
    def outer(*args, **kwargs):
        if when == "before":
            passing(label)
        value = inner(*args, **kwargs)
        if when == "after":
            passing(label)
        return value
    setattr(owner, name, outer)

def passing(label):
    global left
    if target == label:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

at(objective.Objective, "gradients", "before the optimiser steps", "after")
at(loop.StageLoop, "_report", "after a step", "after")
at(loop.StageLoop, "validate", "after validation, before its checkpoint", "after")
at(checkpoint, "save_file", "before the weights are written", "before")
at(checkpoint, "save_file", "between weights and state", "after")
at(checkpoint, "_sync", "between two fsyncs", "after")
at(checkpoint, "link", "before a link", "before")
at(checkpoint, "link", "after a link", "after")
at(checkpoint, "prune", "before old checkpoints go", "before")
at(supervised, "build_stage", "at the border of two stages", "before")
target, left = None, 0
for label, count in {plan!r}:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        target, left = label, count
        load_run("mini.yaml").fit(resume=Path("runs/mini").exists())
        os._exit(7)
    _, status = os.waitpid(child, 0)
    landed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print("kill", "landed" if landed else "missed", label, flush=True)
"""
INSTANTS = [
    ("before the weights are written", 1),
    ("before the optimiser steps", 3),
    ("between weights and state", 2),
    ("after a step", 2),
    ("after validation, before its checkpoint", 1),
    ("between two fsyncs", 5),
    ("before a link", 3),
    ("after a link", 1),
    ("before old checkpoints go", 2),
    ("at the border of two stages", 1),
    ("after a step", 5),
]


@pytest.fixture
def reference(in_process, tmp_path):
    """The folder of an uninterrupted run, in a process of as many threads as the others."""
    (tmp_path / "reference.yaml").write_text(STAGED.replace("name: mini", "name: reference"))
    output, _ = in_process('load_run("reference.yaml").fit()').communicate(timeout=120)
    folder = tmp_path / "runs" / "reference"
    assert (folder / "last").exists(), output
    return folder


def finish(start, tmp_path):
    process = start('load_run("mini.yaml").fit(resume=True)')
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return tmp_path / "runs" / "mini"


def same_run(folder, reference):
    """Compare everything a user would look at: weights, optimiser, links, lines."""
    for which in ("last", "best"):
        here, there = (checkpoint.find(f, which) for f in (folder, reference))
        assert here.name == there.name
        found, wanted = checkpoint.read(here)[1], checkpoint.read(there)[1]
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    state, wanted = (checkpoint.read_state(checkpoint.find(f, "last")) for f in (folder, reference))
    assert state["position"] == wanted["position"]
    lines, wanted = ((f / "metrics.jsonl").read_text() for f in (folder, reference))
    assert [json.loads(line) for line in lines.splitlines()] == [
        json.loads(line) for line in wanted.splitlines()
    ]


def test_kills_at_eleven_instants_end_bit_equal_to_one_uninterrupted_run(
    reference, in_process, tmp_path
):
    (tmp_path / "mini.yaml").write_text(STAGED)
    process = in_process(KILLS.replace("{plan!r}", repr(INSTANTS)))
    output, _ = process.communicate(timeout=300)
    landed = [line for line in output.splitlines() if line.startswith("kill landed")]
    assert len(landed) == len(INSTANTS), output
    same_run(finish(in_process, tmp_path), reference)


def test_ctrl_c_saves_after_the_step_and_the_rest_is_the_same(reference, in_process, tmp_path):
    (tmp_path / "mini.yaml").write_text(STAGED)
    body = """
import os, signal
from mlkit_core.training import loop
report = loop.StageLoop._report
def interrupting(self, *args):
    report(self, *args)
    if self.position.step == 5:
        os.kill(os.getpid(), signal.SIGINT)
loop.StageLoop._report = interrupting
print(load_run("mini.yaml").fit().status)
"""
    output, _ = in_process(body).communicate(timeout=120)
    assert output.splitlines()[-1] == "interrupted"
    assert (tmp_path / "runs/mini/last").readlink().name == "step-00000005"
    same_run(finish(in_process, tmp_path), reference)


@pytest.mark.parametrize("writer", ["save_file", "torch.save", "_sync"])
def test_a_full_disk_is_one_clear_error_and_the_checkpoint_before_stands(
    make_run, monkeypatch, writer
):
    run = make_run("trainer.checkpoint_every=2", "trainer.epochs=2")
    calls = []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return inner(*args, **kwargs)

    owner = checkpoint.torch if writer == "torch.save" else checkpoint
    name = writer.rpartition(".")[2]
    inner = getattr(owner, name)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(TrainingError, match=r"cannot be written: .*No space left on device"):
            run.fit()
    assert not list((run.folder / "checkpoints").glob(".*.part"))
    assert run.fit(resume=True).status == "finished"


def test_resuming_a_finished_run_changes_nothing(make_run):
    run = make_run()
    run.fit()
    before = (run.folder / "metrics.jsonl").read_bytes()
    assert run.fit(resume=True).status == "finished"
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def test_init_from_takes_weights_only_and_starts_at_epoch_nought(make_run):
    first = make_run(name="first")
    first.fit()
    second = make_run(f"init_from={first.folder.resolve()}", "trainer.epochs=1", name="second")
    second.fit()
    record = json.loads((second.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert (record["step"], record["epoch"]) == (1, 0)
    last = json.loads((first.folder / "metrics.jsonl").read_text().splitlines()[-2])
    assert record["loss"] == pytest.approx(last["loss"], rel=0.1)


def test_a_truncated_checkpoint_is_one_clear_error(make_run):
    from mlkit_core.errors import RunFolderError

    run = make_run("trainer.epochs=1")
    run.fit()
    (run.folder / "last" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RunFolderError, match="cannot be read as a checkpoint"):
        run.evaluate("val", "last")
