"""The common parts of the studies: run a module on the test set, and write the files of a study."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import Subset

from analysis.arguments import StudyArguments
from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from engine import BadImages, evaluate
from evaluation.report import write_report
from utils.command import run_command
from utils.data_roots import root_of
from utils.devices import worker_count
from utils.errors import InputError, one_line
from utils.files import atomic_write, report_invalid_entries, write_json
from utils.tables import format_rows
from utils.world import World

Arguments = TypeVar("Arguments", bound=StudyArguments)

# From Okabe and Ito's palette, which colour-blind readers can distinguish (https://jfly.uni-koeln.de/color/).
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"


def write_study(
    folder: Path,
    study: str,
    subject: str,
    title: str,
    summary: str,
    table: list[list[str]],
    numbers: dict[str, Any],
    figure: Figure,
    method: str = "",
) -> None:
    """Write ``study_<study>_<subject>.json`` and ``.png`` atomically; print the title, the table and the summary.

    If the folder has results.json, update its report.html.

    Args:
        folder: run folder to write to.
        study: name of the study.
        subject: what the study measured, such as the dataset; studies of other subjects keep their files.
        title: heading of the study in the report.
        summary: the result, in at most three short sentences.
        table: rows of cells; the first row is the header.
        numbers: the numbers of the table and more; a ``checkpoint`` comes with its ``checkpoint_sha256``.
        figure: the plot.
        method: how the study measured, in short sentences; follows the summary in the report and is not printed.

    Raises:
        InputError: a file cannot be written.
    """
    text = f"{summary} {method}".strip()
    if "checkpoint" in numbers:
        text += f" Checkpoint: {numbers['checkpoint']} (SHA-256 {numbers['checkpoint_sha256'][:16]}...)."
    file = folder / f"{study_name(study, subject)}.json"
    plot = file.with_suffix(".png")
    with atomic_write(plot) as part:
        figure.savefig(part, format="png", dpi=150)
    content = {"title": title, "text": text, "table": table, "plots": [plot.name], "numbers": numbers}
    write_json(file, content)
    update_report(folder)
    print(f"\n{title}\n\n{format_rows(table)}\n\n{summary}\n\nstudy: {file}, plot: {plot}")


def update_report(folder: Path) -> None:
    """Write report.html again, if the folder has a test.

    Raises:
        InputError: results.json or predictions.csv cannot be read, or lacks an entry.
    """
    file = folder / "results.json"
    if file.is_file():
        with report_invalid_entries(file, "run the test again"):
            try:
                write_report(folder)
            except UndefinedError as error:
                raise LookupError(error) from error


def study_name(study: str, subject: str) -> str:
    """Return the name of a study's files, without the suffix."""
    return f"study_{study}_{subject.replace('/', '-')}"


def prepare_folder(folder: Path) -> None:
    """Create a study's folder and check that files can be written there, before hours of work.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--save_path {folder} cannot be written: {error.strerror}; give another folder.") from error


def read_test_set(args: StudyArguments, size: int) -> FaceImages:
    """Read the test set of ``--dataset``, with images resized to `size` pixels.

    Raises:
        InputError: the label files are missing or malformed (see `datasets.labels.read_split`), or list one class only.
    """
    root = root_of(args.dataset, args.data_root)
    faces = FaceImages(read_split(args.dataset, "test", args.dataset_root, root, size), size)
    if len(set(faces.labels)) < 2:
        raise InputError(
            f"--dataset {args.dataset}: the test set has one class only, but a study needs both; give another dataset."
        )
    return faces


def run_study(
    program: str, run: Callable[[Arguments, World], None], args: Callable[[], Arguments], less_memory: str
) -> int:
    """Run a study in all processes, and return its exit code.

    Args:
        program: the study, such as analysis.robustness.
        run: the study; after the test set is scored, only rank 0 continues.
        args: parses the command line.
        less_memory: what to try if the memory runs out.
    """

    def work() -> None:
        parsed = args()
        with World(parsed.gpu_num) as world:
            run(parsed, world)

    return run_command(program, work, less_memory)


def run_on_test_set(
    module: nn.Module, faces: FaceImages, args: StudyArguments, channels: str, title: str, world: World
) -> tuple[np.ndarray, np.ndarray]:
    """Run a module on ``--max_images`` images of a test set, and list the images that cannot be read.

    Args:
        module: maps B x 3 x H x W normalised images to B x ...; moved to the device of `world`.
        faces: the test set.
        args: the command line.
        channels: RGB or BGR, the channel order that the network was trained with.
        title: description of the progress bar.
        world: the processes, which share the images.

    Returns:
        N positions of the images in the test set, and the module's N x ... outputs, float32.

    Raises:
        InputError: ``--save_path`` cannot be written, or an image cannot be read (without ``--skip_bad_images``).
    """
    prepare_folder(args.folder)
    chosen = Subset(faces, choose_positions(len(faces), args.max_images))
    loader = make_loader(chosen, args.test_bs, worker_count(args.num_workers, world.local_size), world)
    bad_images = BadImages(args.skip_bad_images)
    found = evaluate(
        module.to(world.device),
        loader,
        world,
        channels=channels,
        bad_images=bad_images,
        title=title,
        output_fn=Tensor.float,
    )
    bad_images.report(world)
    return found


def choose_positions(total: int, limit: int | None) -> list[int]:
    """Choose `limit` evenly spaced positions below `total`: the middles of `limit` equal parts.

    Choose all positions if `limit` is None or not below `total`.
    """
    if limit is None or limit >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * limit) for i in range(limit)]


def mean_and_deviation(values: np.ndarray | list[float | None]) -> dict[str, float | None]:
    """Compute the mean and the standard deviation (ddof 1), ignoring NaN and None.

    Args:
        values: numbers in any shape.

    Returns:
        ``mean``, None without values; ``std``, None with fewer than two values.
    """
    found = np.array(values, float)
    found = found[~np.isnan(found)]
    return {
        "mean": float(found.mean()) if len(found) else None,
        "std": float(found.std(ddof=1)) if len(found) > 1 else None,
    }


def format_mean(result: dict[str, Any] | None, sign: str = "") -> str:
    """Format a `mean_and_deviation` for a table; `sign` is + to show the sign of a positive mean."""
    if result is None or result["mean"] is None:
        return "-"
    return f"{result['mean']:{sign}.4f}" + ("" if result["std"] is None else f" ± {result['std']:.4f}")


def plot_text(name: str) -> str:
    """Return a name as Matplotlib can draw it: without invalid bytes, and with a $ that starts no formula."""
    return one_line(name).replace("$", r"\$")


def format_change(change: float, interval: list[float] | None) -> str:
    """Format a difference of two AUCs, with its 95 % interval if it has one."""
    return f"{change:+.4f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")
