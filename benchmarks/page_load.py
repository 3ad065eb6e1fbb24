"""Send good and bad uploads to the page, eight at once, for docs/inference.md: answers, memory, open files, disk.

    python -m benchmarks.page_load [--uploads 200] [--threads 8]

It starts ``inference.py --serve`` with a tiny untrained network in another process, and compares each score with the
score of the command line. tests/test_page.py makes the uploads. Linux only.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

from tests.helpers import ROOT
from tests.test_inference import checkpoint
from tests.test_page import PASSWORD, Visitor, command_line_scores, is_one_sentence, mixed_uploads

LIMITS = "page.MAX_UPLOAD_MB, page.MAX_VIDEO_MINUTES, page.KEEP_SECONDS = 1, 0.05, 20"
CODE = f"import sys, inference\nfrom scoring import page\n{LIMITS}\nsys.exit(inference.main())"


def measure(process: int, folder: Path) -> tuple[float, int, int, int]:
    """Return the memory without files in MB, open file descriptors, threads, and files in the folder."""
    state = Path(f"/proc/{process}/status").read_text()
    memory, threads = (int(re.findall(rf"{name}:\s+(\d+)", state)[0]) for name in ("RssAnon", "Threads"))
    files = sum(len(names) for _, _, names in os.walk(folder))
    return memory / 1024, len(os.listdir(f"/proc/{process}/fd")), threads, files


def main() -> None:
    """Print a table with a row for each quarter of the uploads, and how the uploads were answered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=200, help="number of uploads (default: 200)")
    parser.add_argument("--threads", type=int, default=8, help="uploads at once (default: 8)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("inputs", "files"):
            (root / folder).mkdir()
        (root / "password").write_text(PASSWORD)
        model = checkpoint(root / "model.pth", size=64, faces=None)
        good, bad = mixed_uploads(root / "inputs", too_long=True)
        with redirect_stdout(sys.stderr):
            expected = command_line_scores(model, good, root / "inputs")
        names = [*good, *bad]
        uploads = [names[i % len(names)] for i in range(args.uploads)]
        flags = f"--model {model} --serve --faces_given --gpu_num cpu --password_file {root / 'password'}"
        environment = os.environ | {"TMPDIR": str(root / "files")}
        command = [sys.executable, "-c", CODE, *flags.split()]
        wrong, scored, refused = [], 0, 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
            assert process.stdout is not None
            address = re.findall(r"http://\S+/", process.stdout.readline())[0]
            visitors = [Visitor(address, PASSWORD) for _ in range(args.threads)]
            print("| uploads | memory (MB) | file descriptors | threads | files |\n|---|---|---|---|---|")
            print("| {} | {:.0f} | {} | {} | {} |".format(0, *measure(process.pid, root / "files")), flush=True)
            with ThreadPoolExecutor(args.threads) as pool:
                for quarter in range(4):
                    start, end = (args.uploads * part // 4 for part in (quarter, quarter + 1))
                    turns = [uploads[start + i : end : args.threads] for i in range(args.threads)]
                    answers = pool.map(
                        lambda visitor, turn: [
                            (upload, *visitor.score(upload, (good | bad)[upload])) for upload in turn
                        ],
                        visitors,
                        turns,
                    )
                    for upload, text, record, _ in (answer for some in answers for answer in some):
                        if upload in good:
                            scored += 1
                            correct = record is not None and abs((record["score"] or 0) - expected[upload]) < 1e-6
                        else:
                            refused += 1
                            correct = (record is None or record["score"] is None) and is_one_sentence(
                                text.split("not scored")[-1]
                            )
                        wrong += [] if correct else [f"{upload!r}: {text}"]
                    row = measure(process.pid, root / "files")
                    print("| {} | {:.0f} | {} | {} | {} |".format(end, *row), flush=True)
            process.terminate()
        print(f"{scored} good and {refused} bad uploads, {len(wrong)} answered wrongly")
        print("\n".join(wrong))


if __name__ == "__main__":
    main()
