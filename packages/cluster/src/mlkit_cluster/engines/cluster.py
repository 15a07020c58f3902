"""A Ray cluster: each actor holds a worker; one that dies is restarted and its task repeated."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from mlkit_core.errors import InputError, MlkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlkit_cluster.engines.work import Recipe

_log = logging.getLogger("mlkit.cluster")
_RESTARTS = 8


class RayEngine:
    """Runs tasks on actors of a Ray cluster; every node must see the images under one path.

    Args:
        workers: Actors.
        address: Of the cluster; None: the one this process belongs to, else a local one.
        gpus: GPUs for each actor.

    Raises:
        InputError: Ray is not installed.
    """

    def __init__(self, workers: int = 2, address: str | None = None, gpus: float = 0.0) -> None:
        # Under `uv run` Ray would build an environment for its workers, instead of using this one.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # read when ray is imported
        try:
            import ray
        except ModuleNotFoundError as err:
            raise InputError(
                "engine ray: ray is not installed", hint="pip install 'mlkit-cluster[ray]'"
            ) from err
        self._ray, self.workers, self.gpus = ray, max(workers, 1), gpus
        if not ray.is_initialized():
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                **({} if address else {"num_cpus": self.workers}),
            )

    def map(self, recipe: Recipe, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) in the order of the tasks; at most two wait for each actor.

        Raises:
            MlkitError: A task failed, or its workers died again and again.
        """
        if not tasks:
            return
        ray = self._ray
        shared = ray.put(recipe)
        actor: Any = ray.remote(
            num_cpus=1, num_gpus=self.gpus, max_restarts=_RESTARTS, max_task_retries=_RESTARTS
        )(_Actor)
        actors = [actor.remote(shared) for _ in range(min(self.workers, len(tasks)))]
        window, running = 2 * len(actors), {}
        try:
            for place in range(len(tasks)):
                for start in range(len(running) + place, min(place + window, len(tasks))):
                    running[start] = actors[start % len(actors)].run.remote(tasks[start])
                yield tasks[place], self._result(running.pop(place))
        finally:
            for one in actors:
                ray.kill(one)

    def _result(self, reference: Any) -> Any:  # noqa: ANN401  # Ray's
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as err:
            cause = err.cause if isinstance(err.cause, MlkitError) else None
            raise (cause or MlkitError(f"ray: a task failed: {err.cause!r}")) from err
        except self._ray.exceptions.RayError as err:
            raise MlkitError(
                f"ray: workers died again and again: {str(err).splitlines()[0]}",
                hint="what was computed is kept: the same command goes on from there",
            ) from err


class _Actor:
    """Lives in a process of the cluster, and builds its worker when it starts or restarts."""

    def __init__(self, recipe: Recipe) -> None:
        self.worker = recipe.build()

    def run(self, task: Any) -> Any:  # noqa: ANN401  # the worker's own
        return self.worker.run(task, self.worker.prepare(task))
