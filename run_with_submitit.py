"""Hand a training to a SLURM cluster (``training.py --submit slurm``), and continue it after an interruption."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from utils.errors import InputError
from utils.imports import pause_garbage_collection
from utils.jobs import submit_jobs
from utils.training_arguments import TrainingArguments


class TrainingJob:
    """One task of the job: a process of the training.

    SLURM or submitit requeues the job after a preemption, and submitit at the time limit. It then continues from the
    newest checkpoint.

    Args:
        argv: the command line of training.py, without ``--submit``.
        last: the ``model_last.pth`` of the run.
    """

    def __init__(self, argv: list[str], last: Path) -> None:
        self.argv, self.last = argv, last
        self.submitted = time.time()

    def __call__(self) -> None:
        """Train in this process, and ask for a requeue if SLURM or submitit interrupts the training."""
        pause_garbage_collection()  # until training.main
        from submitit.helpers import TorchDistributedEnvironment

        import training

        task = TorchDistributedEnvironment()
        os.environ.setdefault("MASTER_ADDR", task.master_addr)
        os.environ.setdefault("MASTER_PORT", str(task.master_port))
        os.environ |= {"RANK": str(task.rank), "WORLD_SIZE": str(task.world_size)}
        os.environ |= {"LOCAL_RANK": str(task.local_rank), "LOCAL_WORLD_SIZE": str(task.local_world_size)}
        # An older checkpoint belongs to a run that --overwrite replaces.
        continues = self.last.is_file() and self.last.stat().st_mtime > self.submitted
        run = self.last.parent  # named here, because the flags may have left the name to a checkpoint
        more = ["--name", run.name, "--save_path", str(run.parent), "--resume_model", "auto", "--overwrite", "False"]
        code = training.main([*self.argv, *more] if continues else self.argv)
        if code == 128 + signal.SIGUSR2 or (code == 128 + signal.SIGTERM and is_preempted()):
            signal.raise_signal(signal.SIGUSR2)  # submitit's handler requeues the job
        elif code:
            sys.exit(code)

    def checkpoint(self) -> object:
        """Return this job, for submitit to run again after it has requeued it."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def is_preempted() -> bool:
    """Return whether SLURM has announced that another job will take the nodes of this one.

    SLURM then sends SIGTERM, as scancel does, and does not requeue a job that ends by itself.
    """
    command = ["scontrol", "show", "job", "--oneliner", os.environ["SLURM_JOB_ID"]]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    return re.search(r" PreemptTime=\d", shown) is not None


def submit_training(args: TrainingArguments, argv: list[str]) -> None:
    """Submit a training to SLURM, one process per GPU, and print where its logs are.

    Args:
        args: the parsed command line.
        argv: the command line; the job gets it without ``--submit``, ``--nodes`` and ``--slurm``.

    Raises:
        InputError: submitit or SLURM is not installed, or sbatch refuses the job.
    """
    folder = args.save_path / args.name
    gpus = args.slurm.get("gpus_per_node", "1").rpartition(":")[2]
    tasks = args.slurm.get("ntasks_per_node", gpus)
    if not tasks.isdecimal():
        raise InputError(f"--slurm: '{tasks}' is not a number of processes per node; add ntasks_per_node=8.")
    options = {key: value for key, value in args.slurm.items() if key != "ntasks_per_node"}
    (job,) = submit_jobs(
        [TrainingJob(without_flags(argv, ("--submit", "--nodes", "--slurm")), (folder / "model_last.pth").absolute())],
        folder / "jobs",
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=int(tasks),
        slurm_additional_parameters=options,
        slurm_srun_args=["--kill-on-bad-exit=1"],
        slurm_setup=[f"export PYTHONPATH={Path(__file__).parent.absolute()}:$PYTHONPATH"],
    )
    print(f"submitted job {job.job_id}: {args.nodes} nodes with {tasks} processes each; logs: {folder / 'jobs'}")


def without_flags(argv: list[str], flags: tuple[str, ...]) -> list[str]:
    """Remove flags and their values from a command line."""
    kept, skip = [], False
    for part in argv:
        name, equals, _ = part.partition("=")
        if not skip and name not in flags:
            kept.append(part)
        skip = name in flags and not equals and not skip
    return kept
