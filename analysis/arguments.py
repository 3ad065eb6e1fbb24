"""The arguments that several studies share."""

from dataclasses import dataclass
from pathlib import Path

from datasets.labels import find_label_folder
from models.shared_model import require_model
from utils import parsing as parse
from utils.data_roots import DATA_ROOT_TEXT, DataRoot, parse_data_root
from utils.errors import InputError


@dataclass(kw_only=True)
class StudyArguments:
    """Arguments that every study of a checkpoint has; the help texts document the fields."""

    model: Path = parse.required(parse.path, parse.MODEL_TEXT)
    dataset: str = parse.argument("FF++_c23", str, "name of the dataset whose test set the study uses")
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "folder of the label files, with one subfolder per dataset"
    )
    data_root: DataRoot = parse.argument(Path("."), parse_data_root, DATA_ROOT_TEXT)
    save_path: Path | None = parse.argument(
        None, parse.path, "run folder to write the study to (default: the checkpoint's folder)"
    )
    gpu_num: str | None = parse.argument(
        None,
        str,
        "GPU numbers such as 0,1, or cpu; each process uses one GPU (default: all GPUs, or the CPU if there are none)",
    )
    test_bs: int = parse.argument(32, parse.count, "batch size, in images")
    num_workers: int = parse.argument(
        12, parse.count_or_zero, "number of processes that load images, at most one per core"
    )
    skip_bad_images: bool = parse.argument(
        False, parse.boolean, "skip and list images that cannot be read, instead of stopping"
    )
    max_images: int | None = parse.argument(
        None, parse.count, "number of images to use, evenly spaced over the test set (default: all)"
    )

    @property
    def folder(self) -> Path:
        """Run folder to write to."""
        return self.save_path or self.model.parent


def check_study_arguments(args: StudyArguments) -> None:
    """Raise InputError if the checkpoint or the dataset does not exist, or if the folder to write to is a file."""
    require_model(args.model, "--model")
    if args.save_path is None and not args.model.is_file():
        raise InputError(f"--model {args.model} is not in a run folder; give the folder of the study with --save_path.")
    if args.folder.exists() and not args.folder.is_dir():
        raise InputError(f"--save_path {args.folder} is a file; give a folder.")
    find_label_folder(args.dataset, args.dataset_root)
