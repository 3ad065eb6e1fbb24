"""Jobs on this machine or on a SLURM cluster, through submitit."""

import argparse
import io
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
    """Parse a comma-separated list of key=value."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not all(key and value for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of options such as partition=gpu,time=720")
    return {key: value for key, _, value in pairs}


def check_job_arguments(submit: str, nodes: int, slurm: dict[str, str]) -> None:
    """Raise InputError if options for SLURM are given without ``--submit slurm``."""
    if submit == "local" and (nodes > 1 or slurm):
        raise InputError("--nodes and --slurm need --submit slurm.")


def submit_jobs(
    calls: Sequence[Callable[[], Any]], cluster: str, by: str, logs: Path, **parameters: Any
) -> "list[submitit.Job[Any]]":
    """Submit one job per call.

    Args:
        calls: what the jobs run; picklable.
        cluster: local or slurm.
        by: the flag that needs submitit, for messages.
        logs: folder of the logs.
        parameters: parameters of ``submitit.AutoExecutor``; ``slurm_additional_parameters`` go to sbatch as they are.

    Raises:
        InputError: submitit or SLURM is not installed, or sbatch refuses the jobs.
    """
    with require_package("submitit", by=by):
        import submitit
    try:
        # A training continues after every time limit; submitit would give up after three.
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster, slurm_max_num_timeout=10**6)
    except RuntimeError as error:
        raise InputError(f"--submit {cluster}: {error}; leave --submit out to use this machine.") from error
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
