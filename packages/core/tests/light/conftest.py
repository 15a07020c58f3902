"""Toy plugins for tests that need neither torch nor numpy."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import pytest
from pydantic import Field, PositiveFloat, PositiveInt

from mlkit_core import ComponentSpec, hookimpl
from mlkit_core.config import Component, Config, RunPath, load_config
from mlkit_core.config.frame import RunConfig
from mlkit_core.errors import ConfigError
from mlkit_core.plugins import Catalogue


class FramesConfig(Config):
    root: RunPath
    masks: RunPath | None = None
    size: PositiveInt = 64


class NetConfig(Config):
    depth: int = Field(2, ge=1)


class WrapConfig(Config):
    backbone: Component("encoder")
    others: tuple[Component("encoder"), ...] = ()


class FilmConfig(Config):
    on: str | None = None
    by: str | None = None


class MaskConfig(Config):
    depth: int = Field(3, ge=1)
    width: int | Literal["auto"] = 8


class DiceConfig(Config):
    smooth: PositiveFloat = 1.0


class SupervisedConfig(Config):
    epochs: PositiveInt = 10
    clip: float | None = 1.0


class ReservedConfig(Config):
    weights: str = "auto"


CONFIGS = {
    ("data", "toy-frames"): FramesConfig,
    ("encoder", "toy-net"): NetConfig,
    ("encoder", "toy-wrap"): WrapConfig,
    ("encoder", "toy-reserved"): ReservedConfig,
    ("encoder", "toy-angle"): None,
    ("fusion", "toy-film"): FilmConfig,
    ("head", "toy-mask"): MaskConfig,
    ("loss", "toy-bce"): None,
    ("loss", "toy-dice"): DiceConfig,
    ("metric", "toy-overlap"): None,
    ("trainer", "supervised"): SupervisedConfig,
    ("extractor", "toy-reader"): None,
}

GOOD_RUN = """\
name: toy-run
seed: 7
data: {name: toy-frames, root: frames}
model:
  encoders:
    image: {name: toy-net, depth: 2}
    view: {name: toy-angle}
  fusion: {name: toy-film, on: image, by: view}
  head:
    name: toy-mask
    depth: 3
freeze: [encoders.image]
losses:
  - {name: toy-bce, weight: 0.5}
  - {name: toy-dice}
metrics: [{name: toy-overlap}]
optimizer: {name: adamw, lr: 1e-3}
trainer: {name: supervised, epochs: 2}
"""


def _toy_components() -> list[ComponentSpec]:
    specs = [
        ComponentSpec(
            kind=kind,
            name=name,
            target="mlkit_toy_parts:Missing",
            config=f"mlkit_toy_parts:{config.__name__}" if config else None,
        )
        for (kind, name), config in CONFIGS.items()
    ]
    engine = ComponentSpec(
        kind="trainer",
        name="toy-engine",
        target="mlkit_toy_parts:Missing",
        own_model=True,
        frame_keys=("data",),
    )
    lost = ComponentSpec(
        kind="head", name="toy-lost", target="mlkit_toy_parts:Missing", config="mlkit_toy_gone:X"
    )
    return [*specs, engine, lost]


@pytest.fixture
def good_run() -> str:
    """The text of a run file in which nothing is wrong."""
    return GOOD_RUN


@pytest.fixture
def make_plugin() -> Callable[..., SimpleNamespace]:
    """Return a function that makes a plugin of the specs that it shall list."""

    def make(*specs: ComponentSpec) -> SimpleNamespace:
        @hookimpl
        def mlkit_components() -> Sequence[ComponentSpec]:
            return specs

        return SimpleNamespace(MLKIT_API=1, mlkit_components=mlkit_components)

    return make


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, make_plugin: Callable[..., SimpleNamespace]) -> Catalogue:
    """The catalogue of one plugin, `toy`, whose targets cannot be imported."""
    parts = ModuleType("mlkit_toy_parts")
    for config in filter(None, CONFIGS.values()):
        setattr(parts, config.__name__, config)
    monkeypatch.setitem(sys.modules, "mlkit_toy_parts", parts)
    return Catalogue.from_plugins({"toy": make_plugin(*_toy_components())})


@pytest.fixture
def load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy: Catalogue
) -> Callable[..., RunConfig]:
    """Return a function that writes `run.yaml` in an empty folder and loads it from there."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *overrides: str) -> RunConfig:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return load_config("run.yaml", overrides, toy)

    return run


@pytest.fixture
def problems(load: Callable[..., RunConfig]) -> Callable[..., list[str]]:
    """Return a function that gives the problems of a run file, none where it is right."""

    def run(text: str, *overrides: str) -> list[str]:
        try:
            load(text, *overrides)
        except ConfigError as err:
            return err.problems
        return []

    return run
