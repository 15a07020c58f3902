"""The bars: Frangi's filter, a plain U-Net, marking everything; and the view's bins."""

import json

import numpy as np
import pytest
import torch
from skimage.filters import frangi
from torch.nn import functional

from mlkit_angioseg.baselines.bars import EVERYTHING, measure_bars, write_table
from mlkit_angioseg.baselines.frangi import Frangi
from mlkit_angioseg.encoders.grey import LEVEL, Grey
from mlkit_angioseg.encoders.view import ViewAngle, bins_of
from mlkit_angioseg.frames.pixels import to_grey
from mlkit_angioseg.heads.unet_mask import UNetMask
from mlkit_angioseg.phantom import write_phantom
from mlkit_core import load_run
from mlkit_core.errors import BuildError, InputError
from mlkit_core.types import Features, FeatureSpec

GREY = {"image": FeatureSpec(channels={LEVEL: 1}, strides={LEVEL: 1})}
STRIDES = {"s2": 2, "s4": 4, "s16": 16}
PYRAMID = {"image": FeatureSpec(channels={"s2": 3, "s4": 5, "s16": 7}, strides=STRIDES)}
RUN = """
name: {name}
seed: 0
data: {{name: angio-frames, root: {root}, size: 64, augment: false}}
model:
  encoders: {{image: {{name: conv-stem, dim: 8}}}}
  head: {{name: conv-mask, dim: 8, hidden: [8, 8]}}
losses: [{{name: dice}}]
metrics: [{{name: mask-overlap, resamples: 0}}]
trainer: {{epochs: 1, batch_size: 4, validate_every: 0, pictures: 0}}
"""


def crossing():
    """A bright picture with a dark line of four pixels, and noise of a fixed seed."""
    image = torch.full((1, 1, 40, 48), 0.7)
    image[..., 18:22, :] = 0.3
    return image + 0.01 * torch.randn(image.shape, generator=torch.Generator().manual_seed(3))


def test_frangi_is_scikit_images_filter_and_its_level_is_one_half():
    image = crossing()
    logits = Frangi(GREY, widths_px=(1.0, 2.0), level=0.3)({"image": Features(maps={LEVEL: image})})
    own = frangi(image[0, 0].double().numpy(), sigmas=(1.0, 2.0), black_ridges=True)
    probabilities = logits.logits[0, 0].sigmoid().numpy()
    np.testing.assert_allclose(probabilities, own / (own + 0.3), atol=1e-3)
    assert (probabilities[19:21, 5:-5] > 0.5).all()
    assert (probabilities[:10] < 0.5).all()


def test_frangi_reads_grey_and_marks_one_class():
    with pytest.raises(BuildError, match="reads the encoder grey"):
        Frangi(PYRAMID)
    with pytest.raises(BuildError, match="marks one class"):
        Frangi(GREY, num_classes=3)
    rgb = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(Grey()(rgb).maps[LEVEL], rgb.sum(1, keepdim=True) / 3)


def by_hand(head, maps):
    """U-Net's decoder written out: enlarge, join, two convolutions with norm and ReLU."""

    def twice(step, values):
        for conv, norm, _ in step:
            values = functional.conv2d(values, conv.weight, padding=1)
            values = functional.group_norm(values, norm.num_groups, norm.weight, norm.bias)
            values = values.clamp_min(0)
        return values

    def larger(values):
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)

    full, half, quarter, eighth = head.steps
    found = twice(eighth, larger(maps["s16"]))
    found = twice(quarter, torch.cat((larger(found), maps["s4"]), 1))
    found = twice(half, torch.cat((larger(found), maps["s2"]), 1))
    found = twice(full, larger(found))
    return functional.conv2d(found, head.classify.weight, head.classify.bias)


def test_the_unet_decoder_is_what_one_writes_by_hand():
    torch.manual_seed(0)
    head = UNetMask(PYRAMID, 2, widths=(4, 8, 8, 16), norm="group")
    maps = {
        n: torch.randn(2, PYRAMID["image"].channels[n], 32 // s, 48 // s)
        for n, s in STRIDES.items()
    }
    found = head({"image": Features(maps=maps)}).logits
    assert found.shape == (2, 2, 32, 48)
    torch.testing.assert_close(found, by_hand(head, maps))
    # Weights of each step: 9 (coarser + skip) width + 9 width^2, and two norms of 2 width.
    pairs = [(8, 0, 4), (8, 3, 8), (16, 5, 8), (7, 0, 16)]
    steps = sum(9 * (c + s) * w + 9 * w * w + 4 * w for c, s, w in pairs)
    assert sum(p.numel() for p in head.parameters()) == steps + 4 * 2 + 2


def test_every_map_reaches_the_unets_mask_and_a_vit_gets_steps():
    head = UNetMask(PYRAMID, widths=(4, 4, 4, 4), norm="group")
    maps = {
        n: torch.randn(1, PYRAMID["image"].channels[n], 32 // s, 32 // s).requires_grad_()
        for n, s in STRIDES.items()
    }
    head({"image": Features(maps=maps)}).logits.square().sum().backward()
    assert all(values.grad.abs().sum() > 0 for values in maps.values())
    vit = {"image": FeatureSpec(channels={"s16": 8}, strides={"s16": 16})}
    assert [level.stride for level in UNetMask(vit).levels] == [1, 2, 4, 8, 16]
    with pytest.raises(BuildError, match="widths: expected 4 for strides 1, 2, 4, 8, got 2"):
        UNetMask(vit, widths=(4, 4))
    same = FeatureSpec(channels={"block1": 8, "block2": 8}, strides={"block1": 16, "block2": 16})
    with pytest.raises(BuildError, match="one map of each stride"):
        UNetMask({"image": same})


def test_bins_are_those_of_the_catheter_laboratory():
    # RAO, AP, LAO from left to right; caudal, straight, cranial from below.
    views = torch.tensor([[-30.0, -25.0], [0.0, -25.0], [45.0, -10.0], [-10.0, 0.0], [10.1, 30.0]])
    edges = torch.tensor([-10.0, 10.0])
    assert bins_of(views, edges, edges).tolist() == [0, 1, 2, 3, 8]


def test_categorical_views_of_one_bin_share_a_code_and_others_do_not():
    torch.manual_seed(0)
    encoder = ViewAngle(dim=8, encoding="categorical")
    views = torch.tensor([[30.0, 20.0], [45.0, 11.0], [30.0, -20.0], [390.0, 20.0]])
    vector = encoder(torch.cat((views, torch.full((1, 2), float("nan"))))).vector
    torch.testing.assert_close(vector[0], vector[1])
    torch.testing.assert_close(vector[0], vector[3])  # 390 degrees are 30
    assert (vector[0] - vector[2]).abs().max() > 1e-2
    vector[4].sum().backward()
    assert encoder.unknown.grad.abs().sum() > 0
    assert encoder.bins.weight.grad.abs().sum() == 0
    with pytest.raises(BuildError, match="must rise"):
        ViewAngle(encoding="categorical", primary_edges_deg=(5.0, -5.0))


def test_one_channel_of_a_colour_picture_can_be_read():
    stored = np.zeros((2, 2, 3), np.uint8)
    stored[..., 1] = 51
    assert to_grey(stored, channel="green") == pytest.approx(0.2)
    assert to_grey(stored, channel="red") == pytest.approx(0.0)
    assert to_grey(stored) == pytest.approx(0.2 * 0.587)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bars")
    write_phantom(folder / "data", trees=4, views_per_tree=1, size=64, split=(0.5, 0.25, 0.25))
    for name in ("small", "other"):
        fitted(folder, name)
    return folder / "runs"


def fitted(folder, name):
    (folder / f"{name}.yaml").write_text(RUN.format(name=name, root="data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        load_run(f"{name}.yaml").fit()


def test_bars_are_measured_on_the_runs_own_frames_and_stand_in_its_report(trained):
    bars = measure_bars(trained / "small", "val", {"unet": trained / "other"})
    assert list(bars.rows) == ["small", "unet", "frangi", EVERYTHING]
    assert bars.rows[EVERYTHING]["sensitivity"] == 1
    # All marked: the Dice is 2 p / (1 + p) of the share p of vessel, which is its precision.
    share = bars.rows[EVERYTHING]["precision"]
    assert bars.rows[EVERYTHING]["dice"] == pytest.approx(2 * share / (1 + share), abs=1e-6)
    record = json.loads((trained / "small" / "baselines" / "frangi" / "eval-val.json").read_text())
    own = json.loads((trained / "small" / "eval-val.json").read_text())
    assert {row["key"] for row in record["rows"]} == {row["key"] for row in own["rows"]}
    table = json.loads(write_table(bars, trained / "small").read_text())
    assert [row[0] for row in table["rows"]] == list(bars.rows)
    assert "training frames" in table["text"]


def test_bars_of_other_frames_are_refused(trained, tmp_path):
    write_phantom(tmp_path / "data", trees=5, views_per_tree=1, size=64, split=(0.4, 0.4, 0.2))
    fitted(tmp_path, "far")
    with pytest.raises(InputError, match="other frames in split 'val'"):
        measure_bars(trained / "small", "val", {"unet": tmp_path / "runs" / "far"})
