"""Plugins are loaded one by one: what is wrong with one stays with it."""

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from mlkit_core import ComponentSpec, hookimpl
from mlkit_core.errors import PluginError
from mlkit_core.plugins import (
    API,
    Catalogue,
    CommandSpec,
    ExampleSpec,
    import_target,
    loader,
    using,
)
from mlkit_core.plugins import load_catalogue as load

GOOD = ComponentSpec(kind="head", name="good", target="acme.net:Good")


@pytest.fixture
def good(make_plugin):
    return make_plugin(GOOD)


def module(text: str) -> ModuleType:
    made = ModuleType("acme_plugin")
    exec(compile(text, "acme_plugin.py", "exec"), made.__dict__)
    return made


WITH_HOOK = "from mlkit_core import hookimpl, ComponentSpec\nMLKIT_API = 1\n@hookimpl\n"
BROKEN = {
    "import error": (
        "acme_is_not_installed",
        "load",
        "ModuleNotFoundError: No module named 'acme_is_not_installed'",
    ),
    "no API version": (
        SimpleNamespace(),
        "api",
        "MLKIT_API is missing; this mlkit has 1",
    ),
    "another API version": (
        SimpleNamespace(MLKIT_API=99),
        "api",
        "written for plugin API 99; this mlkit has 1",
    ),
    "misspelt hook": (
        module(WITH_HOOK + "def mlkit_componets(): return []"),
        "register",
        "unknown hook 'mlkit_componets'",
    ),
    "unknown argument of a hook": (
        module(WITH_HOOK + "def mlkit_run_started(folder, model): pass"),
        "register",
        "PluginValidationError: Plugin 'broken' for hook 'mlkit_run_started'",
    ),
    "hook without the decorator": (
        module("MLKIT_API = 1\ndef mlkit_components(): return []"),
        "register",
        "mlkit_components lacks the @hookimpl decorator",
    ),
    "generator that raises": (
        module(
            WITH_HOOK + "def mlkit_components():\n"
            "    yield ComponentSpec(kind='head', name='half', target='a:B')\n"
            "    raise RuntimeError('no licence')"
        ),
        "hooks",
        "RuntimeError: no licence",
    ),
    "generator that exits": (
        module(WITH_HOOK + "def mlkit_checks():\n    raise SystemExit(3)\n    yield"),
        "hooks",
        "SystemExit: 3",
    ),
    "wrong type": (
        module(WITH_HOOK + "def mlkit_components(): yield 'film'"),
        "hooks",
        "mlkit_components must yield ComponentSpec, got str 'film'",
    ),
    "nothing to iterate": (
        module(WITH_HOOK + "def mlkit_commands(): return 3"),
        "hooks",
        "TypeError: 'int' object is not iterable",
    ),
    "one name twice": (
        module(
            WITH_HOOK + "def mlkit_components():\n"
            "    yield ComponentSpec(kind='head', name='one', target='a:B')\n"
            "    yield ComponentSpec(kind='head', name='one', target='a:C')"
        ),
        "hooks",
        "mlkit_components yields 'head one' twice",
    ),
    "a name that is not kebab-case": (
        module(
            WITH_HOOK + "def mlkit_components():\n"
            "    yield ComponentSpec(kind='head', name='One', target='a:B')"
        ),
        "hooks",
        "ValueError: name 'One' must be kebab-case",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_becomes_a_failure_and_the_rest_goes_on(case, good):
    plugin, stage, error = BROKEN[case]
    catalogue = Catalogue.from_plugins({"broken": plugin, "fine": good})
    (failure,) = catalogue.failures
    assert (failure.plugin, failure.stage) == ("broken", stage)
    assert error in failure.error
    assert "\n" not in failure.error
    assert [(info.name, info.status) for info in catalogue.plugins] == [
        ("broken", "failed"),
        ("fine", "ok"),
    ]
    assert [(spec, owner) for spec, owner in catalogue.components()] == [(GOOD, "fine")]


def test_a_module_that_exits_on_import_is_a_failure(tmp_path, monkeypatch, good):
    (tmp_path / "acme_exits.py").write_text("raise SystemExit('no display')")
    monkeypatch.syspath_prepend(tmp_path)
    catalogue = Catalogue.from_plugins({"broken": "acme_exits", "fine": good})
    assert [(f.stage, f.error) for f in catalogue.failures] == [("load", "SystemExit: no display")]
    assert len(catalogue.components("head")) == 1


def test_strict_mode_lets_failures_raise(monkeypatch):
    monkeypatch.setenv("MLKIT_PLUGINS_STRICT", "1")
    with pytest.raises(PluginError, match="written for plugin API 99"):
        Catalogue.from_plugins({"broken": SimpleNamespace(MLKIT_API=99)})


def test_disabled_plugins_are_listed_and_not_loaded(monkeypatch, good):
    monkeypatch.setenv("MLKIT_DISABLE_PLUGINS", "broken,other")
    catalogue = Catalogue.from_plugins({"broken": "acme_is_not_installed", "fine": good})
    assert catalogue.failures == ()
    assert [info.status for info in catalogue.plugins] == ["disabled", "ok"]


def test_a_plugin_tells_its_version_api_hooks_and_time(good):
    (info,) = Catalogue.from_plugins({"fine": good}).plugins
    assert (info.name, info.api, info.hooks) == ("fine", API, ("mlkit_components",))
    assert 0 < info.milliseconds < 1000


def _install(folder, distribution, value):
    info = folder / f"{distribution.replace('-', '_')}-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text(f"[mlkit]\nacme = {value}\n")


def test_two_distributions_with_one_entry_point_name_both_stay(tmp_path, monkeypatch):
    text = (
        WITH_HOOK
        + "def mlkit_components():\n    yield ComponentSpec(kind='head', name='x', target='a:B')"
    )
    (tmp_path / "acme_shared.py").write_text(text)
    _install(tmp_path, "acme-one", "acme_shared")
    _install(tmp_path, "acme-two", "acme_shared")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loader, "_cached", [])
    catalogue = load()
    assert load() is catalogue
    acme = [info for info in catalogue.plugins if info.distribution.startswith("acme")]
    assert [(i.name, i.version, i.status) for i in acme] == [
        ("acme-one", "2.5", "ok"),
        ("acme-two", "2.5", "ok"),
    ]
    assert catalogue.find("head", "acme-two/x").owner == "acme-two"
    sys.modules.pop("acme_shared", None)


def test_a_name_of_two_owners_is_an_error_that_names_both(make_plugin):
    one, two = (ComponentSpec(kind="loss", name="dice", target=f"{x}:Dice") for x in "ab")
    catalogue = Catalogue.from_plugins({"one": make_plugin(one), "two": make_plugin(two)})
    with pytest.raises(
        PluginError, match="several plugins have the loss 'dice'; say 'one/dice' or 'two/dice'"
    ):
        catalogue.find("loss", "dice")
    assert catalogue.find("loss", "two/dice") == (two, "two")
    assert [owner for _, owner in catalogue.components("loss")] == ["one", "two"]


def test_an_example_of_two_plugins_is_an_error_that_names_both():
    one, two = (ExampleSpec(name="start", text=f"{x}:text", summary="Starts.") for x in "ab")
    plugins = {
        name: SimpleNamespace(MLKIT_API=1, mlkit_examples=hookimpl(lambda spec=spec: [spec]))
        for name, spec in (("one", one), ("two", two))
    }
    catalogue = Catalogue.from_plugins(plugins)
    with pytest.raises(
        PluginError, match="several plugins have the example 'start'; say 'one/start' or "
    ):
        catalogue.find_example("start")
    assert catalogue.find_example("two/start") is two


def test_an_unknown_name_tells_the_nearest_the_kind_and_the_few_that_are_there(good):
    catalogue = Catalogue.from_plugins({"fine": good})
    with pytest.raises(PluginError, match="no head named 'goood'; did you mean 'good'"):
        catalogue.find("head", "goood")
    with pytest.raises(PluginError, match="no loss named 'good'; 'good' is a head"):
        catalogue.find("loss", "good")
    with pytest.raises(PluginError, match="no head named 'xyz'; there are good"):
        catalogue.find("head", "xyz")
    with pytest.raises(PluginError, match="no head named 'acme/good'; did you mean 'fine/good'"):
        catalogue.find("head", "acme/good")


def test_a_lookup_error_lists_the_plugins_that_failed(good):
    catalogue = Catalogue.from_plugins({"fine": good, "old": SimpleNamespace(MLKIT_API=0)})
    with pytest.raises(PluginError, match="no head named 'xyz'") as caught:
        catalogue.find("head", "xyz")
    assert "plugin 'old' failed to load: written for plugin API 0" in caught.value.hint


def test_commands_and_examples_are_listed_and_found():
    run = CommandSpec(group="acme", name="run", target="acme.cli:run", summary="Runs.")
    start = ExampleSpec(name="acme", text="acme.run:text", summary="Starts.")

    @hookimpl
    def mlkit_commands():
        yield run

    @hookimpl
    def mlkit_examples():
        yield start

    plugin = SimpleNamespace(
        MLKIT_API=1, mlkit_commands=mlkit_commands, mlkit_examples=mlkit_examples
    )
    catalogue = Catalogue.from_plugins({"acme": plugin})
    assert (catalogue.commands, catalogue.examples, catalogue.checks) == ((run,), (start,), ())
    assert catalogue.find_example("acme") is start
    with pytest.raises(PluginError, match="no example named 'acne'; did you mean 'acme'"):
        catalogue.find_example("acne")


def test_a_run_hook_that_raises_warns_once_and_the_others_are_called(tmp_path, caplog):
    seen = []

    @hookimpl
    def mlkit_metrics(folder, record):
        raise OSError("disk full")

    broken = SimpleNamespace(MLKIT_API=1, mlkit_metrics=mlkit_metrics)

    @hookimpl(specname="mlkit_metrics")
    def keep(record):
        seen.append(record["step"])

    fine = SimpleNamespace(MLKIT_API=1, keep=keep)
    catalogue = Catalogue.from_plugins({"broken": broken, "fine": fine})
    with caplog.at_level(logging.WARNING, "mlkit"):
        catalogue.hook.mlkit_metrics(folder=tmp_path, record={"step": 1})
        catalogue.hook.mlkit_metrics(folder=tmp_path, record={"step": 2})
    assert seen == [1, 2]
    assert caplog.messages == ["plugin 'broken': mlkit_metrics: OSError: disk full"]


def test_a_catalogue_may_stand_in_for_the_installed_one(good):
    before = load()
    with using(Catalogue.from_plugins({"fine": good})) as catalogue:
        assert load() is catalogue
    assert load() is before


def test_a_target_is_imported():
    from json import dumps

    assert import_target("json:dumps") is dumps


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("mlkit_core.gone:X", "needs module 'mlkit_core.gone', which is not installed", ""),
        ("acme_gone:X", "needs module 'acme_gone', which is not installed", ""),
        ("json:dumbs", "module 'json' has no 'dumbs'", ""),
        (
            "mlkit_needs_onnx:X",
            "needs module 'onnx', which is not",
            "pip install 'mlkit-core[onnx]'",
        ),
        ("mlkit_needs_pil:X", "needs module 'PIL.Image', which", "pip install 'mlkit-core[torch]'"),
        ("mlkit_raises:X", "import failed: RuntimeError: no driver", ""),
        ("mlkit_half:X", "import failed: AttributeError: module 'json' has no attribute 'x'", ""),
    ],
)
def test_a_target_that_cannot_be_imported_says_why(target, message, hint, tmp_path, monkeypatch):
    missing = "raise ModuleNotFoundError('', name={!r})"
    (tmp_path / "mlkit_needs_onnx.py").write_text(missing.format("onnx"))
    (tmp_path / "mlkit_needs_pil.py").write_text(missing.format("PIL.Image"))
    (tmp_path / "mlkit_raises.py").write_text("raise RuntimeError('no driver')")
    (tmp_path / "mlkit_half.py").write_text("import json\njson.x")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"^" + target) as caught:
        import_target(target)
    assert message in str(caught.value)
    assert caught.value.hint == hint


def test_a_spec_needs_a_known_kind():
    with pytest.raises(ValueError, match="kind 'neck' must be one of encoder, fusion"):
        ComponentSpec(kind="neck", name="fpn", target="a:B")


def test_a_spec_needs_a_target_of_module_and_attribute():
    with pytest.raises(ValueError, match=r"target 'a\.B' must read 'package\.module:attribute'"):
        ComponentSpec(kind="head", name="fpn", target="a.B")


def test_only_trainers_have_frame_keys():
    with pytest.raises(ValueError, match="are for trainers, not for a head"):
        ComponentSpec(kind="head", name="fpn", target="a:B", own_model=True)
