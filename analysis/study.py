"""What every study leaves in a run's folder, and how those of a test set read it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Subset

from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from engine import BadImages, evaluate
from evaluation.report import write_report
from utils import parsing as parse
from utils.devices import select_devices, worker_count
from utils.errors import InputError
from utils.files import atomic_write, write_json
from utils.tables import format_rows

# Of Okabe and Ito's palette, which the colour-blind can tell apart (https://jfly.uni-koeln.de/color/).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"


def write_study(
    folder: Path,
    study: str,
    subject: str,
    title: str,
    text: str,
    table: list[list[str]],
    numbers: dict[str, Any],
    figure: Figure,
) -> None:
    """Write ``study_<study>_<subject>.json`` and ``.png``, each whole or not at all, and print text and table.

    Where the folder holds a test's results, its report.html is made anew, with the study in it.

    Args:
        folder: a run's.
        study: its name.
        subject: what it is of, such as the dataset: a study of another subject does not replace it.
        title: of its section in the report.
        text: plain sentences: what was measured, how, and what came out.
        table: rows of cells, the first the header.
        numbers: what stands in the table, and more, as numbers; a ``checkpoint`` among them, with its
            ``checkpoint_sha256``, is told in the text.
        figure: the plot.

    Raises:
        InputError: they cannot be written.
    """
    if "checkpoint" in numbers:
        text += f" The checkpoint is {numbers['checkpoint']}, of SHA-256 {numbers['checkpoint_sha256'][:16]}..."
    file = folder / f"{study_name(study, subject)}.json"
    plot = file.with_name(f"{study_name(study, subject)}.png")
    with atomic_write(plot) as part:
        figure.savefig(part, format="png", dpi=150)
    content = {"title": title, "text": text, "table": table, "plots": [plot.name], "numbers": numbers}
    write_json(file, content)
    if (folder / "results.json").is_file():
        write_report(folder)
    print(f"\n{format_rows(table)}\n\n{text}\n\nstudy: {file}, plot: {plot}")


def study_name(study: str, subject: str) -> str:
    """Return what the files of a study are called, without their ending."""
    return f"study_{study}_{subject.replace('/', '-')}"


def make_folder(folder: Path) -> None:
    """Make a study's folder, and try whether files can be written there, before the hours that a study may take.

    Raises:
        InputError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--save_path {folder} cannot be written: {error.strerror}; give another.") from error


@dataclass(kw_only=True)
class StudyArguments:
    """The arguments that the studies of a checkpoint share; the fields are documented by their help texts."""

    model: Path = parse.required(parse.path, "checkpoint of training.py or of the authors' release")
    dataset: str = parse.argument("FF++_c23", str, "dataset whose test set is used")
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "folder of the label files, with one subfolder per dataset"
    )
    data_root: Path = parse.argument(Path("."), parse.path, "folder that relative paths in label files start from")
    save_path: Path | None = parse.argument(
        None, parse.path, "run folder to write the study to (default: the checkpoint's folder)"
    )
    gpu_num: str | None = parse.argument(
        None, str, "GPU numbers such as 0,1, or cpu (default: all GPUs, or the CPU if there are none)"
    )
    test_bs: int = parse.argument(32, parse.count, "batch size, in images")
    num_workers: int = parse.argument(12, parse.count_or_zero, "processes that load images, at most one per core")
    skip_bad_images: bool = parse.argument(
        False, parse.boolean, "skip and list images that cannot be read, instead of stopping"
    )
    max_images: int | None = parse.argument(
        None, parse.count, "use this many images, evenly spread over the test set (default: all)"
    )

    @property
    def folder(self) -> Path:
        """The run folder to write to."""
        return self.save_path or self.model.parent


def check_arguments(args: StudyArguments) -> None:
    """Raise InputError if the folder to write to is a file."""
    if args.folder.exists() and not args.folder.is_dir():
        raise InputError(f"--save_path {args.folder} is a file; give a folder.")


def read_test_set(args: StudyArguments, size: int) -> FaceImages:
    """Read the test set that ``--dataset`` names, for images of `size` pixels.

    Raises:
        InputError: it is not there or malformed, see `datasets.labels.read_split`, or holds one class alone.
    """
    faces = FaceImages(read_split(args.dataset, "test", args.dataset_root, args.data_root), size)
    if len(set(faces.labels)) < 2:
        raise InputError(f"--dataset: the test set of {args.dataset} holds one class alone; this needs real and fake.")
    return faces


def read_out(
    module: nn.Module, faces: FaceImages, args: StudyArguments, channels: str, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Put ``--max_images`` images of a test set through a module, and report those that cannot be read.

    Args:
        module: maps B x 3 x H x W images, normalised, to B x ...; moved to the device of ``--gpu_num``.
        faces: the test set.
        args: the command line.
        channels: RGB or BGR, the order that the network was trained with.
        title: of the progress bar.

    Returns:
        N, the positions of the images in the test set; and N x ..., what the module made of them, float32.

    Raises:
        InputError: the device is not there, ``--save_path`` cannot be written, or an image cannot be read (without
            ``--skip_bad_images``).
    """
    device = select_devices(args.gpu_num)[0]
    make_folder(args.folder)
    chosen = Subset(faces, spread(len(faces), args.max_images))
    loader = make_loader(chosen, args.test_bs, worker_count(args.num_workers), device)
    bad_images = BadImages(args.skip_bad_images)
    options = {"channels": channels, "bad_images": bad_images, "title": title, "read": Tensor.float}
    found = evaluate(module.to(device), loader, device, **options)
    bad_images.report()
    return found


def spread(total: int, most: int | None) -> list[int]:
    """Return all positions below `total`, or `most` of them, evenly spread over it and so over its videos."""
    if most is None or most >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * most) for i in range(most)]


def mean_and_deviation(values: np.ndarray | list[float | None]) -> dict[str, float | None]:
    """Return the ``mean`` and the standard deviation, ``std`` (ddof 1), of the values that there are.

    Args:
        values: of any shape; NaN or None where there is none.

    Returns:
        None in place of what is not defined: the mean of none, and the deviation of fewer than two.
    """
    there = np.array(values, float)
    there = there[~np.isnan(there)]
    return {
        "mean": float(there.mean()) if len(there) else None,
        "std": float(there.std(ddof=1)) if len(there) > 1 else None,
    }


def cell(result: dict[str, Any] | None, sign: str = "") -> str:
    """Return a `mean_and_deviation` as a table shows it; `sign` is + to show that of a positive mean."""
    if result is None or result["mean"] is None:
        return "-"
    return f"{result['mean']:{sign}.4f}" + ("" if result["std"] is None else f" ± {result['std']:.4f}")
