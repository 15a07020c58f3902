"""The resolved run file, and the JSON Schema for editors."""

from mlkit_core.config import dump_resolved, load_config, schema


def test_the_resolved_file_reads_back_equal_from_another_folder(good_run, load, toy, tmp_path):
    text = good_run.replace("depth: 2", "weights: w/a.pt, lora: {rank: 4}") + (
        "init_from: old/last\n"
        "stages:\n"
        "  - {name: one, data: {masks: masks}, trainer: {clip: null}}\n"
        "  - {name: two, data: {masks: /m}, model: {fusion: null}}\n"
    )
    run = load(text, "seed=11", "losses[0].weight=1e-4")
    elsewhere = tmp_path / "runs" / "toy-run"
    elsewhere.mkdir(parents=True)
    (elsewhere / "run.yaml").write_text(dump_resolved(run))
    again = load_config(elsewhere / "run.yaml", catalogue=toy)
    assert again == run
    assert dump_resolved(again) == dump_resolved(run)
    assert again.seed == 11
    assert [stage.data.options["masks"] for stage in again.stages] == [
        tmp_path / "masks",
        tmp_path.__class__("/m"),
    ]


def test_words_that_look_like_other_types_survive_the_dump(good_run, load, toy, tmp_path):
    run = load(good_run.replace("name: toy-run", "name: '1e-3'").replace("on: image", "on: 'null'"))
    (tmp_path / "again.yaml").write_text(dump_resolved(run))
    again = load_config(tmp_path / "again.yaml", catalogue=toy)
    assert again.name == "1e-3"
    assert again.stages[0].fusions[0].options["on"] == "null"


def _without_lost(toy, make_plugin):
    specs = [entry.spec for entry in toy.components()]
    broken = ("toy-lost", "toy-reserved")
    return type(toy).from_plugins(
        {"toy": make_plugin(*(spec for spec in specs if spec.name not in broken))}
    )


def _refs(value):
    if isinstance(value, dict):
        yield from ([value["$ref"]] if isinstance(value.get("$ref"), str) else [])
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _refs(item)


def test_every_reference_of_the_schema_resolves(toy, make_plugin):
    whole = schema(_without_lost(toy, make_plugin))
    names = {ref.removeprefix("#/$defs/") for ref in _refs(whole)}
    assert names <= set(whole["$defs"])
    assert {"data", "encoder", "head", "ModelParts", "LoraOptions"} <= names


def test_the_schema_ties_options_to_the_name(toy, make_plugin):
    head = schema(_without_lost(toy, make_plugin))["$defs"]["head"]
    assert head["properties"]["name"]["enum"] == ["toy-mask", "toy/toy-mask"]
    (branch,) = head["allOf"]
    assert branch["if"]["properties"]["name"]["enum"] == ["toy-mask", "toy/toy-mask"]
    assert set(branch["then"]["properties"]) == {"name", "depth", "width"}
    assert branch["then"]["properties"]["depth"]["minimum"] == 1
    assert branch["then"]["additionalProperties"] is False


def test_the_schema_lists_reserved_keys_and_required_options(toy, make_plugin):
    defs = schema(_without_lost(toy, make_plugin))["$defs"]
    loss = {b["if"]["properties"]["name"]["enum"][0]: b["then"] for b in defs["loss"]["allOf"]}
    assert set(loss["toy-dice"]["properties"]) == {"name", "as", "weight", "smooth"}
    (data,) = defs["data"]["allOf"]
    assert data["then"]["required"] == ["root"]


def test_an_option_that_is_a_component_points_at_its_kind(toy, make_plugin):
    defs = schema(_without_lost(toy, make_plugin))["$defs"]
    branches = {b["if"]["properties"]["name"]["enum"][0]: b for b in defs["encoder"]["allOf"]}
    wrap = branches["toy-wrap"]["then"]["properties"]
    assert wrap["backbone"] == {"$ref": "#/$defs/encoder"}
    assert wrap["others"]["items"] == {"$ref": "#/$defs/encoder"}


def test_the_schema_names_every_key_of_the_frame(toy, make_plugin):
    whole = schema(_without_lost(toy, make_plugin))
    keys = "name seed init_from data model losses metrics freeze fresh optimizer trainer extractor"
    assert set(whole["properties"]) == {*keys.split(), "stages"}


def test_the_schema_of_a_stage_takes_whole_lists_and_shares_of_mappings(toy, make_plugin):
    whole = schema(_without_lost(toy, make_plugin))
    stage = whole["properties"]["stages"]["items"]
    assert set(whole["properties"]) - set(stage["properties"]) == {"seed", "init_from", "stages"}
    assert stage["required"] == ["name"]
    assert stage["properties"]["losses"] == whole["properties"]["losses"]
    assert stage["properties"]["model"] == {"type": ["object", "null"]}
