import json
import os
import subprocess
import sys
import sysconfig

from mlkit_cli.skeleton import write_plugin

UV = os.environ.get("UV", "uv")  # set by `uv run`


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_plugin_installs_is_listed_and_passes_its_own_test(tmp_path):
    write_plugin("acme-vision", tmp_path)
    package = tmp_path / "mlkit-acme-vision"
    python = tmp_path / "env" / "bin" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    run(UV, "venv", "--quiet", "--python", version, tmp_path / "env")
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", package)
    # What it depends on is here already: installing torch again takes minutes.
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    (site / "here.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    found = json.loads(run(python, "-m", "mlkit_cli", "plugins", "list", "--json", cwd=tmp_path))
    names = {(entry["plugin"], entry["kind"], entry["name"]) for entry in found["components"]}
    assert ("acme-vision", "encoder", "acme-vision-net") in names
    shown = run(
        python, "-m", "mlkit_cli", "plugins", "show", "encoder/acme-vision-net", cwd=tmp_path
    )
    assert "Channels of the first stage." in shown
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", package, cwd=package)
    assert " passed" in said
    assert "failed" not in said
