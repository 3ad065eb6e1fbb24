"""One training step, one epoch of training, and one pass of evaluation."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datasets.augmentation import normalise
from datasets.images import BadImage, Batch
from datasets.mixup import Mix, draw_mix, mix_images, mix_terms
from losses.terms import Logits
from utils.devices import is_out_of_memory, smallest_share
from utils.errors import InputError
from utils.progress import progress
from utils.schedule import set_learning_rates
from utils.workers import iterate

Criterion = Callable[[Logits, Tensor], dict[str, Tensor]]


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

    def report(self) -> None:
        """Print the images skipped since the last report, and their total number."""
        new = [f"{path}: {reason}" for path, reason in self.found.items()][self.reported :]
        if new:
            listed = "\n  ".join(new)
            print(f"note: skipped unreadable images ({len(self.found)} so far):\n  {listed}", flush=True)
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
        mix: the mixup draw; None for no mixup.

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


def optimizer_step(optimizer: torch.optim.Optimizer, total: Tensor) -> None:
    """Backpropagate the total loss, a scalar, and take one optimizer step."""
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()


def train_one_epoch(
    network: nn.Module,
    criterion: Criterion,
    balance: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_factor: Callable[[int], float],
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
        network: on `device`, bare or in `torch.nn.DataParallel`.
        criterion: maps (outputs, labels) to the loss terms by name, scalars.
        balance: maps the loss terms to the total, a scalar.
        optimizer: each parameter group holds its initial learning rate as ``initial_lr``.
        lr_factor: maps the step, from 0, to the factor on the initial learning rates.
        loader: yields `datasets.images.Batch`.
        device: device of the images.
        alpha: mixup draws lambda ~ Beta(alpha, alpha); None for no mixup.
        channels: RGB or BGR.
        gpus: the number of GPUs that share a batch.
        bad_images: collects unreadable images.
        epoch: the number of the epoch, from 1, for messages.
        on_step: called after each step with its number from 0, its losses (total and terms), and images per second.

    Returns:
        Mean losses over the images, by name (total and terms); N labels and N scores of the images in training mode (a
        mixup blend has the label with the larger share); images per second.

    Raises:
        InputError: an image cannot be read, a loss is not finite, or GPU memory runs out.
    """
    network.train()
    sums: dict[str, float] = {}
    seen, speed, labels_seen, scores_seen = 0, 0.0, [], []
    start = time.perf_counter()
    batch_size, image_count = loader_sizes(loader)
    bar = progress(None, f"epoch {epoch}", unit="images", total=image_count)
    batch: Batch
    try:
        for step, batch in enumerate(iterate(loader)):
            bad_images.add(batch.bad)
            count = len(batch.labels)
            if count == 0 or smallest_share(count, gpus) < 2:  # BatchNorm cannot be trained on one image
                bar.update(count)
                continue
            set_learning_rates(optimizer, lr_factor(step))
            images = normalise(batch.images.to(device, non_blocking=True), channels)
            labels = batch.labels.to(device, non_blocking=True)
            mix = None if alpha is None else draw_mix(count, alpha)
            total, terms, outputs = compute_loss(network, criterion, balance, images, labels, mix)
            main_labels = labels if mix is None or mix.lam >= 0.5 else labels[mix.partner.to(device)]

            values = torch.stack([total, *terms.values()]).tolist()  # one device synchronisation
            losses = dict(zip(["total", *terms], values, strict=True))
            if not all(map(math.isfinite, values)):
                raise InputError(
                    f"the loss is not finite in epoch {epoch}, step {step + 1}: "
                    f"{', '.join(f'{name} {value:g}' for name, value in losses.items())}; the last checkpoint is "
                    "unchanged; try a lower --lr."
                )
            optimizer_step(optimizer, total)

            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * count
            seen += count
            labels_seen.append(main_labels.clone())  # a worker's tensor keeps a file open
            scores_seen.append(fake_probability(outputs))
            speed = seen / (time.perf_counter() - start)
            bar.set_postfix(loss=f"{values[0]:.3f}", lr=f"{optimizer.param_groups[0]['lr']:.1e}", refresh=False)
            bar.update(count)
            on_step(step, losses, speed)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory("--bs", batch_size) from error
        raise
    finally:
        bar.close()
    if not seen:
        bad_images.report()
        raise InputError(
            f"epoch {epoch}: no batch of --bs {batch_size} has two readable images per device; "
            "replace the unreadable images."
        )
    means = {name: value / seen for name, value in sums.items()}
    return means, torch.cat(labels_seen).cpu().numpy(), torch.cat(scores_seen).cpu().numpy(), speed


def fake_probability(outputs: Logits) -> Tensor:
    """Return the score of each image, softmax(fused)[1]: B, float64, from 0 (real) to 1 (fake)."""
    return outputs.fused.detach().double().softmax(dim=1)[:, 1]


@torch.no_grad()  # DataParallel does not pass inference_mode on to its threads
def evaluate(
    network: nn.Module,
    loader: DataLoader,
    device: torch.device,
    *,
    channels: str,
    bad_images: BadImages,
    title: str,
    output_fn: Callable[..., Tensor] = fake_probability,
) -> tuple[np.ndarray, np.ndarray]:
    """Score every image once, without augmentation.

    Args:
        network: on `device`.
        loader: yields `datasets.images.Batch`.
        device: device of the images.
        channels: RGB or BGR.
        bad_images: collects unreadable images.
        title: the text of the progress bar and of messages.
        output_fn: maps the network's outputs to the values to collect, B x ...

    Returns:
        N positions of the readable images, and their N scores (float64, from 0 real to 1 fake) or N x ... values of
        `output_fn`.

    Raises:
        InputError: an image cannot be read, a score is not finite, or GPU memory runs out.
    """
    network.eval()
    positions, scores = [], []
    batch_size, image_count = loader_sizes(loader)
    batch: Batch
    try:
        with progress(None, title, unit="images", total=image_count) as bar:
            for batch in iterate(loader):
                bad_images.add(batch.bad)
                if len(batch.labels):
                    images = normalise(batch.images.to(device, non_blocking=True), channels)
                    scores.append(output_fn(network(images)))
                    positions.append(batch.positions.clone())  # a worker's tensor keeps a file open
                bar.update(len(batch.labels) + len(batch.bad))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory("--test_bs", batch_size) from error
        raise
    if not positions:
        raise InputError(f"{title}: none of the {image_count} images can be read; replace them.")
    score = torch.cat(scores).cpu().numpy()
    if not np.isfinite(score).all():
        raise InputError(f"{title}: the network's scores are not finite (NaN or infinite); use another checkpoint.")
    return torch.cat(positions).numpy(), score


def loader_sizes(loader: DataLoader) -> tuple[int, int]:
    """Return the batch size and the number of images of a loader."""
    return loader.batch_size or 1, len(loader.dataset)  # type: ignore[arg-type]  # torch's Dataset declares no __len__


def out_of_memory(flag: str, batch_size: int) -> InputError:
    """Return an error that suggests half the batch size if that is possible."""
    smaller = batch_size // 2
    hint = f"{flag} {smaller}, or " if smaller >= (2 if flag == "--bs" else 1) else ""
    return InputError(f"out of memory with {flag} {batch_size}; try {hint}a smaller --size or --num_LIBs.")
