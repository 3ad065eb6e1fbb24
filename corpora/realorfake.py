"""Prepare the images of github.com/dinablachman/realorfake: 600 photos from FFHQ and 200 StyleGAN2 images.

    git clone https://github.com/dinablachman/realorfake
    python -m corpora.realorfake realorfake --faces /data/realorfake

The command reduces the images to 256 pixels, in folders of four, and writes the label files. Run it again after an
interruption: it skips finished images.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "corpora.realorfake")  # before the slow imports

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
from PIL import Image

from corpora.new_labels import Folder, write_label_files
from datasets.labels import CLASSES, SPLITS
from datasets.sources import Origin
from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError, first_ten
from utils.files import atomic_write
from utils.images import read_image
from utils.progress import progress

PER_FOLDER = 4
SIDE = 256  # pixels
FOLDERS = {"real": (90, 18, 42), "fake": (30, 6, 14)}  # in train, val and test
PATTERNS = {"real": "data/real/{}.jpg", "fake": "data/fake/fake_{}.jpg"}  # as its load_real.py and load_fake.py write


@dataclass(kw_only=True)
class RealOrFakeArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    clone: Path = parse.positional(parse.path, "folder of the cloned repository")
    faces: Path = parse.required(parse.path, "output folder of the images; give it to training.py as --data_root")
    dataset_root: Path = parse.argument(Path("dataset"), parse.path, "folder of the label files")
    name: str = parse.argument("realorfake", parse.folder_name, "name of the dataset, for its folder of label files")


def list_folders() -> Iterator[tuple[Folder, list[str]]]:
    """Yield each folder of the label files with its images' paths in the clone: in number order, train, val, test."""
    for label, kind in enumerate(CLASSES):
        first = 0
        for split, count in zip(SPLITS, FOLDERS[kind], strict=True):
            for number in range(count):
                images = [PATTERNS[kind].format(first + i) for i in range(PER_FOLDER)]
                first += PER_FOLDER
                path = f"{split}/{kind}/{number:03d}"
                yield Folder(split, label, path, PER_FOLDER, Origin(path, frozenset(images))), images


def run(args: RealOrFakeArguments) -> None:
    """Reduce the images that are not finished, and write the label files.

    Raises:
        InputError: the clone is not complete, or the dataset has other label files.
    """
    folders = list(list_folders())
    missing = [image for _, images in folders for image in images if not (args.clone / image).is_file()]
    if missing:
        raise InputError(
            f"{args.clone} is not a complete clone; {len(missing)} images are missing: {first_ten(missing)}; "
            "clone the repository again."
        )
    for folder, images in progress(folders, "images", unit="folders"):
        (args.faces / folder.path).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            file = args.faces / folder.path / f"{number}.webp"
            if not file.exists():
                pixels = cv2.resize(read_image(args.clone / image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                with atomic_write(file) as part:
                    Image.fromarray(pixels).save(part, "WEBP", lossless=True)
    write_label_files(args.dataset_root / args.name, (folder for folder, _ in folders))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    again = "; run the command again to continue"
    parser = parse.Parser("-m corpora.realorfake", __doc__, RealOrFakeArguments)
    return run_command(
        "corpora.realorfake", lambda: run(parser.parse(argv)), "a machine with more memory", lambda: again
    )


if __name__ == "__main__":
    sys.exit(main())
