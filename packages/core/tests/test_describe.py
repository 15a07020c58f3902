"""The data's way through the model, in numbers that can be counted by hand."""

from __future__ import annotations

import json

import pytest

from mlkit_core.config import load_config
from mlkit_core.errors import BuildError
from mlkit_core.report.describe import describe

STAGED = """
name: two
data: {name: blobs, shots: 3}
model:
  encoders:
    image: {name: tiny-linear}
    hint: {name: hint}
    support: {name: tiny-conv}
  fusion: [{name: film, by: hint}, {name: film, as: shown, by: support, pool: true}]
  head: {name: tiny-mask}
losses: [{name: bce, weight: 0.5}, {name: dice}]
freeze: [encoders.image]
optimizer: {lr: 0.01, lr_scale: {encoders.hint: 0.1}}
stages:
  - {name: first, model: {encoders: {image: {cache: true}}}}
  - name: second
    freeze: []
    model: {encoders: {image: {cache: false, lora: {rank: 2}}, hint: {weights: lost.pt}}}
    losses: [{name: counted}]
"""


@pytest.fixture
def described(miniatures, tmp_path):
    def load(text, *overrides):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return describe(load_config(path, overrides))

    return load


def part(stage, name):
    return next(row for row in stage.parts if row["part"] == name)


def test_parameters_are_counted_as_trained_and_frozen(described):
    first, second = described(STAGED).stages
    # 12 * 4 weights and 4 biases of one linear layer; LoRA of rank 2 adds 2 * 12 + 4 * 2.
    assert (part(first, "encoders.image")["trained"], part(first, "encoders.image")["frozen"]) == (
        0,
        52,
    )
    assert part(second, "encoders.image")["trained"] == 32
    assert part(second, "encoders.image")["frozen"] == 52
    assert part(first, "encoders.support")["trained"] == 3 * 4 * 9 + 4
    assert part(first, "head")["trained"] == 5


def test_every_tensor_shows_its_shape_and_what_is_published(described):
    first, _ = described(STAGED).stages
    tensors = {row["tensor"]: row for row in first.tensors}
    assert tensors["image.maps.p1"]["shape"] == [2, 4, 16, 16]
    assert tensors["image.maps.p1"]["published"] == "4 channels, stride 2"
    assert tensors["support.maps.p1"]["shape"] == [4, 4, 16, 16]  # 2 classes x 2 shots, folded
    assert tensors["support.valid"]["shape"] == [2, 2]
    assert tensors["head.logits"]["shape"] == [2, 1, 32, 32]


def test_inputs_cover_the_range_that_the_data_publishes(described, miniatures, monkeypatch):
    from mlkit_core.types import RoleSpec

    original = miniatures.Blobs.__init__

    def init(self, **options):
        original(self, **options)
        self.roles["hint"] = RoleSpec(shape=(1,), value_range=(-180.0, 180.0), unit="degrees")

    monkeypatch.setattr(miniatures.Blobs, "__init__", init)
    text = STAGED.replace("blobs, shots: 3", "blobs").replace(
        "    support: {name: tiny-conv}\n", ""
    )
    text = text.replace(", {name: film, as: shown, by: support, pool: true}", "")
    row = next(r for r in described(text).stages[0].inputs if r["tensor"] == "hint")
    assert (row["min"], row["max"], row["unit"]) == (-180.0, 180.0, "degrees")


def test_fusions_and_head_say_which_roles_they_really_read(described):
    first, _ = described(STAGED).stages
    assert part(first, "fusions.fused")["reads"] == "image, hint"
    assert part(first, "fusions.shown")["reads"] == "fused, support"
    assert part(first, "head")["reads"] == "shown"


def test_notes_say_weights_caches_adapters_and_loss_weights(described):
    first, second = described(STAGED).stages
    assert part(first, "encoders.image")["notes"] == "random weights; features cached"
    assert part(second, "encoders.image")["notes"] == (
        "weights of stage first; LoRA of rank 2 on proj"
    )
    assert part(first, "losses.bce")["notes"] == "weight 0.5, on kind mask"
    assert "freeze: encoders.image, 52 parameters" in first.notes
    assert "learning rate 0.001: encoders.hint, 8 parameters" in first.notes


def test_weights_that_the_run_would_load_are_named_and_not_read(described):
    text = STAGED.replace(
        "image: {name: tiny-linear}", "image: {name: tiny-linear, weights: no.pt}"
    )
    notes = part(described(text).stages[0], "encoders.image")["notes"]
    assert notes.startswith("weights: ")
    assert "no.pt" in notes


def test_published_weights_are_not_downloaded(described, miniatures, monkeypatch):
    def download(self):
        raise AssertionError("describe must not download")

    monkeypatch.setattr(miniatures.TinyConv, "pretrained_file", download, raising=False)
    assert part(described(STAGED).stages[0], "encoders.support")["notes"] == "weights: auto"


def test_no_data_file_is_read(described, miniatures, monkeypatch):
    def load(self, *args):
        raise AssertionError("describe must not touch data")

    for name in ("units", "load", "open", "collate"):
        monkeypatch.setattr(miniatures.Blobs, name, load)
    assert len(described(STAGED).stages) == 2


def test_a_pattern_that_matches_nothing_is_refused(described):
    with pytest.raises(BuildError, match=r"'encoders.picture' match nothing"):
        described(STAGED, "freeze=[encoders.picture]")


def test_a_cache_of_a_trained_encoder_is_refused(described):
    with pytest.raises(BuildError, match=r"encoders.image.cache: this encoder is trained"):
        described(STAGED, "freeze=[head]")


def test_text_markdown_and_json_hold_the_same_tables(described):
    description = described(STAGED)
    assert "two: stage second" in description.text()
    assert "## Stage `second`" in description.markdown()
    assert "| image.maps.p1 | [2, 4, 16, 16] |" in description.markdown()
    again = json.loads(json.dumps(description.as_dict()))
    assert again["stages"][0]["parts"][0]["component"] == "mini/tiny-linear"


def test_describing_twice_gives_the_same_numbers(described):
    first, again = described(STAGED), described(STAGED)
    assert first == again
