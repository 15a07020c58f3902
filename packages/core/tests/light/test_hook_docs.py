"""Every hook has a page, and the example on it runs."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mlkit_core import CheckResult, Config
from mlkit_core.plugins import Catalogue, MlkitHooks, import_target

PAGES = Path(__file__).parents[4] / "docs" / "hooks"
HOOKS = sorted(name for name in vars(MlkitHooks) if name.startswith("mlkit_"))


def _snippets(hook: str) -> list[str]:
    text = (PAGES / f"{hook}.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def _run(code: str, name: str) -> ModuleType:
    made = ModuleType(name)
    exec(compile(code, name, "exec"), made.__dict__)
    return made


def components(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    spec, owner = catalogue.find("encoder", "acme-net")
    assert (owner, spec.target) == ("acme", "mlkit_acme.net:AcmeNet")
    assert catalogue.find("trainer", "acme-engine").spec.frame_keys == ("data", "seed")
    options = _run(_snippets("mlkit_components")[1], "acme_config").AcmeNetConfig
    assert issubclass(options, Config)
    assert options(stem={"name": "timm", "model": "resnet18"}).stem.spec.kind == "encoder"


def commands(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    assert [(c.group, c.name) for c in catalogue.commands] == [("acme", "to-gray")]


def checks(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    (check,) = catalogue.checks
    result = import_target(check.target)()
    assert isinstance(result, CheckResult)
    assert "licence" in result.detail


def examples(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    example = catalogue.find_example("acme")
    text = import_target(example.text)()
    path = import_target(example.demo)(folder)
    assert path.read_text(encoding="utf-8") == text
    assert text.startswith("name: acme\n")


def run_started(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    catalogue.hook.mlkit_run_started(folder=folder, config={"name": "vessels"})
    assert (folder / "acme.json").read_text() == '{"run": "vessels"}'


def metrics(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    catalogue.hook.mlkit_metrics(folder=folder, record={"step": 1, "loss": 0.5})
    catalogue.hook.mlkit_metrics(folder=folder, record={"step": 2, "loss": 0.25})
    assert (folder / "acme.tsv").read_text() == "step=1\tloss=0.5\nstep=2\tloss=0.25\n"


def run_finished(catalogue: Catalogue, plugin: ModuleType, folder: Path) -> None:
    catalogue.hook.mlkit_run_finished(folder=folder, status="interrupted")
    assert (folder / "acme-status").read_text() == "interrupted"


CHECKS: dict[str, Callable[[Catalogue, ModuleType, Path], None]] = {
    "mlkit_components": components,
    "mlkit_commands": commands,
    "mlkit_checks": checks,
    "mlkit_examples": examples,
    "mlkit_run_started": run_started,
    "mlkit_metrics": metrics,
    "mlkit_run_finished": run_finished,
}


def test_every_hook_has_a_page_and_a_check_and_no_page_lacks_its_hook():
    assert sorted(page.stem for page in PAGES.glob("*.md")) == HOOKS
    assert sorted(CHECKS) == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_the_page_of_a_hook_tells_its_arguments(hook):
    spec = getattr(MlkitHooks, hook)
    code = spec.__code__
    arguments = code.co_varnames[1 : code.co_argcount]
    signature = (PAGES / f"{hook}.md").read_text(encoding="utf-8").split("```text\n")[1]
    assert re.findall(r"(\w+): ", signature.partition(")")[0]) == list(arguments)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_example_of_a_hook_runs(hook, tmp_path, monkeypatch, caplog):
    plugin = _run(_snippets(hook)[0], "mlkit_acme.plugin")
    monkeypatch.setitem(sys.modules, "mlkit_acme", ModuleType("mlkit_acme"))
    monkeypatch.setitem(sys.modules, "mlkit_acme.plugin", plugin)
    monkeypatch.setenv("HOME", str(tmp_path))
    catalogue = Catalogue.from_plugins({"acme": plugin})
    assert catalogue.failures == ()
    assert catalogue.plugins[0].hooks == (hook,)
    CHECKS[hook](catalogue, plugin, tmp_path)
    assert caplog.messages == []
