"""Miniatures of what the domains need, through the one contract."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from mlkit_core.build import build_data, build_model
from mlkit_core.errors import BuildError, InputError, TrainingError
from mlkit_core.tensors import flatten, load_features, save_features, unflatten
from mlkit_core.training import checkpoint
from mlkit_core.training.evaluation import evaluating, stream
from mlkit_core.types import Batch, Features, FeatureSpec, MaskTarget, SampleMeta

SHOTS = """
name: shots
seed: 1
data: {name: blobs, shots: 3}
model:
  encoders:
    image: {name: tiny-conv}
    support: {name: tiny-conv}
  fusion: {name: film, by: support, pool: true}
  head: {name: tiny-mask}
losses: [{name: bce}]
trainer: {epochs: 1, batch_size: 4}
"""

CHAIN = """
name: chain
seed: 1
data: {name: blobs}
model:
  encoders: {image: {name: tiny-conv}, hint: {name: hint}}
  fusion:
    - {name: film, as: conditioned}
    - {name: memory, as: remembered}
  head: {name: tiny-mask}
losses: [{name: bce}]
trainer: {epochs: 1, batch_size: 4}
"""

CHANGING = """
name: changing
seed: 1
data: {name: blobs}
model:
  encoders: {image: {name: tiny-conv}}
  head: {name: tiny-mask}
losses: [{name: bce}]
trainer: {epochs: 1, batch_size: 4}
stages:
  - {name: plain}
  - name: adds
    model: {encoders: {hint: {name: hint}}, fusion: {name: film}}
  - name: replaces
    model: {fusion: {name: memory}, encoders: {hint: null}}
  - name: drops
    model: {fusion: null}
"""

ADAPTED = """
name: adapted
seed: 1
data: {name: blobs}
model:
  encoders: {image: {name: tiny-linear}}
  head: {name: tiny-mask}
losses: [{name: bce}]
optimizer: {lr: 0.05}
trainer: {epochs: 1, batch_size: 4}
stages:
  - {name: plain}
  - {name: lora, model: {encoders: {image: {lora: {rank: 2}}}}}
  - {name: merged, model: {encoders: {image: {lora: null}}}, freeze: [encoders.image]}
"""


def model_of(run, stage=0):
    config = run.config.stages[stage]
    data = build_data(config.data)
    torch.manual_seed(0)
    model = build_model(
        config.encoders, config.fusions, config.head, roles=data.roles, num_classes=1
    )
    return data, model


def weights_after(run, stage):
    """Train up to and with a stage, and return its weights."""
    update = {"stages": run.config.stages[: stage + 1], "name": f"upto-{stage}"}
    short = run.config.model_copy(update=update)
    from mlkit_core.run import Run

    done = Run(short, run.folder.parent / short.name)
    done.fit()
    return checkpoint.read(checkpoint.find(done.folder, "last"))


def test_classes_times_shots_condition_a_batch_of_another_size(make_run):
    run = make_run(text=SHOTS, name="shots")
    data, model = model_of(run)
    (batch,) = data.collate([[data.load(d) for d in unit] for unit in data.units("train", 0)[:4]])
    output = model(batch)
    assert output.scope["support"].valid.shape == (2, 3)
    assert output.scope["support"].vector.shape == (6, 4)
    assert output.scope["image"].vector.shape == (4, 4)
    assert run.fit().status == "finished"


def test_shots_that_are_not_valid_do_not_count(make_run):
    data, model = model_of(make_run(text=SHOTS, name="shots"))
    torch.nn.init.normal_(model.fusions["fused"].maps["p1"].to_gamma_beta[-1].weight)
    (batch,) = data.collate([[data.load(d)] for unit in data.units("train", 0)[:2] for d in unit])
    valid = torch.tensor([[True, True, False], [True, False, False]])
    masked = replace(batch, valid={"support": valid})
    junk = batch.inputs["support"].clone()
    junk[~valid] = 9.0
    changed = replace(masked, inputs={**batch.inputs, "support": junk})
    with evaluating(model):
        a, b, c = (model(x).head.logits for x in (masked, changed, batch))
    torch.testing.assert_close(a, b)
    assert not torch.allclose(a, c)


def test_a_leading_role_is_refused_unless_it_is_pooled(make_run):
    run = make_run("model.fusion.pool=false", text=SHOTS, name="shots")
    with pytest.raises(BuildError, match=r"'support' has lead \(class, shot\)"):
        model_of(run)


def test_two_roles_that_fit_are_an_error_that_lists_them(make_run):
    run = make_run(
        "model.encoders.hint={name: hint}",
        "model.fusion={name: film, pool: true}",
        text=SHOTS,
        name="shots",
    )
    with pytest.raises(BuildError, match=r"several have it \((hint, support|support, hint)\)"):
        model_of(run)


def test_a_reference_set_given_as_features_equals_the_pixels_it_came_from(make_run, tmp_path):
    data, model = model_of(make_run(text=SHOTS, name="shots"))
    (batch,) = data.collate([[data.load(d)] for unit in data.units("train", 0)[:2] for d in unit])
    with evaluating(model):
        live = model(batch)
        save_features(tmp_path / "refs.safetensors", {"support": live.scope["support"]})
        known = load_features(tmp_path / "refs.safetensors")
        before = model.encoders["support"].passes
        pixels = {role: rows for role, rows in batch.inputs.items() if role != "support"}
        again = model(replace(batch, inputs=pixels, features=known))
    assert model.encoders["support"].passes == before
    assert torch.equal(again.head.logits, live.head.logits)
    assert known["support"].valid.shape == (2, 3)


def test_a_file_that_is_no_reference_set_is_refused(tmp_path):
    (tmp_path / "refs.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read as saved features"):
        load_features(tmp_path / "refs.safetensors")


def test_flatten_names_every_tensor_and_unflatten_brings_it_back():
    features = Features(
        maps={"p3": torch.ones(2, 1, 4, 4)}, vector=torch.zeros(2, 3), valid=torch.ones(2, 1).bool()
    )
    flat = flatten(features)
    assert list(flat) == ["maps.p3", "vector", "valid"]
    back = unflatten(flat)
    assert torch.equal(back.maps["p3"], features.maps["p3"])
    assert back.tokens is None


def test_a_triplet_batch_asks_for_features_and_no_head_runs(make_run):
    run = make_run("data.mixed=true", "losses=[{name: bce}, {name: projected}]")
    data, model = model_of(run)
    units = [unit for unit in data.units("train", 0) if unit[0].kind == "triplet"][:2]
    (batch,) = data.collate([[data.load(d) for d in unit] for unit in units])
    output = model(batch)
    assert output.head is None
    assert set(output.scope) == {"image", "hint"}


def test_a_chain_of_two_fusions_carries_state_from_window_to_window(make_run):
    data, model = model_of(make_run(text=CHAIN, name="chain"))
    batches = []
    for key, index in (("a", 0), ("a", 1), ("b", 2)):
        (batch,) = data.collate([[data.load(data.units("val", 0)[index][0])]])
        batches.append(replace(batch, target=None, meta=(replace(batch.meta[0], key=key),)))
    totals = []
    model.fusions["remembered"].register_forward_hook(lambda *a: totals.append(float(a[2].total)))
    with evaluating(model):
        alone = [float(model(b).scope["remembered"].total) for b in batches]
        totals.clear()
        assert len(list(stream(model, iter(batches)))) == 3
    assert totals == pytest.approx([alone[0], alone[0] + alone[1], alone[2]])


def test_a_head_that_needs_the_whole_item_yields_once_per_item(make_run):
    data, model = model_of(make_run(text=CHAIN, name="chain"))

    def whole(model, batches):
        held = list(batches)
        yield held[-1], ["one prediction for all windows"]

    model.head.stream = whole
    (batch,) = data.collate([[data.load(data.units("val", 0)[0][0])]])
    assert list(stream(model, iter([batch, batch]))) == [
        (batch, ["one prediction for all windows"])
    ]


def test_a_stage_adds_replaces_and_drops_parts_and_kept_parts_go_on(make_run):
    run = make_run(text=CHANGING, name="changing")
    infos, tensors = zip(*(weights_after(run, stage) for stage in range(4)), strict=True)
    assert [sorted(info.components) for info in infos] == [
        ["encoders.image", "head", "losses.bce"],
        ["encoders.hint", "encoders.image", "fusions.fused", "head", "losses.bce"],
        ["encoders.image", "fusions.fused", "head", "losses.bce"],
        ["encoders.image", "head", "losses.bce"],
    ]
    assert infos[2].components["fusions.fused"] == "mini/memory"
    # One epoch of small steps: a carried part stays near, a fresh start would not.
    for earlier, later in itertools.pairwise(tensors):
        moved = (earlier["head.cls.weight"] - later["head.cls.weight"]).abs().max()
        assert 0 < moved < 0.02


def test_lora_starts_equal_trains_adapters_only_and_merges_without_a_change(make_run):
    run = make_run(text=ADAPTED, name="adapted")
    (_, plain), (info, adapted), (_, merged) = (weights_after(run, stage) for stage in range(3))
    base = "encoders.image.proj.base_layer.weight"
    assert info.lora["image"]["rank"] == 2
    assert torch.equal(adapted[base], plain["encoders.image.proj.weight"])
    a, b = (adapted[f"encoders.image.proj.lora_{x}.default.weight"] for x in "AB")
    assert b.abs().max() > 0
    torch.testing.assert_close(merged["encoders.image.proj.weight"], adapted[base] + b @ a)
    assert not any("lora" in name for name in merged)


def test_another_rank_is_refused_without_a_merge_between(make_run):
    run = make_run("stages.2.model.encoders.image.lora={rank: 4}", text=ADAPTED, name="adapted")
    with pytest.raises(BuildError, match=r"encoders\.image\.lora: .*rank=4.* differs from"):
        run.fit()


def test_a_freeze_that_covers_the_adapters_is_refused(make_run):
    run = make_run("stages.1.freeze=[encoders.image]", text=ADAPTED, name="adapted")
    with pytest.raises(BuildError, match=r"covers the adapters of encoders\.image"):
        run.fit()


def test_a_reshaped_part_is_an_error_unless_fresh_names_it(make_run):
    wider = "stages.1.model.encoders.image={width: 6}"
    run = make_run(wider, text=CHANGING, name="changing")
    with pytest.raises(BuildError, match=r"encoders\.image: carried weights do not fit"):
        run.fit()
    named = make_run(
        wider, "stages.1.fresh=[encoders.image, head, fusions]", text=CHANGING, name="named"
    )
    assert named.fit().status == "finished"


def test_an_error_in_the_forward_pass_names_its_part(make_run):
    _, model = model_of(make_run(text=CHAIN, name="chain"))
    meta = (SampleMeta(key="x"),)
    batch = Batch(inputs={"image": torch.zeros(1, 3, 8, 8), "hint": torch.zeros(1, 2)}, meta=meta)
    with pytest.raises(TrainingError, match=r"encoders\.hint: .*input \(1, 2\)"):
        model(batch)


def test_a_missing_input_is_named(make_run):
    _, model = model_of(make_run(text=CHAIN, name="chain"))
    batch = Batch(inputs={"image": torch.zeros(1, 3, 8, 8)}, meta=(SampleMeta(key="x"),))
    with pytest.raises(BuildError, match=r"encoders\.hint: the batch holds no input 'hint'"):
        model(batch)


def test_rows_that_disagree_are_refused_at_the_border():
    with pytest.raises(BuildError, match="rows must agree, got p3 2, vector 3"):
        Features(maps={"p3": torch.zeros(2, 1, 4, 4)}, vector=torch.zeros(3, 5))
    with pytest.raises(BuildError, match="mask target: expected 3 dimensions"):
        MaskTarget(torch.zeros(2, 1, 4, 4))
    with pytest.raises(BuildError, match="from fine to coarse"):
        FeatureSpec(channels={"a": 1, "b": 1}, strides={"a": 8, "b": 4})
