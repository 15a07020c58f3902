"""Miniatures of what the domains need, as a plugin: small, fast, and odd on purpose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mlkit_core import ComponentSpec, Config, hookimpl
from mlkit_core.types import (
    Batch,
    Draw,
    Features,
    FeatureSpec,
    MaskLogits,
    MaskPrediction,
    MaskTarget,
    Ratio,
    RoleSpec,
    SampleMeta,
    Target,
)

MLKIT_API = 1


# ---------------------------------------------------------------- data: bright discs to segment


@dataclass(frozen=True)
class TripletTarget(Target):
    """Rows come as anchor, positive, negative."""

    triplets: int


@dataclass(frozen=True)
class MixedDraw(Draw):
    kind: str = "mask"


class Blobs:
    """Images of noise with one bright disc; a second input names the disc's brightness."""

    def __init__(self, count=16, size=16, mixed=False, augment=False, shots=0):
        self.count, self.size, self.mixed, self.shots = count, size, mixed, shots
        self.roles = {"image": RoleSpec(shape=(3, None, None)), "hint": RoleSpec(shape=(1,))}
        if shots:
            self.roles["support"] = RoleSpec(shape=(3, None, None), lead=("class", "shot"))
        self.kinds = {"mask": (MaskTarget, "head")}
        if mixed:
            self.kinds["triplet"] = (TripletTarget, "features")
        self.classes = ("disc",)
        self.augments = frozenset({"image"}) if augment else frozenset()
        self.needs = {}
        self.decoded = 0

    def bind(self, needs):
        self.needs = dict(needs)

    def units(self, split, seed):
        start = {"train": 0, "val": 1000, "test": 2000, "cache": 0}[split]
        order = list(range(self.count))
        if split == "train":
            order = np.random.default_rng(seed).permutation(self.count).tolist()
        if split == "cache":
            order += [1000 + i for i in range(self.count)]
        seeds = seed if split == "train" else 0
        units = []
        for position, i in enumerate(order):
            kind = "triplet" if self.mixed and split == "train" and position % 3 == 2 else "mask"
            length = 3 if kind == "triplet" else 1
            units.append([MixedDraw(start + i + k, seeds * 7919 + i, kind) for k in range(length)])
        return units

    def load(self, draw):
        rng = np.random.default_rng(draw.index)
        y, x = rng.uniform(4, self.size - 4, 2)
        level = rng.uniform(0.5, 1.0)
        rows, columns = np.mgrid[: self.size, : self.size]
        mask = ((rows - y) ** 2 + (columns - x) ** 2 < 9).astype(np.float32)
        image = rng.normal(0.2, 0.05, (3, self.size, self.size)) + level * mask
        if self.augments and draw.seed:
            image = image + np.random.default_rng(draw.seed).normal(0, 0.05, image.shape)
        self.decoded += not (self.needs.get("image") and self.needs["image"].skip)
        shots = rng.normal(0.5, 0.1, (2, max(self.shots, 1), 3, self.size, self.size))
        return draw, image.astype(np.float32), mask, np.float32([level]), shots.astype(np.float32)

    def collate(self, units):
        batches = []
        for kind in self.kinds:
            samples = [s for unit in units for s in unit if s[0].kind == kind]
            if samples:
                batches.append(self._batch(kind, samples))
        return batches

    def _batch(self, kind, samples):
        need = self.needs.get("image")
        inputs = {"hint": torch.from_numpy(np.stack([s[3] for s in samples]))}
        if not (need and need.skip):
            inputs["image"] = torch.from_numpy(np.stack([s[1] for s in samples]))
        if self.shots:
            inputs["support"] = torch.from_numpy(samples[0][4])  # [N, K, 3, H, W]
        masks = torch.from_numpy(np.stack([s[2] for s in samples]))
        target = MaskTarget(masks) if kind == "mask" else TripletTarget(len(samples) // 3)
        meta = tuple(
            SampleMeta(key=f"blob-{s[0].index}", size=(self.size, self.size)) for s in samples
        )
        keys = {"image": tuple(m.key for m in meta)} if need and need.keys else {}
        upto = self.kinds[kind][1]
        return Batch(inputs=inputs, meta=meta, target=target, kind=kind, upto=upto, keys=keys)

    def open(self, inputs):
        for i in range(2):
            (batch,) = self.collate([[self.load(MixedDraw(3000 + i, 0))]])
            yield replace(batch, target=None)


class BlobsConfig(Config):
    count: int = 16
    size: int = 16
    mixed: bool = False
    augment: bool = False
    shots: int = 0


# ------------------------------------------------------------------------ encoders, fusions, heads


class TinyConv(nn.Module):
    def __init__(self, width=4, dropout=0.0, norm=False):
        super().__init__()
        self.spec = FeatureSpec(channels={"p1": width}, strides={"p1": 2}, vector_dim=width)
        self.input_shape = (3, None, None)
        self.size_multiple = 2
        self.conv = nn.Conv2d(3, width, 3, 2, 1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        y = self.dropout(functional.relu(self.norm(self.conv(x))))
        return Features(maps={"p1": y}, vector=y.mean((2, 3)))


class TinyConvConfig(Config):
    width: int = 4
    dropout: float = 0.0
    norm: bool = False


class TinyTrunk(nn.Module):
    """A trunk that may be cached, and a projection that trains behind it."""

    trunk_options = ("width",)

    def __init__(self, width=4, dim=4):
        super().__init__()
        self.trunk = TinyConv(width)
        self.project = nn.Conv2d(width, dim, 1)
        self.spec = FeatureSpec(channels={"p1": dim}, strides={"p1": 2}, vector_dim=dim)
        self.input_shape, self.size_multiple = (3, None, None), 2

    def forward(self, x):
        return self.finish(self.trunk(x))

    def finish(self, features):
        y = self.project(features.maps["p1"])
        return Features(maps={"p1": y}, vector=y.mean((2, 3)))


class TinyTrunkConfig(Config):
    width: int = 4
    dim: int = 4


class TinyLinear(nn.Module):
    lora_targets = ("proj",)

    def __init__(self, width=4):
        super().__init__()
        self.spec = FeatureSpec(channels={"p1": width}, strides={"p1": 2}, vector_dim=width)
        self.input_shape = (3, None, None)
        self.size_multiple = 2
        self.proj = nn.Linear(12, width)

    def forward(self, x):
        patches = functional.pixel_unshuffle(x, 2).movedim(1, -1)  # [R, h, w, 12]
        y = torch.tanh(self.proj(patches)).movedim(-1, 1)
        return Features(maps={"p1": y}, vector=y.mean((2, 3)))


class TinyWidth(Config):
    width: int = 4


class Hint(nn.Module):
    def __init__(self, dim=4):
        super().__init__()
        self.spec = FeatureSpec(vector_dim=dim)
        self.input_shape = (1,)
        self.linear = nn.Linear(1, dim)

    def forward(self, x):
        return Features(vector=self.linear(x))


class HintConfig(Config):
    dim: int = 4


class TinyMask(nn.Module):
    output_type = MaskLogits

    def __init__(self, inputs, num_classes, on=None):
        super().__init__()
        self.on = on or next(iter(inputs))
        (channels,) = inputs[self.on].channels.values()
        self.cls = nn.Conv2d(channels, num_classes, 1)

    def forward(self, scope):
        (features,) = scope[self.on].maps.values()
        return MaskLogits(
            functional.interpolate(self.cls(features), scale_factor=2.0, mode="bilinear")
        )

    def decode(self, output, meta):
        return [MaskPrediction(p[0]) for p in output.logits.sigmoid()]


class HeadConfig(Config):
    on: str | None = None


@dataclass(frozen=True, kw_only=True)
class Remembered(Features):
    total: torch.Tensor | None = None


class Memory(nn.Module):
    """Adds what earlier windows held; in training it peeks at the target, in evaluation never."""

    uses_state = uses_target = uses_step = True
    target_type = MaskTarget
    seen: ClassVar[list] = []

    def __init__(self, inputs, on=None):
        super().__init__()
        self.on = on or next(iter(inputs))
        self.spec = replace(inputs[self.on], type=Remembered)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, scope, *, state, target, step):
        Memory.seen.append((self.training, state is not None, target is not None, step is not None))
        ((name, features),) = scope[self.on].maps.items()
        total = features.mean() + (state if state is not None else 0.0)
        return Remembered(
            maps={name: features * (1 + self.gain)},
            vector=scope[self.on].vector,
            total=total.reshape(1),
            state=total.detach(),
        )


class MemoryConfig(Config):
    on: str | None = None


# ---------------------------------------------------------------------------- losses and metrics


class Counted(nn.Module):
    """Squared error per foreground pixel: normalised by a count, not by rows."""

    output_type, target_type = MaskLogits, MaskTarget

    def forward(self, output, batch, step):
        masks = batch.target.masks
        error = ((output.head.logits[:, 0].sigmoid() - masks) ** 2 * masks).sum()
        return {"error": Ratio(error, masks.sum())}


class Projected(nn.Module):
    """A triplet loss on encoder vectors with a projection and a running mean of its own."""

    output_type, target_type = None, TripletTarget

    def __init__(self, inputs, role="image"):
        super().__init__()
        self.role = role
        self.project = nn.Linear(inputs[role].vector_dim, 3)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, output, batch, step):
        vectors = self.project(output.scope[self.role].vector).reshape(-1, 3, 3)
        a, p, n = vectors.unbind(1)
        loss = functional.relu((a - p).square().sum(1) - (a - n).square().sum(1) + 1)
        if self.training:
            self.mean.lerp_(loss.detach().mean(), 0.1)
        return {"triplet": Ratio(loss.sum(), float(len(loss)))}


class ProjectedConfig(Config):
    role: str = "image"


class Broken(nn.Module):
    """Not a number from a given step on."""

    output_type, target_type = MaskLogits, MaskTarget

    def __init__(self, at=3):
        super().__init__()
        self.at = at

    def forward(self, output, batch, step):
        factor = float("nan") if step.iteration >= self.at else 1.0
        return {"value": output.head.logits.mean() * factor}


class BrokenConfig(Config):
    at: int = 3


@dataclass
class DiscDice:
    scores: dict = field(default_factory=dict)

    def update(self, predictions, batch):
        for row, (prediction, meta) in enumerate(zip(predictions, batch.meta, strict=True)):
            found, true = prediction.probabilities > 0.5, batch.target.masks[row] > 0
            overlap = 2 * (found & true).sum() / (found.sum() + true.sum()).clamp_min(1)
            self.scores[meta.key] = float(overlap)

    def state(self):
        return self.scores

    def merge(self, state):
        self.scores |= state

    def compute(self):
        return {"dice": sum(self.scores.values()) / len(self.scores), "count": len(self.scores)}


def _spec(kind, name, target, config=None):
    return ComponentSpec(
        kind=kind,
        name=name,
        target=f"mlkit_miniatures:{target}",
        config=f"mlkit_miniatures:{config}" if config else None,
        summary="A miniature.",
    )


@hookimpl
def mlkit_components():
    yield _spec("data", "blobs", "Blobs", "BlobsConfig")
    yield _spec("encoder", "tiny-conv", "TinyConv", "TinyConvConfig")
    yield _spec("encoder", "tiny-trunk", "TinyTrunk", "TinyTrunkConfig")
    yield _spec("encoder", "tiny-linear", "TinyLinear", "TinyWidth")
    yield _spec("encoder", "hint", "Hint", "HintConfig")
    yield _spec("fusion", "memory", "Memory", "MemoryConfig")
    yield _spec("head", "tiny-mask", "TinyMask", "HeadConfig")
    yield _spec("loss", "counted", "Counted")
    yield _spec("loss", "projected", "Projected", "ProjectedConfig")
    yield _spec("loss", "broken", "Broken", "BrokenConfig")
    yield _spec("metric", "disc-dice", "DiscDice")
