"""The contract kit, and what this plugin's formulas must give."""

import torch
from mlkit_example.encoder import haar
from mlkit_example.loss import tversky

from mlkit_core.testing import PluginContract
from mlkit_core.types import MaskTarget


class TestExample(PluginContract):
    plugin = "mlkit_example.plugin"


def test_haar_by_hand():
    block = torch.tensor([[[[1.0, 3.0], [5.0, 11.0]]]])
    average, details = haar(block)
    assert average.item() == 5
    assert details.flatten().tolist() == [-2.0, -3.0, 1.0]


def test_tversky_with_even_prices_is_dice():
    # Probability 0.5 on 16 pixels, 4 of them foreground: hits 2, price (2 + 6) / 2.
    masks = torch.zeros(1, 4, 4)
    masks[:, 0] = 1
    loss = tversky(torch.zeros(1, 1, 4, 4), MaskTarget(masks), missed=0.5, smooth=1e-9)
    torch.testing.assert_close(loss, torch.tensor([1 - 2 / 6]))


def test_tversky_ignores_padding():
    masks = torch.ones(1, 2, 2)
    valid = torch.tensor([[[True, True], [False, False]]])
    logits = torch.tensor([[[[9.0, 9.0], [-9.0, -9.0]]]])
    assert tversky(logits, MaskTarget(masks, valid=valid)).item() < 1e-3
