"""The bars: Frangi's filter, a plain U-Net, marking everything."""

import json

import numpy as np
import pytest
import torch
from skimage.filters import frangi

from mlkit_angioseg.baselines.bars import EVERYTHING, measure_bars, write_table
from mlkit_angioseg.baselines.frangi import Frangi, lit_area
from mlkit_angioseg.encoders.grey import LEVEL, Grey
from mlkit_angioseg.phantom import write_phantom
from mlkit_core import load_run
from mlkit_core.errors import BuildError, InputError
from mlkit_core.types import Features, FeatureSpec

GREY = {"image": FeatureSpec(channels={LEVEL: 1}, strides={LEVEL: 1})}
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


def filtered(image, **options):
    head = Frangi(GREY, **options)
    return head({"image": Features(maps={LEVEL: image})}).logits[0, 0].sigmoid().numpy()


@pytest.mark.parametrize("gamma", [None, 0.02])
def test_frangi_is_scikit_images_filter_and_its_level_is_one_half(gamma):
    image = crossing()
    found = filtered(image, widths_px=(1.0, 2.0), gamma=gamma, level=0.3)
    own = frangi(image[0, 0].double().numpy(), sigmas=(1.0, 2.0), gamma=gamma, black_ridges=True)
    np.testing.assert_allclose(found, own / (own + 0.3), atol=1e-3)
    assert (found[19:21, 5:-5] > 0.5).all()
    if gamma is None:  # a small one takes noise for ridges
        assert (found[:10] < 0.5).all()


def test_a_collimators_edge_is_no_vessel_and_does_not_weaken_those_beside_it():
    image = crossing()
    shut = torch.full((1, 1, 56, 64), 0.1)
    shut[..., 8:48, 16:] = image
    options = {"widths_px": (1.0, 2.0), "gamma": None, "level": 0.3}
    whole = filtered(shut, shutter=0.0, **options)
    assert (whole[:, 10:20] > 0.5).any()  # the edge is a ridge to the filter
    found = filtered(shut, shutter=0.8, **options)
    # Four pixels, twice the widest ridge, are left out behind each shut side.
    own = frangi(image[0, 0, 4:-4, 4:].double().numpy(), sigmas=(1.0, 2.0), black_ridges=True)
    np.testing.assert_allclose(found[12:44, 20:], own / (own + 0.3), atol=1e-3)
    assert found[:12].max() < 1e-3
    assert found[44:].max() < 1e-3
    assert found[:, :20].max() < 1e-3


def test_what_is_lit_is_found_from_the_border_inward_alone():
    grey = np.full((40, 50), 0.5)
    grey[:, 20:26] = 0.1  # a vessel across the whole image is no shutter
    assert lit_area(grey, 0.8, 3) == (slice(0, 40), slice(0, 50))
    grey[:, 45:] = 0.05
    grey[0] = 0.05
    assert lit_area(grey, 0.8, 3) == (slice(4, 40), slice(0, 42))
    assert lit_area(grey, 0.0, 3) == (slice(0, 40), slice(0, 50))
    assert lit_area(np.zeros((4, 4)), 0.8, 3) == (slice(0, 4), slice(0, 4))


def test_frangi_reads_grey_and_marks_one_class():
    with pytest.raises(BuildError, match="reads the encoder grey"):
        Frangi({"image": FeatureSpec(channels={"s2": 3}, strides={"s2": 2})})
    with pytest.raises(BuildError, match="marks one class"):
        Frangi(GREY, num_classes=3)
    rgb = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(Grey()(rgb).maps[LEVEL], rgb.sum(1, keepdim=True) / 3)


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


def test_an_evaluation_of_an_older_checkpoint_is_not_taken(trained):
    run = trained / "other"
    load_run(run).evaluate("val")
    path = run / "eval-val.json"
    record = json.loads(path.read_text())
    right = record["metrics"]["mask-overlap.dice"]
    record["metrics"]["mask-overlap.dice"] = 0.987
    path.write_text(json.dumps(record))
    assert measure_bars(run, "val", {}).rows["other"]["dice"] == 0.987
    path.write_text(json.dumps(record | {"checkpoint": "step-00000000-end"}))
    assert measure_bars(run, "val", {}).rows["other"]["dice"] == pytest.approx(right)


def test_a_filters_run_that_was_stopped_is_made_anew(trained):
    run = trained / "other"
    first = measure_bars(run, "val", {}).rows["frangi"]
    (run / "baselines" / "frangi" / "best").unlink()
    assert measure_bars(run, "val", {}).rows["frangi"] == first


def test_a_filters_run_of_another_level_is_made_anew(trained):
    from mlkit_angioseg.baselines.bars import _filter_run

    first, again = (_filter_run(trained / "small", "probe", 0.01) for _ in range(2))
    stamp = (first.folder / "run.yaml").stat().st_mtime_ns
    assert (again.folder / "run.yaml").stat().st_mtime_ns == stamp
    other = _filter_run(trained / "small", "probe", 0.02)
    assert other.config.resolved["model"]["head"]["level"] == 0.02
    assert (other.folder / "run.yaml").stat().st_mtime_ns != stamp


def test_bars_of_other_frames_are_refused(trained, tmp_path):
    write_phantom(tmp_path / "data", trees=5, views_per_tree=1, size=64, split=(0.4, 0.4, 0.2))
    fitted(tmp_path, "far")
    with pytest.raises(InputError, match="other frames in split 'val'"):
        measure_bars(trained / "small", "val", {"unet": tmp_path / "runs" / "far"})
