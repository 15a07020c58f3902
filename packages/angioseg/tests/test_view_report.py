"""Views in the report: bins of evaluated images, and what FiLM makes of the angles."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mlkit_angioseg.frames.angles import view_bin
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.metrics.overlap import MaskOverlap
from mlkit_angioseg.phantom import write_phantom
from mlkit_angioseg.views.drawing import PX_PER_DEG, Panel, colours, draw, place, signed_panel
from mlkit_angioseg.views.grids import (
    angle_grid,
    channel_ranges,
    modulations,
    similarities,
    strength,
)
from mlkit_cli.main import main
from mlkit_core.components.film import FiLM
from mlkit_core.report import write_report
from mlkit_core.types import Features, FeatureSpec, MaskPrediction

RUN = """
name: seen
data: {name: angio-frames, root: data, size: 32, augment: false}
model:
  encoders:
    image: {name: conv-stem, dim: 8, stride: 2}
    view: {name: view-angle, dim: 8}
  fusion: {name: film, "on": image, by: view}
  head: {name: conv-mask, dim: 8, hidden: [8, 8]}
losses: [{name: bce}]
metrics: [{name: mask-overlap, resamples: 0}]
trainer: {epochs: 1, max_steps: 1, batch_size: 2, monitor: mask-overlap.dice, pictures: 0}
"""


@pytest.mark.parametrize(
    ("angles", "name"),
    [
        ((30, 20), "LAO-CRA"),
        ((45.1, -28), "LAO-CAU"),
        ((-30, 20), "RAO-CRA"),
        ((-20, -5.1), "RAO-CAU"),
        ((5, 35), "AP-CRA"),
        ((-5.0, -28), "AP-CAU"),
        ((5.1, 5), "LAO-straight"),
        ((-90, 0), "RAO-straight"),
        ((0, -5), "AP"),
        (None, "unknown"),
    ],
)
def test_a_view_is_named_by_its_side_and_tilt(angles, name):
    assert view_bin(angles) == name


def test_evaluated_images_carry_their_view(seed_data):
    data = AngioFrames(root=seed_data, size=32, augment=False)
    metric = MaskOverlap(resamples=0)
    for [draw_] in [*data.units("train", 0), *data.units("val", 0)]:
        [batch] = data.collate([[data.load(draw_)]])
        metric.update([MaskPrediction(batch.target.original[0].float())], batch)
    found = {(row["primary_angle_deg"], row["view"]) for row in metric.rows()}
    assert found == {(-30.0, "RAO-CRA"), (40.0, "LAO-CAU"), (5.0, "AP-CRA")}


class Linear(nn.Module):
    """A view encoder whose vector is the two angles, as shares of 60 and 45 degrees."""

    def forward(self, angles):
        return Features(vector=angles / torch.tensor([60.0, 45.0]))


@pytest.fixture
def by_hand():
    """A model whose gamma and beta are known functions of the angles.

    Channel 0: gamma = 0.5 primary / 60, beta = 0; channel 1: gamma = 0.1 - 2 secondary / 45,
    beta = primary / 60; channel 2: gamma = 0.3 whatever the view.
    """
    inputs = {
        "image": FeatureSpec(channels={"p2": 3}, strides={"p2": 4}),
        "view": FeatureSpec(vector_dim=2),
    }
    film = FiLM(inputs, "image", "view")
    layer = film.maps["p2"].to_gamma_beta[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0], layer.weight[1, 1], layer.weight[4, 0] = 0.5, -2.0, 1.0
        layer.bias[1], layer.bias[2] = 0.1, 0.3
    return SimpleNamespace(
        reads={"image": "image", "view": "view"},
        encoders={"view": Linear()},
        fusions={"fused": film},
    )


def test_gamma_and_beta_over_the_grid_are_those_of_the_film(by_hand):
    grid = angle_grid(15.0)
    [found] = modulations(by_hand, grid)
    primary, secondary = np.meshgrid(grid.primary / 60, grid.secondary / 45)
    assert found.gamma[0] == pytest.approx(0.5 * primary, abs=1e-6)
    assert found.gamma[1] == pytest.approx(0.1 - 2 * secondary, abs=1e-6)
    assert found.gamma[2] == pytest.approx(0.3, abs=1e-6)
    assert found.beta[1] == pytest.approx(primary, abs=1e-6)
    assert found.beta[[0, 2]] == pytest.approx(0, abs=1e-6)
    expected = np.sqrt(((0.5 * primary) ** 2 + (0.1 - 2 * secondary) ** 2 + 0.3**2) / 3)
    assert strength(found.gamma) == pytest.approx(expected, abs=1e-6)


def test_channels_are_ranked_by_how_far_their_gamma_moves(by_hand):
    grid = angle_grid(15.0)
    first, second, third = channel_ranges(modulations(by_hand, grid), grid)
    assert [one.channel for one in (first, second, third)] == [1, 0, 2]
    assert first.gamma == pytest.approx((-1.9, 2.1))
    assert (first.lowest_at[1], first.highest_at[1]) == (45.0, -45.0)
    assert second.gamma_range == pytest.approx(1.0)
    assert second.highest_at[0] == 60.0
    assert third.gamma_range == pytest.approx(0.0)


def test_similarity_is_the_cosine_of_the_embeddings(by_hand):
    grid = angle_grid(15.0)
    maps = similarities(by_hand.encoders["view"], [(60.0, 0.0), (0.0, 45.0)], grid)
    primary, secondary = np.meshgrid(grid.primary / 60, grid.secondary / 45)
    length = np.hypot(primary, secondary)
    away = length > 0  # the embedding of 0/0 has no direction
    assert maps[0][away] == pytest.approx((primary / np.where(away, length, 1))[away], abs=1e-6)
    assert maps[1][away] == pytest.approx((secondary / np.where(away, length, 1))[away], abs=1e-6)


def test_a_map_shows_lao_to_the_right_and_cranial_at_the_top(by_hand):
    grid = angle_grid(15.0)
    [found] = modulations(by_hand, grid)
    panels = [signed_panel("lao", found.gamma[0]), signed_panel("caudal", found.gamma[1])]
    sheet = np.asarray(draw(panels, grid)).astype(int)
    width = sheet.shape[1] // 2
    for panel, left, values in zip(panels, (0, width), found.gamma, strict=False):
        for row, column in ((1, 1), (1, -2), (3, 4), (-2, 2)):
            view = (float(grid.primary[column]), float(grid.secondary[row]))
            x, y = place(view, grid)
            expected = colours(values[row, column], panel)
            assert sheet[round(y), left + round(x)] == pytest.approx(expected, abs=3)
    x, y = place((45.0, 0.0), grid)
    red, _, blue = sheet[round(y), round(x)]
    assert red > blue  # positive gamma is red, and LAO is to the right
    assert place((60, 0), grid)[0] - place((-60, 0), grid)[0] == 120 * PX_PER_DEG


def test_the_scales_ends_and_middle_have_the_colours_of_their_values():
    panel = Panel(title="", values=np.zeros((2, 2)), low=-2, high=2, is_signed=True)
    assert colours(np.array([-2.0, 0.0, 2.0]), panel).tolist() == [
        [33, 102, 172],
        [247, 247, 247],
        [178, 24, 43],
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    write_phantom(
        folder / "data", trees=4, views_per_tree=3, size=32, split=(0.5, 0.5, 0), layout="folder"
    )
    (folder / "run.yaml").write_text(RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "run.yaml"]) == 0
        assert main(["eval", "runs/seen"]) == 0
    return folder / "runs" / "seen"


def test_the_report_counts_and_scores_view_bins(trained):
    rows = json.loads((trained / "eval-val.json").read_text())["rows"]
    bins = {row["view"] for row in rows}
    assert 2 <= len(bins) < len(rows)
    words = [w for w in re.split(r"<[^>]+>", write_report(trained).read_text()) if w.strip()]
    heads = ["view", "samples", "share", "mean dice"]
    [at] = [i for i in range(len(words)) if words[i : i + 4] == heads]
    for number, name in enumerate(sorted(bins)):
        found = words[at + 4 * (number + 1) :][:4]
        scores = [row["dice"] for row in rows if row["view"] == name]
        assert found[:3] == [name, str(len(scores)), f"{100 * len(scores) / len(rows):.0f} %"]
        assert float(found[3]) == pytest.approx(np.mean(scores), abs=1e-4)


def test_views_writes_pictures_and_a_table_that_the_report_shows(trained, capsys):
    assert main(["angioseg", "views", str(trained), "--channels", "2", "--view", "30,-20"]) == 0
    assert "gamma" in capsys.readouterr().out
    index = json.loads((trained / "pictures" / "views" / "index.json").read_text())
    names = [picture["file"] for picture in index["pictures"]]
    assert names == [
        "strength-fused-stem.png",
        "channel-00.png",
        "channel-01.png",
        "similarity.png",
    ]
    for name in names:
        with Image.open(trained / "pictures" / "views" / name) as picture:
            assert len(picture.convert("RGB").getcolors(2**20)) > 20
    table = json.loads((trained / "tables" / "views.json").read_text())
    assert len(table["rows"]) == 8
    gamma = [row[3] for row in table["rows"]]
    assert gamma == sorted(gamma, reverse=True)
    page = write_report(trained).read_text()
    assert "View conditioning over the angles" in page
    assert "Channels by view" in page


def test_a_view_that_is_no_pair_of_degrees_is_refused(trained, capsys):
    assert main(["angioseg", "views", str(trained), "--view", "LAO"]) == 2
    assert "expected PRIMARY,SECONDARY" in capsys.readouterr().err


def test_a_model_without_view_has_nothing_to_draw(trained, tmp_path, capsys, monkeypatch):
    text = RUN.replace("    view: {name: view-angle, dim: 8}\n", "")
    text = text.replace('  fusion: {name: film, "on": image, by: view}\n', "")
    (tmp_path / "data").symlink_to(trained.parents[1] / "data")
    (tmp_path / "run.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "run.yaml"]) == 0
    capsys.readouterr()
    assert main(["angioseg", "views", "runs/seen"]) == 2
    assert "reads no view" in capsys.readouterr().err
