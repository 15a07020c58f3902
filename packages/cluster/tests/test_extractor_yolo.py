"""What a YOLO says of each image: its own losses, not its batch's, whatever order it comes in."""

import hashlib

import numpy as np
import pytest
import torch

from mlkit_cluster.images.component import ImageFolder
from mlkit_cluster.images.target import InstanceTarget
from mlkit_cluster.kernel import to_canonical
from mlkit_cluster.yolo.adapter import load_detector, write_random_detector
from mlkit_cluster.yolo.extractor import YoloExtractor
from mlkit_core.errors import DataError
from mlkit_core.types import Draw

SIZE = 96
LOSSES = ("box", "cls", "dfl", "seg")


def batches(data, size, order=range(12)):
    samples = [data.load(Draw(index, 0)) for index in order]
    groups = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [data.collate([group])[0] for group in groups]


def extracted(extractor, data, size, order=range(12)):
    return {record.key: record.values for record in extractor.extract(batches(data, size, order))}


def painted(folder, **options):
    return ImageFolder(folder / "data.yaml", image_size=SIZE, **options)


@pytest.fixture
def tiny(tiny_detector_file):
    return YoloExtractor(tiny_detector_file, image_size=SIZE, device="cpu")


@pytest.fixture
def tiny_seg(tiny_seg_detector_file):
    return YoloExtractor(tiny_seg_detector_file, image_size=SIZE, device="cpu")


def numbers(values):
    """Everything of a record that is a number, by name."""
    named = {name: values["losses"][name] for name in LOSSES} | values["metrics"]
    named |= {"n_pos": values["n_pos"], "score_sum": values["score_sum"]}
    return {name: np.nan if value is None else value for name, value in named.items()}


def assert_same(first, second, rtol):
    a, b = numbers(first), numbers(second)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=rtol, err_msg=name)
    scale = np.abs(first["embedding"]).max()
    np.testing.assert_allclose(first["embedding"], second["embedding"], atol=rtol * scale)


def test_eight_real_images_have_the_same_eight_losses_in_one_batch_and_alone(shared_data):
    model = shared_data / "weights/yolov8n-seg_dequant_sd.pt"
    extractor = YoloExtractor(model, image_size=160, device="cpu")
    data = ImageFolder(shared_data / "coco/coco.yaml", label_folder="labels_seg", image_size=160)
    together, alone = (extracted(extractor, data, size, range(8)) for size in (8, 1))
    for name in LOSSES:
        first, second = ([r[key]["losses"][name] for key in sorted(r)] for r in (together, alone))
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
        assert len({round(value, 4) for value in first}) >= 6


def test_losses_equal_the_installed_criterion_at_batch_one(tiny_seg, painted_images):
    data = painted(painted_images, label_folder="labels_seg")
    detector = tiny_seg.detector
    for batch in batches(data, 1):
        values = next(iter(tiny_seg.extract([batch]))).values
        truth = batch.target.truths[0]
        raw = detector(batch.inputs["image"])
        boxes = to_canonical(truth.boxes_input, SIZE)
        expected = detector.criterion(raw, boxes, truth.labels, truth.masks)
        found = values["losses"]
        for name in LOSSES if len(truth.labels) else ("cls",):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), (name, batch.meta[0].key)


def test_a_batch_s_loss_is_the_mean_of_its_images_by_their_score_sums(shared_data):
    """The criterion of several images at once, called as ultralytics' training calls it."""
    from ultralytics.utils.loss import v8DetectionLoss

    model = shared_data / "weights/yolov8n_dequant_sd.pt"
    extractor = YoloExtractor(model, image_size=320, device="cpu")
    batch = batches(ImageFolder(shared_data / "coco/coco.yaml", image_size=320), 10, range(10))[0]
    records = list(extractor.extract([batch]))
    kept = [i for i, record in enumerate(records) if record.values["score_sum"] >= 1]
    assert len(kept) >= 4
    truths = [batch.target.truths[i] for i in kept]
    raw = extractor.detector(batch.inputs["image"][kept])
    said = {"boxes": raw.boxes, "scores": raw.scores, "feats": [*raw.maps.values()]}
    rows = np.concatenate([np.full(len(t.labels), i) for i, t in enumerate(truths)])
    targets = {
        "batch_idx": torch.from_numpy(rows).float(),
        "cls": torch.from_numpy(np.concatenate([t.labels for t in truths])).float(),
        "bboxes": torch.from_numpy(
            np.concatenate([to_canonical(t.boxes_input, 320) for t in truths])
        ),
    }
    with torch.inference_mode():
        _, items = v8DetectionLoss(extractor.detector.model)((None, said), targets)
    sums = np.array([records[i].values["score_sum"] for i in kept])
    for name in ("box", "cls", "dfl"):
        own = np.array([records[i].values["losses"][name] for i in kept])
        assert float(items[f"{name}_loss"]) == pytest.approx(
            (sums * own).sum() / sums.sum(), rel=1e-5
        )


def test_order_and_batch_size_change_nothing_and_the_model_stays_as_it_is(tiny, painted_images):
    data, model = painted(painted_images), tiny.detector.model

    def state() -> str:
        parts = (v.numpy().tobytes() for v in model.state_dict().values())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    seen = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    before = state()
    model.train()  # someone else's doing; the detector puts it right
    first = extracted(tiny, data, 1)
    order = np.random.default_rng(3).permutation(12).tolist()
    second = extracted(tiny, data, 7, order)
    assert state() == before
    assert seen
    assert not any(seen)
    assert sorted(first) == sorted(second) == [f"images/{i:02d}.png" for i in range(12)]
    for key, values in first.items():
        assert_same(values, second[key], rtol=1e-6)


def test_without_labels_everything_about_them_is_none(tiny, painted_images):
    record = next(iter(tiny.extract(batches(painted(painted_images, labels="none"), 2))))
    values = record.values
    assert values["labels"] is None
    assert values["losses"] == dict.fromkeys(LOSSES)
    assert (values["n_pos"], values["score_sum"]) == (None, None)
    known = {name for name, value in values["metrics"].items() if value is not None}
    assert known <= {"mean_conf", "n_pred"}


def test_an_image_without_objects_has_the_background_s_loss_alone(tiny, painted_images):
    batch = batches(painted(painted_images), 1, [4])[0]
    values = next(iter(tiny.extract([batch]))).values
    scores = tiny.detector(batch.inputs["image"]).scores.double()
    assert values["losses"]["cls"] == pytest.approx(float(scores.exp().log1p().sum()), rel=1e-5)
    assert [values["losses"][name] for name in ("box", "dfl", "seg")] == [None] * 3
    assert (values["n_pos"], values["score_sum"]) == (0, 0)
    assert (values["metrics"]["n_gt"], values["metrics"]["flag_cat"]) == (0, -1)


def test_labels_of_one_image_of_a_batch_may_be_unknown(tiny, painted_images):
    batch = batches(painted(painted_images), 3, [1, 2, 3])[0]
    truths = batch.target.truths
    batch.target = InstanceTarget.of([truths[0], None, truths[2]])
    losses = [record.values["losses"]["box"] for record in tiny.extract([batch])]
    assert [loss is None for loss in losses] == [False, True, False]


def test_boxes_alone_give_a_segmenter_no_mask_loss(tiny_seg, painted_images):
    values = extracted(tiny_seg, painted(painted_images), 4)["images/03.png"]
    assert values["losses"]["seg"] is None
    assert values["losses"]["box"] > 0
    assert values["metrics"]["dice_score"] is None


def test_features_are_the_maps_that_enter_the_head(tiny_detector_file, painted_images):
    data = painted(painted_images)
    batch = batches(data, 2, [2, 3])[0]
    raw = load_detector(tiny_detector_file, SIZE, "cpu")(batch.inputs["image"])
    kept = {}
    for maps in ("none", "grid4", "full16"):
        extractor = YoloExtractor(tiny_detector_file, image_size=SIZE, maps=maps, device="cpu")
        kept[maps] = [record.values for record in extractor.extract([batch])]
    assert kept["none"][1]["maps"] is None
    values = kept["full16"][1]
    for level, exact in raw.maps.items():
        exact = exact[1].numpy()
        assert values["maps"][level].dtype == np.float16
        np.testing.assert_allclose(values["maps"][level], exact, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(values["gap"][level], exact.mean((1, 2)), rtol=1e-4, atol=1e-5)
    # 12 cells of a side in 4 x 4 fields of 3.
    fields = raw.maps["p3"][1].numpy().reshape(64, 4, 3, 4, 3).mean((2, 4))
    np.testing.assert_allclose(kept["grid4"][1]["maps"]["p3"], fields, rtol=1e-3, atol=1e-4)
    assert values["embedding"].shape == (448,)
    assert values["embedding"].tolist() == np.concatenate([*values["gap"].values()]).tolist()


def test_a_record_tells_the_file_and_both_frames(tiny, painted_images):
    values = extracted(tiny, painted(painted_images), 12)["images/03.png"]  # 200 x 120
    assert (values["width"], values["height"], values["ratio"]) == (200, 120, 0.48)
    assert (values["pad_x"], values["pad_y"]) == (0, 19)
    found = values["detections"]
    assert len(found.labels) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes <= (200, 120, 200, 120)).all()
    scale, offset = np.array([0.48, 58 / 120] * 2), np.array([0, 19] * 2)
    np.testing.assert_allclose(found.boxes * scale + offset, found.boxes_input, atol=1e-3)


def test_a_label_that_the_detector_does_not_have_is_named(tiny, painted_images):
    (painted_images / "labels/01.txt").write_text("7 0.5 0.5 0.2 0.2")
    data = ImageFolder(painted_images / "images", image_size=SIZE)
    with pytest.raises(DataError, match=r"01\.png: a label of class 7, but the detector has 3"):
        list(tiny.extract(batches(data, 12)))


def test_an_unknown_head_gets_its_losses_from_the_library(tmp_path, painted_images):
    path = write_random_detector(tmp_path / "dual.pt", "yolov10n.yaml", num_classes=3)
    extractor = YoloExtractor(path, image_size=SIZE, device="cpu")
    assert not extractor.detector.fast
    found = extracted(extractor, painted(painted_images), 4)
    full, empty = found["images/03.png"]["losses"], found["images/04.png"]["losses"]
    assert all(full[name] > 0 for name in ("box", "cls", "dfl"))
    assert [empty[name] is None for name in ("box", "cls", "dfl")] == [True, False, True]
    assert found["images/03.png"]["n_pos"] is None


def test_one_class_is_extracted_like_any_other(tmp_path, painted_images):
    for path in (painted_images / "labels").iterdir():
        lines = [f"0 {line.split(' ', 1)[1]}" for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines))
    model = write_random_detector(tmp_path / "one.pt", "yolov8n.yaml", num_classes=1)
    extractor = YoloExtractor(model, image_size=SIZE, device="cpu")
    data = ImageFolder(painted_images / "images", image_size=SIZE)
    losses = extracted(extractor, data, 5)["03.png"]["losses"]
    assert all(losses[name] > 0 for name in ("box", "cls", "dfl"))


def test_a_trained_detector_hits_what_people_have_labelled(shared_data):
    """Boxes, letterboxes and classes of labels and detections are in one frame."""
    model = shared_data / "weights/yolov8n_dequant_sd.pt"
    extractor = YoloExtractor(model, image_size=320, device="cpu")
    data = ImageFolder(
        shared_data / "coco/coco.yaml", classes=extractor.detector.names, image_size=320
    )
    found = extracted(extractor, data, 8, range(24))
    hits = [values["metrics"]["hit_freq"] for values in found.values()]
    overlaps = [v["metrics"]["mean_iou"] for v in found.values() if v["metrics"]["n_match"]]
    assert np.mean([hit for hit in hits if hit is not None]) > 0.3
    assert np.mean(overlaps) > 0.75
    groups = extractor.groups
    flags = [(v["metrics"]["flag_cat"], v["metrics"]["flag_supercat"]) for v in found.values()]
    assert all(groups.of(cat) == group for cat, group in flags)
