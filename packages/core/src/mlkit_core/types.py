"""Values that cross the borders between parts. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from mlkit_core.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor

Role = str
Made = TypeVar("Made")


def _check_ranks(where: str, ranks: Mapping[str, tuple[Tensor, int]]) -> None:
    for name, (tensor, rank) in ranks.items():
        if tensor.ndim != rank:
            got = f"{name} {tuple(tensor.shape)}"
            raise BuildError(f"{where}: expected {rank} dimensions, got {got}")


def tracing() -> bool:
    """Return whether a model is being traced or compiled: then shapes are not checked."""
    import torch

    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a role holds: every tensor has rows first. Domains subclass it and add fields.

    Args:
        maps: Level to `[R, C, H / stride, W / stride]`, fine to coarse.
        vector: `[R, D]`.
        tokens: `[R, L, D]`.
        valid: `[*lead]` bool, which folded rows are real; its shape is the lead: (N, K), (B, T).
        mask: `[R, H, W]`, foreground of the input.
        state: What the next window of the same item needs.
    """

    maps: Mapping[str, Tensor] = field(default_factory=dict)
    vector: Tensor | None = None
    tokens: Tensor | None = None
    valid: Tensor | None = None
    mask: Tensor | None = None
    state: object | None = None

    def __post_init__(self) -> None:
        ranks = {level: (values, 4) for level, values in self.maps.items()}
        single = (("vector", self.vector, 2), ("tokens", self.tokens, 3), ("mask", self.mask, 3))
        ranks |= {name: (tensor, rank) for name, tensor, rank in single if tensor is not None}
        if not ranks or tracing():
            return
        _check_ranks("features", ranks)
        rows = {name: tensor.shape[0] for name, (tensor, _) in ranks.items()}
        rows |= {} if self.valid is None else {"valid": self.valid.numel()}
        if len(set(rows.values())) > 1:
            got = ", ".join(f"{name} {count}" for name, count in rows.items())
            raise BuildError(f"features: rows must agree, got {got}")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """What a role will hold: published by encoders and fusions, never guessed.

    Args:
        channels: Map level to channels, fine to coarse.
        strides: Map level to stride, in input pixels per cell (3.5 is legal); the same levels.
        vector_dim: Width of the vector, None where there is none.
        token_dim: Width of the tokens, None where there are none.
        lead: Names of the folded leading dimensions, as ("class", "shot"); set by build from data.
        type: The class of the features; fields that it adds are the extras that others may ask for.
    """

    channels: Mapping[str, int] = field(default_factory=dict)
    strides: Mapping[str, float] = field(default_factory=dict)
    vector_dim: int | None = None
    token_dim: int | None = None
    lead: tuple[str, ...] = ()
    type: type[Features] = Features

    def __post_init__(self) -> None:
        if list(self.channels) != list(self.strides):
            raise BuildError(
                f"channels {list(self.channels)} and strides {list(self.strides)} must name the "
                "same levels in the same order"
            )
        if list(self.strides.values()) != sorted(self.strides.values()):
            raise BuildError(f"levels must go from fine to coarse, got {dict(self.strides)}")

    @property
    def extras(self) -> frozenset[str]:
        """Names of the fields that the features' class adds to `Features`."""
        return frozenset(f.name for f in fields(self.type)) - {f.name for f in fields(Features)}


@dataclass(frozen=True, kw_only=True)
class RoleSpec:
    """What the data supplies for an input.

    Args:
        shape: Of one row, None for a free size: `(3, None, None)` images, `(2,)` two angles.
        lead: Names of the dimensions before the row, beyond the batch: ("class", "shot"). An empty
            lead means plain rows, `[B, *shape]`; otherwise inputs are `[*lead, *shape]`.
        value_range: Smallest and largest value, for `describe`.
        unit: What a value means: "RGB 0..1", "degrees".
    """

    shape: tuple[int | None, ...]
    lead: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the model asks of one input, told to the data by `bind`.

    Args:
        size_multiple: Height and width must be multiples of this.
        sizes: Legal sizes of a square image, in pixels; None for any multiple.
        pad_rgb: Value to pad with, RGB 0..1: zero after the encoder's normalisation.
        keys: Whether the batch must carry `keys` for this input (a cache is written or read).
        skip: Whether pixels may be left out, because every encoder that reads them is cached.
    """

    size_multiple: int = 1
    sizes: tuple[int, ...] | None = None
    pad_rgb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    keys: bool = False
    skip: bool = False


@dataclass(frozen=True)
class Draw:
    """One item to load: where it is, and all the randomness that it has."""

    index: int
    seed: int


@dataclass(frozen=True)
class Ratio:
    """A loss part normalised by a count: core adds sums and counts over ranks, then divides.

    Args:
        sum: Scalar with gradient.
        count: Scalar without; 0 where this batch has nothing to count.
    """

    sum: Tensor
    count: Tensor | float


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """How an image was resized and padded: `input = original * scale + offset`.

    Args:
        scale: Input pixels per original pixel.
        size: Height and width of the resized content within the input, in pixels.
        offset: Padding above it and to its left, in pixels.
    """

    scale: float
    size: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the input that show the image."""
        (top, left), (height, width) = self.offset, self.size
        return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True, kw_only=True)
class SampleMeta:
    """Where a row came from.

    Args:
        key: Stable name of the item; windows of one item share it.
        size: Height and width of the original, in pixels; None where there is no image.
        letterbox: How the original became the input.
        group: What must not be split between train and validation: the patient, the scene.
        path: The file to show beside a prediction; never sent to HTML unescaped.
        extra: Further plain values, for reports: angles, spacing.
    """

    key: str
    size: tuple[int, int] | None = None
    letterbox: Letterbox | None = None
    group: str = ""
    path: str = ""
    extra: Mapping[str, str | float | int | bool | None] = field(default_factory=dict)


class Target:
    """What a batch is compared with. Subclasses are frozen dataclasses of tensors, rows first."""


class HeadOutput:
    """What a head gives. Subclasses are frozen dataclasses of tensors, rows first."""


class Prediction:
    """One item's result in original pixels. Subclasses are frozen dataclasses.

    Where an item has several predictions that are seen together, as the tracks of a video, the
    class may say how, by two static methods: `draw_item(predictions, batch)` gives the picture of
    reports, `[H, W, 3]` uint8 RGB or None; `write_item(predictions, batch, out, stem, classes)`
    writes what shows the item beside `predictions.json` and returns the files.
    """


@dataclass(frozen=True)
class MaskTarget(Target):
    """Binary or multi-class masks.

    Args:
        masks: `[B, H, W]`, 0 or 1 (or the class index), at the input's size.
        valid: `[B, H, W]` bool, False where padding or a collimator hides the image; None: all.
        weight: `[B]`, each image's worth in the loss; None: all one. Losses divide by the number of
            images, so zeros alone give a loss of zero and teach nothing.
    """

    masks: Tensor
    valid: Tensor | None = None
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        _check_ranks("mask target", {"masks": (self.masks, 3)})

    @classmethod
    def example(cls, batch: int, size: int, classes: int) -> MaskTarget:
        """Return squares, one for each image, of class 1 (or of every class in turn)."""
        import torch

        labels = 1 + torch.arange(batch) % max(classes - 1, 1)
        masks = torch.zeros(batch, size, size)
        masks[:, size // 4 : size // 2, size // 4 : size // 2] = labels[:, None, None]
        return cls(masks)


@dataclass(frozen=True)
class MaskLogits(HeadOutput):
    """Logits `[B, C, H, W]` before the sigmoid (C = 1) or softmax (C > 1), at the input's size."""

    logits: Tensor

    def __post_init__(self) -> None:
        _check_ranks("mask logits", {"logits": (self.logits, 4)})


@dataclass(frozen=True)
class MaskPrediction(Prediction):
    """Probabilities `[H, W]` (one class) or `[C, H, W]` of one image, in original pixels."""

    probabilities: Tensor


@dataclass(frozen=True)
class BoxTarget(Target):
    """Boxes of a batch, padded: the same length for every image.

    Args:
        boxes_xyxy: `[B, M, 4]`, input pixels.
        labels: `[B, M]`, class index; -1 where the row is padding.
    """

    boxes_xyxy: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check_ranks("box target", {"boxes_xyxy": (self.boxes_xyxy, 3), "labels": (self.labels, 2)})

    @classmethod
    def example(cls, batch: int, size: int, classes: int) -> BoxTarget:
        """Return one box in the middle of each image, and a row of padding."""
        import torch

        boxes = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0] * 4]) * size / 4
        labels = torch.tensor([[row % classes, -1] for row in range(batch)])
        return cls(boxes.repeat(batch, 1, 1), labels)


@dataclass(frozen=True)
class BoxLogits(HeadOutput):
    """Dense detections.

    Args:
        boxes_xyxy: `[B, A, 4]`, input pixels.
        logits: `[B, A, C]`, before the sigmoid.
    """

    boxes_xyxy: Tensor
    logits: Tensor

    def __post_init__(self) -> None:
        _check_ranks("box logits", {"boxes_xyxy": (self.boxes_xyxy, 3), "logits": (self.logits, 3)})


@dataclass(frozen=True)
class BoxPrediction(Prediction):
    """Boxes of one image: `boxes_xyxy [M, 4]` in original pixels, `scores [M]`, `labels [M]`."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrackTarget(Target):
    """Instances over the frames of each clip.

    Args:
        masks: `[B, M, T, H, W]` bool, input pixels.
        labels: `[B, M]`, class index; -1 where the row is padding.
    """

    masks: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check_ranks("track target", {"masks": (self.masks, 5), "labels": (self.labels, 2)})

    @classmethod
    def example(cls, batch: int, size: int, classes: int) -> TrackTarget:
        """Return one square over two frames for each clip, and a row of padding."""
        import torch

        masks = torch.zeros(batch, 2, 2, size, size, dtype=torch.bool)
        masks[:, 0, :, size // 4 : size // 2, size // 4 : size // 2] = True
        labels = torch.tensor([[row % classes, -1] for row in range(batch)])
        return cls(masks, labels)


@dataclass(frozen=True)
class TrackLogits(HeadOutput):
    """Instance queries over frames.

    Args:
        logits: `[B, Q, C + 1]`, the last class is "no object".
        masks: `[B, Q, T, h, w]`, before the sigmoid.
    """

    logits: Tensor
    masks: Tensor

    def __post_init__(self) -> None:
        _check_ranks("track logits", {"logits": (self.logits, 3), "masks": (self.masks, 5)})


@dataclass(frozen=True)
class TrackPrediction(Prediction):
    """One track of a video: `label`, `score`, and one COCO RLE (or None) for each frame."""

    label: int
    score: float
    rles: tuple[Mapping[str, Any] | None, ...]


@dataclass
class Batch:
    """What enters the model in one forward pass.

    Args:
        inputs: Role to rows `[B, …]` or `[*lead, …]`, as the data's `RoleSpec` says.
        features: Roles already known (from a cache or a reference set): their encoders are skipped.
        trunks: Roles whose frozen trunk is known (from a cache): their encoders only finish it.
        target: What the losses compare with; None in prediction.
        meta: One for each row of the data's first role.
        kind: Which of the data's kinds this is.
        upto: How far the model runs: "features", "fused" or "head".
        valid: Role to `[*lead]` bool, for inputs with a lead.
        masks: Role to `[*lead, H, W]`, foreground of the input.
        keys: Role to one cache key for each folded row.
    """

    inputs: Mapping[Role, Tensor]
    meta: tuple[SampleMeta, ...]
    target: Target | None = None
    features: Mapping[Role, Features] = field(default_factory=dict)
    trunks: Mapping[Role, Features] = field(default_factory=dict)
    kind: str = "default"
    upto: str = "head"
    valid: Mapping[Role, Tensor] = field(default_factory=dict)
    masks: Mapping[Role, Tensor] = field(default_factory=dict)
    keys: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One loaded item, before collation. Domains may subclass or use any type of their own."""

    inputs: Mapping[Role, Tensor]
    meta: SampleMeta
    target: Target | None = None
    keys: Mapping[Role, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelOutput:
    """What the losses see: the head's output (None below `upto="head"`) and every role."""

    head: HeadOutput | None
    scope: Mapping[Role, Features]


@dataclass
class Step:
    """Where training stands, and what the losses of one batch share.

    Args:
        iteration: Optimiser steps of this stage so far.
        iterations: Optimiser steps of this stage in all.
        generator: The micro-step's own randomness, on the CPU.
    """

    iteration: int
    iterations: int
    generator: torch.Generator
    _made: dict[object, Any] = field(default_factory=dict)

    def once(self, key: object, make: Callable[[], Made]) -> Made:
        """Return `make()`, computed once for each key and batch: one assignment for all losses."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def for_batch(self) -> Step:
        """Return the same step with nothing computed yet, for the next batch."""
        return Step(self.iteration, self.iterations, self.generator)


@dataclass(frozen=True)
class Example:
    """Tiny options of a component and a legal input, for the contract kit and the matrix.

    Args:
        options: Keyword arguments of the component, without `inputs` and `num_classes`.
        args: What it is called with.
        context: `inputs`, `num_classes` and the like, where the component asks for them.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageRecord:
    """What an extractor gives for one image: its key, and named values or arrays."""

    key: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class RunResult:
    """How a run ended: the folder, "finished" or "interrupted", steps done, the last metrics."""

    folder: str
    status: str
    steps: int
    metrics: Mapping[str, float]
