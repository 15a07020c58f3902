"""Where work is done: this process, or a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlkit_cluster.engines.local import LocalEngine

if TYPE_CHECKING:
    from mlkit_cluster.engines.work import Engine

__all__ = ["LocalEngine", "make_engine"]


def make_engine(name: str, workers: int, address: str | None = None) -> Engine:
    """Return the engine of a name.

    Args:
        name: "local" or "ray".
        workers: Threads that read ahead, or actors.
        address: Of a Ray cluster.
    """
    if name == "local":
        return LocalEngine(workers)
    from mlkit_cluster.engines.cluster import RayEngine

    return RayEngine(workers, address)
