"""Give random input to every reader of outside files and command lines, guided by the coverage of the code.

    python -m fuzz
    python -m fuzz label_file predictions_csv --cases 100000

Each case must end with a result or a one-sentence error, within 10 seconds and 2 GB. The command stops a target at its
first failure, keeps the input in output/fuzz/, and returns exit code 1. output/fuzz/TARGET.log has the traceback.
"""

import io
import os
import shutil
import struct
import sys
import tempfile
import time
import traceback
from contextlib import redirect_stderr
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING

from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from fuzz.target import Target

OUT = Path("output/fuzz")
PACKAGES = (
    "analysis", "corpora", "datasets", "demo", "engine", "evaluation", "faces", "inference", "models", "preprocessing",
    "run_folder", "scoring", "train_state", "training", "utils",
)  # fmt: skip
ROW = "{:<26}" + "{:>10}" * 5
COUNTS = struct.Struct("qq")  # cases that were refused and answered, in memory that both processes see


@dataclass(kw_only=True)
class FuzzArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    names: list[str] = parse.positional(str, "targets to run (default: all)", "*")
    cases: int = parse.argument(10_000, parse.count, "number of cases per target")
    seed: int = parse.argument(1, parse.count, "seed of the random input")


def run(args: FuzzArguments) -> int:
    """Run the targets one after the other and print a row for each; return 1 if one has failed."""
    try:
        import atheris
    except ImportError as error:
        raise InputError(
            "python -m fuzz needs atheris, which has packages for Python 3.11 to 3.13 on Linux (x86-64) only: pip "
            "install -r requirements.txt"
        ) from error
    # atheris prints a line for each module.
    with redirect_stderr(io.StringIO()), atheris.instrument_imports([*PACKAGES], enable_loader_override=False):
        from fuzz.target import SCRATCH, find_targets

        targets = find_targets()
    for name in args.names:
        if name not in targets:
            raise InputError(f"unknown target '{name}'{did_you_mean(name, targets)} Choose from {', '.join(targets)}.")
    OUT.mkdir(parents=True, exist_ok=True)
    failed = []
    print(ROW.format("target", "cases", "refused", "answered", "seconds", "peak MB"), flush=True)
    for name in args.names or targets:
        counts, began = mmap(-1, COUNTS.size), time.perf_counter()
        with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
            kept = Path(scratch) / "input"
            kept.touch()
            child = os.fork()  # libFuzzer ends the process
            if child == 0:
                code = 1
                try:
                    fuzz_here(name, targets[name], args, Path(scratch), counts)
                except SystemExit as stop:  # atheris
                    code = stop.code if isinstance(stop.code, int) else 1
                except Exception:  # noqa: BLE001  # the child must not return into the loop over the targets
                    traceback.print_exc()
                os._exit(code)
            _, status, usage = os.wait4(child, 0)
            if status:
                shutil.copyfile(kept, OUT / f"{name}.input")
        refused, answered = COUNTS.unpack(counts[:])
        numbers = refused + answered, refused, answered, round(time.perf_counter() - began), usage.ru_maxrss // 1024
        print(ROW.format(name, *numbers), flush=True)
        if status:
            failed.append(name)
            print(f"{name} failed: {OUT / name}.input is the input, {OUT / name}.log has the traceback", flush=True)
    return int(bool(failed))


def fuzz_here(name: str, target: "Target", args: FuzzArguments, scratch: Path, counts: mmap) -> None:
    """Give random input to a target in this process, which ends with libFuzzer's exit code."""
    import atheris

    with (OUT / f"{name}.log").open("wb") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    corpus = scratch / "corpus"
    corpus.mkdir()
    seeds = target.seeds()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def check(content: bytes) -> None:
        (scratch / "input").write_bytes(content)  # kept if this process ends here
        folder = scratch / "case"
        folder.mkdir()
        answered = target.check(content, folder)
        shutil.rmtree(folder)
        refused, before = COUNTS.unpack(counts[:])
        counts[:] = COUNTS.pack(refused + (not answered), before + answered)

    options = {
        "runs": args.cases,
        "seed": args.seed,
        "max_len": max(4096, 4 * max(map(len, seeds))),
        "timeout": 10,  # seconds per case
        "rss_limit_mb": 2048,
        "len_control": 0,  # long inputs from the start
        "artifact_prefix": f"{scratch}/",
    }
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], check)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, 1 if a target failed, or 2 for wrong input."""
    parser = parse.Parser("-m fuzz", __doc__, FuzzArguments)
    return run_command("fuzz", lambda: run(parser.parse(argv)), "fewer cases")


if __name__ == "__main__":
    sys.exit(main())
