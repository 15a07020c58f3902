"""`track-ap` against TrackEval's TrackMAP on YouTube-VIS files, and COCOeval where crowds are.

TrackEval treats crowds in its own way: a crowd takes one track only, and only where intersection
over union, not intersection over the track's own area, is good enough. COCO's rule, which
`track-ap` follows, is compared with COCOeval itself on videos of one frame.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlkit_core.types import Batch, SampleMeta
from mlkit_dvis.assembly import to_rles
from mlkit_dvis.clips.masks import decode
from mlkit_dvis.metrics.component import TrackAp
from mlkit_dvis.metrics.ytvis import AREAS
from mlkit_dvis.results import InstanceTrack, TrackAnnotation, VideoTarget

SEEDS = range(12)
FRAMES = 16  # of the road
NAMES = ("ap", "ap50", "ap75", "ar1", "ar10", "ap_small", "ap_medium", "ap_large")


def random_set(seed, frames=None, crowds=0.0):
    """Return a YouTube-VIS annotation file and rows of results, of rectangles.

    Class 4 is found and never annotated, class 5 annotated and never found; the last video has no
    results, the one before no annotations; scores are tenths, so many are equal.
    """
    rng = np.random.default_rng(seed)
    size = (400, 420) if seed % 2 else (60, 70)
    videos, annotations, rows = [], [], []
    for number in range(1, 7):
        length = frames or int(rng.integers(1, 5))
        files = [f"v{number:02d}/{t}.jpg" for t in range(length)]
        common = {"height": size[0], "width": size[1]}
        videos.append({"id": number, "file_names": files, "length": length, **common})
        for _ in range(0 if number == 5 else int(rng.integers(1, 5))):
            boxes = random_boxes(rng, size, length)
            label = int(rng.choice([1, 2, 3, 5]))
            crowd = int(rng.random() < crowds)
            masks = paint(boxes, size)
            found = {"id": len(annotations) + 1, "video_id": number, "category_id": label}
            annotations.append({**found, "iscrowd": crowd, "masks": masks, **common})
            for _ in range(0 if number == 6 or label == 5 else int(rng.integers(0, 4))):
                shaken = shake(rng, boxes)
                said = label if rng.random() < 0.8 else int(rng.integers(1, 5))
                rows.append(row(rng, number, said, paint(shaken, size)))
        for _ in range(0 if number == 6 else int(rng.integers(0, 4))):
            masks = paint(random_boxes(rng, size, length), size)
            rows.append(row(rng, number, int(rng.integers(1, 5)), masks))
    categories = [{"id": i, "name": f"class{i}"} for i in range(1, 6)]
    return {"videos": videos, "annotations": annotations, "categories": categories}, rows


def row(rng, video, label, masks):
    score = float(rng.integers(1, 10)) / 10
    return {"video_id": video, "category_id": label, "score": score, "masks": masks}


def random_boxes(rng, size, length):
    """Return top, left, bottom, right of each frame; empty in about one of four."""
    sides = np.exp(rng.uniform(2, 6) + rng.normal(0, 0.2, 2))
    sides = np.minimum(sides, np.array(size) * 0.9)
    corner = rng.uniform(0, np.array(size) - sides)
    boxes = np.concatenate([corner, corner + sides])[None] + rng.normal(0, 2, (length, 4))
    boxes = np.clip(boxes.round(), 0, [*size, *size]).astype(int)
    boxes[rng.random(length) < 0.25] = 0
    return boxes


def shake(rng, boxes):
    spread = rng.choice([0.0, 0.03, 0.1]) * (boxes[:, 2:] - boxes[:, :2]).max(initial=0)
    shaken = np.maximum((boxes + rng.normal(0, 1, boxes.shape) * spread).round(), 0).astype(int)
    shaken[rng.random(len(boxes)) < 0.15] = 0
    return shaken


def paint(boxes, size):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return to_rles(masks)


def ours(content, rows):
    """Return `track-ap` of a set."""
    metric = TrackAp(num_classes=max(category["id"] for category in content["categories"]))
    for video in content["videos"]:
        number = video["id"]
        found = [
            InstanceTrack(r["category_id"] - 1, r["score"], tuple(r["masks"]), row=i)
            for i, r in enumerate(rows)
            if r["video_id"] == number
        ]
        true = tuple(
            TrackAnnotation(a["category_id"] - 1, tuple(a["masks"]), bool(a["iscrowd"]))
            for a in content["annotations"]
            if a["video_id"] == number
        )
        meta = SampleMeta(key=f"{number:04d}")
        metric.update(found, Batch(inputs={}, meta=(meta,), target=VideoTarget(true)))
    return metric.compute()


def uncompressed(rle):
    """Return an RLE with plain run lengths, the only ones that TrackEval reads of annotations."""
    if rle is None:
        return None
    flat = np.concatenate([[0], decode(rle).flatten("F"), [2]])
    ends = np.flatnonzero(np.diff(flat.astype(int)))
    return {"size": rle["size"], "counts": np.diff(ends, prepend=0).tolist()}


def track_eval_files(content, rows, folder):
    """Write a set where TrackEval looks for it."""
    gt, results = folder / "gt/youtube_vis_val", folder / "found/youtube_vis_val/ours/data"
    gt.mkdir(parents=True)
    results.mkdir(parents=True)
    written = []
    for annotation in content["annotations"]:
        kept = {key: value for key, value in annotation.items() if key != "masks"}
        kept["segmentations"] = [uncompressed(rle) for rle in annotation["masks"]]
        kept["areas"] = [rle and int(decode(rle).sum()) for rle in annotation["masks"]]
        written.append(kept)
    (gt / "val.json").write_text(json.dumps({**content, "annotations": written}))
    named = [
        {"segmentations" if key == "masks" else key: value for key, value in r.items()}
        for r in rows
    ]
    (results / "results.json").write_text(json.dumps(named))


def track_eval(content, rows, folder):
    """Return TrackEval's scores of a set under our names."""
    trackeval = pytest.importorskip("trackeval", reason="needs the extra `hota`: TrackEval")
    track_eval_files(content, rows, folder)
    data = trackeval.datasets.YouTubeVIS(
        {
            "GT_FOLDER": f"{folder}/gt/",
            "TRACKERS_FOLDER": f"{folder}/found/",
            "SPLIT_TO_EVAL": "val",
            "PRINT_CONFIG": False,
        }
    )
    # A track of id 0 leaves its annotation free in TrackEval's matching (`gt_m > 0`).
    data.global_tid_counter = 1
    raw = [data.get_raw_seq_data("ours", name) for name in data.seq_list]
    scores = {}
    for most in (1, 10, 100):
        metric = trackeval.metrics.TrackMAP(
            {
                "AREA_RANGES": [AREAS[name] for name in ("small", "medium", "large")],
                "USE_TIME_RANGES": False,
                # TrackEval's own, from `arange`, lie above 0.8 and others by rounding.
                "IOU_THRESHOLDS": np.linspace(0.5, 0.95, 10),
                "MAX_DETECTIONS": most,
                "PRINT_CONFIG": False,
            }
        )
        scores[most] = metric.combine_classes_class_averaged(
            {name: by_class(metric, data, raw, name) for name in data.class_list}
        )
    best = scores[100]
    found = {
        "ap": best["AP_all"].mean(),
        "ap50": best["AP_all"][0],
        "ap75": best["AP_all"][5],
        "ar1": scores[1]["AR_all"].mean(),
        "ar10": scores[10]["AR_all"].mean(),
    }
    found |= {f"ap_{n}": best[f"AP_area_{n[0]}"].mean() for n in ("small", "medium", "large")}
    return {name: np.nan if value < 0 else value for name, value in found.items()}


def by_class(metric, data, raw, name):
    sequences = [data.get_preprocessed_seq_data(sequence, name) for sequence in raw]
    return metric.combine_sequences(
        {number: metric.eval_sequence(sequence) for number, sequence in enumerate(sequences)}
    )


def agree(values, reference):
    expected = [reference[name] for name in NAMES]
    assert [values[name] for name in NAMES] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_sets_score_as_in_track_eval(seed, tmp_path):
    content, rows = random_set(seed)
    agree(ours(content, rows), track_eval(content, rows, tmp_path))


def test_random_sets_hold_every_area_range_and_equal_scores():
    values = [ours(*random_set(seed)) for seed in SEEDS]
    assert sum(0 < found["ap"] < 1 for found in values) >= 9
    for name in ("ap_small", "ap_medium", "ap_large"):
        assert sum(0 < found[name] < 1 for found in values) >= 2
    scores = [r["score"] for r in random_set(0)[1]]
    assert len(set(scores)) < len(scores)


def test_no_results_at_all_score_as_in_track_eval(tmp_path):
    content, _ = random_set(1)
    values = ours(content, [])
    assert values["ap"] == values["ar10"] == 0
    agree(values, track_eval(content, [], tmp_path))


def coco_eval(content, rows):
    """Return COCOeval's scores of videos of one frame, each an image."""
    coco, found = COCO(), COCO()
    images = [{key: v[key] for key in ("id", "height", "width")} for v in content["videos"]]
    coco.dataset = {
        "images": images,
        "categories": content["categories"],
        "annotations": [flat(a, number) for number, a in enumerate(content["annotations"], 1)],
    }
    found.dataset = {**coco.dataset, "annotations": [flat(r, i) for i, r in enumerate(rows, 1)]}
    coco.createIndex()
    found.createIndex()
    judge = COCOeval(coco, found, "segm")
    judge.params.areaRng = [list(AREAS[name]) for name in ("all", "small", "medium", "large")]
    judge.evaluate()
    judge.accumulate()
    precision, recall = judge.eval["precision"], judge.eval["recall"]  # [T, (R,) K, A, M]

    def mean(values):
        return values[values > -1].mean() if (values > -1).any() else np.nan

    scores = {"ap": mean(precision[..., 0, 2]), "ap50": mean(precision[0, ..., 0, 2])}
    scores |= {"ap75": mean(precision[5, ..., 0, 2])}
    scores |= {"ar1": mean(recall[..., 0, 0]), "ar10": mean(recall[..., 0, 1])}
    areas = enumerate(("small", "medium", "large"), 1)
    return scores | {f"ap_{name}": mean(precision[..., i, 2]) for i, name in areas}


def flat(entry, number):
    """Return a track of one frame as an annotation of an image; what is empty stays so."""
    rle = entry["masks"][0]
    height, width = entry["size"]
    rle = rle or {"size": [height, width], "counts": to_empty(height * width)}
    kept = {key: value for key, value in entry.items() if key not in ("masks", "size")}
    area = int(decode(rle).sum())
    return {"iscrowd": 0, **kept, "id": number, "image_id": entry["video_id"], "area": area} | {
        "segmentation": rle
    }


def to_empty(pixels):
    from pycocotools import mask as coco_masks

    return coco_masks.frPyObjects({"size": [1, pixels], "counts": [pixels]}, 1, pixels)["counts"]


@pytest.mark.parametrize("seed", SEEDS)
def test_videos_of_one_frame_with_crowds_score_as_in_coco_eval(seed, capsys):
    content, rows = random_set(seed, frames=1, crowds=0.4)
    assert any(a["iscrowd"] for a in content["annotations"])
    size = tuple(content["videos"][0][key] for key in ("height", "width"))
    for entry in (*content["annotations"], *rows):
        entry["size"] = size
    agree(ours(content, rows), coco_eval(content, rows))
    capsys.readouterr()


def test_a_track_of_another_tool_scores_as_in_track_eval(shared_data, tmp_path):
    folder = shared_data("metrics/video/mmtracking_ytvis_demo")
    written = json.loads((folder / "ann.json").read_text())
    found = json.loads((folder / "results.json").read_text())
    content, rows = mmtracking_set(written, found)
    values = ours(content, rows)
    agree(values, track_eval(content, rows, tmp_path))
    assert len(rows) == 1


def mmtracking_set(written, found):
    """Return the one video of one frame and its one found mask."""
    videos = [{**v, "file_names": [f"{v['name']}/00000.jpg"]} for v in written["videos"]]
    size = {key: videos[0][key] for key in ("height", "width")}
    annotations = []
    for annotation in written["annotations"]:
        row = {key: annotation[key] for key in ("id", "video_id", "category_id", "iscrowd")}
        annotations.append({**row, **size, "masks": [compressed(annotation["segmentation"])]})
    score = found["track_bboxes"][0][0][0][-1]
    rle = {"size": [720, 1280], "counts": found["track_masks"][0][0][0]["counts"]}
    rows = [{"video_id": 1, "category_id": 1, "score": score, "masks": [rle]}]
    return {**written, "videos": videos, "annotations": annotations}, rows


def compressed(segmentation):
    from pycocotools import mask as coco_masks

    rle = coco_masks.frPyObjects(segmentation, *segmentation["size"])
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.fixture(scope="module")
def driving(shared_data):
    """Return 16 frames of a road with some 30 annotated tracks, and tracks found there."""
    folder = shared_data("metrics/video/bdd100k_seg_track")
    names = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    files = (folder / "seg_track_sample.json", folder / "seg_track_preds.json")
    true, found = (bdd_tracks(json.loads(file.read_text())[:FRAMES], names) for file in files)
    size = {"height": 720, "width": 1280}
    videos = [{"id": 1, "file_names": [f"road/{t}.jpg" for t in range(FRAMES)], **size}]
    annotations = [{**t, **size, "id": number} for number, t in enumerate(true, 1)]
    rows = [{**t, "score": (number * 37 % 10) / 10} for number, t in enumerate(found)]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"videos": videos, "annotations": annotations, "categories": categories}, rows


def bdd_tracks(frames, names):
    """Return a track for each id of Scalabel's frames, of its most frequent category."""
    tracks = {}
    for frame in frames:
        for label in frame["labels"] or ():
            empty = {"masks": [None] * len(frames), "names": [], "crowd": False}
            track = tracks.setdefault(label["id"], empty)
            track["masks"][frame["frameIndex"]] = label["rle"]
            track["names"].append(label["category"])
            track["crowd"] |= bool((label["attributes"] or {}).get("crowd"))
    return [
        {
            "video_id": 1,
            "category_id": 1 + names.index(max(track["names"], key=track["names"].count)),
            "iscrowd": int(track["crowd"]),
            "masks": track["masks"],
        }
        for track in tracks.values()
    ]


def test_a_road_of_many_tracks_scores_as_in_track_eval(driving, tmp_path):
    content, rows = driving
    content = {**content, "annotations": [{**a, "iscrowd": 0} for a in content["annotations"]]}
    values = ours(content, rows)
    assert 0 < values["ap"] < 1
    agree(values, track_eval(content, rows, tmp_path))
