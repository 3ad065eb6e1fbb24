"""The curves and images of a training in TensorBoard."""

import io
from collections import Counter
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers import arguments
from training import main
from utils.logs import TrainingLog


def test_a_new_run_shows_training_images_in_frames(tiny: Path) -> None:
    """16 tiles of 200 x 218 pixels in rows of 8; a frame is green around a real image and red around a fake one."""
    assert main(arguments(tiny)) == 0
    (shown,) = EventAccumulator(str(tiny / "output" / "train_model")).Reload().Images("augmented training images")
    picture = Image.open(io.BytesIO(shown.encoded_image_string))
    assert picture.size == (1600, 436)
    frames = Counter(picture.getpixel((x, y)) for y in (0, 218) for x in range(0, 1600, 200))
    assert frames == {(44, 160, 44): 9, (214, 39, 40): 7}  # the 12 images, spread over 16 tiles


def test_event_files_of_one_second_keep_their_order(tmp_path: Path) -> None:
    for step in range(3):
        log = TrainingLog(tmp_path, step)
        log.scalars("loss", {"total": 1.0}, step)
        log.close()
    stamps = {file.name.split(".")[3] for file in tmp_path.iterdir()}
    assert len(stamps) == 3
    assert [point.step for point in EventAccumulator(str(tmp_path)).Reload().Scalars("loss/total")] == [0, 1, 2]
