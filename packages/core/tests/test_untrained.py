"""The trainer `none`: a model that is used as it is built."""

from __future__ import annotations

import pytest
import torch

from mlkit_core import load_run
from mlkit_core.errors import BuildError, ConfigError, RunFolderError
from mlkit_core.training import checkpoint

TEXT = """
name: mini
seed: 3
data: {name: blobs}
model:
  encoders:
    image: {name: tiny-conv}
    hint: {name: hint}
  fusion: {name: film}
  head: {name: tiny-mask}
metrics: [{name: disc-dice}]
trainer: {name: none}
"""


def test_a_model_that_nothing_trains_is_evaluated_from_its_run_folder(make_run):
    run = make_run(text=TEXT)
    result = run.fit()
    assert (result.status, result.steps) == ("finished", 0)
    again = load_run(run.folder)
    assert "disc-dice.dice" in again.evaluate("val").metrics
    assert (run.folder / "eval-val.json").is_file()


def test_the_checkpoint_is_the_model_as_built_from_the_seed(make_run):
    first, second = make_run(text=TEXT), make_run("name=other", text=TEXT)
    for run in (first, second):
        run.fit()
    info, tensors = checkpoint.read(first.folder / "best")
    _, others = checkpoint.read(second.folder / "last")
    assert info.step == 0
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert info.components["head"].endswith("/tiny-mask")


def test_a_folder_that_exists_is_refused(make_run):
    make_run(text=TEXT).fit()
    with pytest.raises(RunFolderError, match="the run exists"):
        make_run(text=TEXT).fit()


def test_losses_and_an_optimizer_beside_it_are_refused(make_run):
    with pytest.raises(ConfigError, match="trainer 'none' trains nothing and would ignore this"):
        make_run(text=TEXT + "losses: [{name: bce}]\noptimizer: {lr: 0.1}\n")


def test_a_model_that_does_not_build_leaves_no_folder(make_run):
    run = make_run("model.encoders.missing.name=tiny-conv", text=TEXT)
    with pytest.raises(BuildError, match="the data supplies no input 'missing'"):
        run.fit()
    assert not run.folder.exists()
