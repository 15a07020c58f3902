"""What angioseg gives to mlkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core import CommandSpec, ComponentSpec, ExampleSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MLKIT_API = 1

_COMPONENTS = (
    ComponentSpec(
        kind="data",
        name="angio-frames",
        target="mlkit_angioseg.frames.component:AngioFrames",
        config="mlkit_angioseg.config:AngioFramesConfig",
        example="mlkit_angioseg.frames.example:example",
        summary="Angiogram frames with vessel masks and C-arm angles.",
    ),
    ComponentSpec(
        kind="encoder",
        name="view-angle",
        target="mlkit_angioseg.encoders.view:ViewAngle",
        config="mlkit_angioseg.config:ViewAngleConfig",
        example="mlkit_angioseg.encoders.view:example",
        summary="C-arm angles at learned frequencies, as a vector and tokens.",
    ),
    ComponentSpec(
        kind="encoder",
        name="sam",
        target="mlkit_angioseg.encoders.sam:SamEncoder",
        config="mlkit_angioseg.config:SamConfig",
        example="mlkit_angioseg.encoders.sam:example",
        summary="Image encoder of Segment Anything or MedSAM (extra `sam`).",
        source="Kirillov et al., Segment Anything, ICCV 2023",
    ),
    ComponentSpec(
        kind="encoder",
        name="sam3",
        target="mlkit_angioseg.encoders.sam3:Sam3Encoder",
        config="mlkit_angioseg.config:Sam3Config",
        example="mlkit_angioseg.encoders.sam3:example",
        summary="Vision tower of SAM 3, without text and detector (extra `sam3`).",
        source="https://huggingface.co/facebook/sam3",
    ),
    ComponentSpec(
        kind="encoder",
        name="conv-stem",
        target="mlkit_angioseg.encoders.stem:ConvStem",
        config="mlkit_angioseg.config:ConvStemConfig",
        example="mlkit_angioseg.encoders.stem:example",
        summary="Two convolutions at full or half resolution, for thin vessels.",
    ),
    ComponentSpec(
        kind="encoder",
        name="grey",
        target="mlkit_angioseg.encoders.grey:Grey",
        config="mlkit_angioseg.config:GreyConfig",
        example="mlkit_angioseg.encoders.grey:example",
        summary="Grey values as they are, for the baseline frangi.",
    ),
    ComponentSpec(
        kind="head",
        name="conv-mask",
        target="mlkit_angioseg.heads.conv_mask:ConvMask",
        config="mlkit_angioseg.config:ConvMaskConfig",
        example="mlkit_angioseg.heads.conv_mask:example",
        summary="Mask from one coarse map.",
    ),
    ComponentSpec(
        kind="head",
        name="fpn-mask",
        target="mlkit_angioseg.heads.fpn_mask:FpnMask",
        config="mlkit_angioseg.config:FpnMaskConfig",
        example="mlkit_angioseg.heads.fpn_mask:example",
        summary="Mask from all maps and a stem, merged from coarse to fine.",
        source="Lin et al., Feature Pyramid Networks, CVPR 2017",
    ),
    ComponentSpec(
        kind="head",
        name="unet-mask",
        target="mlkit_angioseg.heads.unet_mask:UNetMask",
        config="mlkit_angioseg.config:UNetMaskConfig",
        example="mlkit_angioseg.heads.fpn_mask:example",
        summary="U-Net's decoder over any encoder of several scales.",
        source="Ronneberger et al., U-Net, MICCAI 2015",
    ),
    ComponentSpec(
        kind="head",
        name="frangi",
        target="mlkit_angioseg.baselines.frangi:Frangi",
        config="mlkit_angioseg.config:FrangiConfig",
        example="mlkit_angioseg.baselines.frangi:example",
        summary="Baseline: dark ridges by Frangi's filter, nothing is trained.",
        source="Frangi et al., Multiscale vessel enhancement filtering, MICCAI 1998",
    ),
    ComponentSpec(
        kind="loss",
        name="cldice",
        target="mlkit_angioseg.losses.overlap:ClDiceLoss",
        config="mlkit_angioseg.config:ClDiceLossConfig",
        example="mlkit_angioseg.losses.overlap:example",
        summary="Soft centreline Dice: keeps vessels connected.",
        source="https://arxiv.org/abs/2003.07311",
    ),
    ComponentSpec(
        kind="loss",
        name="focal-tversky",
        target="mlkit_angioseg.losses.overlap:TverskyLoss",
        config="mlkit_angioseg.config:TverskyLossConfig",
        example="mlkit_angioseg.losses.overlap:example",
        summary="Tversky loss: false alarms and misses weighed apart; focal by gamma.",
        source="https://arxiv.org/abs/1706.05721",
    ),
    ComponentSpec(
        kind="metric",
        name="mask-overlap",
        target="mlkit_angioseg.metrics.overlap:MaskOverlap",
        config="mlkit_angioseg.config:MaskOverlapConfig",
        example="mlkit_angioseg.metrics.overlap:example",
        summary="Dice, clDice, HD95, AUC and more per image at original resolution.",
    ),
)


@hookimpl
def mlkit_components() -> Iterator[ComponentSpec]:
    """Yield the components that run files can name."""
    yield from _COMPONENTS


_COMMANDS: tuple[CommandSpec, ...] = (
    CommandSpec(
        group="angioseg",
        name="predict",
        target="mlkit_angioseg.verbs.predict:predict",
        summary="Segment every frame of a cine: masks, overlay video, millimetres.",
    ),
    CommandSpec(
        group="angioseg",
        name="frames",
        target="mlkit_angioseg.verbs.frames:frames",
        summary="Propose the frame of a cine that is filled best with contrast.",
    ),
    CommandSpec(
        group="angioseg",
        name="baselines",
        target="mlkit_angioseg.verbs.baselines:baselines",
        summary="Score Frangi's filter, a U-Net and marking everything on a run's own frames.",
    ),
    CommandSpec(
        group="angioseg",
        name="import",
        target="mlkit_angioseg.verbs.imports:import_frames",
        summary="Make a data set out of DICOM files, DCA1, XCAD, ARCADE or their like.",
    ),
    CommandSpec(
        group="angioseg",
        name="pseudo-label",
        target="mlkit_angioseg.verbs.pseudo_label:pseudo_label",
        summary="Write a run's masks of frames without any, with where they came from.",
    ),
    CommandSpec(
        group="angioseg",
        name="ablate",
        target="mlkit_angioseg.verbs.ablate:ablate",
        summary="Compare a run with variants of its view, angles, loss, encoder and head.",
    ),
    CommandSpec(
        group="angioseg",
        name="views",
        target="mlkit_angioseg.verbs.views:views",
        summary="Draw into a run's report what each view does to its features.",
    ),
)


@hookimpl
def mlkit_commands() -> Iterator[CommandSpec]:
    """Yield the verbs under `mlkit angioseg`."""
    yield from _COMMANDS


@hookimpl
def mlkit_run_started(folder: Path, config: Mapping[str, object]) -> None:
    """Write into the run's folder who made the masks that it trains and is measured on."""
    data = config.get("data")
    if isinstance(data, dict) and str(data.get("name")).rpartition("/")[2] == "angio-frames":
        from mlkit_angioseg.frames.shares import write_shares

        write_shares(folder, data)


@hookimpl
def mlkit_examples() -> Iterator[ExampleSpec]:
    """Yield the run files of `mlkit init`, and the body of `mlkit demo angioseg`."""
    yield ExampleSpec(
        name="angioseg",
        text="mlkit_angioseg.demo:run_file",
        summary="View-conditioned vessel segmentation of coronary angiograms.",
        demo="mlkit_angioseg.demo:write_demo",
    )
    yield ExampleSpec(
        name="angioseg-unet",
        text="mlkit_angioseg.baselines.run_files:unet",
        summary="Baseline: a plain U-Net without the view.",
    )
    yield ExampleSpec(
        name="angioseg-frangi",
        text="mlkit_angioseg.baselines.run_files:frangi",
        summary="Baseline: Frangi's ridge filter, which learns nothing.",
    )
