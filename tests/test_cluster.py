"""Training and preprocessing on a real SLURM with two nodes on this machine.

Debian's packages slurmctld, slurmd, slurm-client and munge are needed, and root.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import preprocessing
import training
from models.checkpoints import load_checkpoint
from tests import test_preprocessing as faces
from tests.helpers import arguments, in_processes, make_dataset
from tests.test_interruptions import assert_same_run
from tests.test_preprocessing import clip, dataset  # noqa: F401  # fixtures
from tests.test_world import rows

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def configuration(folder: Path) -> str:
    """Return slurm.conf for two nodes with one core each."""
    sockets = [socket.socket() for _ in range(3)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    controller, *nodes = (free.getsockname()[1] for free in sockets)
    for free in sockets:
        free.close()
    options = {
        "ClusterName": "test",
        "SlurmctldHost": "localhost",
        "SlurmctldPort": controller,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": "cred_expire=5",  # a requeued job waits for as long
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool-%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd-%n.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "MpiDefault": "none",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "KillWait": 10,
        "SchedulerParameters": "sched_interval=1",
        "ReturnToService": 2,
    }
    lines = [f"{name}={value}" for name, value in options.items()]
    for number, port in enumerate(nodes, start=1):
        lines.append(f"NodeName=n{number} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=2000")
    partition = "PartitionName={} Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier={}"
    lines.append(partition.format("debug", 1) + " Default=YES GraceTime=60")
    return "\n".join([*lines, partition.format("urgent", 2), ""])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start SLURM; SLURM_CONF makes its commands find it."""
    if missing := [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root can start SLURM")
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(configuration(folder))
    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    patch.setenv("MASTER_ADDR", "127.0.0.1")  # n1 is no host name
    subprocess.run(["slurmctld"], check=True)
    try:
        for node in ("n1", "n2"):
            subprocess.run(["slurmd", "-N", node], check=True)
        wait_for(lambda: output("sinfo", "-h", "-o", "%T").split() == ["idle"])
        yield
    finally:
        subprocess.run(["scancel", "-u", "root"])
        for pid in folder.glob("*.pid"):
            subprocess.run(["kill", pid.read_text().strip()])
        patch.undo()


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


NETWORK = ("--model", "test_resnet")  # a new interpreter knows no other
SUBMIT = ("--submit", "slurm", "--nodes", "2", "--slurm", "time=60", *NETWORK)
RUN = ("--epoch", "12", "--seed", "2", *NETWORK)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and ``output/complete``, a run of two processes."""
    root = tmp_path_factory.mktemp("root")
    make_dataset(root)
    assert in_processes(2, lambda: training.main(arguments(root, *RUN, "--name", "complete"))) == [0, 0]
    return root


def test_a_training_on_two_nodes_is_requeued_and_continues(
    cluster: None, root: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = arguments(root, *RUN, "--name", "run", *SUBMIT, "--save_every_minutes", "1e-9")
    assert training.main(argv) == 0
    job = output("squeue", "-h", "-o", "%i").strip()
    assert f"job {job}" in capsys.readouterr().out
    folder = root / "output/run"
    log = folder / f"jobs/{job}_0_log.out"

    def starts() -> int:
        return log.read_text().count("training on 2 x cpu") if log.is_file() else 0

    def time_limit() -> None:
        """Let SLURM signal before the limit, which it checks every 30 seconds; then the job requeues itself."""
        (task,) = tasks(job, 1)
        os.kill(task, signal.SIGSTOP)  # else the run might end first; SLURM lets it go on
        subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=2"], check=True)
        wait_for(lambda: output("squeue", "-h", "-o", "%T").strip() == "PENDING")
        subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=60"], check=True)

    def by_hand() -> None:
        subprocess.run(["scontrol", "requeue", job], check=True)

    def preemption() -> None:
        options = ["--partition", "urgent", "--nodes", "2", "--output", "/dev/null"]
        subprocess.run(["sbatch", *options, "--wrap", "true"], check=True)

    for number, interrupt in enumerate((time_limit, by_hand, preemption), start=1):
        wait_for(lambda: starts() == number and (folder / "model_last.pth").is_file())  # noqa: B023
        interrupt()
    wait_for(lambda: not output("squeue", "-h"))
    assert starts() == 4 and log.read_text().count("\ncontinuing ") == 3
    assert_same_run(folder, root / "output/complete")


def test_a_checkpoint_is_tested_on_two_nodes(cluster: None, root: Path) -> None:
    complete = root / "output/complete"
    test = ("--test", "--resume_model", str(complete / "model_best.pth"), "--name", "tested")
    assert training.main(arguments(root, *test, *SUBMIT)) == 0
    wait_for(lambda: not output("squeue", "-h"))
    expected, found = (rows(root / "output" / name / "predictions.csv") for name in ("complete", "tested"))
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [float(row[3]) for row in found[1:]] == pytest.approx([float(row[3]) for row in expected[1:]], abs=1e-6)


def test_when_a_task_is_killed_the_job_ends(cluster: None, root: Path) -> None:
    assert training.main(arguments(root, "--epoch", "100000", "--name", "dies", *SUBMIT)) == 0
    job = output("squeue", "-h", "-o", "%i").strip()
    last = root / "output/dies/model_last.pth"
    wait_for(last.is_file)
    victims = tasks(job, 1)
    assert victims
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not output("squeue", "-h"))
    assert "task 1: Killed" in (last.parent / f"jobs/{job}_0_log.err").read_text()
    assert load_checkpoint(last)["epoch"] >= 1


def tasks(job: str, number: int) -> list[int]:
    """Return the processes of a task of a job, from 0."""
    variables = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={number}".encode()}
    return [int(pid.name) for pid in Path("/proc").glob("[0-9]*") if variables <= environment(pid)]


def environment(process: Path) -> set[bytes]:
    """Return the variables of a process, such as b"RANK=1"."""
    with suppress(OSError):  # it has ended
        return set((process / "environ").read_bytes().split(b"\0"))
    return set()


def test_preprocessing_on_two_nodes(cluster: None, dataset: Path) -> None:  # noqa: F811
    submit = ["--submit", "slurm", "--nodes", "2", "--num_workers", "0"]
    assert preprocessing.main(faces.arguments(dataset, *submit)) == 0
    assert len(faces.images(dataset)) == 24
    assert len(list((dataset / "labels/folder/jobs").glob("*_log.out"))) == 2


@pytest.mark.parametrize("option", ["mem_gb=4", "partition=nowhere"])
def test_what_sbatch_refuses_is_one_sentence(
    cluster: None,
    tmp_path: Path,
    dataset: Path,  # noqa: F811
    capsys: pytest.CaptureFixture,
    option: str,
) -> None:
    make_dataset(tmp_path)
    submit = ("--submit", "slurm", "--slurm", option)
    commands = (training, arguments(tmp_path, *submit)), (preprocessing, faces.arguments(dataset, *submit))
    for command, argv in commands:
        assert command.main(argv) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert "--submit slurm" in line and (option.split("=")[0].replace("_", "-") in line)
