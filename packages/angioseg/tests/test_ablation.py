"""Variants of a run that differ in one axis, and their comparison image by image."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mlkit_angioseg.ablation.angles import donors, evaluate_told, frames_of, told_angles
from mlkit_angioseg.ablation.comparing import Resampling, compare, interval_of, paired, scored
from mlkit_angioseg.ablation.heads import SIZES, parameter_count
from mlkit_angioseg.ablation.tables import notes, record_of
from mlkit_angioseg.ablation.variants import Variant, parse_variants, write_run_file
from mlkit_angioseg.frames.component import AngioFrames
from mlkit_angioseg.phantom import write_phantom
from mlkit_cli.main import main
from mlkit_core.build import build_data, build_stage_model
from mlkit_core.config import load_config
from mlkit_core.config.changes import changed_keys
from mlkit_core.config.changes import dump_resolved as text_of
from mlkit_core.errors import BuildError, DataError, InputError
from mlkit_core.run import Run
from mlkit_core.training import checkpoint
from mlkit_core.training.engine import Engine
from mlkit_core.training.loop import StageLoop
from mlkit_core.types import MaskLogits, MaskPrediction, ModelOutput

RUN = """
name: base
seed: 3
data: {name: angio-frames, root: data, size: 32, augment: false}
model:
  encoders:
    image: {name: conv-stem, dim: 8, stride: 2}
    view: {name: view-angle, dim: 8}
  fusion: {name: film, "on": image, by: view}
  head: {name: conv-mask, dim: 8, hidden: [8, 8]}
losses: [{name: bce, weight: 0.5, pos_weight: 2.0}, {name: dice, weight: 0.5}]
metrics: [{name: mask-overlap, resamples: 0}]
optimizer: {name: adamw, lr: 1e-2, lr_scale: {encoders.image: 0.5}}
trainer: {epochs: 2, batch_size: 2, validate_every: 1, monitor: mask-overlap.dice, pictures: 0}
"""
HOW = Resampling(4000, 1)


@pytest.fixture(scope="module", autouse=True)
def one_thread_for_all():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Eight phantom frames of four patients, half of them for validation."""
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantom(folder, trees=4, views_per_tree=2, size=32, split=(0.5, 0.5, 0), layout="folder")
    return folder


@pytest.fixture
def place(tmp_path, phantoms, monkeypatch):
    """A folder with the run file, beside the data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(phantoms)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def rows_of(values, patients, cines=None):
    cines = cines or [f"C{i}" for i in range(len(values))]
    return [
        {"key": f"k{i}", "patient": p, "cine": c, "dice": v}
        for i, (v, p, c) in enumerate(zip(values, patients, cines, strict=True))
    ]


def varied(folder, axis, value, text=RUN):
    """Return the run file of a variant, and the keys in which it differs from the base."""
    (folder / "run.yaml").write_text(text)
    base = load_config(folder / "run.yaml")
    made, is_base = write_run_file(base, Variant(axis, value), base.seed, folder / "files")
    keys = [k for k in changed_keys(text_of(base), text_of(made)) if k != "name"]
    assert is_base == (not keys)
    return made, keys


# The comparison


def test_the_difference_of_two_patients_lies_between_their_own_means():
    base = [rows_of([0.5, 0.6, 0.7], ["A", "A", "B"])]
    better = [rows_of([0.6, 0.7, 1.0], ["A", "A", "B"])]
    found = compare(better, base, "dice", HOW)
    assert found.difference == pytest.approx((0.1 + 0.1 + 0.3) / 3)
    # A quarter of all samples is A twice, another B twice: both ends of the 95 % are reached.
    assert found.difference_interval.low == pytest.approx(0.1)
    assert found.difference_interval.high == pytest.approx(0.3)
    assert found.difference_interval.by == "patient"
    assert found.pairs == 3


def test_pairs_are_images_of_one_key_whatever_their_order():
    base = rows_of([0.1, 0.5, 0.9], ["A", "B", "C"])
    shifted = [{**row, "dice": row["dice"] + 0.05} for row in reversed(base)]
    found = compare([shifted[1:]], [base], "dice", HOW)  # one image is missing
    assert found.difference == pytest.approx(0.05)
    assert found.pairs == 2
    assert found.difference_interval.low == pytest.approx(0.05)


def test_the_paired_interval_agrees_with_scipys_bootstrap_of_patients():
    rng = np.random.default_rng(4)
    sizes = rng.integers(2, 6, 14)
    patients = [f"P{i}" for i, size in enumerate(sizes) for _ in range(size)]
    level = np.repeat(rng.normal(0.7, 0.1, len(sizes)), sizes)
    own = level + rng.normal(0, 0.03, len(level))
    gain = np.repeat(rng.normal(0.02, 0.02, len(sizes)), sizes) + rng.normal(0, 0.01, len(level))
    runs = [rows_of((own + gain).tolist(), patients)], [rows_of(own.tolist(), patients)]
    found = compare(*runs, "dice", Resampling(20000, 0)).difference_interval
    sums = np.array([gain[np.array(patients) == f"P{i}"].sum() for i in range(len(sizes))])
    expected = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=20000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    # Each end of a percentile interval of 20000 samples has an error of some 0.02 of its width.
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.high, abs=0.05 * width)
    unpaired = compare(*runs, "dice", HOW).interval
    assert unpaired.high - unpaired.low > 2 * width  # what pairing is for


def test_one_patient_has_an_interval_by_cines_alone_and_it_is_marked():
    values, cines = [0.2, 0.4, 0.6, 0.8], ["X", "X", "Y", "Y"]
    images = scored([rows_of(values, ["A"] * 4, cines)], "dice")
    found = interval_of(images, HOW)
    assert (found.low, found.high, found.by) == (pytest.approx(0.3), pytest.approx(0.7), "cine")
    alone = scored([rows_of(values, ["A"] * 4, ["X"] * 4)], "dice")
    assert interval_of(alone, HOW) is None


def test_seeds_are_averaged_image_by_image_before_patients_are_resampled():
    first, second = rows_of([0.2, 0.8], ["A", "B"]), rows_of([0.4, 0.8], ["A", "B"])
    found = compare([first, second], None, "dice", HOW)
    assert found.mean == pytest.approx((0.3 + 0.8) / 2)
    assert found.seed_spread == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert found.interval.low == pytest.approx(0.3)


def test_an_undefined_score_is_left_out_of_its_pair():
    base = scored([rows_of([0.5, float("nan")], ["A", "B"])], "dice")
    other = scored([rows_of([0.7, 0.9], ["A", "B"])], "dice")
    apart = paired(other, base)
    assert apart.values[0] == pytest.approx(0.2)
    assert math.isnan(apart.values[1])


# The axis of angles

VIEWS = {"A": (30.0, 10.0), "B": (-20.0, 5.0), "C": (40.0, -25.0), "D": (30.0, 10.0), "E": (0, 35)}


def frames_with(views, per_cine=3):
    return {f"{c}#{i}": (c, v) for c, v in views.items() for i in range(per_cine)}


def test_shuffled_never_leaves_a_cine_its_own_angles():
    frames = frames_with(VIEWS)
    for seed in range(60):
        told, given = told_angles("shuffled", frames, seed)
        assert sorted(given) == sorted(given.values()) == sorted(VIEWS)
        assert all(cine != donor for cine, donor in given.items())
        # A and D have one view: an exchange between them would change nothing.
        assert all(told[key] != angles for key, (_, angles) in frames.items())
        assert Counter(told.values()) == Counter(angles for _, angles in frames.values())


def test_shuffled_is_seeded_and_seeds_differ():
    frames = frames_with(VIEWS)
    assert told_angles("shuffled", frames, 5) == told_angles("shuffled", frames, 5)
    assert len({tuple(told_angles("shuffled", frames, s)[1].items()) for s in range(20)}) > 5


def test_angles_that_too_many_cines_share_cannot_be_shuffled():
    for views in ({"A": (1, 2)}, {"A": (1, 2), "B": (1, 2), "C": (3, 4)}):
        with pytest.raises(DataError, match="keep its own angles"):
            donors({cine: [view] for cine, view in views.items()}, 0)


def test_flipped_negates_both_angles_and_zero_is_the_isocentres_view():
    frames = {"a": ("A", (30.0, -10.0)), "b": ("B", (-5.0, 20.0))}
    assert told_angles("flipped", frames, 0)[0] == {"a": (-30.0, 10.0), "b": (5.0, -20.0)}
    assert set(told_angles("zero", frames, 0)[0].values()) == {(0.0, 0.0)}


class SaysLao(nn.Module):
    """A model that marks every pixel in LAO and none in RAO."""

    def __init__(self):
        super().__init__()
        self.reads = {"view": "view"}
        self.head = SimpleNamespace(
            decode=lambda output, meta: [
                MaskPrediction(output.logits[i, 0].sigmoid().expand(m.size))
                for i, m in enumerate(meta)
            ]
        )

    def forward(self, batch, *, states):
        del states
        primary = batch.inputs["view"][:, 0]
        return ModelOutput(head=MaskLogits(primary.sign()[:, None, None, None] * 9), scope={})


def test_what_the_angles_axis_says_is_what_the_model_is_fed(seed_data):
    data = AngioFrames(root=seed_data, size=32, augment=False)
    config = SimpleNamespace(metrics=load_metrics(seed_data))
    stage = SimpleNamespace(model=SaysLao(), data=data, config=config, classes=data.classes)
    frames = frames_of(stage, "train")  # cine A is RAO 30, cine B is LAO 40

    def fed(kind):
        told = told_angles(kind, frames, 0)[0]
        rows = evaluate_told(stage, Engine("fp32"), "train", told).rows
        return {(row["cine"], row["sensitivity"]) for row in rows}

    assert fed("true") == {("A", 0.0), ("B", 1.0)}
    assert fed("flipped") == fed("shuffled") == {("A", 1.0), ("B", 0.0)}
    assert fed("zero") == {("A", 1.0), ("B", 1.0)}  # probability 0.5 is vessel


def load_metrics(folder):
    (folder / "metrics.yaml").write_text(RUN)
    return load_config(folder / "metrics.yaml").stages[0].metrics


def test_a_model_without_view_has_no_angles_to_change(seed_data):
    stage = SimpleNamespace(model=SaysLao(), data=AngioFrames(root=seed_data))
    stage.model.reads = {"image": "image"}
    with pytest.raises(BuildError, match="reads no view"):
        frames_of(stage, "train")


# Variants as run files


@pytest.mark.parametrize(
    ("axis", "value", "start"),
    [
        ("view", "none", "model."),
        ("view", "xattn", "model.fusion"),
        ("view", "unit-vector", "model.encoders.view.encoding"),
        ("loss", "dice", "losses"),
        ("loss", "bce+dice+cldice", "losses"),
        ("encoder", "resnet", ("model.encoders.image", "optimizer.lr_scale")),
        ("head", "small", "model.head.hidden"),
    ],
)
def test_a_variant_differs_from_the_base_in_its_axis_alone_and_builds(place, axis, value, start):
    made, keys = varied(place, axis, value)
    assert keys
    assert all(key.startswith(start) for key in keys)
    stage = made.stages[0]
    model = build_stage_model(stage, build_data(stage.data))
    assert ("view" in model.reads.values()) == (value != "none")


@pytest.mark.parametrize(
    ("axis", "value"),
    [("view", "film"), ("view", "sinusoidal"), ("loss", "dice+bce"), ("encoder", "unfrozen")],
)
def test_a_variant_that_the_base_is_already_changes_nothing(place, axis, value):
    assert varied(place, axis, value)[1] == []


def test_losses_share_the_weight_and_keep_the_bases_options(place):
    assert dict(varied(place, "loss", "bce")[0].stages[0].losses[0].options)["pos_weight"] == 2.0
    three = varied(place, "loss", "bce+focal-tversky")[0].stages[0].losses
    assert [part.weight for part in three] == [0.5, 0.5]
    assert three[1].options["gamma"] == 0.75
    assert [p.name for p in varied(place, "loss", "cldice")[0].stages[0].losses] == [
        "dice",
        "cldice",
    ]


def test_film_can_be_added_to_a_base_without_view_and_reaches_the_head(place):
    viewless = RUN.replace("    view: {name: view-angle, dim: 8}\n", "").replace(
        '  fusion: {name: film, "on": image, by: view}\n', ""
    )
    stage = varied(place, "view", "film", viewless)[0].stages[0]
    model = build_stage_model(stage, build_data(stage.data))
    assert model.head.on == "fused"
    named = viewless.replace("name: conv-mask,", 'name: conv-mask, "on": image,')
    with pytest.raises(BuildError, match="past any added fusion"):
        varied(place, "view", "film", named)


def test_a_variant_holds_in_every_stage(place):
    staged = RUN + "stages:\n- {name: a}\n- {name: b, losses: [{name: bce}], freeze: [head]}\n"
    made, _ = varied(place, "loss", "dice", staged)
    assert [[part.name for part in stage.losses] for stage in made.stages] == [["dice"], ["dice"]]
    assert made.stages[1].freeze == ("head",)
    thawed = staged.replace("freeze: [head]", "freeze: [encoders.image, head]")
    assert varied(place, "encoder", "unfrozen", thawed)[0].stages[1].freeze == ("head",)


def test_random_weights_are_neither_frozen_nor_adapted(place):
    for value in ("frozen", "lora"):
        with pytest.raises(BuildError, match="starts from random weights"):
            varied(place, "encoder", value)


def test_lora_asks_for_attention_layers(place):
    start = "init_from: weights\n"
    with pytest.raises(BuildError, match="no attention layers"):
        varied(place, "encoder", "lora", start + RUN)
    vit = "image: {name: timm, model: test_vit, cache: true}"
    text = start + RUN.replace("image: {name: conv-stem, dim: 8, stride: 2}", vit)
    text += "freeze: [encoders.image, encoders.view]\n"
    stage = varied(place, "encoder", "lora", text)[0].stages[0]
    assert stage.encoders["image"].lora.rank == 8
    assert (stage.encoders["image"].cache, stage.freeze) == (False, ("encoders.view",))
    assert varied(place, "encoder", "frozen", text)[1] == []


FPN = RUN.replace("{name: conv-mask, dim: 8, hidden: [8, 8]}", "{name: fpn-mask, stem: stem}")
FPN = FPN.replace(
    "image: {name: conv-stem, dim: 8, stride: 2}",
    "image: {name: timm, model: resnet10t, weights: none}\n"
    "    stem: {name: conv-stem, input: image, dim: 8, stride: 1}",
)


UNET = FPN.replace("name: fpn-mask", "name: unet-mask")


@pytest.mark.parametrize("text", [RUN, FPN, UNET])
@pytest.mark.parametrize("size", SIZES)
def test_heads_are_built_at_the_size_that_their_name_says(place, text, size):
    stage = varied(place, "head", size, text)[0].stages[0]
    model = build_stage_model(stage, build_data(stage.data))
    assert parameter_count(model.head) == pytest.approx(SIZES[size], rel=0.05)


def test_a_head_whose_first_layer_is_too_large_is_no_small_head(place):
    wide = RUN.replace("conv-mask, dim: 8", "conv-mask, dim: 20000")
    with pytest.raises(BuildError, match="comes no nearer to 100,000"):
        varied(place, "head", "small", wide)


def test_options_are_lists_with_commas_or_given_again():
    found = parse_variants({"view": ["none,xattn", "film"], "loss": ["bce+dice"], "head": []})
    assert [v.name for v in found] == ["view-none", "view-xattn", "view-film", "loss-bce-dice"]
    for axis, wrong in (("view", "flim"), ("loss", "bce+dise"), ("loss", "bce+bce")):
        with pytest.raises(InputError, match=f"--{axis}"):
            parse_variants({axis: [wrong]})
    with pytest.raises(InputError, match="nothing to compare"):
        parse_variants({"view": []})


# The verb


def ablate(*words, code=0):
    assert main(["angioseg", "ablate", "run.yaml", "-o", "out", *words]) == code


def record():
    return json.loads(Path("out/ablation.json").read_text())


def last_step(folder):
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return max(line["step"] for line in lines), lines[-1]["kind"]


def test_ablate_compares_what_it_trained_and_tells_what_failed(place, capsys):
    words = ("--view", "none", "--angles", "true,shuffled,flipped", "--encoder", "frozen")
    ablate(*words, "--max-steps", "3", "--score", "dice,auc", code=1)
    shown, said = capsys.readouterr().out, record()
    by_name = {v["variant"]: v for v in said["variants"]}
    assert {k: v["status"] for k, v in by_name.items()} == {
        "base": "done",
        "view none": "done",
        "angles true": "same as base",
        "angles shuffled": "done",
        "angles flipped": "done",
        "encoder frozen": "failed",
    }
    assert "starts from random weights" in by_name["encoder frozen"]["message"]
    assert (said["images"], said["patients"]) == (4, 2)
    assert "encoder frozen failed: encoders.image starts from random weights" in shown
    for name, folder in (("base", "out/base"), ("view none", "out/view-none")):
        evaluated = json.loads(Path(folder, "eval-val.json").read_text())
        mean = np.mean([row["auc"] for row in evaluated["rows"]])
        assert by_name[name]["scores"]["auc"]["mean"] == pytest.approx(mean)
        assert last_step(folder) == (3, "val")  # 2 steps an epoch: it stopped within the second
    with Path("out/ablation-images.csv").open(newline="") as file:
        images = list(csv.DictReader(file))
    assert Counter(row["variant"] for row in images)["angles shuffled"] == 4
    given = by_name["angles shuffled"]["told_angles_of"][0]
    assert all(cine != donor for cine, donor in given.items())
    assert main(["report", "out/base"]) == 0
    assert "view none" in Path("out/base/report.html").read_text()


def test_another_call_trains_only_what_is_not_finished(place, monkeypatch, capsys):
    ablate("--loss", "dice")
    first = record()
    trained = []
    fit = Run.fit
    monkeypatch.setattr(
        Run, "fit", lambda run, **how: trained.append(run.folder.name) or fit(run, **how)
    )
    ablate("--loss", "dice", "--view", "none")
    assert trained == ["view-none"]
    again = {v["variant"]: v for v in record()["variants"]}
    assert [again["base"], again["loss dice"]] == first["variants"]
    capsys.readouterr()
    (place / "run.yaml").write_text(RUN.replace("lr: 1e-2", "lr: 2e-2"))
    ablate("--loss", "dice", code=2)
    assert "changed since it was trained: optimizer.lr" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_computed_and_another_call_goes_on(place, monkeypatch, capsys):
    step, done = StageLoop._step, []

    def stopping(loop, batches):
        step(loop, batches)
        done.append(loop.fit.folder.name)
        if done.count("loss-dice") == 3:
            raise KeyboardInterrupt

    words = ("--loss", "dice", "--set", "trainer.checkpoint_every=1", "--set", "trainer.epochs=3")
    with monkeypatch.context() as patch:
        patch.setattr(StageLoop, "_step", stopping)
        ablate(*words, "--view", "none", code=1)
    statuses = {v["variant"]: v["status"] for v in record()["variants"]}
    assert statuses == {"base": "done", "view none": "done", "loss dice": "not reached"}
    assert "view none" in capsys.readouterr().out
    ablate(*words)
    whole = Run(load_config("out/loss-dice/run.yaml"), place / "whole")
    whole.fit()
    ours, theirs = (checkpoint.read(Path(f, "last"))[1] for f in ("out/loss-dice", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_trained_run_is_a_base_that_is_not_trained_again(place, capsys):
    assert main(["train", "run.yaml"]) == 0
    before = checkpoint.find(Path("runs/base"), "best").stat().st_mtime_ns
    assert main(["angioseg", "ablate", "runs/base", "-o", "out", "--angles", "zero"]) == 0
    assert checkpoint.find(Path("runs/base"), "best").stat().st_mtime_ns == before
    assert Path("runs/base/tables/ablation.json").is_file()
    assert not Path("out/base").exists()
    capsys.readouterr()
    words = ["--angles", "zero", "--max-steps", "3"]
    assert main(["angioseg", "ablate", "runs/base", "-o", "out", *words]) == 2
    assert "trained as it is" in capsys.readouterr().err


def test_seeds_count_up_and_each_has_its_run(place):
    ablate("--loss", "dice", "--seeds", "2", "--max-steps", "1")
    assert [load_config(f"out/{n}/run.yaml").seed for n in ("loss-dice", "loss-dice-s4")] == [3, 4]
    assert record()["variants"][0]["scores"]["dice"]["seed_spread"] is not None


def test_notes_say_what_one_patient_cannot_tell():
    outcome = SimpleNamespace(
        variant=Variant(), status="done", message="", folders=[], changed=[], metrics=[],
        parameters={}, weights={}, donors=[],
        rows=[rows_of([0.2, 0.4, 0.6], ["A"] * 3)],
    )  # fmt: skip
    wish = SimpleNamespace(split="val", seeds=1, scores=("dice",), out=Path())
    ablation = SimpleNamespace(wish=wish, outcomes=[outcome], folder=Path("x"))
    said = " ".join(notes(record_of(ablation, HOW)))
    assert "One patient: no interval over patients can be made" in said
    assert "marked c" in said
