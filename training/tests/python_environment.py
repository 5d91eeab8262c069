"""Runs the calling script again inside a virtual environment that has the packages it needs.

SPAR_VENV names the environment; by default it is target/venv. Packages come by name from the configured registry.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def enter(packages):
    venv = pathlib.Path(os.environ.get("SPAR_VENV", ROOT / "target" / "venv"))
    python = venv / "bin" / "python"
    if pathlib.Path(sys.prefix) == venv:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    names = ", ".join(repr(p.split("=")[0]) for p in packages)
    check = f"import importlib.metadata as m; [m.version(p) for p in ({names},)]"
    if subprocess.run([python, "-c", check], capture_output=True).returncode:
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    os.execv(python, [str(python), *sys.argv])


def example(name):
    """Builds an example of the trainer and returns the path of its program."""
    build = ["cargo", "build", "-q", "--release", "-p", "spar-training", "--example", name]
    subprocess.run(build, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(target / "release" / "examples" / name)
