"""How work is handed out: a recipe builds a worker where it runs, tasks go in, results come out.

A result depends on its task alone, so every engine gives the same bytes, in the order of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Worker(Protocol):
    """Holds what is loaded once: a model, a table of targets."""

    def prepare(self, task: Any) -> Any:  # noqa: ANN401  # the worker's own
        """Read what the task needs; may run in another thread, ahead of time."""

    def run(self, task: Any, prepared: Any) -> Any:  # noqa: ANN401  # the worker's own
        """Return the task's result."""


class Recipe(Protocol):
    """Plain, picklable values from which a worker is built on any machine."""

    def build(self) -> Worker:  # pyright: ignore[reportReturnType]  # a protocol's body
        """Return a new worker."""


class Engine(Protocol):
    """Runs tasks somewhere."""

    def map(self, recipe: Recipe, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:  # pyright: ignore[reportReturnType]  # a protocol's body
        """Yield (task, result) in the order of the tasks."""
