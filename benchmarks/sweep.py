"""Plot the speed of a training step against the batch size and the number of LIBs.

    python -m benchmarks.sweep [--model resnet --size 224] [--bs 16,64,256] [--num_LIBs 1,2,4] [--plot speed.png]

Each point is `engine.train_step` on random images, not compiled. The last line is JSON: images per second by number of
LIBs and batch size.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.train_step import our_step
from benchmarks.turns import in_turns, processor
from utils.devices import choose_precision
from utils.training_arguments import TrainingArguments
from utils.world import World


def speed(args: TrainingArguments, world: World) -> float:
    """Return the images per second of a training step."""
    images = torch.randint(0, 256, (args.bs, 3, args.size, args.size), dtype=torch.uint8)
    repeats = 5 if world.device.type == "cuda" else 1
    return in_turns([our_step(args, world, images, steps=1)], args.bs, 2, repeats, 20.0)[0]


def draw(speeds: dict[int, dict[int, float]], title: str, file: Path) -> None:
    """Draw a line for each number of LIBs."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for number, by_size in speeds.items():
        axes.plot(list(by_size), list(by_size.values()), marker="o", label=f"{number} LIB{'s' * (number > 1)}")
    axes.set(xscale="log", xlabel="batch size", ylabel="images per second", title=title, ylim=(0, None))
    sizes = sorted({size for by_size in speeds.values() for size in by_size})
    axes.set_xticks(sizes, map(str, sizes), minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def main() -> None:
    """Print each point, then one line of JSON; write the plot."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet", help="backbone (default: resnet)")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels (default: 224)")
    parser.add_argument("--bs", type=numbers, default=[16, 32, 64, 128, 256], help="comma-separated batch sizes")
    parser.add_argument("--num_LIBs", type=numbers, default=[1, 2, 4], help="comma-separated numbers of LIBs")
    parser.add_argument("--gpu_num", help="GPU number, or cpu")
    parser.add_argument("--plot", type=Path, help="image file to write the plot to")
    options = parser.parse_args()
    world = World(options.gpu_num)
    precision = choose_precision("auto", world.device, options.model)
    speeds: dict[int, dict[int, float]] = {number: {} for number in options.num_LIBs}
    for number in options.num_LIBs:
        for batch in options.bs:
            args = TrainingArguments(
                model=options.model, size=options.size, num_LIBs=number, bs=batch, pretrained=False,
                precision=precision, lil_loss=number > 1,
            )  # fmt: skip
            speeds[number][batch] = round(speed(args, world), 1)
            print(f"{number} LIBs, batch {batch}: {speeds[number][batch]} images/s", flush=True)
    name = processor(world.device)
    if options.plot is not None:
        draw(speeds, f"{name}, {options.model}, {options.size} px, {precision}", options.plot)
    print(json.dumps({"processor": name, "torch": torch.__version__, "precision": precision, "images/s": speeds}))


if __name__ == "__main__":
    main()
