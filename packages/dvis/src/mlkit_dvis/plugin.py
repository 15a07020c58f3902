"""What dvis gives to mlkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core import CommandSpec, ComponentSpec, ExampleSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

MLKIT_API = 1

_COMPONENTS: tuple[ComponentSpec, ...] = (
    ComponentSpec(
        kind="metric",
        name="track-ap",
        target="mlkit_dvis.metrics.component:TrackAp",
        example="mlkit_dvis.metrics.component:example",
        summary="YouTube-VIS AP and AR over whole videos, and identity switches.",
        source="Yang et al., Video Instance Segmentation, ICCV 2019",
    ),
    ComponentSpec(
        kind="metric",
        name="track-hota",
        target="mlkit_dvis.metrics.hota:TrackHota",
        config="mlkit_dvis.config:TrackHotaConfig",
        example="mlkit_dvis.metrics.hota:example",
        summary="HOTA, DetA and AssA of masks, by TrackEval (extra `hota`).",
        source="Luiten et al., HOTA, IJCV 2021",
    ),
    ComponentSpec(
        kind="data",
        name="video-clips",
        target="mlkit_dvis.clips.component:VideoClips",
        config="mlkit_dvis.config:VideoClipsConfig",
        example="mlkit_dvis.clips.example:example",
        summary="Clips of annotated videos, and images as pseudo-videos.",
    ),
    ComponentSpec(
        kind="encoder",
        name="mask2former",
        target="mlkit_dvis.segmenter.encoder:Mask2FormerEncoder",
        config="mlkit_dvis.config:Mask2FormerConfig",
        example="mlkit_dvis.segmenter.encoder:example",
        summary="Mask2Former over ResNet, Swin, ViT-Adapter or any timm backbone, frame by frame.",
        source="Cheng et al., Mask2Former, CVPR 2022",
    ),
    ComponentSpec(
        kind="fusion",
        name="temporal-refiner",
        target="mlkit_dvis.refiner.fusion:RefinerFusion",
        config="mlkit_dvis.config:TemporalRefinerConfig",
        example="mlkit_dvis.refiner.example:example",
        summary="Refines tracks over all frames of a clip or a video.",
        source="Zhang et al., DVIS, ICCV 2023",
    ),
    ComponentSpec(
        kind="head",
        name="video-instances",
        target="mlkit_dvis.head:VideoInstances",
        config="mlkit_dvis.config:VideoInstancesConfig",
        example="mlkit_dvis.head:example",
        summary="Tracks of a whole video, from the last of segmenter, tracker and refiner.",
        source="Zhou et al., DVIS-DAQ, ECCV 2024",
    ),
    ComponentSpec(
        kind="loss",
        name="frame-set",
        target="mlkit_dvis.losses.frame_set:FrameSetLoss",
        config="mlkit_dvis.config:SetLossConfig",
        example="mlkit_dvis.losses.example:frame_set_example",
        summary="Set criterion of the segmenter, frame by frame, with deep supervision.",
        source="Cheng et al., Mask2Former, CVPR 2022",
    ),
    ComponentSpec(
        kind="loss",
        name="reid",
        target="mlkit_dvis.losses.reid:ReidLoss",
        config="mlkit_dvis.config:ReidLossConfig",
        example="mlkit_dvis.losses.example:reid_example",
        summary="Contrastive and cosine losses of the segmenter's ReID embeddings.",
        source="Ying et al., CTVIS, ICCV 2023",
    ),
    ComponentSpec(
        kind="fusion",
        name="daq-tracker",
        target="mlkit_dvis.tracker.fusion:TrackerFusion",
        config="mlkit_dvis.config:DaqTrackerConfig",
        example="mlkit_dvis.tracker.example:tracker_example",
        summary="Tracks by queries that are handed on, anchors for newcomers.",
        source="Zhou et al., DVIS-DAQ, ECCV 2024",
    ),
    ComponentSpec(
        kind="loss",
        name="tracker-set",
        target="mlkit_dvis.losses.tracker_set:TrackerSetLoss",
        config="mlkit_dvis.config:TrackerSetConfig",
        example="mlkit_dvis.tracker.example:tracker_set_example",
        summary="Set criterion of tracker and slot branch over clips, with deep supervision.",
        source="Zhou et al., DVIS-DAQ, ECCV 2024",
    ),
    ComponentSpec(
        kind="loss",
        name="video-set",
        target="mlkit_dvis.losses.video_set:VideoSetLoss",
        config="mlkit_dvis.config:SetLossConfig",
        example="mlkit_dvis.losses.example:video_set_example",
        summary="Set criterion of the refiner over whole clips, with deep supervision.",
        source="Zhou et al., DVIS-DAQ, ECCV 2024",
    ),
)

_COMMANDS: tuple[CommandSpec, ...] = (
    CommandSpec(
        group="dvis",
        name="run",
        target="mlkit_dvis.verbs.run:run",
        summary="Track a video's objects: tracks.json, an overlay, a contact sheet.",
    ),
    CommandSpec(
        group="dvis",
        name="evaluate",
        target="mlkit_dvis.verbs.evaluate:evaluate",
        summary="Score result files against annotations: AP, recalls, identity switches, HOTA.",
    ),
    CommandSpec(
        group="dvis",
        name="import",
        target="mlkit_dvis.verbs.imports:import_clips",
        summary="Make a YouTube-VIS JSON of COCO-VID, DAVIS or CVAT annotations.",
    ),
    CommandSpec(
        group="dvis",
        name="convert",
        target="mlkit_dvis.verbs.convert:convert",
        summary="Turn a published DVIS-DAQ checkpoint into a run's folder.",
    ),
)


@hookimpl
def mlkit_components() -> Iterator[ComponentSpec]:
    """Yield the components that run files can name."""
    yield from _COMPONENTS


@hookimpl
def mlkit_commands() -> Iterator[CommandSpec]:
    """Yield the verbs under `mlkit dvis`."""
    yield from _COMMANDS


@hookimpl
def mlkit_examples() -> Iterator[ExampleSpec]:
    """Yield the run file of `mlkit init dvis` and the body of `mlkit demo dvis`."""
    yield ExampleSpec(
        name="dvis",
        text="mlkit_dvis.demo:run_file",
        summary="Video instance segmentation in three stages.",
        demo="mlkit_dvis.demo:write_demo",
    )
