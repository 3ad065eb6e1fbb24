"""One epoch of training, and one pass of evaluation."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.augmentation import normalise
from datasets.images import BadImage, Batch
from datasets.mixup import Mix, draw_mix, mix_images, mix_terms
from losses.terms import Logits
from utils.devices import is_out_of_memory, smallest_share
from utils.errors import InputError
from utils.schedule import set_learning_rates
from utils.workers import iterate

Criterion = Callable[[Logits, Tensor], dict[str, Tensor]]
BAR = {"unit": " images", "dynamic_ncols": True, "mininterval": 0.5}


class BadImages:
    """What could not be read so far: an error by default, a list where bad images are to be skipped.

    Args:
        skip: the value of ``--skip_bad_images``.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.found: dict[str, str] = {}
        self.reported = 0

    def add(self, bad: list[BadImage]) -> None:
        """Note a batch's bad images; raise InputError at the first one unless they are to be skipped."""
        if bad and not self.skip:
            raise InputError(
                f"the image {bad[0].path} cannot be read: {bad[0].reason}; mend it, or leave out such images "
                "with --skip_bad_images True."
            )
        self.found.update(bad)

    def report(self) -> None:
        """Print which images were left out since the last report, and how many there are in all."""
        new = [f"{path}: {reason}" for path, reason in self.found.items()][self.reported :]
        if new:
            listed = "\n  ".join(new)
            print(f"note: left out, because they cannot be read ({len(self.found)} so far):\n  {listed}", flush=True)
            self.reported = len(self.found)


def compute_loss(
    network: nn.Module, criterion: Criterion, balance: nn.Module, images: Tensor, labels: Tensor, mix: Mix | None
) -> tuple[Tensor, dict[str, Tensor], Logits]:
    """Compute the training loss of one batch.

    Args:
        network: maps images to `Logits`.
        criterion: maps (outputs, labels) to the loss terms by name, scalars.
        balance: maps the loss terms to the total, a scalar.
        images: B x 3 x H x W, normalised.
        labels: B, int64, 0 real and 1 fake.
        mix: the blends of mixup; None for no mixup.

    Returns:
        The total, the terms by name, and the network's outputs.
    """
    if mix is None:
        outputs = network(images)
        terms = criterion(outputs, labels)
    else:
        outputs = network(mix_images(images, mix))
        partner_labels = labels[mix.partner.to(labels.device)]
        terms = mix_terms(criterion(outputs, labels), criterion(outputs, partner_labels), mix.lam)
    return balance(terms), terms, outputs


def update(optimizer: torch.optim.Optimizer, total: Tensor) -> None:
    """Take one optimiser step along the gradient of the total loss, a scalar."""
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()


def train_one_epoch(
    network: nn.Module,
    criterion: Criterion,
    balance: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate_factor: Callable[[int], float],
    loader: DataLoader,
    device: torch.device,
    *,
    alpha: float | None,
    channels: str,
    gpus: int,
    bad_images: BadImages,
    epoch: int,
    on_step: Callable[[int, dict[str, float], float], None],
) -> tuple[dict[str, float], np.ndarray, np.ndarray, float]:
    """Train on every batch once.

    Args:
        network: in training mode on `device`; bare or in `torch.nn.DataParallel`.
        criterion: (outputs, labels) to the loss terms by name, scalars.
        balance: loss terms to the total, a scalar.
        optimizer: each of its groups holds its initial rate as ``initial_lr``.
        rate_factor: the step, from 0, to the factor on the initial rates.
        loader: of `datasets.images.Batch`.
        device: where the images go.
        alpha: mixup's parameter, None for no mixup.
        channels: RGB or BGR.
        gpus: how many GPUs share a batch.
        bad_images: gathers what cannot be read.
        epoch: its number from 1, for what is said.
        on_step: is told each step, from 0, its losses (the total and the terms) and the images per second so far.

    Returns:
        The mean over images of the total and of each term; the labels and the scores of all images, N each, as
        they were in training mode (of a blend, the label with the larger share); and images per second.

    Raises:
        InputError: an image that cannot be read, a loss that is not finite, GPU memory that runs out.
    """
    network.train()
    sums: dict[str, float] = {}
    seen, labels_seen, scores_seen = 0, [], []
    began = time.perf_counter()
    bar = tqdm(total=len(loader.dataset), desc=f"epoch {epoch}", leave=False, **BAR)
    batch: Batch
    try:
        for step, batch in enumerate(iterate(loader)):
            bad_images.add(batch.bad)
            count = len(batch.labels)
            if count == 0 or smallest_share(count, gpus) < 2:  # BatchNorm cannot be trained on one image
                bar.update(count)
                continue
            set_learning_rates(optimizer, rate_factor(step))
            images = normalise(batch.images.to(device, non_blocking=True), channels)
            labels = batch.labels.to(device, non_blocking=True)
            mix = None if alpha is None else draw_mix(count, alpha)
            total, terms, outputs = compute_loss(network, criterion, balance, images, labels, mix)
            main_labels = labels if mix is None or mix.lam >= 0.5 else labels[mix.partner.to(device)]

            values = torch.stack([total, *terms.values()]).tolist()  # one wait for the device for all of them
            losses = dict(zip(["total", *terms], values, strict=True))
            if not all(map(math.isfinite, values)):
                raise InputError(
                    f"the loss is not a finite number in epoch {epoch}, step {step + 1}: "
                    f"{', '.join(f'{name} {value:g}' for name, value in losses.items())}; the last good "
                    "checkpoint stays; try a lower --lr."
                )
            update(optimizer, total)

            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
            seen += count
            labels_seen.append(main_labels.clone())  # what a worker sent keeps a file open as long as it lives
            scores_seen.append(fake_probability(outputs))
            speed = seen / (time.perf_counter() - began)
            bar.set_postfix(loss=f"{values[0]:.3f}", lr=f"{optimizer.param_groups[0]['lr']:.1e}", refresh=False)
            bar.update(count)
            on_step(step, losses, speed)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory("--bs", loader.batch_size) from error
        raise
    finally:
        bar.close()
    if not seen:
        bad_images.report()
        raise InputError(
            f"nothing was trained: no batch of --bs {loader.batch_size} holds two images that could be read for every "
            "device."
        )
    means = {name: value / seen for name, value in sums.items()}
    return means, torch.cat(labels_seen).cpu().numpy(), torch.cat(scores_seen).cpu().numpy(), speed


def fake_probability(outputs: Logits) -> Tensor:
    """Return the images' scores, softmax(fused)[1]: B, float64, from 0 (real) to 1 (fake)."""
    return outputs.fused.detach().double().softmax(dim=1)[:, 1]


@torch.no_grad()  # and not inference_mode, which DataParallel does not hand to its threads
def evaluate(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    channels: str,
    bad_images: BadImages,
    title: str,
    read: Callable[[Any], Tensor] = fake_probability,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every image once, without augmentation.

    Args:
        network: on `device`.
        loader: of `datasets.images.Batch`.
        device: where the images go.
        channels: RGB or BGR.
        bad_images: gathers what cannot be read.
        title: of the bar, and for what is said.
        read: the network's outputs to what is kept of each image, B x anything.

    Returns:
        The positions of the images that could be read, N, and their scores, N, float64, from 0 (real) to 1
        (fake); or what `read` gives.

    Raises:
        InputError: an image that cannot be read, scores that are not numbers, GPU memory that runs out.
    """
    network.eval()
    positions, scores = [], []
    batch: Batch
    try:
        with tqdm(total=len(loader.dataset), desc=title, leave=False, **BAR) as bar:
            for batch in iterate(loader):
                bad_images.add(batch.bad)
                if len(batch.labels):
                    images = normalise(batch.images.to(device, non_blocking=True), channels)
                    scores.append(read(network(images)))
                    positions.append(batch.positions.clone())  # no file of the worker's stays open
                bar.update(len(batch.labels) + len(batch.bad))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory("--test_bs", loader.batch_size) from error
        raise
    if not positions:
        raise InputError(f"{title}: none of the {len(loader.dataset)} images could be read.")
    score = torch.cat(scores).cpu().numpy()
    if not np.isfinite(score).all():
        raise InputError(f"{title}: the network's scores are not finite numbers; its weights are broken.")
    return torch.cat(positions).numpy(), score


def out_of_memory(flag: str, batch_size: int) -> InputError:
    """Say that the memory ran out, and name a batch size that asks for half of it, where there is one."""
    smaller = batch_size // 2
    hint = f"{flag} {smaller}, or " if smaller >= (2 if flag == "--bs" else 1) else ""
    return InputError(f"the memory is too small for {flag} {batch_size}; try {hint}a smaller --size or --num_LIBs.")
