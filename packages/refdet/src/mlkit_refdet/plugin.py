"""What refdet gives to mlkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core import CommandSpec, ComponentSpec, ExampleSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator

MLKIT_API = 1

_COMPONENTS: tuple[ComponentSpec, ...] = (
    ComponentSpec(
        kind="data",
        name="reference-frames",
        target="mlkit_refdet.episodes.component:ReferenceFrames",
        config="mlkit_refdet.episodes.config:ReferenceFramesConfig",
        example="mlkit_refdet.episodes.example:example",
        summary="Videos or images and photos of what to find in them, as N-way K-shot episodes.",
    ),
    # data
    ComponentSpec(
        kind="encoder",
        name="yolo-query",
        target="mlkit_refdet.encoders.yolo:YoloQuery",
        config="mlkit_refdet.encoders.config:YoloConfig",
        example="mlkit_refdet.encoders.yolo:query_example",
        summary="YOLOv8's backbone and neck for query images, with embeddings by level.",
        source="https://github.com/ultralytics/ultralytics",
    ),
    ComponentSpec(
        kind="encoder",
        name="yolo-reference",
        target="mlkit_refdet.encoders.yolo:YoloReference",
        config="mlkit_refdet.encoders.config:YoloReferenceConfig",
        example="mlkit_refdet.encoders.yolo:reference_example",
        summary="The same trunk for reference photos: prototypes and tokens by level.",
        source="https://github.com/ultralytics/ultralytics",
    ),
    ComponentSpec(
        kind="encoder",
        name="vit-reference",
        target="mlkit_refdet.encoders.vit:VitReference",
        config="mlkit_refdet.encoders.config:VitReferenceConfig",
        example="mlkit_refdet.encoders.vit:example",
        summary="DINOv2 or another plain ViT for reference photos, from three of its blocks.",
        source="Oquab et al., DINOv2, arXiv:2304.07193",
    ),
    ComponentSpec(
        kind="encoder",
        name="asked-classes",
        target="mlkit_refdet.encoders.asked:AskedClasses",
        example="mlkit_refdet.encoders.asked:example",
        summary="Says which classes each image is searched for.",
    ),
    # encoders
    ComponentSpec(
        kind="encoder",
        name="pixels",
        target="mlkit_refdet.baselines.pixels:Pixels",
        config="mlkit_refdet.baselines.config:PixelsConfig",
        example="mlkit_refdet.baselines.pixels:example",
        summary="The image itself as a map of stride 1, for template matching.",
    ),
    ComponentSpec(
        kind="fusion",
        name="cheaf",
        target="mlkit_refdet.fusion.cheaf:CheafFusion",
        config="mlkit_refdet.fusion.config:CheafConfig",
        example="mlkit_refdet.fusion.cheaf:example",
        summary="Query and photos meet: attention, channel and spatial correlation, pair by pair.",
    ),
    # fusions
    ComponentSpec(
        kind="head",
        name="dual",
        target="mlkit_refdet.head.dual:DualHead",
        config="mlkit_refdet.head.config:DualConfig",
        example="mlkit_refdet.head.dual:example",
        summary="Detects what the photos show, the data's own classes, or both.",
    ),
    # heads
    ComponentSpec(
        kind="head",
        name="template-match",
        target="mlkit_refdet.baselines.template_match:TemplateMatch",
        config="mlkit_refdet.baselines.config:TemplateMatchConfig",
        example="mlkit_refdet.baselines.template_match:example",
        summary="Baseline: correlation with the references' cut-outs, sizes and rotations.",
        source="Lewis, Fast Normalized Cross-Correlation, Vision Interface 1995",
    ),
    ComponentSpec(
        kind="head",
        name="prototype-match",
        target="mlkit_refdet.baselines.prototype_match:PrototypeMatch",
        config="mlkit_refdet.baselines.config:PrototypeMatchConfig",
        example="mlkit_refdet.baselines.prototype_match:example",
        summary="Baseline: cosine of frozen maps with the references' foreground, no training.",
    ),
    # losses
    ComponentSpec(
        kind="loss",
        name="box-iou",
        target="mlkit_refdet.losses.detection:BoxIou",
        config="mlkit_refdet.losses.config:BoxIouConfig",
        example="mlkit_refdet.losses.example:detected_example",
        summary="Wise-IoU v1 to v3 or complete IoU of positive anchors' boxes.",
        source="Tong et al., Wise-IoU, arXiv:2301.10051",
    ),
    ComponentSpec(
        kind="loss",
        name="anchor-bce",
        target="mlkit_refdet.losses.detection:AnchorBce",
        config="mlkit_refdet.losses.config:AnchorBceConfig",
        example="mlkit_refdet.losses.example:detected_example",
        summary="Cross-entropy of all anchors and classes, background included.",
        source="Feng et al., TOOD, ICCV 2021",
    ),
    ComponentSpec(
        kind="loss",
        name="box-dfl",
        target="mlkit_refdet.losses.detection:BoxDfl",
        config="mlkit_refdet.losses.config:BoxDflConfig",
        example="mlkit_refdet.losses.example:detected_example",
        summary="Distribution focal loss of the four distances.",
        source="Li et al., Generalized Focal Loss, NeurIPS 2020",
    ),
    ComponentSpec(
        kind="loss",
        name="region-supcon",
        target="mlkit_refdet.losses.region_supcon:RegionSupCon",
        config="mlkit_refdet.losses.config:RegionSupConConfig",
        example="mlkit_refdet.losses.example:fused_example",
        summary="Supervised contrast of positive anchors on fused maps.",
        source="Khosla et al., Supervised Contrastive Learning, NeurIPS 2020",
    ),
    ComponentSpec(
        kind="loss",
        name="proposal-contrast",
        target="mlkit_refdet.losses.proposal_contrast:ProposalContrast",
        config="mlkit_refdet.losses.config:ProposalContrastConfig",
        example="mlkit_refdet.losses.example:fused_example",
        summary="Contrastive proposal encoding (CPE) on fused maps.",
        source="Sun et al., FSCE, CVPR 2021",
    ),
    ComponentSpec(
        kind="loss",
        name="region-triplet",
        target="mlkit_refdet.losses.region_triplet:RegionTriplet",
        config="mlkit_refdet.losses.config:RegionTripletConfig",
        example="mlkit_refdet.losses.example:regions_example",
        summary="Triplets of prototype, region and hardest cells or another object.",
        source="Schroff et al., FaceNet, CVPR 2015",
    ),
    ComponentSpec(
        kind="loss",
        name="region-infonce",
        target="mlkit_refdet.losses.region_infonce:RegionInfoNce",
        config="mlkit_refdet.losses.config:RegionInfoNceConfig",
        example="mlkit_refdet.losses.example:regions_example",
        summary="InfoNCE of regions and all support prototypes, both ways.",
        source="van den Oord et al., arXiv:1807.03748",
    ),
    # metrics
    ComponentSpec(
        kind="metric",
        name="box-map",
        target="mlkit_refdet.metrics.box_map:BoxMap",
        config="mlkit_refdet.metrics.config:BoxMapConfig",
        example="mlkit_refdet.metrics.example:example",
        summary="COCO's AP and AR of the asked classes, by size and class.",
        source="Lin et al., Microsoft COCO, ECCV 2014",
    ),
    ComponentSpec(
        kind="metric",
        name="false-alarms",
        target="mlkit_refdet.metrics.false_alarms:FalseAlarms",
        config="mlkit_refdet.metrics.config:FalseAlarmsConfig",
        example="mlkit_refdet.metrics.example:example",
        summary="False alarms at equal hits on empty and on distractor images; AUROC.",
    ),
    ComponentSpec(
        kind="metric",
        name="st-iou",
        target="mlkit_refdet.metrics.st_iou:StIou",
        config="mlkit_refdet.metrics.config:StIouConfig",
        example="mlkit_refdet.metrics.example:example",
        summary="Overlap in space and time over videos; precision and recall in time.",
    ),
    ComponentSpec(
        kind="metric",
        name="few-shot",
        target="mlkit_refdet.metrics.few_shot:FewShot",
        config="mlkit_refdet.metrics.config:FewShotConfig",
        example="mlkit_refdet.metrics.example:example",
        summary="AP over episodes with confidence intervals; base and novel classes.",
    ),
)

_COMMANDS: tuple[CommandSpec, ...] = (
    CommandSpec(
        group="refdet",
        name="find",
        target="mlkit_refdet.verbs.find:find",
        summary="Find the objects of photos in a video: intervals, boxes, an overlay.",
    ),
    CommandSpec(
        group="refdet",
        name="submit",
        target="mlkit_refdet.verbs.submit:submit",
        summary="Search every video of a data set for its own photos; one submission.",
    ),
    CommandSpec(
        group="refdet",
        name="enroll",
        target="mlkit_refdet.verbs.enroll:enroll",
        summary="Encode photos of objects once, into a file.",
    ),
    CommandSpec(
        group="refdet",
        name="import",
        target="mlkit_refdet.verbs.imports:import_labels",
        summary="Make references and images to search of COCO or YOLO labels.",
    ),
)


@hookimpl
def mlkit_components() -> Iterator[ComponentSpec]:
    """Yield refdet's components."""
    yield from _COMPONENTS


@hookimpl
def mlkit_commands() -> Iterator[CommandSpec]:
    """Yield refdet's verbs."""
    yield from _COMMANDS


@hookimpl
def mlkit_examples() -> Iterator[ExampleSpec]:
    """Yield refdet's run files for `mlkit init`, and the body of `mlkit demo refdet`."""
    yield ExampleSpec(
        name="refdet",
        text="mlkit_refdet.demo:run_file",
        summary="Find the object of three photos in drone video.",
        demo="mlkit_refdet.demo:write_demo",
    )
    yield ExampleSpec(
        name="refdet-template-match",
        text="mlkit_refdet.baselines.run_files:template_match",
        summary="Baseline without training: correlation with the references' cut-outs.",
    )
    yield ExampleSpec(
        name="refdet-prototype-match",
        text="mlkit_refdet.baselines.run_files:prototype_match",
        summary="Baseline without training: frozen features against the references'.",
    )
