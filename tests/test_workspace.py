"""What holds over all packages: who may import whom, what is light, what a wheel carries."""

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = os.environ.get("UV", "uv")  # set by `uv run`
MEMBERS = ("core", "cli", "refdet", "angioseg", "dvis", "cluster")
HEAVY = (
    "torch", "torchvision", "timm", "ultralytics", "transformers", "segment_anything", "sklearn",
    "cv2", "numpy", "accelerate", "pandas", "numba", "matplotlib",
)  # fmt: skip
LIGHT = (
    [f"mlkit_{member}.plugin" for member in MEMBERS if member != "cli"]
    + [
        ".".join(path.relative_to(source).with_suffix("").parts)
        for source in ROOT.glob("packages/*/src")
        for path in sorted(source.rglob("config.py"))
    ]
    + ["mlkit_core.types", "mlkit_core.interfaces", "mlkit_core.scope", "mlkit_core.errors"]
    + ["mlkit_core.plugins", "mlkit_core.config", "mlkit_core.config.load", "mlkit_cli.main"]
    + ["mlkit_cli.app", "mlkit_cli.launch", "mlkit_cli.skeleton"]
    + [f"mlkit_cli.verbs.{path.stem}" for path in ROOT.glob("packages/cli/src/*/verbs/[a-z]*.py")]
)


def imports(path):
    """Yield the names of all modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


@pytest.mark.parametrize("member", MEMBERS)
def test_a_package_imports_no_sibling_but_core(member):
    allowed = {"mlkit_core", f"mlkit_{member}"}
    for path in (ROOT / "packages" / member / "src").rglob("*.py"):
        found = {name.partition(".")[0] for name in imports(path)}
        siblings = {name for name in found if name.startswith("mlkit")}
        assert siblings <= allowed, f"{path.relative_to(ROOT)} imports {siblings - allowed}"


@pytest.mark.parametrize("member", MEMBERS)
def test_strings_that_name_modules_point_to_the_package_itself(member):
    source = ROOT / "packages" / member / "src"
    own = f"mlkit_{member}"
    for path in source.rglob("plugin.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and ":" in node.value:
                module = node.value.partition(":")[0]
                if module.startswith("mlkit_") and " " not in module:
                    assert module.partition(".")[0] == own, f"{path}: {node.value}"


@pytest.fixture(scope="module")
def heavy_after():
    """Import the light modules one after another in a new process; module to what came with it."""
    script = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *LIGHT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_brings_nothing_heavy(module, heavy_after):
    assert heavy_after[module] == []


def project(member):
    return tomllib.loads((ROOT / "packages" / member / "pyproject.toml").read_text())


@pytest.mark.parametrize("member", MEMBERS)
def test_every_package_has_the_one_version_and_bounds_its_siblings(member):
    said = project(member)["project"]
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert said["version"] == root["version"]
    major, minor, _ = said["version"].split(".")
    extras = said.get("optional-dependencies", {}).values()
    for line in chain(said["dependencies"], *extras):
        if line.startswith("mlkit-"):
            assert line.endswith(f">={major}.{minor},<{major}.{int(minor) + 1}"), line


@pytest.mark.parametrize("member", MEMBERS)
def test_every_package_is_typed_and_licensed(member):
    folder = ROOT / "packages" / member
    assert (folder / "src" / f"mlkit_{member}" / "py.typed").is_file()
    assert project(member)["project"]["license"] == "Apache-2.0"
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_lock_has_a_hash_for_everything_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    for line in text.splitlines():
        assert line.startswith((" ", "#")) or line.endswith("\\"), f"{line}: no hash"
    assert "mlkit" not in text


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Build all wheels as a release does, without the workspace's sources."""
    out = tmp_path_factory.mktemp("wheels")
    done = subprocess.run(
        [UV, "build", "--all-packages", "--no-sources", "--wheel", "--quiet", "--out-dir", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {path.name.split("-")[0]: path for path in out.glob("*.whl")}


def test_there_is_one_wheel_for_each_package_with_its_module_alone(wheels):
    assert set(wheels) == {f"mlkit_{member}" for member in MEMBERS}
    for name, path in wheels.items():
        top = {entry.partition("/")[0] for entry in zipfile.ZipFile(path).namelist()}
        assert top == {name, f"{name}-0.1.0.dist-info"}


def test_the_wheels_carry_what_is_not_python(wheels):
    names = set(zipfile.ZipFile(wheels["mlkit_cli"]).namelist())
    assert "mlkit_cli/py.typed" in names
    assert "mlkit_cli-0.1.0.dist-info/licenses/LICENSE" in names
    assert "mlkit_cli/skeleton/src/plugin.py.tmpl" in names


def install(wheels, folder, names, *options):
    """Install wheels into a new environment and return its Python."""
    python = folder / "bin" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    subprocess.run([UV, "venv", "--quiet", "--python", version, folder], check=True)
    subprocess.run(
        [
            UV,
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            *options,
            *(wheels[n] for n in names),
        ],
        check=True,
        cwd=folder,
    )
    return python


def test_core_and_cli_work_from_their_wheels_without_torch(wheels, tmp_path):
    python = install(wheels, tmp_path / "env", ["mlkit_core", "mlkit_cli"])
    listed = subprocess.run(
        [python.parent / "mlkit", "plugins", "list", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    found = json.loads(listed.stdout)
    assert {plugin["distribution"] for plugin in found["plugins"]} == {"mlkit-core"}
    assert found["failures"] == []
    missing = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert missing.returncode == 1


@pytest.mark.parametrize("member", ["refdet", "angioseg", "dvis", "cluster"])
def test_a_domain_package_works_from_its_wheel_beside_core_alone(wheels, tmp_path, member):
    names = ["mlkit_core", f"mlkit_{member}"]
    python = install(wheels, tmp_path / "env", names, "--no-deps")
    # Dependencies come from the workspace's environment: installing torch again takes minutes.
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    shared = tmp_path / "shared"
    shared.mkdir()
    for entry in Path(pytest.__file__).parent.parent.iterdir():
        if "mlkit" not in entry.name and entry.suffix != ".pth":
            (shared / entry.name).symlink_to(entry)
    (site / "shared.pth").write_text(f"{shared}\n")
    script = (
        "import importlib, sys\n"
        "from mlkit_core.plugins import import_target, load_catalogue\n"
        "catalogue = load_catalogue()\n"
        "assert not catalogue.failures, catalogue.failures\n"
        f"assert {member!r} in [plugin.name for plugin in catalogue.plugins]\n"
        "for spec, owner in catalogue.components():\n"
        f"    if owner == {member!r}:\n"
        "        import_target(spec.target), spec.config and import_target(spec.config)\n"
        "print([m for m in sys.modules if m.startswith('mlkit_') and '.' not in m])\n"
    )
    done = subprocess.run(
        [python, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sorted(ast.literal_eval(done.stdout)) == sorted(names)


@pytest.fixture
def bump():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("bump", ROOT / "tools" / "bump.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bump_sets_the_version_and_the_bounds_and_leaves_the_rest(bump):
    text = """\
version = "{version}"
dependencies = [
  "mlkit-core[torch,timm]{bounds}",
  "mlkit-cli{bounds}",
  "typer>=0.1,<0.2",
]
"""
    before = text.format(version="0.1.0", bounds=">=0.1,<0.2")
    assert bump.bumped(before, "1.9.2") == text.format(version="1.9.2", bounds=">=1.9,<1.10")


def test_bump_lets_a_preview_meet_its_own_siblings(bump):
    assert bump.bounds("0.2.0rc1") == ">=0.2.0rc1,<0.3"


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-rc1", "01.0.0"])
def test_bump_refuses_what_is_no_version(bump, version):
    with pytest.raises(ValueError, match=r"must read X\.Y\.Z"):
        bump.bounds(version)


def test_bump_leaves_the_tree_as_it_is_where_the_version_stands(bump):
    for path in bump.project_files(ROOT):
        text = path.read_text()
        assert bump.bumped(text, "0.1.0") == text
