"""Head `dual`: what the photos show, the data's own classes, or both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from mlkit_core.errors import BuildError
from mlkit_core.scope import choose_on
from mlkit_core.tensors import to_float32
from mlkit_core.types import Example, FeatureSpec, SampleMeta
from mlkit_refdet.features import EmbedSpec, PairFeatures
from mlkit_refdet.head.branches import PrototypeBranch, StandardBranch
from mlkit_refdet.head.decoding import as_prediction, pair_candidates, standard_candidates
from mlkit_refdet.head.geometry import anchor_points
from mlkit_refdet.head.photos import KnownPhotos
from mlkit_refdet.results import ReferenceLogits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mlkit_core.model import Model
    from mlkit_core.types import Batch, Features, Prediction, Role

Mode = Literal["standard", "prototype", "dual"]


class DualHead(nn.Module):
    """Detects in every cell of the maps: 16 bins for each side of a box, as YOLOv8 does.

    The prototype branch scores image and asked class, pair by pair; the standard branch scores the
    data's own classes on the maps. "dual" trains both on one fusion, and predicts by the photos:
    labels are then indices of the support's classes, in "standard" the data's classes.

    Args:
        inputs: Role to spec.
        num_classes: Of the data, for the standard branch.
        on: Role to read: pairs for the prototype branch, any maps for the standard one.
        mode: "prototype", "standard" or "dual".
        hidden: Width of the prototype branch.
        scale: Of its cosine, at the start.
        bias: Of its logit, at the start.
        relation: Whether a learned score is added to the cosine's.
        background: Number of background prototypes.
        margin: Cosine with one that is free.
        conf: Least score of a prediction; 0 is legal.
        iou: Overlap that suppresses.
        max_det: Predictions of an image.

    Raises:
        BuildError: The role has no maps, or no pairs where the mode needs them.
    """

    output_type = ReferenceLogits

    def __init__(
        self,
        inputs: Mapping[Role, FeatureSpec],
        num_classes: int = 1,
        on: Role | None = None,
        *,
        mode: Mode = "prototype",
        hidden: int = 64,
        scale: float = 10.0,
        bias: float = -4.6,
        relation: bool = True,
        background: int = 0,
        margin: float = 0.2,
        conf: float = 0.05,
        iou: float = 0.45,
        max_det: int = 100,
    ) -> None:
        super().__init__()
        self.on, self.mode = choose_on(inputs, on), mode
        self.read_out = {"conf": conf, "iou": iou, "max_det": max_det}
        spec = inputs[self.on]
        if not spec.channels:
            raise BuildError(f"on: role {self.on!r} has no maps to detect in")
        if mode not in ("standard", "prototype", "dual"):
            raise BuildError(f"mode: standard, prototype or dual, not {mode!r}")
        if mode != "standard" and not issubclass(spec.type, PairFeatures):
            raise BuildError(
                f"mode: {mode} needs pairs of image and class, role {self.on!r} has none",
                hint="put the fusion `cheaf` before this head, or say `mode: standard`",
            )
        if spec.lead:
            raise BuildError(f"on: role {self.on!r} has lead {spec.lead}; images are plain rows")
        self.strides = dict(spec.strides)
        self.standard = (
            StandardBranch(spec.channels, spec.strides, num_classes)
            if mode != "prototype"
            else None
        )
        options = {
            "hidden": hidden,
            "scale": scale,
            "bias": bias,
            "relation": relation,
            "background": background,
            "margin": margin,
        }
        self.pairs = (
            PrototypeBranch(spec.channels, _width(inputs, spec), **options)
            if mode != "standard"
            else None
        )

    def forward(self, scope: Mapping[Role, Features]) -> ReferenceLogits:
        """Return what every cell says."""
        given = scope[self.on]
        points, strides = anchor_points(given.maps, self.strides)
        asked = given.asked if isinstance(given, PairFeatures) else None
        pairs = None
        if self.pairs is not None:
            if not isinstance(given, PairFeatures) or asked is None:
                raise BuildError(f"on: the features of {self.on!r} came without pairs")
            pairs = self.pairs(given, asked)
        standard = self.standard(given.maps) if self.standard is not None else None
        return ReferenceLogits(points, strides, standard, pairs, asked)

    def decode(self, output: ReferenceLogits, meta: Sequence[SampleMeta]) -> list[Prediction]:
        """Return one prediction for each image, in original pixels."""
        candidates = standard_candidates if output.pairs is None else pair_candidates
        return [
            as_prediction(candidates(output, row), item, **self.read_out)
            for row, item in enumerate(meta)
        ]

    def stream(
        self, model: Model, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, list[Prediction]]]:
        """Yield each batch with its predictions; photos are encoded only where they change."""
        photos, states, key = KnownPhotos(model), {}, None
        for batch in batches:
            if batch.meta[0].key != key:  # a state belongs to one item, as core has it
                states, key = {}, batch.meta[0].key
            output = to_float32(model(photos.filled(batch), states=states))
            states = {role: f.state for role, f in output.scope.items() if f.state is not None}
            yield batch, self.decode(output.head, batch.meta)


def _width(inputs: Mapping[Role, FeatureSpec], spec: FeatureSpec) -> int:
    """Return the prototypes' width: the encoders' own, or where they have none the maps'."""
    widths = {s.embed_dim for s in inputs.values() if isinstance(s, EmbedSpec) and s.embed_dim}
    if isinstance(spec, EmbedSpec) and spec.embed_dim:
        return spec.embed_dim
    if len(widths) > 1:
        raise BuildError(f"encoders embed in different widths: {sorted(widths)}")
    return widths.pop() if widths else next(iter(spec.channels.values()))


def example(folder: Path) -> Example:
    """Return the pairs of two images and one class."""
    del folder
    generator = torch.Generator().manual_seed(0)
    strides, asked = {"p3": 8, "p4": 16, "p5": 32}, torch.zeros(2, 1, dtype=torch.long)
    pairs = {
        n: torch.randn(2, 1, 8, 64 // s, 64 // s, generator=generator) for n, s in strides.items()
    }
    protos = {
        n: torch.nn.functional.normalize(torch.randn(1, 8, generator=generator)) for n in strides
    }
    fused = PairFeatures(
        maps={name: values.amax(1) for name, values in pairs.items()},
        pairs=pairs,
        class_protos=protos,
        asked=asked,
    )
    spec = EmbedSpec(
        channels=dict.fromkeys(strides, 8), strides=strides, type=PairFeatures, embed_dim=8
    )
    return Example(
        options={"hidden": 8, "mode": "dual", "background": 2},
        args=({"fused": fused}, [SampleMeta(key=str(row), size=(64, 64)) for row in range(2)]),
        context={"inputs": {"fused": spec}, "num_classes": 3, "on": "fused"},
    )
