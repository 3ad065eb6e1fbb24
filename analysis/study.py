"""What every study leaves in a run's folder, and how those of a test set read it."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Subset

from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from engine import BadImages, evaluate
from utils import arguments as parse
from utils.devices import select_devices, worker_count
from utils.errors import InputError
from utils.files import whole_file
from utils.output import format_rows, write_json
from utils.report import write_report

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
    with whole_file(plot) as part:
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


def make_study_parser(name: str, description: str | None, batch_size: int, what_a_batch_is: str) -> parse.Parser:
    """Declare the arguments of a study of a checkpoint on a test set."""
    parser, add = parse.Parser(f"python -m analysis.{name}", description or ""), parse.add
    count = parse.number(int, 1)
    gpus = "GPU numbers such as 0,1, or cpu (default: all GPUs there are, else the CPU)"
    workers = "processes that load images; never more than there are cores"
    add(parser, "--model", None, Path, "the checkpoint: this project's or the authors'")
    add(parser, "--dataset", "FF++_c23", str, "the dataset whose test set is looked at")
    add(parser, "--dataset_root", Path("dataset"), Path, "the folder with a folder of label files for each dataset")
    add(parser, "--data_root", Path("."), Path, "what relative paths in label files start from")
    add(parser, "--save_path", None, Path, "the run's folder to write to (default: the checkpoint's)")
    add(parser, "--gpu_num", None, str, gpus)
    add(parser, "--test_bs", batch_size, count, what_a_batch_is)
    add(parser, "--num_workers", 12, parse.number(int, 0), workers)
    add(parser, "--skip_bad_images", False, parse.boolean, "leave out, and list, images that cannot be read")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Fill in the folder to write to.

    Raises:
        InputError: no checkpoint is named, or the folder is a file.
    """
    if args.model is None:
        raise InputError("--model is missing: give the checkpoint to look at.")
    args.save_path = args.save_path or args.model.parent
    if args.save_path.exists() and not args.save_path.is_dir():
        raise InputError(f"--save_path {args.save_path} is a file, not a folder.")


def read_test_set(args: argparse.Namespace, size: int) -> FaceImages:
    """Read the test set that ``--dataset`` names, for images of `size` pixels.

    Raises:
        InputError: it is not there or malformed, see `datasets.labels.read_split`, or holds one class alone.
    """
    faces = FaceImages(read_split(args.dataset, "test", args.dataset_root, args.data_root), size)
    if len(set(faces.labels)) < 2:
        raise InputError(f"--dataset: the test set of {args.dataset} holds one class alone; this needs real and fake.")
    return faces


def read_out(
    module: nn.Module, faces: FaceImages, args: argparse.Namespace, channels: str, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Put ``--max_images`` images of a test set through a module, and report those that cannot be read.

    Args:
        module: maps B x 3 x H x W images, normalised, to B x ...; moved to the device of ``--gpu_num``.
        faces: the test set.
        args: of `make_study_parser`, and ``--max_images``.
        channels: RGB or BGR, the order that the network was trained with.
        title: of the progress bar.

    Returns:
        N, the positions of the images in the test set; and N x ..., what the module made of them, float32.

    Raises:
        InputError: the device is not there, ``--save_path`` cannot be written, or an image cannot be read (without
            ``--skip_bad_images``).
    """
    device = select_devices(args.gpu_num)[0]
    make_folder(args.save_path)
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
