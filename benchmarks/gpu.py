"""Measure training, evaluation, memory and input on a GPU, in at most 8 minutes.

    python -m benchmarks.gpu [--model resnet --num_LIBs 4 --size 224 --bs 256 --num_workers 16]

The authors' way is float32 with channels first and PyTorch's defaults; ours is what training.py does. Both take turns
(A B A B) on random images in memory. End to end, training.py's loader reads a pack of noise images and augments them.
The last line is JSON. Without a GPU it runs on the CPU; give tiny settings.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import evaluation
from benchmarks.input_pipeline import write_images
from benchmarks.train_step import authors_step, our_step
from benchmarks.turns import in_turns, make_parser, processor
from datasets import pack
from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from datasets.samplers import TrainingBatches
from engine import BadImages, train_one_epoch
from models.backbones import build_network
from train_state import TrainState
from utils.devices import PRECISIONS, choose_precision, worker_count
from utils.training_arguments import TrainingArguments
from utils.world import World

EPOCH = 264_598 + 4 * 73_649  # images of an epoch on FF++: fake, and real four times
SHORT = 1  # steps of a run that is too short to be compiled
LONG = 1_000_000  # steps of a run that is long enough to be compiled


def matrix_rate(world: World, side: int) -> float:
    """Return the TFLOP/s of a bf16 product of two matrices with `side` rows and columns."""

    def product(matrix: torch.Tensor) -> None:
        matrix @ matrix

    matrix = torch.randn(side, side, device=world.device, dtype=torch.bfloat16)
    return in_turns([lambda: product(matrix)], 2 * side**3, 3, 10, 20.0)[0] / 1e12


def gflops(args: TrainingArguments) -> float:
    """Return the GFLOP of a forward pass per image; training needs about three times that."""
    network = build_network(args.model, args.num_LIBs, args.size).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, args.size, args.size))
    return counter.get_total_flops() / 1e9


def memory_and_speed(
    make: Callable[..., Callable[[], None]], args: TrainingArguments, world: World, *more: Any
) -> dict[str, float]:
    """Return images per second of a training step, and its peak of GPU memory in GiB."""
    on_gpu = world.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    images = torch.randint(0, 256, (args.bs, 3, args.size, args.size), dtype=torch.uint8)
    speed = in_turns([make(args, world, images, *more)], args.bs, 2, 5 if on_gpu else 1, 10.0)[0]
    return {"images/s": round(speed), "GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1) if on_gpu else 0.0}


def end_to_end(args: TrainingArguments, world: World, steps: int) -> dict[str, float]:
    """Return images per second of loader alone, and of an epoch of training from a pack."""
    workers = worker_count(args.num_workers)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = len(write_images(root))
        where = ["--dataset_root", str(root / "dataset"), "--data_root", str(root / "faces")]
        if pack.main(["noisy", "--size", str(args.size), "--num_workers", str(args.num_workers), *where]):
            raise SystemExit(2)
        videos = read_split("noisy", "train", root / "dataset", root / "faces", args.size)
        faces = FaceImages(videos * -(-steps * args.bs // count), args.size, args.seed)
        batches = TrainingBatches(steps * args.bs, args.bs, args.seed, world)
        loader = make_loader(faces, args.bs, workers, world, batches)
        speeds = {}
        for name in ("cold", "loader"):
            start = time.perf_counter()
            for _ in loader:
                pass
            speeds[name] = steps * args.bs / (time.perf_counter() - start)
        state = TrainState(args, None, LONG, world)
        for _ in ("compile", "measure"):  # the first epoch compiles
            train_one_epoch(state, loader, BadImages(False), lambda losses: None)
            speeds["end to end"] = state.record.speed
            state.step = 0
        return {name: round(speed) for name, speed in speeds.items() if name != "cold"}


def measure(args: TrainingArguments, side: int = 8192, steps: int = 40) -> dict[str, Any]:
    """Return all figures; print each as soon as it is known."""
    world = World(args.gpu_num)
    args.precision = choose_precision(args.precision, world.device, args.model)
    result: dict[str, Any] = {
        "processor": processor(world.device), "torch": torch.__version__, "precision": args.precision,
        "model": f"{args.num_LIBs} x {args.model}, {args.size} px, batch {args.bs}",
    }  # fmt: skip

    def note(name: str, value: Any) -> None:
        result[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)

    def compare(name: str, sides: list[Callable[[], None]], gflop: float) -> None:
        baseline, ours = in_turns(sides, args.bs, 3, repeats, 60.0)
        note(name, {
            "baseline": round(baseline, 1), "ours": round(ours, 1), "ratio": round(ours / baseline, 2),
            "TFLOP/s": round(ours * gflop / 1e3, 2),
        })  # fmt: skip

    note("matrix TFLOP/s", round(matrix_rate(world, side), 2))
    flops = gflops(args)
    on_gpu = world.device.type == "cuda"
    images = torch.randint(0, 256, (args.bs, 3, args.size, args.size), dtype=torch.uint8)
    images = images.pin_memory() if on_gpu else images
    repeats = 10 if on_gpu else 1
    sides = [make(args, world, images) for make in (authors_step, our_step)]
    compare("training", sides, 3 * flops)
    networks = [build_network(args.model, args.num_LIBs, args.size).eval() for _ in range(2)]
    networks[1].precision = PRECISIONS[args.precision]
    sides = [
        evaluation.authors_step(networks[0].to(world.device), images, world.device),
        evaluation.our_step(networks[1], images, world.device),
    ]
    compare("evaluation", sides, flops)
    del sides, networks
    note("hours of an FF++ epoch", round(EPOCH / result["training"]["ours"] / 3600, 3))
    rows: dict[str, Any] = {"authors' way": (authors_step, {}, ())}
    for precision in ("fp32", "bf16", "fp16"):
        rows[precision] = (our_step, {"precision": precision}, (SHORT,))
    rows["checkpoint_blocks"] = (our_step, {"checkpoint_blocks": True}, (SHORT,))
    rows["accumulate 4"] = (our_step, {"accumulate": 4}, (SHORT,))
    for name, (make, changes, more) in rows.items():
        changed = TrainingArguments(**{**vars(args), **changes})
        note(f"memory, {name}", memory_and_speed(make, changed, world, *more))
    note("input", end_to_end(args, world, steps))
    return result


def main(argv: list[str] | None = None) -> None:
    """Print the figures, then one line of JSON."""
    parser = make_parser(__doc__, size=224, bs=256, num_workers=16, steps=40)
    parser.add_argument("--side", type=int, default=8192, help="side of the matrices (default: 8192)")
    options = vars(parser.parse_args(argv))
    side, steps = options.pop("side"), options.pop("steps")
    print(json.dumps(measure(TrainingArguments(pretrained=False, **options), side, steps)))


if __name__ == "__main__":
    main()
