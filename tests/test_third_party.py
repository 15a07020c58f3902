"""A stranger's plugin, built and installed in a fresh environment, takes part."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UV = shutil.which("uv", path=f"{ROOT / '.uv' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
pytestmark = pytest.mark.skipif(UV is None, reason="uv builds and installs; `make` brings it")


def run(*command, cwd, **env):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Return a folder with `mlkit-example` and a fresh `venv` that holds its wheel and core's.

    Third-party packages are borrowed from this environment by a .pth file, which does not reach
    the workspace's own (editable) packages.
    """
    folder = tmp_path_factory.mktemp("stranger")
    shutil.copytree(ROOT / "tests" / "data" / "mlkit-example", folder / "mlkit-example")
    for source in (ROOT / "packages" / "core", folder / "mlkit-example"):
        run(
            UV,
            "build",
            "--quiet",
            "--wheel",
            "--no-sources",
            "--out-dir",
            folder / "dist",
            source,
            cwd=folder,
        )
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    wheels = sorted((folder / "dist").glob("*.whl"))
    run(UV, "pip", "install", "--quiet", "--no-deps", "--python", python, *wheels, cwd=folder)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site.strip(), "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return folder


def python_in(stranger, *arguments):
    own = "angioseg,cli,cluster,dvis,refdet"  # their metadata is borrowed, their code is not
    python = stranger / "venv" / "bin" / "python"
    return run(
        python,
        *arguments,
        cwd=stranger / "mlkit-example",
        MLKIT_DISABLE_PLUGINS=own,
        OMP_NUM_THREADS="1",
    )


def test_the_strangers_components_are_in_the_catalogue(stranger):
    code = (
        "import json, mlkit_core\n"
        "from mlkit_core.plugins import load_catalogue\n"
        "found = [(e.owner, e.spec.kind, e.spec.name) for e in load_catalogue().components()]\n"
        "print(json.dumps([mlkit_core.__file__, found, list(load_catalogue().failures)]))"
    )
    core, found, failures = json.loads(python_in(stranger, "-c", code))
    assert Path(core).is_relative_to(stranger)
    assert not failures
    assert ["example", "encoder", "haar-pyramid"] in found
    assert ["example", "loss", "tversky"] in found


def test_the_strangers_own_tests_and_the_contract_kit_pass(stranger):
    report = python_in(stranger, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert " passed" in report
    # Eight checks of the encoder, seven of the loss, one of the plugin, three of its formulas.
    assert report.split(" passed")[0].split()[-1] == "19"


def test_the_strangers_encoder_trains_under_cores_fusion(stranger):
    code = """
import json, torch
from mlkit_core.build import build_model
from mlkit_core.config.frame import EncoderPart, FusionPart
from mlkit_core.plugins import load_catalogue
from mlkit_core.types import Batch, RoleSpec, SampleMeta
torch.manual_seed(0)
found = load_catalogue()
def part(cls, kind, name, options, **more):
    spec, owner = found.find(kind, name)
    return cls(spec=spec, owner=owner, options=options, **more)
pyramid = {"depth": 3, "dim": 8}
encoders = {
    role: part(EncoderPart, "encoder", "haar-pyramid", pyramid, input="image")
    for role in ("image", "again")
}
fusion = part(FusionPart, "fusion", "film", {}, writes="fused")
roles = {"image": RoleSpec(shape=(3, None, None))}
model = build_model(encoders, [fusion], None, roles=roles, num_classes=1)
metas = (SampleMeta(key="a"), SampleMeta(key="b"))
batch = Batch({"image": torch.rand(2, 3, 32, 32)}, metas, upto="fused")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
values = []
for _ in range(3):
    loss = (model(batch).scope["fused"].maps["p3"] - 1).square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    values.append(loss.item())
print(json.dumps([values, model.specs["fused"].strides]))
"""
    values, strides = json.loads(python_in(stranger, "-c", code))
    assert values[2] < values[1] < values[0]
    assert strides == {"p1": 2, "p2": 4, "p3": 8}
