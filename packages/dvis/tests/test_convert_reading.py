"""Reading official checkpoints and names of classes."""

import json
import pickle

import numpy as np
import pytest
import torch

from mlkit_core.errors import InputError, WeightsError
from mlkit_dvis.categories import CATEGORIES
from mlkit_dvis.convert.reading import class_names, read_official


def test_a_training_checkpoint_gives_its_model(tmp_path):
    path = tmp_path / "model_final.pth"
    torch.save({"model": {"a": torch.ones(2)}, "iteration": 3, "optimizer": {"state": {}}}, path)
    assert torch.equal(read_official(path)["a"], torch.ones(2))


def test_a_pickle_of_numpy_arrays_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "__author__": "x"}))
    with pytest.raises(WeightsError, match="needs code to be run: refused") as refusal:
        read_official(path)
    assert "torch.as_tensor" in refusal.value.hint


def test_a_checkpoint_that_needs_code_is_refused(tmp_path):
    path = tmp_path / "model_final.pth"
    torch.save({"model": {"a": torch.ones(2)}, "made by": pytest.approx}, path)
    with pytest.raises(WeightsError, match="cannot be loaded as plain tensors"):
        read_official(path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2])])
def test_files_without_tensors_are_refused(tmp_path, content):
    path = tmp_path / "model_final.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model_final\.pth"):
        read_official(path)


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.safetensors"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_official(tmp_path / name)


def test_known_sets_have_as_many_names_as_published():
    assert {name: len(names) for name, names in CATEGORIES.items()} == {
        "ytvis2019": 40,
        "ytvis2021": 40,
        "ovis": 25,
    }
    assert all(len(set(names)) == len(names) for names in CATEGORIES.values())
    # Ids 1, 16 and 40 of each set's annotation files (25 in OVIS).
    assert [CATEGORIES["ytvis2019"][i] for i in (0, 15, 39)] == ["person", "fish", "tennis_racket"]
    assert [CATEGORIES["ytvis2021"][i] for i in (0, 15, 39)] == ["airplane", "frog", "zebra"]
    assert [CATEGORIES["ovis"][i] for i in (0, 15, 24)] == ["Person", "Monkey", "Vehical"]


def test_25_classes_are_those_of_ovis():
    assert class_names(None, 25) == CATEGORIES["ovis"]


def test_40_classes_must_be_told():
    with pytest.raises(InputError, match="ytvis2019 or ytvis2021") as refusal:
        class_names(None, 40)
    assert refusal.value.hint == "say --classes ytvis2019 or ytvis2021"
    assert class_names("ytvis2021", 40) == CATEGORIES["ytvis2021"]


def test_classes_of_no_known_set_need_a_file():
    with pytest.raises(InputError, match="of no known set"):
        class_names(None, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "perch\n\npike \nzander\n"),
        ("names.json", '["perch", "pike", "zander"]'),
        (
            "annotations.json",
            json.dumps(
                {
                    "categories": [
                        {"id": 3, "name": "zander"},
                        {"id": 1, "name": "perch"},
                        {"id": 2, "name": "pike"},
                    ]
                }
            ),
        ),
    ],
)
def test_names_are_read_from_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert class_names(str(tmp_path / name), 3) == ("perch", "pike", "zander")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nb\n", "2 names, but the checkpoint has 3 classes"),
        ("a\nb\na\n", "listed twice"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, text, said):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(InputError, match=said):
        class_names(str(tmp_path / "names.txt"), 3)


@pytest.mark.parametrize("text", ["{}", "3", "[", '{"categories": [1]}'])
def test_json_without_names_is_refused(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(InputError, match="expected a list of names"):
        class_names(str(tmp_path / "names.json"), 3)


def test_an_unknown_set_is_refused():
    with pytest.raises(InputError, match="no known set"):
        class_names("ytvis2020", 40)
