"""One process: files of the next tasks are read in threads while the worker computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from mlkit_cluster.engines.work import Recipe


class LocalEngine:
    """Runs tasks in this process.

    Args:
        readers: Threads that read ahead; that many tasks, and no more, are held in memory.
    """

    def __init__(self, readers: int = 2) -> None:
        self.readers = max(readers, 1)

    def map(self, recipe: Recipe, tasks: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield (task, result) in the order of the tasks."""
        if not tasks:
            return
        worker = recipe.build()
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="read")
        ahead: deque[tuple[Any, Future[Any]]] = deque()
        rest = iter(tasks)
        try:
            for task in rest:
                ahead.append((task, pool.submit(worker.prepare, task)))
                if len(ahead) > self.readers:
                    yield _finish(worker, ahead)
            while ahead:
                yield _finish(worker, ahead)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finish(worker: Any, ahead: deque[tuple[Any, Future[Any]]]) -> tuple[Any, Any]:  # noqa: ANN401
    task, read = ahead.popleft()
    return task, worker.run(task, read.result())
