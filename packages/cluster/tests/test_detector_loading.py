"""Checkpoints load without running what they hold; every head gives its loss or a clear error."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlkit_cluster.kernel.masks import encode_mask
from mlkit_cluster.yolo.adapter import load_detector, write_random_detector
from mlkit_cluster.yolo.levels import entering_maps
from mlkit_core.errors import InputError, WeightsError

BOX, LABEL = np.array([[0.5, 0.5, 0.4, 0.6]], np.float32), np.array([0])


@pytest.fixture
def images():
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def test_a_checkpoint_tells_its_classes_strides_and_hash(tiny_detector_file):
    detector = load_detector(tiny_detector_file, 96, "cpu")
    assert detector.names == ("square", "disc", "triangle")
    assert (detector.num_classes, detector.strides, detector.reg_max) == (3, (8, 16, 32), 16)
    assert detector.sha256 == hashlib.sha256(tiny_detector_file.read_bytes()).hexdigest()
    assert detector.gains == {"box": 7.5, "cls": 0.5, "dfl": 1.5, "seg": 7.5}
    assert detector.fast
    assert not detector.is_segmenter


def test_raw_output_has_the_heads_inputs_level_by_level(tiny_seg_detector_file, images):
    raw = load_detector(tiny_seg_detector_file, 96, "cpu")(images)
    anchors = 12 * 12 + 6 * 6 + 3 * 3
    assert (raw.boxes.shape, raw.scores.shape) == ((2, 64, anchors), (2, 3, anchors))
    assert (raw.coefs.shape, raw.protos.shape) == ((2, 32, anchors), (2, 32, 24, 24))
    sides = {level: tuple(values.shape[1:]) for level, values in raw.maps.items()}
    assert sides == {"p3": (64, 12, 12), "p4": (128, 6, 6), "p5": (256, 3, 3)}
    assert torch.equal(raw.row(1).scores, raw.scores[1:])


def test_hooks_see_the_same_maps_and_leave_nothing_behind(tiny_detector_file, images):
    detector = load_detector(tiny_detector_file, 96, "cpu")
    branches = detector.model.model[-1].cv2
    one = images[:1]
    with torch.inference_mode():
        caught = entering_maps(branches, lambda: detector.model(one))
    for ours, theirs in zip(caught, detector(one).maps.values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(not branch._forward_pre_hooks for branch in branches)

    def fail() -> None:
        raise RuntimeError("no forward pass")

    with pytest.raises(RuntimeError, match="no forward pass"):
        entering_maps(branches, fail)
    assert all(not branch._forward_pre_hooks for branch in branches)


def test_no_batch_is_kept_alive(tiny_detector_file):
    import gc
    import weakref

    detector = load_detector(tiny_detector_file, 64, "cpu")
    images = torch.rand(1, 3, 64, 64)
    raw = detector(images)
    dead = [weakref.ref(images), weakref.ref(raw.maps["p3"]), weakref.ref(raw.scores)]
    del images, raw
    gc.collect()
    assert [ref() for ref in dead] == [None] * 3


@pytest.mark.parametrize(
    ("config", "fast"),
    [
        ("yolo11n.yaml", True),
        ("yolov5n.yaml", True),
        ("yolov8n-seg.yaml", True),
        ("yolo11n-seg.yaml", True),
        ("yolov10n.yaml", False),
        ("yolo26n.yaml", False),
    ],
)
def test_other_heads_load_and_have_a_loss(config, fast, tmp_path, images, caplog):
    from ultralytics import YOLO

    YOLO(config).save(tmp_path / "model.pt")
    detector = load_detector(tmp_path / "model.pt", 96, "cpu")
    assert detector.fast is fast
    assert ("pair by pair" in caplog.text) is not fast
    assert detector.names[0] == "person"
    raw = detector(images).row(0)
    masks = [encode_mask(np.ones((24, 24), bool))] if detector.is_segmenter else None
    found = detector.criterion(raw, BOX, LABEL, masks)
    assert set(found) == {"box", "cls", "dfl"} | ({"seg"} if detector.is_segmenter else set())
    assert all(value > 0 for value in found.values())
    empty = detector.criterion(raw, np.zeros((0, 4)), np.zeros(0))
    assert empty.pop("cls") > 0
    assert set(empty.values()) == {0.0}


def test_one_class_is_enough(tmp_path, images):
    path = write_random_detector(tmp_path / "one.pt", "yolov8n.yaml", num_classes=1)
    detector = load_detector(path, 96, "cpu")
    assert (detector.num_classes, detector.names) == (1, ("0",))
    assert detector(images).scores.shape[1] == 1


def test_the_loss_of_masks_needs_masks(tiny_seg_detector_file, images):
    detector = load_detector(tiny_seg_detector_file, 96, "cpu")
    raw = detector(images).row(0)
    assert "seg" not in detector.criterion(raw, BOX, LABEL)
    with pytest.raises(InputError, match="takes one image's output, got 2"):
        detector.criterion(detector(images), BOX, LABEL)


def test_plain_state_dicts_of_a_named_configuration_load(shared_data, images):
    detector = load_detector(shared_data / "weights/yolov8n-seg_dequant_sd.pt", 96, "cpu")
    assert detector.is_segmenter
    assert detector.fast
    assert (len(detector.names), detector.names[79]) == (80, "toothbrush")


class _Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def _refused(path, value, said):
    torch.save(value, path)
    with pytest.raises(WeightsError, match=said):
        load_detector(path, 96, "cpu")


def test_a_pickle_that_would_run_a_command_is_refused(tmp_path):
    mark = tmp_path / "ran"
    value = {"model": _Evil(os.system, f"touch {mark}")}
    _refused(tmp_path / "a.pt", value, "refers to posix.system")
    assert not mark.exists()


def test_a_pickle_that_calls_a_model_s_constructor_is_refused(tmp_path):
    """A configuration's activation would be evaluated as code."""
    from ultralytics.nn.tasks import DetectionModel

    mark = tmp_path / "ran"
    config = {"activation": f"open({str(mark)!r}, 'w')", "nc": 1, "backbone": [], "head": []}
    _refused(tmp_path / "a.pt", {"model": _Evil(DetectionModel, config)}, "asks to call Detection")
    assert not mark.exists()


def test_a_state_dict_with_a_configuration_of_its_own_is_refused(tmp_path):
    value = {"state_dict": {}, "yaml": {"activation": "print('code')"}}
    _refused(tmp_path / "a.pt", value, "yaml: expected ultralytics' own")
    _refused(tmp_path / "b.pt", {"state_dict": {}, "yaml": "../yolo.yaml"}, "yaml: expected")
    _refused(
        tmp_path / "c.pt", {"state_dict": {}, "yaml": "yolov8n.yaml"}, "the state does not fit"
    )


def test_what_is_no_detector_is_refused(tmp_path, tiny_detector_file):
    from ultralytics import YOLO

    _refused(tmp_path / "a.pt", {"model": {"weight": torch.zeros(1)}}, "expected a YOLO")
    YOLO("yolov8n-cls.yaml").save(tmp_path / "b.pt")
    with pytest.raises(WeightsError, match="ClassificationModel"):
        load_detector(tmp_path / "b.pt", 96)
    (tmp_path / "c.pt").write_bytes(tiny_detector_file.read_bytes()[:9000])
    with pytest.raises(WeightsError, match=r"c\.pt: not a readable checkpoint"):
        load_detector(tmp_path / "c.pt", 96)
    (tmp_path / "d.pt").write_bytes(pickle.dumps(1))
    with pytest.raises(WeightsError, match=r"d\.pt: not a readable checkpoint"):
        load_detector(tmp_path / "d.pt", 96)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_detector(tmp_path / "gone.pt", 96)


def test_a_size_or_a_device_that_does_not_suit_is_refused(tiny_detector_file, images):
    with pytest.raises(InputError, match="expected a multiple of 32 pixels, got 100"):
        load_detector(tiny_detector_file, 100, "cpu")
    with pytest.raises(InputError, match="device: 'abacus' cannot be used"):
        load_detector(tiny_detector_file, 96, "abacus")
    with pytest.raises(InputError, match=r"takes images \[B, 3, 64, 64\], got \(2, 3, 96, 96\)"):
        load_detector(tiny_detector_file, 64, "cpu")(images)


def test_a_criterion_left_in_a_checkpoint_is_made_anew(tmp_path, tiny_detector_file, images):
    from ultralytics.utils.loss import v8DetectionLoss

    value = torch.load(tiny_detector_file, weights_only=False)
    model = value["model"].float()
    args, model.args = model.args, SimpleNamespace(**model.args)
    model.criterion = v8DetectionLoss(model)
    model.args, model.criterion.hyp = args, None
    torch.save(value, tmp_path / "unfinished.pt")
    detector = load_detector(tmp_path / "unfinished.pt", 96, "cpu")
    assert detector.criterion(detector(images).row(0), BOX, LABEL)["box"] > 0


def test_paths_and_numpy_s_numbers_among_the_arguments_do_no_harm(tmp_path, tiny_detector_file):
    value = torch.load(tiny_detector_file, weights_only=False)
    value["train_args"] = {"save_dir": Path("runs"), "lr0": np.float64(0.1)}
    value["train_metrics"] = {"fitness": np.float32(0.5), "epoch": np.int64(3), "ok": np.bool_(1)}
    torch.save(value, tmp_path / "trained.pt")
    assert load_detector(tmp_path / "trained.pt", 96, "cpu").num_classes == 3


def test_importing_the_adapter_prints_nothing_and_changes_nothing_for_others(tmp_path):
    code = (
        "import numpy, torch, PIL.Image as P, pathlib\n"
        "before = P.open, torch.save, numpy.get_printoptions(), str(torch.ones(40) / 3)\n"
        "import mlkit_cluster.yolo.adapter as a\n"
        "a.write_random_detector(pathlib.Path('m.pt'), 'yolov8n.yaml', num_classes=1)\n"
        "a.load_detector(pathlib.Path('m.pt'), 64)\n"
        "assert before[:3] == (P.open, torch.save, numpy.get_printoptions())\n"
        "assert before[3] == str(torch.ones(40) / 3)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("YOLO_")}
    environment["YOLO_CONFIG_DIR"] = str(tmp_path / "settings")
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt", "settings"]


def test_only_the_adapter_imports_ultralytics():
    import mlkit_cluster

    root = Path(mlkit_cluster.__file__).parent
    named = [p for p in root.rglob("*.py") if "import ultralytics" in (text := p.read_text())
             or "from ultralytics" in text]  # fmt: skip
    assert [path.relative_to(root).as_posix() for path in named] == ["yolo/adapter.py"]
