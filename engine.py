"""One training step, one epoch of training, and one pass of evaluation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from datasets.images import BadImage, Batch
from datasets.mixup import Mix, draw_mix, mix_images, mix_terms
from datasets.transforms import normalise
from losses.balance import FixedBalance, LearntBalance
from losses.divergences import DIVERGENCES
from losses.terms import Logits, loss_terms
from models.recompute import recompute
from utils.devices import is_out_of_memory, seed_everything, smallest_share
from utils.errors import InputError
from utils.progress import progress
from utils.training_arguments import TrainingArguments
from utils.workers import iterate
from utils.world import World

if TYPE_CHECKING:
    from train_state import TrainState

AfterStep = Callable[[dict[str, float] | None], None]


class BadImages:
    """Collect images that cannot be read.

    Args:
        skip: the value of ``--skip_bad_images``; if False, the first bad image is an error.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.found: dict[str, str] = {}
        self.reported = 0

    def add(self, bad: list[BadImage]) -> None:
        """Add the bad images of a batch; raise InputError at the first one unless bad images are skipped."""
        if bad and not self.skip:
            raise InputError(
                f"the image {bad[0].path} cannot be read: {bad[0].reason}; replace it, or skip such images "
                "with --skip_bad_images."
            )
        self.found.update(bad)

    def report(self, world: World) -> None:
        """Print the images that the processes skipped since the last report, and their total number."""
        for found in world.gather_objects(self.found):
            self.found = self.found | found
        if new := [f"\n  {path}: {reason}" for path, reason in self.found.items()][self.reported :]:
            print(f"note: skipped unreadable images ({len(self.found)} so far):{''.join(new)}", flush=True)
            self.reported = len(self.found)


# ------------------------------------------------------------------------------------------------------ training


class Objective(nn.Module):
    """The network, its loss terms and their balance: what a training minimises.

    The local and the global loss are not sums over images. With several processes the logits of the whole batch are
    gathered first, so the same logits give the same loss for any number of processes.

    Args:
        network: maps images to `Logits`; it may be wrapped in `torch.nn.DataParallel`.
        args: the loss settings.
        world: the processes.

    Attributes:
        criterion: maps (outputs, labels) to the loss terms by name, scalars.
        balance: maps the loss terms to the total loss, a scalar.
    """

    def __init__(self, network: nn.Module, args: TrainingArguments, world: World) -> None:
        super().__init__()
        self.network, self.world, self.micro_batches = network, world, args.accumulate
        divergence = DIVERGENCES[args.mi_calculator]
        self.criterion = partial(
            loss_terms, lil=args.lil_loss, gil=args.gil_loss, temperature=args.temperature, divergence=divergence
        )
        terms = ["classification"] + ["local"] * args.lil_loss + ["global"] * args.gil_loss
        self.balance = LearntBalance(terms) if args.balance_loss_method == "auto" else FixedBalance(args.scales)

    def forward(
        self, images: Tensor, labels: Tensor, mix: Mix | None, counts: list[int]
    ) -> tuple[Tensor, dict[str, Tensor], Logits]:
        """Compute the training loss of one batch.

        Args:
            images: this process's part of the batch, counts[rank] x 3 x H x W, normalised; with mixup, the blends.
            labels: the labels of the whole batch, B, int64, 0 real and 1 fake.
            mix: the mixup draw; None for no mixup.
            counts: number of images of each process.

        Returns:
            The total loss, its terms by name, and the logits of the whole batch.
        """
        outputs = self.gather(self.run_network(images), counts)
        terms = self.criterion(outputs, labels)
        if mix is not None:
            partner_labels = labels[mix.partner.to(labels.device, non_blocking=True)]
            terms = mix_terms(terms, self.criterion(outputs, partner_labels), mix.lam)
        return self.balance(terms), terms, outputs

    def run_network(self, images: Tensor) -> Logits:
        """Return the logits of `images`; with ``--accumulate``, recompute each micro-batch in the backward pass."""
        if self.micro_batches == 1:
            return self.network(images)
        parts = [recompute(self.network, part) for part in images.tensor_split(self.micro_batches)]
        heads = zip(*([part.fused, part.all, *part.leave_one_out] for part in parts), strict=True)
        fused, all_, *leave_one_out = map(torch.cat, heads)
        return Logits(fused, all_, leave_one_out)

    def gather(self, outputs: Logits, counts: list[int]) -> Logits:
        """Return the logits of all processes."""
        if len(counts) == 1:
            return outputs
        logits = torch.stack([outputs.fused, outputs.all, *outputs.leave_one_out], dim=1)
        fused, all_, *leave_one_out = self.world.gather(logits, counts).unbind(dim=1)
        return Logits(fused, all_, leave_one_out)


def optimizer_step(optimizer: torch.optim.Optimizer, total: Tensor, scaler: GradScaler) -> None:
    """Backpropagate the total loss, a scalar, and take one optimizer step.

    An enabled `scaler` skips the step if a gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(total).backward()
    scaler.step(optimizer)
    scaler.update()


def train_step(state: "TrainState", batch: Batch, counts: list[int]) -> None:
    """Take one optimizer step, and add its losses and scores to ``state.record``.

    The function returns before the device has finished, because it reads no value back to the host. Only
    ``--mi_calculator w`` waits, in its convergence test. All random numbers depend on (seed, epoch, step). All
    processes use the same mixup draw; their dropout masks differ.

    Args:
        state: the training; ``state.step`` counts the steps before this one.
        batch: this process's part of the batch.
        counts: number of images of each process.
    """
    args, world, epoch = state.args, state.world, state.epoch + 1
    state.schedule.set_rates(state.optimizer, epoch, state.step)
    seed_everything(args.seed, epoch, state.step)
    pixels = batch.images.to(world.device, non_blocking=True)
    images = normalise(pixels, state.channels)
    labels = world.gather(batch.labels.to(world.device, non_blocking=True), counts)
    mix, main_labels = None, labels
    if args.mixup:
        mix = draw_mix(len(labels), args.alpha)
        images = mix_images(images, normalise(world.pick(pixels, counts, mix.partner), state.channels), mix.lam)
        main_labels = labels if mix.lam >= 0.5 else labels[mix.partner.to(world.device, non_blocking=True)]
    if world.rank:
        seed_everything(args.seed, epoch, state.step, world.rank)

    total, terms, outputs = state.model(images, labels, mix, counts)
    losses = {"total": total, **terms}
    before = steps_taken(state.optimizer) if state.scaler.is_enabled() else None
    optimizer_step(state.optimizer, total, state.scaler)
    if before is not None:
        losses["skipped"] = 1 + before - steps_taken(state.optimizer)
    state.record.add(losses, main_labels, fake_probability(outputs))


def steps_taken(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the number of steps that Adam has taken, a scalar on its device."""
    weight = optimizer.param_groups[0]["params"][0]
    return optimizer.state[weight]["step"].clone() if optimizer.state else torch.zeros((), device=weight.device)


def train_one_epoch(state: "TrainState", loader: DataLoader, bad_images: BadImages, after_step: AfterStep) -> None:
    """Train on the rest of the current epoch.

    Args:
        state: the training, after ``state.step`` steps of the epoch.
        loader: yields `datasets.images.Batch` in the order of `datasets.samplers.TrainingBatches`.
        bad_images: collects unreadable images.
        after_step: called after each step; gets the losses (total and terms) every ``--log_every`` steps, else None.

    Raises:
        InputError: an image cannot be read, a loss is not finite, or memory runs out.
        Stopped: a signal asks the run to stop; `state` then holds the result of a complete step.
    """
    if state.step == 0:
        state.schedule.start_epoch(state.optimizer)
    world = state.world
    order: Any = loader.batch_sampler  # TrainingBatches
    order.epoch, order.first_step = state.epoch + 1, state.step
    state.model.train()
    start, trained = time.perf_counter(), 0
    title, done = f"epoch {state.epoch + 1}", min(state.step * state.args.bs, order.images)
    batches: Iterator[Batch] = iterate(loader)  # starts the loader's processes, which may use every core
    bar = progress(None, title, unit="images", total=order.images, initial=done, disable=not world.leads)
    with bar, advise_on_memory("--bs", state.args.bs), world.bound_threads():
        for batch in batches:
            bad_images.add(batch.bad)
            counts = world.handshake(len(batch.labels))
            # BatchNorm cannot be trained on one image
            if min(smallest_share(n, len(world.devices), state.args.accumulate) for n in counts) >= 2:
                train_step(state, batch, counts)
                state.step += 1
                trained += sum(counts)
                losses = None
                if (state.step - 1) % state.args.log_every == 0:
                    losses = state.record.read(state.epoch, state.step)
                    lr = state.optimizer.param_groups[0]["lr"]
                    bar.set_postfix(loss=f"{losses['total']:.3f}", lr=f"{lr:.1e}", refresh=False)
                state.record.speed = trained / (time.perf_counter() - start)
                after_step(losses)
            else:
                state.step += 1
            bar.update(sum(counts))
    world.handshake(0)
    state.record.read(state.epoch, state.step)
    if not state.record.losses:
        bad_images.report(world)
        raise InputError(
            f"epoch {state.epoch + 1}: no batch of --bs {state.args.bs} has two readable images per device and "
            "micro-batch; replace the unreadable images."
        )


# ---------------------------------------------------------------------------------------------------- evaluation


def fake_probability(outputs: Logits | Tensor) -> Tensor:
    """Return the score of each image, softmax(fused)[1]: B, float64, from 0 (real) to 1 (fake).

    Args:
        outputs: all logits, or the fused ones alone, B x 2.
    """
    fused = outputs if isinstance(outputs, Tensor) else outputs.fused
    return fused.detach().double().softmax(dim=1)[:, 1]


@torch.no_grad()  # DataParallel does not pass inference_mode on to its threads
def evaluate(
    network: nn.Module,
    loader: DataLoader,
    world: World,
    *,
    channels: str,
    bad_images: BadImages,
    title: str,
    output_fn: Callable[..., Tensor] = fake_probability,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every image once, without augmentation.

    Args:
        network: on the device of `world`.
        loader: yields `datasets.images.Batch` of this process's share of the images.
        world: the processes.
        channels: RGB or BGR.
        bad_images: collects unreadable images.
        title: the text of the progress bar and of messages.
        output_fn: maps the network's outputs to the values to collect, B x ...

    Returns:
        The positions of the N readable images of all processes, ascending as in the loader, and their N scores
        (float64, from 0 real to 1 fake) or N x ... values of `output_fn`.

    Raises:
        InputError: an image cannot be read, a score is not finite, or memory runs out.
        Stopped: a signal asks the run to stop.
    """
    network.eval()
    positions, scores = [], []
    batch_size, image_count = loader.batch_size or 1, len(loader.dataset)  # type: ignore[arg-type]  # no __len__
    batch: Batch
    bar = progress(None, title, unit="images", total=image_count, disable=not world.leads)
    with bar, advise_on_memory("--test_bs", batch_size * world.size):
        for batch in iterate(loader):
            if world.stop:
                break
            bad_images.add(batch.bad)
            if len(batch.labels):
                images = normalise(batch.images.to(world.device, non_blocking=True), channels)
                scores.append(output_fn(network(images)))
                positions.append(batch.positions.clone())  # a worker's tensor keeps a file open
            bar.update(len(batch.labels) + len(batch.bad))
    world.handshake(0)
    found = [(torch.cat(positions).numpy(), torch.cat(scores).cpu().numpy())] if positions else []
    parts = [part for parts in world.gather_objects(found) for part in parts]
    if not parts:
        raise InputError(f"{title}: none of the {image_count} images can be read; check --data_root, or replace them.")
    position, score = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if not np.isfinite(score).all():
        raise InputError(
            f"{title}: the network's scores are not finite (NaN or infinite); "
            "use another checkpoint, or train with a lower --lr."
        )
    return position, score


@contextmanager
def advise_on_memory(flag: str, batch_size: int) -> Iterator[None]:
    """Turn a lack of memory inside the block into an InputError, which suggests half the batch size if possible."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        smaller = batch_size // 2
        hint = f"{flag} {smaller}, or " if smaller >= (2 if flag == "--bs" else 1) else ""
        advice = f"try {hint}a smaller --size or --num_LIBs."
        raise InputError(f"out of memory with {flag} {batch_size}; {advice}") from error
