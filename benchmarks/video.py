"""Time the stages of inference.py on a video, in a new process (Linux).

    python -m benchmarks.video --model CHECKPOINT VIDEO [other arguments of inference.py]

``detect`` includes loading the face detector, and ``detect`` and ``score`` include the conversion to OpenVINO. Only
``spread`` includes the scoring of the variants of a face. ``rest`` is the remaining time of the process: start and end
of Python, tracks (they import SciPy), notes and verdict. The last line is JSON: wall and CPU seconds, and the peak
memory in MiB before the first frame and at the end.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.tables import format_rows

CHILD = "from benchmarks import video; video.run_with_timers()"

SPENT = {name: [0.0, 0.0] for name in ("imports", "checkpoint", "decode", "detect", "crop", "score", "spread")}
RUNNING: list[str] = []
PEAKS: list[int] = []


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the wall and CPU seconds of the block to a stage, unless another stage is running."""
    start = time.perf_counter(), time.process_time()
    RUNNING.append(name)
    try:
        yield
    finally:
        RUNNING.pop()
        if not RUNNING:
            SPENT[name][0] += time.perf_counter() - start[0]
            SPENT[name][1] += time.process_time() - start[1]


def timed_frames(frames: Iterator[Any]) -> Iterator[Any]:
    """Yield the frames of a video, and time how long each takes."""
    PEAKS.append(peak_memory())
    while True:
        with stage("decode"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def peak_memory() -> int:
    """Return the peak of this process's memory so far, in MiB."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def run_with_timers() -> None:
    """Run inference.py with the arguments of this process, and print a line of JSON: `SPENT` and `PEAKS`."""
    with stage("imports"):
        import inference
    from faces.videos import FrameReader
    from scoring import detector, scores

    read = FrameReader.__iter__
    FrameReader.__iter__ = lambda self: timed_frames(read(self))  # type: ignore[method-assign]
    for owner, function, name in (
        (inference, "load_detector", "checkpoint"),
        (detector.ForgeryDetector, "find_faces", "detect"),
        (detector.ForgeryDetector, "_crop", "crop"),
        (detector.ForgeryDetector, "score", "score"),
        (scores, "score_variants", "spread"),
    ):
        setattr(owner, function, stage(name)(getattr(owner, function)))
    code = inference.main(sys.argv[1:])
    print(json.dumps([SPENT, [*PEAKS, peak_memory()]]))
    sys.exit(code)


def main(argv: list[str] | None = None) -> None:
    """Print a row for each stage and their sum, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command = [sys.executable, "-c", CHILD, *parser.parse_known_args(argv)[1]]
    start = time.perf_counter(), sum(os.times()[2:4])  # CPU seconds of ended children
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    total = [round(time.perf_counter() - start[0], 3), round(sum(os.times()[2:4]) - start[1], 3)]
    if child.returncode:
        raise SystemExit(child.returncode)
    *printed, last = child.stdout.splitlines()
    seconds, peaks = json.loads(last)
    seconds = {name: [round(value, 3) for value in values] for name, values in seconds.items()}
    seconds["rest"] = [round(total[i] - sum(values[i] for values in seconds.values()), 3) for i in (0, 1)]
    seconds["sum"] = total
    rows = [[name, f"{wall:.3f}", f"{cpu:.3f}"] for name, (wall, cpu) in seconds.items()]
    print("\n".join([*printed, format_rows([["stage", "wall s", "CPU s"], *rows])]))
    print(f"peak memory: {peaks[0]} MiB before the first frame, {peaks[-1]} MiB at the end")
    print(json.dumps({"seconds": seconds, "MiB": [peaks[0], peaks[-1]]}))


if __name__ == "__main__":
    main()
