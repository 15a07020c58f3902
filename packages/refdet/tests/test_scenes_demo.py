import json

import pytest

from mlkit_core.build import build_data, build_stage_model
from mlkit_core.config import load_config
from mlkit_refdet import demo
from mlkit_refdet.episodes.aeroeyes import read_aeroeyes
from mlkit_refdet.scenes.objects import KINDS


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the demo's folder, with few videos."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_SEEN", 2)
        patch.setattr(demo, "_UNSEEN", 1)
        demo.write_demo(folder)
    return folder


def test_the_demos_run_file_is_valid_where_it_is_written(written):
    stage = load_config(written / "run.yaml").stages[0]
    model = build_stage_model(stage, build_data(stage.data))
    assert [loss.name for loss in stage.losses][-1] == "region-infonce"
    assert set(model.encoders) == {"query", "support", "asked"}


def test_the_run_file_for_ones_own_videos_is_valid(tmp_path):
    (tmp_path / "data" / "objects").mkdir(parents=True)
    (tmp_path / "run.yaml").write_text(demo.run_file(), encoding="utf-8")
    assert load_config(tmp_path / "run.yaml").name == "my-objects"


def test_the_run_file_for_ones_own_videos_trains_on_photos_without_masks(aeroeyes, tmp_path):
    made = aeroeyes()
    (tmp_path / "run.yaml").write_text(demo.run_file(), encoding="utf-8")
    stage = load_config(tmp_path / "run.yaml", [f"data.root={made.root}"]).stages[0]
    data = build_data(stage.data)
    build_stage_model(stage, data)
    ((draw,), *_) = data.units("train", 0)
    (batch,) = data.collate([[data.load(draw)]])
    assert batch.inputs["query"].shape[1:] == (3, 640, 640)
    assert not batch.masks["support"].any()


def test_the_demo_searches_for_individuals_that_it_was_not_trained_on(written):
    names = [
        {one.name for one in read_aeroeyes(written / "data" / part, verify=True).classes}
        for part in ("train", "unseen")
    ]
    assert names == [{"Crate_0", "Barrel_0"}, {"Backpack_0"}]


def test_the_demo_predicts_a_film_of_the_unseen_set():
    assert demo._UNSEEN > 0
    assert demo._SEEN % len(KINDS) == 0
    assert f"data/unseen/samples/{KINDS[0]}_{demo._SEEN // len(KINDS)}" == demo._FILM


def test_the_demos_plan_names_split_and_inputs(written):
    plan = json.loads((written / "demo.json").read_text())
    assert plan["split"] == "test"
    assert set(plan["inputs"]) == {"query", "support"}
