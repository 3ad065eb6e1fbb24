"""Compare scoring with the authors' way.

    python -m benchmarks.evaluation [--model resnet --num_LIBs 4 --size 112 --bs 32] [--steps 6]

The authors' way computes in float32 with channels first, one LIB after the other, all heads and the losses, and reads
several values back in every step. Ours is what test mode uses for long test sets: `models.fast.fast_scorer`. Both score
the same random images in turns (A B A B). The last line is JSON: images per second, medians of the turns.
"""

import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.turns import in_turns, make_parser, processor
from datasets.transforms import normalise
from engine import fake_probability
from models.backbones import build_network
from models.fast import fast_scorer
from models.lib_network import LIBNetwork
from utils.devices import PRECISIONS, choose_precision, select_devices, to_device

SECONDS = 60.0  # the last turn begins before this
LONG = 1_000_000  # images of a test set


def authors_step(network: LIBNetwork, images: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """Return a function that scores `images`, B x 3 x H x W uint8, as the authors' test loop does."""
    labels = (torch.arange(len(images)) % 2).to(device)

    @torch.no_grad()
    def step() -> None:
        outputs = network(normalise(images.to(device)))
        losses = [F.cross_entropy(logits, labels) for logits in (outputs.fused, outputs.all, *outputs.leave_one_out)]
        soft = F.softmax(outputs.fused, dim=1)
        for value in (*losses, (soft.argmax(1) == labels).sum()):
            value.item()
        soft[:, 1].cpu()

    return step


def scoring_step(scorer: nn.Module, images: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """Return a function that scores `images`, B x 3 x H x W uint8, with a scorer such as `models.fast.fast_scorer`."""

    @torch.no_grad()
    def step() -> None:
        fake_probability(scorer(normalise(images.to(device, non_blocking=True)))).cpu()

    return step


def our_step(network: LIBNetwork, images: torch.Tensor, device: torch.device) -> Callable[[], None]:
    """Return a function that scores `images`, B x 3 x H x W uint8, as test mode does."""
    return scoring_step(fast_scorer(to_device(network, device), LONG).eval(), images, device)


def measure(
    model: str, num_LIBs: int, size: int, bs: int, precision: str, gpu_num: str | None, steps: int
) -> dict[str, object]:
    """Return the images per second of both ways and their ratio."""
    device = select_devices(gpu_num)[0]
    precision = choose_precision(precision, device, model)
    theirs, ours = (build_network(model, num_LIBs, size).eval() for _ in range(2))
    ours.precision = PRECISIONS[precision]
    images = torch.randint(0, 256, (bs, 3, size, size), dtype=torch.uint8)
    ways = [authors_step(theirs.to(device), images, device), our_step(ours, images, device)]
    repeats = 10 if device.type == "cuda" else 1
    baseline, speed = in_turns(ways, bs, max(1, steps // repeats), repeats, SECONDS)
    return {
        "baseline": round(baseline, 2), "ours": round(speed, 2), "ratio": round(speed / baseline, 3),
        "unit": "images/s", "precision": precision, "processor": processor(device), "torch": torch.__version__,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Print one line of JSON."""
    parser = make_parser(__doc__, size=112, bs=32, steps=6)  # --num_workers has no use: images in memory
    options = vars(parser.parse_args(argv))
    del options["num_workers"]
    print(json.dumps(measure(**options)))


if __name__ == "__main__":
    main()
