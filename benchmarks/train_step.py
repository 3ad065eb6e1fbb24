"""Compare a training step with the authors' way.

    python -m benchmarks.train_step [--model resnet --num_LIBs 4 --size 112 --bs 32] [--steps 8]

The authors' way computes in float32 with channels first, uses Adam's default implementation, and reads every loss back
in every step. Ours is `engine.train_step` with the defaults of training.py. Both take steps on the same random images,
in turns (A B A B). The last line is JSON: images per second, medians of the turns.
"""

import json
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.turns import in_turns, make_parser, processor
from datasets.images import Batch
from datasets.transforms import normalise
from engine import train_step
from losses.divergences import kl_divergence
from models.backbones import build_network
from train_state import TrainState
from utils.devices import choose_precision
from utils.training_arguments import TrainingArguments
from utils.world import World

SECONDS = 90.0  # the last turn begins before this


def authors_step(args: TrainingArguments, world: World, images: torch.Tensor) -> Callable[[], None]:
    """Return a function that takes a training step on `images`, B x 3 x H x W uint8, as the authors' code does."""
    network = build_network(args.model, args.num_LIBs, args.size).to(world.device).train()
    weights = torch.nn.Parameter(torch.ones(3, device=world.device))
    optimizer = torch.optim.Adam([*network.parameters(), weights], lr=args.lr, weight_decay=args.weight_decay)
    labels = (torch.arange(len(images)) % 2).to(world.device)

    def soft(logits: torch.Tensor) -> torch.Tensor:
        return F.softmax(logits / args.temperature, dim=1)

    def step() -> None:
        x = normalise(images.to(world.device))
        lam = float(torch.distributions.Beta(args.alpha, args.alpha).sample())
        partner = torch.randperm(len(x), device=x.device)
        outputs = network(lam * x + (1 - lam) * x[partner])
        losses = torch.zeros(3, device=x.device)
        for share, y in ((lam, labels), (1 - lam, labels[partner])):
            heads, teacher = [outputs.fused, outputs.all, *outputs.leave_one_out], soft(outputs.all.detach())
            cross = torch.stack([F.cross_entropy(logits, y) for logits in heads]).sum()
            apart = torch.stack([kl_divergence(soft(logits), teacher) for logits in outputs.leave_one_out]).sum()
            terms = torch.stack([cross, torch.exp(-apart), kl_divergence(soft(outputs.fused), teacher)])
            losses = losses + share * terms
        total = (0.5 / weights**2 * losses + torch.log(1 + weights**2)).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        [loss.item() for loss in losses], total.item(), (outputs.fused.argmax(1) == labels).sum().item()

    return step


def our_step(args: TrainingArguments, world: World, images: torch.Tensor, steps: int = 1_000_000) -> Callable[[], None]:
    """Return a function that takes a training step on `images`, B x 3 x H x W uint8, as training.py does.

    Args:
        args: arguments of training.py.
        world: the process and its device.
        images: the batch.
        steps: steps of an epoch; a long run is compiled on a GPU.
    """
    state = TrainState(args, None, steps, world)
    state.model.train()
    batch = Batch(images, torch.arange(len(images)) % 2, torch.arange(len(images)), [])

    def step() -> None:
        train_step(state, batch, [len(images)])
        state.step += 1
        if state.step % args.log_every == 0:
            state.record.read(0, state.step)

    return step


def measure(args: TrainingArguments, steps: int, seconds: float = SECONDS) -> dict[str, object]:
    """Return the images per second of both ways and their ratio."""
    world = World(args.gpu_num)
    on_gpu = world.device.type == "cuda"
    args.precision = choose_precision(args.precision, world.device, args.model)
    images = torch.randint(0, 256, (args.bs, 3, args.size, args.size), dtype=torch.uint8)
    images = images.pin_memory() if on_gpu else images
    ways = [make(args, world, images) for make in (authors_step, our_step)]
    repeats = args.log_every if on_gpu else 1
    baseline, ours = in_turns(ways, args.bs, max(1, steps // repeats), repeats, seconds)
    return {
        "baseline": round(baseline, 2), "ours": round(ours, 2), "ratio": round(ours / baseline, 3),
        "unit": "images/s", "precision": args.precision, "processor": processor(world.device),
        "torch": torch.__version__,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Print one line of JSON."""
    parser = make_parser(__doc__, size=112, bs=32, steps=8)  # --num_workers has no use: images in memory
    options = vars(parser.parse_args(argv))
    steps = options.pop("steps")
    print(json.dumps(measure(TrainingArguments(pretrained=False, **options), steps)))


if __name__ == "__main__":
    main()
