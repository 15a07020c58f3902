"""Parts of a job array; engines that give results in the order of tasks."""

import pytest

from mlkit_cluster.distances.shard import Shard, parse_shard
from mlkit_cluster.engines.local import LocalEngine
from mlkit_core.errors import InputError


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_parts_of_a_job_array_hold_every_task_once(count):
    jobs = [Shard(number, count) for number in range(1, count + 1)]
    parts = [[task for task in range(10) if job.takes(task)] for job in jobs]
    assert sorted(task for part in parts for task in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="expected k/n"):
        parse_shard(text)


def test_no_shard_is_none():
    assert parse_shard(None) is None
    assert parse_shard("2/3") == Shard(2, 3)


class Doubling:
    """A worker that notes what is read before it is run."""

    def __init__(self):
        self.read, self.done = [], []

    def build(self):
        return self

    def prepare(self, task):
        self.read.append(task)
        return task

    def run(self, task, prepared):
        if task < 0:
            raise ValueError(f"task {task}")
        self.done.append(task)
        return prepared * 2


@pytest.mark.parametrize("readers", [1, 3])
def test_results_come_in_the_order_of_tasks(readers):
    found = list(LocalEngine(readers).map(Doubling(), range(9)))
    assert found == [(task, 2 * task) for task in range(9)]


def test_no_more_than_the_readers_tasks_are_read_ahead():
    worker = Doubling()
    results = LocalEngine(2).map(worker, range(100))
    next(results)
    assert worker.done == [0]
    assert len(worker.read) <= 4
    results.close()


def test_a_task_that_fails_stops_the_rest_and_keeps_what_came_before():
    results = LocalEngine(1).map(Doubling(), [1, 2, -1, 3])
    assert [next(results), next(results)] == [(1, 2), (2, 4)]
    with pytest.raises(ValueError, match="task -1"):
        next(results)
