"""Which packages the commands import: those that are slow to import only when they need them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from docs.generate import COMMANDS
from models.backbones import build_network
from models.checkpoints import save_checkpoint
from tests.helpers import ROOT

SLOW = (
    "albumentations", "matplotlib", "scipy.optimize", "scipy.sparse", "sklearn", "tensorboard", "timm", "torch",
    "torch._dynamo", "torchvision",
)  # fmt: skip
RUN_ALL = """
import json, runpy, sys
lines, slow = json.loads(sys.argv[1])
for line in lines:
    sys.argv = line
    try:
        if line[0] == "-m":
            sys.argv = line[1:]
            runpy.run_module(line[1], run_name="__main__")
        else:
            runpy.run_path(line[0], run_name="__main__")
        code = "no exit"
    except SystemExit as end:
        code = end.code
    print(json.dumps([line, code, [name for name in slow if name in sys.modules]]), file=sys.stderr)
"""

START = """
import json, os, runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    print(json.dumps({name: value for name, value in os.environ.items() if "OMP_" in name}), file=sys.stderr)
"""


def run_python(script: str, *arguments: str) -> str:
    """Run a script in a new interpreter, and return what it prints to standard error."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stderr


def run_all(lines: list[list[str]]) -> list[Any]:
    """Run command lines one after the other in one interpreter; return each with its code and the SLOW packages."""
    output = run_python(RUN_ALL, json.dumps([lines, SLOW]))
    return [json.loads(line) for line in output.splitlines() if line.startswith("[[")]


def test_help_imports_nothing_slow() -> None:
    lines = [[*command.split(), "--help"] for command in COMMANDS]
    assert run_all(lines) == [[line, 0, []] for line in lines]


def test_wrong_command_lines_import_nothing_slow() -> None:
    study = ["--model", "README.md", "--dataset"]
    lines = [
        *([*command.split(), "--nonsense", "1"] for command in COMMANDS),
        ["training.py", "--bs", "1"],
        ["training.py", "--num_LIBs", "1"],
        ["training.py", "--resume_model", "missing.pth"],
        ["training.py", "--pretrained", "missing.pth"],
        ["training.py", "--dataset", "missing"],
        ["preprocessing.py", "--videos", "missing", "--faces", "missing"],
        ["preprocessing.py", "--videos", ".", "--faces", "missing", "--dataset", "missing"],
        ["inference.py", "--model", "README.md", "missing.png"],
        ["inference.py", "--model", "missing.pth", "README.md"],
        ["-m", "scoring.share", "missing.pth", "missing"],
        ["-m", "scoring.share", "README.md", "docs"],
        ["-m", "analysis.compare", "missing", "missing"],
        ["-m", "analysis.ablation", "--save_path", "missing", "--", "--nonsense", "1"],
        ["-m", "analysis.reproduce", "--table", "cross", "--data_root", ".", "--", "--nonsense", "1"],
        *(["-m", f"analysis.{name}", *study, "missing"] for name in ("embedding", "evidence", "robustness")),
    ]
    assert run_all(lines) == [[line, 2, []] for line in lines]
    assert not (ROOT / "missing").exists()


@pytest.mark.parametrize("command", ["training.py", "inference.py"])
@pytest.mark.parametrize(
    ("given", "added"),
    [({}, {"GOMP_SPINCOUNT": "3000"}), ({"GOMP_SPINCOUNT": "77"}, {}), ({"OMP_WAIT_POLICY": "ACTIVE"}, {})],
)
def test_threads_wait_briefly_unless_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch, command: str, given: dict[str, str], added: dict[str, str]
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OMP_NUM_THREADS": "3", **given}.items():
        monkeypatch.setenv(name, value)
    expected = {name: value for name, value in os.environ.items() if "OMP_" in name} | added
    assert json.loads(run_python(START, command, "--help").splitlines()[-1]) == expected


def test_nothing_looks_for_garbage_during_the_imports() -> None:
    script = """
import gc, sys
from utils.command import check_command_line, run_command

def show() -> None:
    print(gc.isenabled(), gc.get_freeze_count() > 0, file=sys.stderr)

show()
check_command_line("a command", lambda: None)
show()
run_command("a command", show, "")
"""
    assert run_python(script).splitlines() == ["True False", "False False", "True True"]


def test_benchmarks_wait_briefly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    script = "import os, sys, benchmarks; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules, file=sys.stderr)"
    assert run_python(script) == "3000 False\n"


@pytest.mark.slow
def test_inference_imports_only_what_it_uses(tmp_path: Path) -> None:
    """The compiler, torch._dynamo, comes with timm and torchvision unless `without_compiler` keeps it out."""
    network = build_network("test_resnet", 1, 32)
    settings = {"model": "test_resnet", "num_LIBs": 1, "size": 32}
    save_checkpoint(tmp_path / "model.pth", network, "test_resnet", 1, args=settings, channels="RGB")
    cv2.imwrite(str(tmp_path / "face.png"), np.zeros((40, 40, 3), np.uint8))
    script = f"""
import json, sys
import inference
early = "timm" in sys.modules
code = inference.main(sys.argv[1:])
print(json.dumps([early, code, [name for name in {SLOW} if name in sys.modules]]), file=sys.stderr)
"""
    argv = ["--model", str(tmp_path / "model.pth"), "--faces_given", "True", "--gpu_num", "cpu"]
    output = run_python(script, *argv, str(tmp_path / "face.png"))
    early, code, slow = json.loads(output.splitlines()[-1])
    # SciPy for Python 3.10 always imports scipy.sparse.
    assert (early, code, set(slow) - {"scipy.sparse"}) == (False, 0, {"timm", "torch", "torchvision"})


def test_only_world_and_process_know_how_many_processes_there_are() -> None:
    """The rest of the program asks `utils.world.World`; run_with_submitit.py is a launcher, as torchrun is."""
    packages = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("benchmarks", "tests")]
    files = [*ROOT.glob("*.py"), *(file for package in packages for file in package.rglob("*.py"))]
    found = {
        str(file.relative_to(ROOT))
        for file in files
        if re.search(r"torch\.distributed|WORLD_SIZE|LOCAL_RANK", file.read_text())
    }
    assert found == {"run_with_submitit.py", "utils/process.py", "utils/world.py"}
