"""Label files: which folders of face images are real and which are fake, in each split of a dataset.

``<dataset_root>/<dataset>/{train,val,test}_{real,fake}.txt`` holds a line a video, ``label,path,number of
frames``: label 0 real and 1 fake; path a folder of face images, relative to the data root or absolute. Names
may hold spaces, not commas.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from utils.errors import InputError, did_you_mean, first_ten

CLASSES = ("real", "fake")  # a label is an index into this
SPLITS = ("train", "val", "test")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

# How often the paper repeats the real videos of a training set, to bring the classes level.
PAPER_OVERSAMPLING = {"FF++": 4, "DFDC-Preview": 4, "Celeb-DF-v2": 6, "DFDC": 5}


@dataclass(frozen=True)
class Video:
    """A line of a label file: one video's face images.

    Attributes:
        dataset: the dataset's name.
        path: the folder as the label file gives it.
        label: 0 real, 1 fake.
        folder: the folder on this machine, absolute and without links, by which folders are told apart.
        images: its images' file names, sorted, so that a seed means the same on every file system.
    """

    dataset: str
    path: str
    label: int
    folder: Path
    images: tuple[str, ...] = field(repr=False)


def _parse_label_file(file: Path, label: int) -> list[tuple[str, int]]:
    """Read the (path, number of frames) of each line; all of the file's errors come in one InputError."""
    if not file.is_file():
        raise InputError(
            f"there is no label file {file}; a dataset needs {{train,val,test}}_{{real,fake}}.txt, "
            "a line a video: label,path,number of frames."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{file}: line {line} is not text in UTF-8; save the file in that encoding.") from error
    entries, bad = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 3:
            bad.append(f"line {number}: fields: {len(parts)} and not 3 in '{line.strip()[:120]}'")
        elif parts[0] not in ("0", "1"):
            bad.append(f"line {number}: label '{parts[0]}' is not 0 (real) or 1 (fake)")
        elif int(parts[0]) != label:
            bad.append(f"line {number}: label {parts[0]} contradicts the file's name, which says {CLASSES[label]}")
        elif not parts[1] or "\0" in parts[1]:
            bad.append(f"line {number}: no path")
        elif not re.fullmatch("[0-9]{1,9}", parts[2]) or int(parts[2]) == 0:
            bad.append(f"line {number}: '{parts[2][:40]}' is not a number of frames from 1 up")
        else:
            entries.append((parts[1], int(parts[2])))
    if bad:
        plural = "line is" if len(bad) == 1 else "lines are"
        raise InputError(f"{file}: {len(bad)} {plural} bad: {first_ten(bad, '; ')}.")
    return entries


def _is_image(name: str) -> bool:
    # A name that begins with a dot is hidden: macOS leaves ._0000.png beside 0000.png on foreign disks.
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def _list_images(folder: Path) -> tuple[str, ...] | None:
    """List the names of a folder's images, sorted; None where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(e.name for e in entries if _is_image(e.name)))
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_split(dataset: str, split: str, dataset_root: Path, data_root: Path) -> list[Video]:
    """Read the two label files of one split, list every folder's images, and check both.

    Args:
        dataset: a folder's name under `dataset_root`.
        split: train, val or test.
        dataset_root: where the datasets' label files lie.
        data_root: what relative paths in them start from.

    Returns:
        The real videos, then the fake ones, in the order of the files.

    Raises:
        InputError: an unknown dataset; a label file that is missing, empty or malformed (in a test, and
            there alone, one of the two may be empty: a set of one class); folders that are missing or hold
            no images; a folder that stands twice.
    """
    home = dataset_root / dataset
    if not home.is_dir():
        known = sorted(d.name for d in dataset_root.iterdir() if d.is_dir()) if dataset_root.is_dir() else []
        choice = f"Give one of: {first_ten(known)}." if known else "It holds none: give --dataset_root."
        raise InputError(
            f"--dataset: there is no dataset '{dataset}' in {dataset_root}{did_you_mean(dataset, known)} {choice}"
        )
    entries = {label: _parse_label_file(home / f"{split}_{name}.txt", label) for label, name in enumerate(CLASSES)}
    empty = [home / f"{split}_{CLASSES[label]}.txt" for label in entries if not entries[label]]
    if len(empty) == 2 or (empty and split != "test"):
        raise InputError(f"{' and '.join(map(str, empty))}: empty; give a line a video: label,path,number of frames.")

    lines = [(label, path, frames) for label in entries for path, frames in entries[label]]
    videos, missing, bare = [], [], []
    for label, path, _ in tqdm(lines, desc=f"{dataset} {split}", unit=" folders", delay=2, leave=False):
        folder = Path(os.path.realpath(data_root / path))  # unlike Path.resolve it leaves endless links to the listing
        images = _list_images(folder)
        if not images:
            (missing if images is None else bare).append(path)
        videos.append(Video(dataset, path, label, folder, images or ()))

    _check_repeats(videos, split)
    for what, paths in (("are missing, or no folders,", missing), ("hold no images", bare)):
        if paths:
            raise InputError(
                f"{home}: {len(paths)} of the {len(videos)} folders of {split}_real.txt and {split}_fake.txt "
                f"{what} under --data_root {data_root}: {first_ten(paths)}."
            )
    told = sum(frames for _, _, frames in lines)
    found = sum(len(v.images) for v in videos)
    if told != found:
        print(f"note: {home}: the {split} label files tell of {told} images, the folders hold {found}; all are used")
    return videos


def _check_repeats(videos: list[Video], where: str) -> None:
    """Raise InputError where one folder, however it is spelt, stands twice in a dataset, or as real and as fake.

    Two datasets of a union may share folders: the originals of FaceForensics++ belong to every manipulation.
    """
    first: dict[Path, Video] = {}
    repeats = []
    for video in videos:
        before = first.setdefault(video.folder, video)
        if before is not video and (before.dataset == video.dataset or before.label != video.label):
            lists = [f"{v.dataset}'s {where}_{CLASSES[v.label]}.txt as {v.path}" for v in (before, video)]
            repeats.append(" and ".join(lists))
    if repeats:
        raise InputError(f"a folder stands twice: in {first_ten(repeats, '; ')}; take one of the lines out.")


def check_leaks(splits: dict[str, list[Video]]) -> None:
    """Raise InputError, naming the folders, where one folder stands in two splits, or as real and as fake.

    Args:
        splits: the videos of each split, of all datasets together.
    """
    names: dict[Path, list[str]] = {}
    for split, videos in splits.items():
        _check_repeats(videos, split)
        for folder in {video.folder for video in videos}:
            names.setdefault(folder, []).append(split)
    leaks = [f"{folder} ({' and '.join(found)})" for folder, found in sorted(names.items()) if len(found) > 1]
    if leaks:
        raise InputError(
            f"a leak: folders that stand in two splits ({len(leaks)}): {first_ten(leaks)}; take each out of one."
        )


def oversampling_factor(dataset: str, videos: list[Video], oversample: str) -> int:
    """Return how often the real videos of one training set are repeated.

    Args:
        dataset: the dataset's name; a compression behind it (FF++_c23) does not matter. One manipulation alone
            (FF++_c23/Deepfakes) is level as it is.
        videos: its training videos.
        oversample: ``paper`` (the authors' numbers: FF++ and DFDC-Preview 4, Celeb-DF-v2 6, DFDC 5, else 1),
            ``auto`` (the number of fake frames over that of the real, rounded), or a whole number.
    """
    if oversample == "paper":
        return 1 if "/" in dataset else PAPER_OVERSAMPLING.get(dataset.split("_")[0], 1)
    if oversample == "auto":
        frames = Counter()
        for video in videos:
            frames[video.label] += len(video.images)
        return max(1, round(frames[1] / frames[0]))
    return int(oversample)


def read_datasets(
    datasets: list[str], dataset_root: Path, data_root: Path, oversample: str
) -> tuple[list[Video], list[Video], dict[str, list[Video]]]:
    """Read all that a training needs of its datasets, and check that no folder stands in two splits.

    Returns:
        The training videos, the union of the datasets, the real ones of each repeated by its own
        `oversampling_factor`; the validation videos, the union too; and the test videos of each dataset.

    Raises:
        InputError: see `read_split` and `check_leaks`.
    """
    read = {
        split: {dataset: read_split(dataset, split, dataset_root, data_root) for dataset in datasets}
        for split in SPLITS
    }
    check_leaks({split: [video for videos in of.values() for video in videos] for split, of in read.items()})
    train = []
    for dataset, videos in read["train"].items():
        factor = oversampling_factor(dataset, videos, oversample)
        train += [video for video in videos for _ in range(factor if video.label == 0 else 1)]
    return train, [video for videos in read["val"].values() for video in videos], read["test"]
