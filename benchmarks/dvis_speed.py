"""Where the time of a video frame goes: segmenter, tracker, refiner, and what writes the masks.

`uv run python benchmarks/dvis_speed.py` prints seconds per frame and each step's share, of the
published sizes (ResNet-50, 100 queries of width 256, 40 classes) with random weights. With one
thread the seconds are those of the processor, with more those of the clock.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from mlkit_dvis.assembly import best_scores
from mlkit_dvis.features import Window
from mlkit_dvis.pipeline.linked import LinkedQueries
from mlkit_dvis.pipeline.spill import Spill
from mlkit_dvis.pipeline.writing import Layout, TensorRows, write_tracks
from mlkit_dvis.refiner import TemporalRefiner
from mlkit_dvis.segmenter.backbones import maps_of
from mlkit_dvis.segmenter.encoder import Mask2FormerEncoder
from mlkit_dvis.segmenter.parts import decode
from mlkit_dvis.tracker import DAQTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

T = TypeVar("T")
CLASSES, RESULTS, REFINED_FRAMES = 40, 20, 30


@dataclass(frozen=True)
class Clock:
    """Measures steps, the best of some repeats.

    Args:
        threads: Of torch.
        repeats: Of each step.
    """

    threads: int
    repeats: int

    def seconds(self, work: Callable[[], T], frames: int) -> tuple[float, T]:
        """Return the seconds of one frame of a step that sees `frames`, and what it returned."""
        now = time.process_time if self.threads == 1 else time.perf_counter
        best, found = math.inf, None
        for _ in range(self.repeats):
            start = now()
            found = work()
            best = min(best, now() - start)
        return best / frames, cast("T", found)


def segmenter_seconds(
    encoder: Mask2FormerEncoder, images: Tensor, clock: Clock
) -> tuple[dict[str, float], Window]:
    """Return the seconds of the segmenter's three parts, and its view of the frames."""
    count = len(images)
    encoder(images[:1])  # the first call of a process is slower
    normalised = (images - encoder.mean) / encoder.std
    backbone, maps = clock.seconds(lambda: maps_of(encoder.backbone, normalised), count)
    pixel, (features, coarse) = clock.seconds(lambda: encoder.pixel_decoder(maps), count)
    rest: Any = SimpleNamespace(
        pixel_decoder=lambda _maps: (features, coarse),
        transformer=encoder.transformer,
        class_predictor=encoder.class_predictor,
    )
    queries, seen = clock.seconds(lambda: decode(rest, maps, every_layer=False), count)
    window = Window(
        pred_embds=seen.embeds.permute(2, 0, 1)[None],
        mask_features=features[None],
        pred_logits=seen.logits[-1][None],
        pred_masks=seen.masks[-1].transpose(0, 1)[None],
        seg_query_feat=encoder.transformer.queries_features.weight,
    )
    spent = {"backbone": backbone, "pixel decoder": pixel, "transformer decoder, heads": queries}
    return spent, window


def tracker_of(window: Window, rows: int) -> DAQTracker:
    """Return a tracker with random weights that follows so many rows from the first frame on."""
    scores = best_scores(window.pred_logits[0, 0]).sort(descending=True).values
    return DAQTracker(
        num_classes=CLASSES,
        num_new_ins=len(scores),
        aux_inference_select_threshold=float(scores[min(rows, len(scores) - 1)]),
        inference_select_threshold=1.0,  # nothing is born
        kick_out_frame_num=10_000,  # and nothing dies
    ).eval()


def refiner_seconds(refiner: TemporalRefiner, queries: int, dim: int, clock: Clock) -> float:
    """Return the seconds per frame of a video of `REFINED_FRAMES` frames, masks left out."""
    rows, frames = torch.randn(2, 1, dim, REFINED_FRAMES, queries)
    spent, _ = clock.seconds(
        lambda: refiner.classify(*refiner.refine(rows, frames)), REFINED_FRAMES
    )
    return spent


def discs(frames: int, height: int, width: int) -> Tensor:
    """Return mask logits `[RESULTS, T, h, w]` of discs: random weights would give noise."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.rand(RESULTS, frames, 2) * torch.tensor([height, width])
    away = (y - centres[..., :1, None]).square() + (x - centres[..., 1:, None]).square()
    return height / 5 - away.sqrt()


def writing_seconds(
    refiner: TemporalRefiner, window: Window, layout: Layout, clock: Clock
) -> dict[str, float]:
    """Return the seconds of the results' masks, from embeddings to compressed run lengths."""
    frames = window.frames
    dim = window.pred_embds.shape[1]
    decoded = torch.randn(1, frames, RESULTS, dim)
    logits = 9 * torch.eye(RESULTS, CLASSES + 1)  # so that each row is one result
    rows = TensorRows(logits, discs(frames, *window.mask_features.shape[-2:]))
    return {
        f"masks of {RESULTS} results": clock.seconds(
            lambda: refiner.masks(decoded, window.mask_features), frames
        )[0],
        "their resizing, run lengths": clock.seconds(
            lambda: write_tracks(rows, layout, RESULTS), frames
        )[0],
    }


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds per frame of every step."""
    clock = Clock(options.threads, options.repeats)
    height, width = (math.ceil(side / 32) * 32 for side in options.size)
    encoder = Mask2FormerEncoder(CLASSES).eval()
    spent, window = segmenter_seconds(encoder, torch.rand(options.frames, 3, height, width), clock)
    tracker, refiner = tracker_of(window, options.rows), TemporalRefiner(class_num=CLASSES).eval()
    spent["tracker"], (_, records) = clock.seconds(
        lambda: tracker.step(None, window), window.frames
    )
    print(f"rows that live, frame by frame: {[len(record.ids) for record in records]}")
    with Spill() as spill:
        linked = LinkedQueries(spill, masks=False)
        spent["linking of queries"], _ = clock.seconds(lambda: linked.add(window), window.frames)
    queries, dim = window.seg_query_feat.shape
    name = f"refiner, {REFINED_FRAMES} frames x {queries} rows"
    spent[name] = refiner_seconds(refiner, queries, dim, clock)
    layout = Layout((height, width), tuple(options.size), tuple(options.output))
    return spent | writing_seconds(refiner, window, layout, clock)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5, help="of a window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1, help="of which the best counts")
    parser.add_argument("--rows", type=int, default=40, help="tracks that live")
    parser.add_argument("--size", type=int, nargs=2, default=[480, 854], help="height, width")
    parser.add_argument("--output", type=int, nargs=2, default=[720, 1280], help="of the video")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        spent = measure(options)
    total = sum(spent.values())
    print(f"{'step':32} {'s/frame':>9} {'share':>7}")
    for name, seconds in spent.items():
        print(f"{name:32} {seconds:9.4f} {seconds / total:7.1%}")
    print(f"{'all':32} {total:9.4f} {1 / total:6.2f} frames/s, {options.threads} thread(s)")


if __name__ == "__main__":
    main()
