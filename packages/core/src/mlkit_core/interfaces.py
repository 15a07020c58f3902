"""The interfaces: protocols, no base class to inherit. In practice parts are `nn.Module`s."""

# A docstring is body enough.
# pyright: reportReturnType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from mlkit_core import types
    from mlkit_core.run import Run

# A component may also declare, as class attributes, `uses_target` (with a `target_type`),
# `uses_state`, `uses_step` or `uses_mask`; it is then called with that keyword.


@runtime_checkable
class Encoder(Protocol):
    """Turns one input into features; normalisation lives inside (as buffers).

    Attributes: `spec`; `input_shape`, one row as in `RoleSpec.shape`; for images also
    `size_multiple` (int) or `sizes` (legal square sizes in pixels) and `pad_rgb`; where LoRA makes
    sense, `lora_targets`.

    An encoder whose trunk may be frozen and cached while the rest trains has a module `trunk`,
    which turns rows into features and publishes `spec`, and a method `finish` from those features
    to its own; calling the encoder is both. `trunk_options` names the trunk's options.
    """

    spec: types.FeatureSpec
    input_shape: tuple[int | None, ...]

    def __call__(self, x: Tensor) -> types.Features:
        """Return features of folded rows `[R, *input_shape]`."""


@runtime_checkable
class Fusion(Protocol):
    """Reads the scope and gives the features of one new role."""

    spec: types.FeatureSpec

    def __call__(self, scope: Mapping[types.Role, types.Features]) -> types.Features:
        """Return the new role's features."""


@runtime_checkable
class Head(Protocol):
    """Reads the scope and gives what losses and predictions need.

    Attribute: `output_type`, the class of its output.
    """

    output_type: type[types.HeadOutput]

    def __call__(self, scope: Mapping[types.Role, types.Features]) -> types.HeadOutput:
        """Return the typed output."""

    def decode(self, output: Any, meta: Sequence[types.SampleMeta]) -> list[types.Prediction]:  # noqa: ANN401  # its own output type
        """Return one prediction for each row of `meta`, in original pixels."""

    # A head that needs the whole of a long item also defines
    # stream(model, batches) -> Iterator[tuple[Batch, list[Prediction]]], once per item.


@runtime_checkable
class Loss(Protocol):
    """Compares output and target. `output_type` None: it reads roles, not the head."""

    output_type: type[types.HeadOutput] | None
    target_type: type[types.Target]

    def __call__(
        self, output: types.ModelOutput, batch: types.Batch, step: types.Step
    ) -> Mapping[str, Tensor | types.Ratio]:
        """Return named parts; a plain scalar is the mean over the batch's rows."""


@runtime_checkable
class Data(Protocol):
    """Supplies batches. Its constructor touches no files.

    Attributes: `roles`, the first of which target and meta describe; `kinds`, kind to
    (target type, upto); `classes`, names; `augments`, the inputs that training alters at random.
    """

    roles: Mapping[types.Role, types.RoleSpec]
    kinds: Mapping[str, tuple[type[types.Target], str]]
    classes: tuple[str, ...]
    augments: frozenset[types.Role]

    def bind(self, needs: Mapping[types.Role, types.Needs]) -> None:
        """Take the model's sizes, padding, and the inputs that need no pixels."""

    def units(self, split: str, seed: int) -> Sequence[Sequence[types.Draw]]:
        """Return what must stay together, a pure function of split and seed.

        "train" is shuffled by the seed; "cache" shows every cache key once.
        """

    def load(self, draw: types.Draw) -> Any:  # noqa: ANN401  # a sample type of the data's own
        """Return one sample; its only randomness is `draw.seed`."""

    def collate(self, units: Sequence[Sequence[Any]]) -> list[types.Batch]:
        """Return one batch for each kind that the units hold."""

    def open(self, inputs: Mapping[types.Role, Path]) -> Iterator[types.Batch]:
        """Yield batches without target of the user's own files, one item (or window) each."""


@runtime_checkable
class Metric(Protocol):
    """Gathers over samples; states of several ranks merge into a fresh one."""

    def update(self, predictions: Sequence[types.Prediction], batch: types.Batch) -> None:
        """Add one item's predictions."""

    def state(self) -> Any:  # noqa: ANN401  # plain values of its own
        """Return what `merge` takes, plain and picklable."""

    def merge(self, state: Any) -> None:  # noqa: ANN401  # plain values of its own
        """Add another rank's state."""

    def compute(self) -> Mapping[str, float]:
        """Return named values over all samples."""


@runtime_checkable
class Trainer(Protocol):
    """Runs a whole run file."""

    def fit(self, run: Run) -> types.RunResult:
        """Train all stages, or go on where the run folder stands."""

    def evaluate(self, run: Run, checkpoint: Path) -> Mapping[str, float]:
        """Return the metrics of a checkpoint."""


@runtime_checkable
class Extractor(Protocol):
    """Reads out a model of its own; labels arrive as `batch.target`."""

    def extract(self, batches: Iterable[types.Batch]) -> Iterator[types.ImageRecord]:
        """Yield one record for each image."""
