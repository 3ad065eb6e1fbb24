"""Compare ways of scoring on a CPU.

    python -m benchmarks.scorers [--model resnet --num_LIBs 4 --size 112 --bs 32] [--steps 5] [--compile]

The authors' way is the way of benchmarks/evaluation.py. The other ways compute the fused logits alone, with
channels-last weights, in fp32 and in bf16; --compile adds torch.compile with freezing, which needs a C++ compiler and
minutes. All score the same random images in turns. A CPU without bf16 instructions computes bf16 in PyTorch slowly, and
in OpenVINO in fp32. The last line is JSON: images per second (medians of the turns), seconds to prepare (start and
first batch, less a later batch), and the number of images from which OpenVINO, with its preparation, is faster.
"""

import copy
import json
import math
import time
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import nn
from torch._inductor import config

from benchmarks.evaluation import LONG, authors_step, scoring_step
from benchmarks.turns import in_turns, make_parser, processor
from models.backbones import build_network
from models.fast import FusedLogits, fast_scorer
from models.lib_network import LIBNetwork
from utils import devices
from utils.tables import format_rows

CPU = torch.device("cpu")
WAYS, PRECISIONS = ("PyTorch", "OpenVINO", "torch.compile"), ("fp32", "bf16")
SECONDS = 600.0  # the last turn begins before this


def make_scorer(network: LIBNetwork, way: str, precision: str, size: int) -> nn.Module:
    """Return a scorer that maps B x 3 x size x size images, normalised, to the fused logits, B x 2.

    Args:
        network: in evaluation mode, with channels-last weights; it is not changed.
        way: PyTorch, torch.compile or OpenVINO.
        precision: fp32 or bf16.
        size: side of the images in pixels.

    Raises:
        SystemExit: OpenVINO is missing, or does not support the network.
    """
    network = copy.copy(network)
    network.precision = devices.PRECISIONS[precision]
    scorer = fast_scorer(network, LONG).eval() if way == "OpenVINO" else FusedLogits(network).eval()
    if way == "torch.compile":
        config.freezing = True
        scorer.compile()
    if way == "OpenVINO":
        with torch.no_grad():
            scorer(torch.randn(1, 3, size, size))
        if scorer.compiled is None:
            raise SystemExit("OpenVINO does not run; see the note above.")
    return scorer


def break_even(pytorch: float, openvino: float, seconds: float) -> int | None:
    """Return the number of images from which OpenVINO is faster, with its `seconds` to prepare; None if it never is.

    Args:
        pytorch: images per second.
        openvino: images per second.
        seconds: to prepare OpenVINO.
    """
    gain = 1 / pytorch - 1 / openvino
    return math.ceil(seconds / gain) if gain > 0 else None


def measure(model: str, num_LIBs: int, size: int, bs: int, steps: int, ways: Sequence[str]) -> dict[str, Any]:
    """Return images per second and seconds to prepare of each way, and the break-even of each precision."""
    theirs, ours = (build_network(model, num_LIBs, size).eval() for _ in range(2))
    devices.to_device(ours, CPU)
    images = torch.randint(0, 256, (bs, 3, size, size), dtype=torch.uint8)
    scoring = {"authors' way": authors_step(theirs, images, CPU)}
    first = {"authors' way": 0.0}
    for way, precision in product(ways, PRECISIONS):
        name, start = f"{way} {precision}", time.perf_counter()
        scoring[name] = scoring_step(make_scorer(ours, way, precision, size), images, CPU)
        scoring[name]()
        first[name] = time.perf_counter() - start
    speeds = dict(zip(scoring, in_turns([*scoring.values()], bs, steps, 1, SECONDS), strict=True))
    seconds = {name: round(max(0.0, first[name] - bs / speed), 1) for name, speed in speeds.items()}
    even = {
        p: break_even(speeds[f"PyTorch {p}"], speeds[f"OpenVINO {p}"], seconds[f"OpenVINO {p}"]) for p in PRECISIONS
    }
    return {
        "images/s": {name: round(speed, 2) for name, speed in speeds.items()},
        "seconds to prepare": seconds, "break-even": even, "processor": processor(CPU), "torch": torch.__version__,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Print a table, then one line of JSON."""
    # --num_workers, --precision and --gpu_num have no use: images in memory, both precisions, the CPU
    parser = make_parser(__doc__, size=112, bs=32, steps=5)
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    args = parser.parse_args(argv)
    ways = WAYS if args.compile else WAYS[:2]
    found = measure(args.model, args.num_LIBs, args.size, args.bs, args.steps, ways)
    rows = [["way", "images/s", "ratio", "seconds to prepare"]]
    for name, speed in found["images/s"].items():
        ratio = speed / found["images/s"]["authors' way"]
        rows.append([name, f"{speed:.1f}", f"{ratio:.2f}", f"{found['seconds to prepare'][name]:.1f}"])
    print(f"{format_rows(rows)}\n{json.dumps(found)}")


if __name__ == "__main__":
    main()
