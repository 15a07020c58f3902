from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from mlkit_cli import catalogue as seen
from mlkit_cli.main import main
from mlkit_core.plugins import Catalogue, load_catalogue, using


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """Runs the command in this process, with the plugins that a test names."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.plugins: Mapping[str, object] | None = None

    def __call__(self, *arguments: str) -> Result:
        seen.installed.cache_clear()
        seen.domain_verbs.cache_clear()
        self._capsys.readouterr()
        plugins = self.plugins
        catalogue = load_catalogue() if plugins is None else Catalogue.from_plugins(plugins)
        with using(catalogue):
            code = main(arguments)
        return Result(code, *self._capsys.readouterr())


@pytest.fixture
def mlkit(capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    yield Command(capsys)
    seen.installed.cache_clear()
    seen.domain_verbs.cache_clear()
