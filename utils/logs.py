"""The curves and images of a training, for TensorBoard."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

Metrics = dict[str, float | None]


class TrainingLog:
    """Write TensorBoard event files into the run folder.

    Args:
        folder: the run folder.
        steps_done: finished steps of the resumed training; TensorBoard hides later points of an interrupted run.
    """

    def __init__(self, folder: Path, steps_done: int) -> None:
        # TensorBoard reads event files in the order of their names, which start with the second of their creation.
        while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.05)
        self.writer = SummaryWriter(folder, purge_step=steps_done or None)

    def scalars(self, group: str, values: Mapping[str, float | None], step: int) -> None:
        """Add values to TensorBoard as ``group/name``; skip None."""
        try:
            for name, value in values.items():
                if value is not None:
                    self.writer.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:  # of TensorBoard's thread, such as a full disk; it names no file
            error.filename = error.filename or self.writer.log_dir
            raise

    def step(
        self, step: int, losses: dict[str, float], weights: dict[str, float], rates: list[float], speed: float
    ) -> None:
        """Add a step.

        Args:
            step: number of earlier steps in the run.
            losses: the total loss and its terms, by name.
            weights: the learnt loss weights, by name.
            rates: learning rates of the network and, if they are learnt, of the loss weights.
            speed: images per second.
        """
        self.scalars("loss", losses, step)
        self.scalars("learnt weight", weights, step)
        self.scalars("learning rate", dict(zip(("network", "loss weights"), rates, strict=False)), step)
        self.scalars("speed", {"images per second": speed}, step)

    def epoch(self, step: int, train: Metrics, val: Metrics) -> None:
        """Add the metrics of an epoch.

        Args:
            step: the last step of the epoch, counted over the run.
            train: metrics on the training images, with augmentation and mixup.
            val: metrics on the validation set.
        """
        self.scalars("train", train, step)
        self.scalars("val", val, step)

    def images(self, images: Tensor, names: Sequence[str]) -> None:
        """Show augmented training images in TensorBoard, in a red (fake) or green (real) frame.

        Args:
            images: N x 3 x H x W, uint8, RGB; N at least 1.
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
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 4)
        grid = np.vstack([np.hstack(tiles[row : row + 4]) for row in range(0, len(tiles), 4)])
        self.writer.add_image("augmented training images", grid, dataformats="HWC")

    def test(self, settings: dict[str, Any], datasets: dict[str, Any]) -> None:
        """Add the run to the table of runs ("HPARAMS").

        Args:
            settings: the arguments, as JSON values.
            datasets: dataset -> its test metrics.
        """
        shown = {
            name: value if isinstance(value, bool | int | float) else str(value) for name, value in settings.items()
        }
        metrics = {
            f"test/{dataset} {name}": values[name]
            for dataset, values in datasets.items()
            for name in ("auc", "video_auc", "log_loss")
            if values[name] is not None
        }
        self.writer.add_hparams(shown, metrics, run_name=".")

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()
