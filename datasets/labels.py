"""Label files: the real and fake videos of each split of a dataset.

``<dataset_root>/<dataset>/{train,val,test}_{real,fake}.txt`` holds one line per video: ``label,path,number of
frames``. The label is 0 (real) or 1 (fake). The path is a folder of face images, relative to the data root or
absolute. It may contain spaces but no commas.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.folders import list_images, real_path
from datasets.packs import Pack, find_pack
from datasets.sources import SOURCES_FILE, read_sources
from utils.data_roots import DataRoot, root_of
from utils.errors import InputError, did_you_mean, first_ten, one_line
from utils.files import read_text
from utils.progress import progress

CLASSES = ("real", "fake")  # indexed by the label
SPLITS = ("train", "val", "test")
ABOUT_FILE = "about.txt"  # beside the label files, see `describe_datasets`

# How often the paper repeats the real videos of a training set to balance the classes.
PAPER_OVERSAMPLING = {"FF++": 4, "DFDC-Preview": 4, "Celeb-DF-v2": 6, "DFDC": 5}


@dataclass(frozen=True, slots=True)
class Video:
    """The face images of one video: one line of a label file.

    Attributes:
        dataset: name of the dataset.
        path: folder as written in the label file.
        label: 0 real, 1 fake.
        folder: absolute folder without symbolic links; it identifies the video.
        images: file names of the images, sorted so that a seed gives the same run on every file system.
        pack: the pack that holds the images at training size; None to read the files.
        row: row of the first image in the pack; the others follow.
    """

    dataset: str
    path: str
    label: int
    folder: Path
    images: Sequence[str] = field(repr=False)
    pack: Pack | None = field(default=None, repr=False)
    row: int = 0


def parse_label_file(file: Path, label: int) -> list[tuple[str, int]]:
    """Read the folder and the number of frames of each line.

    Args:
        file: the label file.
        label: the label that every line must have.

    Returns:
        (path, number of frames) for each line. A relative path stays below the data root.

    Raises:
        InputError: the file is missing or has bad lines; the message names the first ten.
    """
    if not file.is_file():
        raise InputError(
            f"there is no label file {file}; a dataset needs {{train,val,test}}_{{real,fake}}.txt with one line per "
            "video: label,path,number of frames."
        )
    try:
        text = read_text(file, "utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{file}: line {number} is not UTF-8 text; save the file as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"{file} cannot be read: {error}; is it a label file?") from error
    entries, bad = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3:
            bad.append(f"line {number}: {len(parts)} fields instead of 3 in '{line.strip()[:120]}'")
        elif parts[0] not in ("0", "1"):
            bad.append(f"line {number}: label '{parts[0]}' is not 0 (real) or 1 (fake)")
        elif int(parts[0]) != label:
            bad.append(f"line {number}: label {parts[0]} contradicts the file name, which says {CLASSES[label]}")
        elif not parts[1] or "\0" in parts[1]:
            bad.append(f"line {number}: the path is empty or contains a null character")
        elif os.path.normpath(parts[1]).split(os.sep)[0] == os.pardir:
            bad.append(f"line {number}: '{parts[1][:120]}' leads out of --data_root; write an absolute path")
        elif not re.fullmatch("[0-9]{1,9}", parts[2]) or int(parts[2]) == 0:
            bad.append(f"line {number}: number of frames '{parts[2][:40]}' is not an integer above 0")
        else:
            entries.append((parts[1], int(parts[2])))
    if bad:
        raise InputError(f"{file}: {len(bad)} bad line{'s' * (len(bad) > 1)}: {first_ten(bad, '; ')}.")
    return entries


def find_label_folder(dataset: str, dataset_root: Path) -> Path:
    """Return the folder of a dataset's label files; raise InputError if it does not exist."""
    label_folder = dataset_root / dataset
    if not label_folder.is_dir():
        if not dataset_root.is_dir():
            raise InputError(f"--dataset_root {dataset_root} does not exist; give the folder of the datasets.")
        known = sorted(d.name for d in dataset_root.iterdir() if d.is_dir())
        choice = f"Choose from: {first_ten(known)}." if known else "The folder has no datasets; check --dataset_root."
        raise InputError(f"{dataset_root} has no dataset '{dataset}'{did_you_mean(dataset, known)} {choice}")
    return label_folder


def describe_datasets(datasets: Sequence[str], dataset_root: Path) -> list[str]:
    """Return how the faces of the datasets differ from ordinary faces, such as "drawn faces", from their about.txt.

    A dataset without this file has ordinary faces.
    """
    files = [dataset_root / dataset / ABOUT_FILE for dataset in datasets]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    return sorted({one_line(text) for text in texts if text.strip()})


def read_split(dataset: str, split: str, dataset_root: Path, data_root: Path, size: int | None = None) -> list[Video]:
    """Read and check both label files of one split, and list the images of each video.

    Args:
        dataset: name of a folder under `dataset_root`.
        split: train, val or test.
        dataset_root: folder of the datasets' label files.
        data_root: folder that relative paths in label files start from.
        size: side of the images in pixels, to use the pack of this size if there is one (see `datasets.packs`). A
            folder that has changed since it was packed is read from its files, with a note. None for no pack.

    Returns:
        The real videos, then the fake videos, in file order.

    Raises:
        InputError: the dataset is unknown; a label file is missing, empty or malformed; sources.csv is malformed; a
            folder is missing, has no images or is listed twice; the pack is damaged. A test set may have one empty
            label file.
    """
    label_folder = find_label_folder(dataset, dataset_root)
    files = [label_folder / f"{split}_{name}.txt" for name in CLASSES]
    entries = [parse_label_file(file, label) for label, file in enumerate(files)]
    read_sources(label_folder / SOURCES_FILE)  # a malformed file must not stop a run at its end
    empty_files = [str(file) for file, videos_of_class in zip(files, entries, strict=True) if not videos_of_class]
    if len(empty_files) == 2 or (empty_files and split != "test"):
        raise InputError(f"{' and '.join(empty_files)}: empty; write one line per video: label,path,number of frames.")

    lines = [(label, path) for label in (0, 1) for path, _ in entries[label]]
    pack = None if size is None else find_pack(label_folder, size)
    videos: list[Video] = []
    missing: list[str] = []
    empty: list[str] = []
    unpacked: list[str] = []
    root, parents = str(data_root), dict[str, str]()
    for label, path in progress(lines, f"{dataset} {split}", unit="folders", delay=2):
        real = real_path(os.path.join(root, path), parents)
        folder = Path(real)
        if pack and (entry := pack.find(path, real)):
            videos.append(Video(dataset, path, label, folder, pack.names(entry), pack, entry.row))
            continue
        images = list_images(folder)
        if not images:
            (missing if images is None else empty).append(path)
        unpacked.append(path)
        videos.append(Video(dataset, path, label, folder, images or ()))

    _check_duplicates(videos, split)
    for problem, paths in (("are missing or are not folders", missing), ("have no images", empty)):
        if paths:
            raise InputError(
                f"{label_folder}: {len(paths)} of the {len(videos)} folders in {split}_real.txt and {split}_fake.txt "
                f"{problem} under --data_root {data_root}: {first_ten(paths)}; correct --data_root or the label files."
            )
    declared_frames = sum(frames for of_class in entries for _, frames in of_class)
    found = sum(len(v.images) for v in videos)
    if declared_frames != found:
        print(
            f"note: {label_folder}: the {split} label files declare {declared_frames} images, but the folders contain "
            f"{found}; using all {found}"
        )
    if pack:
        print(f"note: {label_folder}: the {split} images come from {pack.folder}")
        if unpacked:
            print(
                f"note: {len(unpacked)} of the {len(videos)} folders are not in the pack or have changed, and are read "
                f"from their files: {first_ten(unpacked)}; python -m datasets.pack {dataset} --size {size} packs them"
            )
    return videos


def _check_duplicates(videos: list[Video], split: str) -> None:
    """Raise InputError if a folder is listed twice in one dataset, or as real and as fake.

    Two datasets may share folders: the manipulations of FaceForensics++ share their original videos.
    """
    first: dict[Path, Video] = {}
    duplicates = []
    for video in videos:
        before = first.setdefault(video.folder, video)
        if before is not video and (before.dataset == video.dataset or before.label != video.label):
            places = [f"{v.dataset}/{split}_{CLASSES[v.label]}.txt (as {v.path})" for v in (before, video)]
            duplicates.append(" and in ".join(places))
    if duplicates:
        raise InputError(f"folders listed twice: in {first_ten(duplicates, '; ')}; remove one line of each pair.")


def check_leaks(splits: dict[str, list[Video]]) -> None:
    """Raise InputError if a folder is in two splits, or is listed as real and as fake.

    Args:
        splits: the videos of all datasets, by split.
    """
    names: dict[Path, list[str]] = {}
    for split, videos in splits.items():
        _check_duplicates(videos, split)
        for folder in {video.folder for video in videos}:
            names.setdefault(folder, []).append(split)
    leaks = [f"{folder} ({' and '.join(found)})" for folder, found in sorted(names.items()) if len(found) > 1]
    if leaks:
        raise InputError(
            f"data leak: {len(leaks)} folders are in two splits: {first_ten(leaks)}; remove each from one split."
        )


def oversampling_factor(dataset: str, videos: list[Video], oversample: str) -> int:
    """Return how often a training set repeats its real videos.

    Args:
        dataset: name of the dataset; a compression suffix such as _c23 is ignored. A single manipulation such as
            FF++_c23/Deepfakes is already balanced.
        videos: training videos of the dataset.
        oversample: ``paper`` (FF++ and DFDC-Preview 4, Celeb-DF-v2 6, DFDC 5, else 1), ``auto`` (number of fake
            frames divided by number of real frames, rounded, at least 1), or an integer.
    """
    if oversample == "paper":
        return 1 if "/" in dataset else PAPER_OVERSAMPLING.get(dataset.split("_")[0], 1)
    if oversample == "auto":
        real, fake = (sum(len(video.images) for video in videos if video.label == label) for label in (0, 1))
        return max(1, round(fake / real))
    return int(oversample)


def read_datasets(
    datasets: list[str], dataset_root: Path, data_root: DataRoot, oversample: str, size: int | None = None
) -> tuple[list[Video], list[Video], dict[str, list[Video]]]:
    """Read all splits of the datasets for a training, and check that no folder is in two splits.

    Args:
        datasets: names of the datasets.
        dataset_root: folder of the datasets' label files.
        data_root: value of ``--data_root``.
        oversample: value of ``--oversample``, see `oversampling_factor`.
        size: side of the images in pixels, see `read_split`.

    Returns:
        The training videos of all datasets, with real videos repeated by each dataset's `oversampling_factor`; the
        validation videos of all datasets; the test videos by dataset.

    Raises:
        InputError: see `read_split` and `check_leaks`.
    """
    read = {
        split: {
            dataset: read_split(dataset, split, dataset_root, root_of(dataset, data_root), size) for dataset in datasets
        }
        for split in SPLITS
    }
    check_leaks({split: [v for videos in sets.values() for v in videos] for split, sets in read.items()})
    train = []
    for dataset, videos in read["train"].items():
        factor = oversampling_factor(dataset, videos, oversample)
        train += [video for video in videos for _ in range(factor if video.label == 0 else 1)]
    return train, [video for videos in read["val"].values() for video in videos], read["test"]
