"""Jobs on this machine, and on a SLURM cluster through submitit."""

import argparse
import io
import subprocess
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, one_line, require_package

if TYPE_CHECKING:
    import submitit

SLURM_TEXT = (
    "comma-separated sbatch options with --submit slurm, such as partition=gpu,time=720,gpus_per_node=8; "
    "without time, the limit is 1440 minutes"
)


def key_values(text: str) -> dict[str, str]:
    """Parse a comma-separated list of key=value; raise `argparse.ArgumentTypeError` for another text."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not all(key and value for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of options such as partition=gpu,time=720")
    return {key: value for key, _, value in pairs}


def check_job_arguments(submit: str, nodes: int, slurm: dict[str, str]) -> None:
    """Raise InputError if options for SLURM are given without ``--submit slurm``."""
    if submit == "local" and (nodes > 1 or slurm):
        raise InputError("--nodes and --slurm need --submit slurm.")


class LocalJob:
    """A command in a process of its own, with the methods of ``submitit.Job`` that preprocessing.py calls.

    It runs in a session of its own, so Ctrl-C in a terminal reaches this process alone, which then cancels its jobs.

    Args:
        command: the command line.
        log: its output goes to this path with the endings .out and .err.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._errors = log.with_suffix(".err")
        with log.with_suffix(".out").open("wb") as out, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        self.job_id = str(self._process.pid)

    def done(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait for the end of the process."""
        self._process.wait()

    def cancel(self, check: bool = True) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def exception(self) -> Exception | None:
        """Wait for the process; return None if it succeeded, else `subprocess.CalledProcessError`."""
        code = self._process.wait()
        return subprocess.CalledProcessError(code, self._process.args) if code else None

    def stderr(self) -> str:
        """Return what the process has written to standard error."""
        return self._errors.read_text(encoding="utf-8", errors="replace")


def submit_jobs(calls: Sequence[Callable[[], Any]], logs: Path, **parameters: Any) -> "list[submitit.Job[Any]]":
    """Submit one job per call to SLURM.

    Args:
        calls: a picklable function for each job.
        logs: folder of the logs.
        parameters: parameters of ``submitit.AutoExecutor``; ``slurm_additional_parameters`` go to sbatch as they are.

    Raises:
        InputError: submitit or SLURM is not installed, or sbatch refuses the jobs.
    """
    with require_package("submitit", by="--submit slurm"):
        import submitit
    try:
        # A training continues after every time limit; submitit would give up after three.
        executor = submitit.AutoExecutor(folder=logs, cluster="slurm", slurm_max_num_timeout=10**6)
    except RuntimeError as error:
        raise InputError(f"--submit slurm: {error}; leave --submit out to use this machine.") from error
    executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
    try:
        with redirect_stderr(io.StringIO()):  # submitit would print what sbatch says, too
            with executor.batch():
                jobs = [executor.submit(call) for call in calls]
        return jobs
    except submitit.core.utils.FailedJobError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        refusal = next((line for line in lines if line.startswith("sbatch: ")), lines[-1])
        raise InputError(f"--submit slurm: {one_line(refusal)}; change --slurm or --nodes.") from error
