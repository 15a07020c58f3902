"""Two processes equal one at the same global batch: mixed kinds, ratios and dropout included."""

from __future__ import annotations

import json

import pytest
import torch

from mlkit_core.training import checkpoint

MIXED = """
name: {name}
seed: 5
data: {{name: blobs, count: 12, mixed: true}}
model:
  encoders:
    image: {{name: tiny-conv, dropout: 0.3}}
    hint: {{name: hint}}
  fusion: {{name: film}}
  head: {{name: tiny-mask}}
losses: [{{name: bce}}, {{name: counted, weight: 2.0}}, {{name: projected, weight: 0.5}}]
metrics: [{{name: disc-dice}}]
optimizer: {{name: sgd, lr: 0.1}}
trainer:
  {{epochs: 3, batch_size: 4, accumulate: {accumulate}, monitor: disc-dice.dice, log_every: 1}}
"""


@pytest.fixture
def trained(in_process, tmp_path):
    def train(name, ranks, accumulate):
        (tmp_path / f"{name}.yaml").write_text(MIXED.format(name=name, accumulate=accumulate))
        process = in_process(f'load_run("{name}.yaml").fit()', ranks)
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
        folder = tmp_path / "runs" / name
        lines = [json.loads(t) for t in (folder / "metrics.jsonl").read_text().splitlines()]
        return checkpoint.read(checkpoint.find(folder, "last"))[1], lines

    return train


def test_two_ranks_and_two_micro_steps_give_the_same_weights_and_lines(trained):
    alone, alone_lines = trained("alone", ranks=1, accumulate=2)
    pair, pair_lines = trained("pair", ranks=2, accumulate=1)
    # Sums of floats in another order; the running mean of a loss follows rank 0.
    names = [name for name in alone if not name.endswith(".mean")]
    for name in names:
        torch.testing.assert_close(alone[name], pair[name], rtol=1e-4, atol=1e-6)
    assert len(alone_lines) == len(pair_lines)
    for one, two in zip(alone_lines, pair_lines, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            same = value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert two[key] == same


def test_cutting_a_step_into_micro_steps_does_not_change_the_gradient(make_run):
    """Without dropout the same global batch gives the same weights however it is cut."""
    found = []
    for accumulate in (1, 2, 4):
        text = MIXED.format(name="x", accumulate=accumulate)
        run = make_run("model.encoders.image.dropout=0", text=text, name=f"cut{accumulate}")
        run.fit()
        found.append(checkpoint.read(checkpoint.find(run.folder, "last"))[1])
    for other in found[1:]:
        for name in (n for n in other if not n.endswith(".mean")):
            torch.testing.assert_close(found[0][name], other[name], rtol=1e-4, atol=1e-6)
