"""The contract of refdet's losses, each on its example."""

import pytest
import torch

from mlkit_core.testing import checks
from mlkit_core.testing.subject import Subject
from mlkit_refdet.plugin import mlkit_components

CASES = [
    (spec, check)
    for spec in mlkit_components()
    if spec.kind == "loss"
    for check in checks.CHECKS["loss"]
]


@pytest.mark.parametrize(
    ("spec", "check"), CASES, ids=[f"{spec.name}-{check.__name__}" for spec, check in CASES]
)
def test_a_loss_keeps_the_contract(spec, check, tmp_path):
    with torch.random.fork_rng(devices=[]):
        check(Subject.of(spec, tmp_path))
