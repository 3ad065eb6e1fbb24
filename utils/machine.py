"""What a result depends on besides its inputs: version, software and hardware."""

import platform
import re
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent.parent


def describe_run(device: torch.device) -> dict[str, str | None]:
    """Return the date (UTC), this project's version and commit, Python, PyTorch, and the processor of `device`."""
    version = re.search(r'^version = "(.*)"', (HERE / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": version and version[1],
        "commit": find_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
    }


@cache
def find_commit() -> str | None:
    """Return the commit of this checkout, with -dirty after it if tracked files differ; None outside a checkout."""
    if not (HERE / ".git").exists():
        return None
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def cpu_name() -> str:
    """Return the name of the processor."""
    try:
        match = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()
