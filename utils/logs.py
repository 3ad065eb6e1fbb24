"""The curves and images of a training, for TensorBoard."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class TrainingLog(SummaryWriter):
    """Write TensorBoard event files into the run folder.

    Args:
        folder: the run folder.
        steps_done: finished steps of the resumed training; TensorBoard hides later points of an interrupted run.
    """

    def __init__(self, folder: Path, steps_done: int) -> None:
        # TensorBoard reads event files in the order of their names, which start with the second of their creation.
        while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(0.05)
        super().__init__(folder, purge_step=steps_done or None)

    def scalars(self, group: str, values: Mapping[str, float | None], step: int) -> None:
        """Add values to TensorBoard as ``group/name``; skip None."""
        try:
            for name, value in values.items():
                if value is not None:
                    self.add_scalar(f"{group}/{name}", value, step)
        except OSError as error:  # of TensorBoard's thread, such as a full disk; it names no file
            error.filename = error.filename or self.log_dir
            raise

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
            cv2.putText(tile, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
            tiles.append(tile)
        self.add_images("augmented training images", np.stack(tiles), dataformats="NHWC")

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
        self.add_hparams(shown, metrics, run_name=".")
