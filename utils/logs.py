"""The log of a training: one line per epoch in train.log, and curves and images for TensorBoard."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from utils.files import atomic_write

Metrics = dict[str, float | None]


def _format_metrics(values: Metrics) -> str:
    auc = "not defined" if values["auc"] is None else f"{values['auc']:.4f}"
    return f"ACC {values['acc']:.4f} AUC {auc} log loss {values['log_loss']:.4f}"


class TrainingLog:
    """Write ``train.log`` and TensorBoard event files into the run folder.

    Args:
        folder: the run folder.
        epochs_done: finished epochs of the resumed checkpoint; later entries of an interrupted run are removed.
        steps: the number of steps in an epoch.
    """

    def __init__(self, folder: Path, epochs_done: int, steps: int) -> None:
        self.file = folder / "train.log"
        self.steps = steps
        self.writer = SummaryWriter(folder, purge_step=epochs_done * steps or None)
        if self.file.is_file():
            lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if (m := re.match(r"epoch (\d+)/", line)) and int(m[1]) <= epochs_done]
            with atomic_write(self.file) as part:
                part.write_text("".join(kept), encoding="utf-8")

    def scalars(self, group: str, values: Mapping[str, float | None], step: int) -> None:
        """Add values to TensorBoard as ``group/name``; skip None."""
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def step(
        self,
        step: int,
        losses: dict[str, float],
        speed: float,
        first_step: int,
        balance: nn.Module,
        optimizer: Optimizer,
    ) -> None:
        """Add every tenth step of an epoch, from the first, to TensorBoard.

        Args:
            step: the step within the epoch, from 0.
            losses: the total loss and its terms, by name.
            speed: images per second.
            first_step: the number of steps in earlier epochs.
            balance: the module that may hold learnt loss weights.
            optimizer: the parameter groups of the network and, if any, of the loss weights.
        """
        if step % 10:
            return
        weights = {name: weight.item() for name, weight in getattr(balance, "weights", {}).items()}
        rates = (group["lr"] for group in optimizer.param_groups)
        self.scalars("loss", losses, first_step + step)
        self.scalars("learnt weight", weights, first_step + step)
        self.scalars("learning rate", dict(zip(("network", "loss weights"), rates, strict=False)), first_step + step)
        self.scalars("speed", {"images per second": speed}, first_step + step)

    def epoch(
        self,
        epoch: int,
        epochs: int,
        losses: dict[str, float],
        lr: float,
        speed: float,
        train: Metrics,
        val: Metrics,
        best: bool,
    ) -> None:
        """Append a line to ``train.log``, print it, and add the metrics to TensorBoard.

        Args:
            epoch: the number of the epoch, from 1.
            epochs: the total number of epochs.
            losses: the mean total loss and the mean of each term.
            lr: the network's learning rate at the end of the epoch.
            speed: images per second.
            train: metrics on the training images, with augmentation and mixup.
            val: metrics on the validation set.
            best: whether this epoch is the best so far.
        """
        last_step = epoch * self.steps - 1
        self.scalars("train", train, last_step)
        self.scalars("val", val, last_step)
        terms = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "total")
        line = (
            f"epoch {epoch}/{epochs}: loss {losses['total']:.4f} ({terms}), lr {lr:.2e}, {speed:.1f} images/s, "
            f"train {_format_metrics(train)}, val {_format_metrics(val)}{', best' if best else ''}"
        )
        print(line, flush=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.writer.flush()

    def images(self, images: Tensor, names: Sequence[str]) -> None:
        """Show 16 augmented training images in TensorBoard, in a red (fake) or green (real) frame.

        Args:
            images: 16 x 3 x H x W, uint8, RGB.
            names: the class of each image, real or fake.
        """
        tiles = []
        for image, name in zip(images, names, strict=True):
            tile = cv2.resize(image.permute(1, 2, 0).numpy(), (192, 192))
            colour = (214, 39, 40) if name == "fake" else (44, 160, 44)
            tile = cv2.copyMakeBorder(tile, 22, 4, 4, 4, cv2.BORDER_CONSTANT, value=colour)
            tiles.append(
                cv2.putText(tile, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
            )
        grid = np.vstack([np.hstack(tiles[row : row + 4]) for row in range(0, 16, 4)])
        self.writer.add_image("augmented training images", grid, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()
