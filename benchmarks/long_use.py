"""Train, resume and test the demo for hours, with a kill every few minutes, for docs/reliability.md.

    python -m demo
    python -m benchmarks.long_use [--minutes 120] [--seed 0]

A round starts training.py, which continues the newest checkpoint, and kills it (SIGKILL) after two to four minutes.
Every third round also tests the checkpoint. Every second, the benchmark reads memory, open files and threads of the
process and its children from /proc (Linux). Memory is the proportional set size without files: memory which processes
share counts once, and the libraries' code, which other programs on the machine share, does not count.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tqdm import tqdm

TRAINING = (
    "--dataset demo --pretrained False --model mobilenet --num_LIBs 2 --size 64 --bs 16 --epoch 1000 --num_workers 1 "
    "--save_every_minutes 1"
)
WARM_UP = 40  # seconds until a training has imported PyTorch, started its worker and made its first steps


class Use(NamedTuple):
    """What a process and its children use.

    Attributes:
        memory: proportional set size in MB, without files.
        files: number of open files.
        threads: number of threads.
    """

    memory: float
    files: int
    threads: int


def process_tree(pid: int) -> Iterator[Path]:
    """Yield the folders in /proc of a process and of its children."""
    process = Path("/proc", str(pid))
    yield process
    for task in process.glob("task/*/children"):
        with suppress(OSError):  # a thread has just ended
            for child in task.read_text().split():
                yield from process_tree(int(child))


def measure(pid: int) -> Use:
    """Measure a process with its children."""
    memory, files, threads = 0.0, 0, 0
    for process in process_tree(pid):
        with suppress(OSError):  # a child has just ended
            lines = [line.split() for line in (process / "smaps_rollup").read_text().splitlines()]
            memory += sum(int(kb) for name, kb, *_ in lines if name in ("Pss_Anon:", "Pss_Shmem:")) * 1.024 / 1000
            files += len(list((process / "fd").iterdir()))
            threads += len(list((process / "task").iterdir()))
    return Use(memory, files, threads)


def run_training(options: list[str], log: Path, seconds: float) -> list[Use]:
    """Run training.py; kill it after `seconds`. Return its use in every second after the warm-up.

    Raises:
        SystemExit: the training failed.
    """
    with log.open("a") as output:
        process = subprocess.Popen([sys.executable, "training.py", *options], stdout=output, stderr=subprocess.STDOUT)
    start, uses = time.monotonic(), []
    while process.poll() is None and time.monotonic() - start < seconds:
        if time.monotonic() - start > WARM_UP:
            uses.append(measure(process.pid))
        time.sleep(1)
    process.send_signal(signal.SIGKILL)
    if process.wait() not in (0, -signal.SIGKILL):
        sys.exit(f"training.py failed; see {log}")
    return uses


def main() -> None:
    """Print what the processes used in the first and in the last quarter of the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="duration (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills (default: 0)")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="long_use_"))
    checkpoint = folder / "run/model_last.pth"
    options = [*TRAINING.split(), "--save_path", str(folder), "--name", "run", "--resume_model", "auto"]
    test = f"--test True --dataset demo --resume_model {checkpoint} --save_path {folder / 'test'}".split()
    end = time.monotonic() + 60 * args.minutes
    rounds: list[list[Use]] = []
    kept: list[int] = []
    with tqdm(total=round(60 * args.minutes), unit="s", desc=str(folder)) as bar:
        while (left := end - time.monotonic()) > 0:
            rounds.append(run_training(options, folder / "training.log", min(draw.uniform(120, 240), left)))
            if len(rounds) % 3 == 0 and checkpoint.exists():
                shutil.rmtree(folder / "test", ignore_errors=True)
                run_training(test, folder / "test.log", seconds=600)
            kept.append(len(list((folder / "run").iterdir())))
            bar.n = min(bar.total, bar.total - round(end - time.monotonic()))
            bar.refresh()
    quarter = max(len(rounds) // 4, 1)
    print(f"{len(rounds)} trainings, all killed; files in the folder after a kill: {min(kept)} to {max(kept)}")
    print(f"{'median of':24}{'memory (MB)':>14}{'open files':>12}{'threads':>10}")
    for name, part in {
        "the first trainings": [use for uses in rounds[:quarter] for use in uses],
        "the last trainings": [use for uses in rounds[-quarter:] for use in uses],
        "first half of a training": [use for uses in rounds for use in uses[: len(uses) // 2]],
        "second half of a training": [use for uses in rounds for use in uses[len(uses) // 2 :]],
    }.items():
        memory, files, threads = (median(values) for values in zip(*part, strict=True))
        print(f"{name:26}{memory:>12.0f}{files:>12.0f}{threads:>10.0f}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
