"""Features of frozen encoders, computed once."""

from __future__ import annotations

import json

import pytest
import torch

from mlkit_core.errors import MlkitError
from mlkit_core.training import cache, checkpoint

CACHED = ("freeze=[encoders.image]", "model.encoders.image.cache=true")


def test_a_cached_run_ends_where_a_live_one_ends(make_run):
    live, cached = make_run(CACHED[0], name="live"), make_run(*CACHED, name="cached")
    live.fit()
    cached.fit()
    one, two = (checkpoint.read(checkpoint.find(r.folder, "last"))[1] for r in (live, cached))
    for name, tensor in one.items():  # stored in fp16: 1e-3
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-3)


def test_every_image_is_encoded_once_and_pixels_are_skipped_afterwards(
    make_run, miniatures, monkeypatch
):
    built = []
    init = miniatures.TinyConv.__init__
    data = []
    make = miniatures.Blobs.__init__

    def watched(self, *args, **kwargs):
        init(self, *args, **kwargs)
        built.append(self)

    def opened(self, *args, **kwargs):
        make(self, *args, **kwargs)
        data.append(self)

    monkeypatch.setattr(miniatures.TinyConv, "__init__", watched)
    monkeypatch.setattr(miniatures.Blobs, "__init__", opened)
    make_run(*CACHED).fit()
    assert built[0].passes == 32 / cache.CHUNK  # 16 to train, 16 to validate
    assert data[0].decoded == 32


def test_a_second_run_finds_the_features_of_the_first(make_run, miniatures):
    make_run(*CACHED, name="one").fit()
    second = make_run(*CACHED, name="two")
    stamps = {p: p.stat().st_mtime_ns for p in (second.folder.parent / ".cache").rglob("*.bin")}
    second.fit()
    after = {p: p.stat().st_mtime_ns for p in (second.folder.parent / ".cache").rglob("*.bin")}
    assert stamps
    assert after == stamps


def test_other_weights_or_another_option_make_another_cache(make_run):
    make_run(*CACHED, name="one").fit()
    make_run(*CACHED, "seed=4", name="two").fit()
    make_run(*CACHED, "model.encoders.image.width=6", name="three").fit()
    assert len(list((make_run().folder.parent / ".cache").iterdir())) == 3


TRUNK = ("model.encoders.image={name: tiny-trunk, cache: true}", "freeze=[encoders.image.trunk]")


def test_a_cached_trunk_trains_what_lies_behind_it_as_a_live_one_does(make_run):
    live = make_run("model.encoders.image={name: tiny-trunk}", TRUNK[1], name="live")
    cached = make_run(*TRUNK, name="cached")
    before = live.fit().metrics["disc-dice.dice"]
    assert cached.fit().metrics["disc-dice.dice"] == pytest.approx(before, abs=5e-3)
    one, two = (checkpoint.read(checkpoint.find(r.folder, "last"))[1] for r in (live, cached))
    for name, tensor in one.items():  # stored in fp16: 1e-3
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-3)
    start = make_run(TRUNK[0], TRUNK[1], "trainer.epochs=1", "optimizer.lr=1e-12", name="start")
    start.fit()
    first = checkpoint.read(checkpoint.find(start.folder, "last"))[1]
    moved = "encoders.image.project.weight"
    assert (one[moved] - first[moved]).abs().max() > 1e-3


def test_a_trunk_is_encoded_once_whatever_follows_it(make_run, miniatures):
    make_run(*TRUNK, name="one").fit()
    narrow = ("model.encoders.image={name: tiny-trunk, cache: true, dim: 2}", TRUNK[1])
    make_run(*narrow, name="two").fit()
    wide = ("model.encoders.image={name: tiny-trunk, cache: true, width: 6}", TRUNK[1])
    make_run(*wide, name="three").fit()
    assert len(list((make_run().folder.parent / ".cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.encoders.image.cache=true"], "this encoder is trained"),
        ([*CACHED, "data.augment=true"], "alters the input 'image' at random"),
        ([TRUNK[0]], r"this encoder is trained or adapted"),
        ([TRUNK[0], "freeze=[encoders.image.project]"], r"this encoder is trained or adapted"),
        (
            ["model.encoders.image={name: tiny-linear, cache: true, lora: {rank: 2}}"],
            "cache needs a frozen encoder, and lora adapts it",
        ),
    ],
)
def test_a_cache_that_would_be_wrong_is_refused(make_run, overrides, message):
    with pytest.raises(MlkitError, match=message):
        make_run(*overrides).fit()


def test_an_index_line_cut_short_is_computed_again(make_run):
    make_run(*CACHED, name="one").fit()
    (index,) = (make_run().folder.parent / ".cache").rglob("*.jsonl")
    text = index.read_text()
    index.write_text(text[: len(text) // 2])
    lines = [json.loads(t) for t in text.splitlines()]
    assert make_run(*CACHED, name="two").fit().status == "finished"
    again = [p for p in index.parent.glob("*.jsonl") if p != index]
    assert len(again) == 1
    known = {json.loads(t)["key"] for t in index.read_text().splitlines()[:-1]}
    assert {e["key"] for e in lines} - known <= {
        json.loads(t)["key"] for t in again[0].read_text().splitlines()
    }
