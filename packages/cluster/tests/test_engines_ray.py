"""The Ray engine on a local cluster of two workers."""

import os
import signal
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlkit_cluster.engines.cluster import RayEngine
from mlkit_core.errors import InputError, MlkitError

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="mlkit-cluster[ray] is not installed"
)


@pytest.fixture(scope="module")
def engine():
    made = RayEngine(workers=2)  # it imports ray, after it has said which environment to use
    import ray

    yield made
    ray.shutdown()


@dataclass(frozen=True)
class Squaring:
    """Squares; notes its process, and fails or waits where a task asks for it."""

    notes: Path

    def build(self):
        return self

    def prepare(self, task):
        (self.notes / f"{os.getpid()}").touch()
        if task == "slow":
            while not (self.notes / "go on").exists():
                time.sleep(0.05)
            return 7
        return task

    def run(self, task, prepared):
        if task == "bad":
            raise InputError("task: bad", hint="give another")
        return prepared**2


def test_results_come_in_the_order_of_tasks_from_two_processes(engine, tmp_path):
    found = list(engine.map(Squaring(tmp_path), list(range(20))))
    assert found == [(task, task**2) for task in range(20)]
    assert len(list(tmp_path.iterdir())) == 2
    assert not (tmp_path / str(os.getpid())).exists()


def test_an_error_of_ours_arrives_with_its_words_and_hint(engine, tmp_path):
    with pytest.raises(InputError, match="task: bad") as caught:
        list(engine.map(Squaring(tmp_path), [1, "bad", 2]))
    assert caught.value.hint == "give another"


def test_a_worker_that_is_killed_is_started_again_and_its_task_repeated(engine, tmp_path):
    results = engine.map(Squaring(tmp_path), ["slow", 2, 3, 4])
    import threading

    def kill():
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        for note in list(tmp_path.iterdir()):
            os.kill(int(note.name), signal.SIGKILL)
        (tmp_path / "go on").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    assert list(results) == [("slow", 49), (2, 4), (3, 9), (4, 16)]
    thread.join()
    assert len(list(tmp_path.iterdir())) >= 4  # two killed, two or more that came after, the note


def test_no_tasks_are_no_work(engine, tmp_path):
    assert list(engine.map(Squaring(tmp_path), [])) == []


def test_an_error_that_is_not_ours_names_itself(engine, tmp_path):
    with pytest.raises(MlkitError, match="TypeError"):
        list(engine.map(Squaring(tmp_path), ["text"]))
