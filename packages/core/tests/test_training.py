"""The loop: what trains, what is written, what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mlkit_core.errors import BuildError, MlkitError, RunFolderError, TrainingError
from mlkit_core.training import checkpoint
from mlkit_core.training.stages import build_stage


def lines(run, kind):
    records = [json.loads(text) for text in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def weights(run, which="last"):
    return checkpoint.read(checkpoint.find(run.folder, which))[1]


def test_a_tiny_set_is_learnt_by_heart(make_run):
    run = make_run(
        "trainer.epochs=40", "data.count=4", "optimizer.lr=0.1", "model.encoders.image.width=8"
    )
    run.fit()
    losses = [record["loss"] for record in lines(run, "train")]
    assert losses[-1] < losses[0] / 10


def test_the_run_folder_holds_what_the_docs_promise(make_run):
    run = make_run()
    result = run.fit()
    assert result.status == "finished"
    assert result.steps == 12
    names = {path.name for path in run.folder.iterdir()}
    assert {"run.yaml", "environment.json", "metrics.jsonl", "log.txt", "checkpoints"} <= names
    assert (run.folder / "last").resolve().name == "step-00000012-end"
    assert [record["step"] for record in lines(run, "train")] == list(range(1, 13))
    assert [record["epoch"] for record in lines(run, "val")] == [1, 2, 3]


def test_a_limit_of_steps_ends_within_an_epoch_and_the_schedule_with_it(make_run):
    short = make_run("trainer.max_steps=6", name="short")
    assert short.fit().steps == 6
    rates = [record["lr"] for record in lines(short, "train")]
    whole = make_run(name="whole")
    whole.fit()
    assert rates[0] == pytest.approx(lines(whole, "train")[0]["lr"])
    assert rates[-1] < rates[0] / 4
    assert [record["epoch"] for record in lines(short, "val")] == [1, 2]
    ample = make_run("trainer.max_steps=99", name="ample")
    ample.fit()
    assert weights(ample).keys() == weights(whole).keys()
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(ample).items())


def test_the_run_folder_says_how_the_run_ended(make_run):
    good, bad = (
        make_run("trainer.epochs=1", name="good"),
        make_run("losses=[{name: bce}, {name: broken, at: 1}]", name="bad"),
    )
    good.fit()
    with pytest.raises(TrainingError):
        bad.fit()
    for run, status in ((good, "finished"), (bad, "failed")):
        assert json.loads((run.folder / "environment.json").read_text())["status"] == status


def test_best_is_the_checkpoint_with_the_highest_monitored_value(make_run):
    run = make_run("trainer.epochs=6", "optimizer.lr=0.1")
    run.fit()
    values = [record["disc-dice.dice"] for record in lines(run, "val")]
    first_best = values.index(max(values)) + 1
    assert (run.folder / "best").resolve().name == f"step-{4 * first_best:08d}-end"
    assert run.evaluate("val", "best").metrics["disc-dice.dice"] == pytest.approx(max(values))


def test_every_sample_is_evaluated_exactly_once(make_run):
    run = make_run("trainer.epochs=1", "data.count=7", "trainer.batch_size=2")
    run.fit()
    assert run.evaluate("test").metrics["disc-dice.count"] == 7


def test_an_existing_run_is_refused_without_resume(make_run):
    run = make_run("trainer.epochs=1")
    run.fit()
    with pytest.raises(RunFolderError, match="the run exists"):
        run.fit()


def test_resume_refuses_a_changed_option_unless_it_is_named(make_run):
    make_run("trainer.epochs=1").fit()
    longer = make_run("trainer.epochs=2")
    with pytest.raises(RunFolderError, match=r"changed since the run started: trainer\.epochs"):
        longer.fit(resume=True)
    assert longer.fit(resume=True, allow=["trainer.epochs"]).status == "finished"


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_loss_stage_and_step(make_run):
    run = make_run("losses=[{name: bce}, {name: broken, at: 5}]")
    with pytest.raises(
        TrainingError, match=r"stage 'main', epoch 1, step 6 .*losses\.broken\.value"
    ):
        run.fit()
    assert (run.folder / "last").resolve().name == "step-00000004-end"


def test_a_frozen_part_keeps_its_weights_and_its_batch_statistics(make_run):
    run = make_run("freeze=[encoders.image]", "model.encoders.image.norm=true")
    torch.manual_seed(0)
    before = build_stage(run.config.stages[0], _weight_seed(run)).model.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    run.fit()
    after = weights(run)
    image = [name for name in after if name.startswith("encoders.image.")]
    assert any("running_mean" in name for name in image)
    assert all(torch.equal(before[name], after[name]) for name in image)
    assert not torch.equal(before["head.cls.weight"], after["head.cls.weight"])


def _weight_seed(run):
    from mlkit_core.training.sampling import derive

    return derive(run.config.seed, 0, "weights")


def test_a_freeze_pattern_that_matches_nothing_is_an_error(make_run):
    with pytest.raises(BuildError, match=r"'encoders\.imgae' match nothing in any stage"):
        make_run("freeze=[encoders.imgae]").fit()


def test_freezing_everything_is_an_error(make_run):
    run = make_run("freeze=[encoders, fusions, head]")
    with pytest.raises(BuildError, match="nothing is left to train"):
        run.fit()


def test_the_learning_rate_warms_up_and_follows_half_a_cosine(make_run):
    run = make_run("optimizer.warmup=0.25", "optimizer.lr=0.1")
    run.fit()
    rates = [record["lr"] for record in lines(run, "train")]
    assert rates[:3] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    expected = [0.05 * (1 + math.cos(math.pi * i / 9)) for i in range(9)]
    assert rates[3:] == pytest.approx(expected)


def test_a_scaled_part_learns_at_its_own_rate(make_run):
    plain, scaled = (
        make_run(name="plain"),
        make_run("optimizer.lr_scale={head: 1e-9}", name="scaled"),
    )
    start = (
        build_stage(plain.config.stages[0], _weight_seed(plain))
        .model.state_dict()["head.cls.weight"]
        .clone()
    )
    plain.fit()
    scaled.fit()
    moved = (weights(plain)["head.cls.weight"] - start).abs().max()
    held = (weights(scaled)["head.cls.weight"] - start).abs().max()
    assert held < 1e-6 * moved


def test_the_moving_average_is_what_is_validated_and_kept(make_run):
    run = make_run("trainer.ema=0.9", "optimizer.lr=0.1")
    run.fit()
    raw = checkpoint.read_state(checkpoint.find(run.folder, "last"))["raw"]
    assert not torch.equal(raw["head.cls.weight"], weights(run)["head.cls.weight"])
    last = lines(run, "val")[-1]["disc-dice.dice"]
    assert run.evaluate("val", "last").metrics["disc-dice.dice"] == pytest.approx(last)


def test_gradient_tables_say_which_loss_reaches_which_part_and_change_nothing(make_run):
    mixed = ("data.mixed=true", "losses=[{name: bce}, {name: projected}]", "metrics=[]")
    mixed += ("trainer.monitor=null", "trainer.epochs=2")
    plain, watched = make_run(*mixed, name="plain"), make_run(*mixed, name="watched")
    plain.fit()
    watched.fit(watch_grads=2)
    table = lines(watched, "gradients")[1]["table"]
    assert table["projected"]["encoders.image"] > 0
    assert table["projected"]["losses.projected"] > 0
    assert table["projected"]["head"] == 0
    assert table["bce"]["head"] > 0
    before, after = weights(plain), weights(watched)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_one_assignment_serves_a_batch_and_all_its_losses_and_no_other_batch(make_run, miniatures):
    from mlkit_core.build import Losses, build_data, build_stage_model
    from mlkit_core.training.objective import StepModule
    from mlkit_core.types import Step

    class Assigning(torch.nn.Module):
        output_type, target_type = None, miniatures.MaskTarget

        def forward(self, output, batch, step):
            found.append((batch.meta[0].key, step.once("assignment", lambda: "not by the model")))
            return {"zero": output.scope["image"].vector.sum() * 0}

    def assign(module, args, kwargs):
        kwargs["step"].once("assignment", lambda: len(found))

    found = []
    config = make_run("model.fusion={name: memory}").config.stages[0]
    data = build_data(config.data)
    model = build_stage_model(config, data)
    model.losses.update({"one": Assigning(), "two": Assigning()})
    model.fusions["fused"].register_forward_pre_hook(assign, with_kwargs=True)
    kinds = frozenset({"mask"})
    module = StepModule(model, Losses({"one": 1.0, "two": 1.0}, {"one": kinds, "two": kinds}))
    batches = [data.collate([[data.load(d) for d in u]])[0] for u in data.units("val", 0)[:2]]
    module(batches, Step(0, 1, torch.Generator()))
    assert found == [("blob-1000", 0), ("blob-1000", 0), ("blob-1001", 2), ("blob-1001", 2)]


def test_a_kind_without_a_loss_is_refused_at_build(make_run):
    with pytest.raises(BuildError, match="none runs on the data's kind 'triplet'"):
        make_run("data.mixed=true").fit()


def test_a_loss_without_a_kind_is_refused_at_build(make_run):
    with pytest.raises(
        BuildError, match=r"losses\.projected: needs a kind with target TripletTarget"
    ):
        make_run("losses=[{name: bce}, {name: projected}]").fit()


def test_an_encoder_that_no_input_feeds_is_refused_with_what_the_data_has(make_run):
    run = make_run("model.encoders.sound={name: hint}")
    with pytest.raises(BuildError, match="supplies no input 'sound'; it has image, hint"):
        run.fit()


def test_an_encoder_on_the_wrong_input_is_refused(make_run):
    run = make_run("model.encoders.hint={name: tiny-conv}")
    with pytest.raises(BuildError, match=r"encoders\.hint: takes rows \(3, None, None\)"):
        run.fit()


def test_batch_size_must_divide_by_the_micro_steps(make_run):
    with pytest.raises(MlkitError, match="batch_size 4 must divide by accumulate 3"):
        make_run("trainer.accumulate=3")


def test_a_run_that_wrong_input_refuses_leaves_no_folder(make_run):
    run = make_run("freeze=[encoders, fusions, head]")
    with pytest.raises(BuildError):
        run.fit()
    assert not run.folder.exists()


def test_wrong_input_on_resume_leaves_the_folder_as_it_was(make_run):
    run = make_run("trainer.epochs=1")
    run.fit()
    worse = make_run("trainer.epochs=2", "trainer.batch_size=3", "trainer.accumulate=3")
    with pytest.raises(RunFolderError):
        worse.fit(resume=True)
    assert (run.folder / "last" / "model.safetensors").is_file()


def test_the_target_is_never_seen_in_evaluation(make_run, miniatures):
    miniatures.Memory.seen.clear()
    run = make_run("model.fusion={name: memory}", "trainer.epochs=1")
    run.fit()
    trained = [seen for seen in miniatures.Memory.seen if seen[0]]
    evaluated = [seen for seen in miniatures.Memory.seen if not seen[0]]
    assert trained == [(True, False, True, True)] * 4
    assert evaluated
    assert not any(target for _, _, target, _ in evaluated)


def test_a_frozen_part_that_uses_the_target_does_not_see_it(make_run, miniatures):
    miniatures.Memory.seen.clear()
    make_run("model.fusion={name: memory}", "trainer.epochs=1", "freeze=[fusions.fused]").fit()
    assert not any(target for _, _, target, _ in miniatures.Memory.seen)


def test_prediction_needs_no_training_data_and_writes_json_and_overlays(make_run, tmp_path):
    run = make_run("trainer.epochs=1")
    run.fit()
    files = run.predict({}, tmp_path / "out")
    record = json.loads(files[0].read_text())
    assert [image["key"] for image in record["images"]] == ["blob-3000", "blob-3001"]
    assert record["categories"] == [{"id": 1, "name": "disc"}]
    assert sum(path.name.endswith("-overlay.png") for path in files) == 2
