"""mlkit-core's own plugin: the components that more than one domain needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_core.components import COMPONENTS
from mlkit_core.plugins.hooks import hookimpl
from mlkit_core.plugins.specs import ComponentSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

MLKIT_API = 1


@hookimpl
def mlkit_components() -> Iterator[ComponentSpec]:
    """Yield the general components and the supervised trainer."""
    yield from COMPONENTS
    yield ComponentSpec(
        kind="trainer",
        name="supervised",
        target="mlkit_core.training.supervised:SupervisedTrainer",
        config="mlkit_core.training.config:SupervisedConfig",
        summary="The one training loop: stages, checkpoints, resume.",
    )
    yield ComponentSpec(
        kind="trainer",
        name="none",
        target="mlkit_core.training.untrained:UntrainedTrainer",
        config="mlkit_core.training.config:UntrainedConfig",
        summary="Trains nothing: the checkpoint of a model that is used as it is built.",
        trains=False,
    )
