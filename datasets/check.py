"""Check the images of a dataset: unreadable images, copies, and leaks between the splits.

    python -m datasets.check FF++_c23 --data_root /data/faces

The command reads every image that the label files list. It exits with code 1 if it finds a problem.
"""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.data_roots import DATA_ROOT_TEXT, DataRoot, parse_data_root, root_of
from utils.errors import InputError, first_ten, require_package


@dataclass(kw_only=True)
class CheckArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    name: str = parse.positional(str, "dataset name: a folder of label files under --dataset_root")
    dataset_root: Path = parse.argument(Path("dataset"), parse.path, "folder of the label files")
    data_root: DataRoot = parse.argument(Path("."), parse_data_root, DATA_ROOT_TEXT)
    json: Path | None = parse.argument(None, parse.path, "output JSON file with all problems")
    num_workers: int = parse.argument(12, parse.count_or_zero, "number of worker processes, at most one per core")


if __name__ == "__main__":
    # before the slow imports
    check_command_line("datasets.check", lambda: parse.Parser("-m datasets.check", __doc__, CheckArguments).parse(None))

import numpy as np
from torch.utils.data import DataLoader, Dataset

from datasets.copies import WORDS, equal_pairs, near_pairs, perceptual_hash
from datasets.folders import Names, list_images, real_path
from datasets.labels import CLASSES, SPLITS, find_label_folder, parse_label_file
from datasets.sources import SOURCES_FILE, Origin, origin_of_path, read_sources
from utils.devices import worker_count
from utils.files import write_json
from utils.images import read_image
from utils.progress import progress
from utils.tables import format_rows
from utils.workers import init_worker, iterate

PART = 64  # images that a worker process reads at once
FLAT = 16  # grey levels of 256; an image whose channels have a smaller range is black, or of one colour

# The checks, in the order of the table.
MISSING, EMPTY, COUNT = "missing folders", "folders without images", "folders with another number of images"
TWICE, UNREADABLE, TRUNCATED = "folders listed twice", "unreadable images", "truncated images"
BLANK, COPIES, LEAKS = "black images, or of one colour", "copies in another video", "copies in another split"
NEAR_LEAKS, SOURCES, PEOPLE = "near-duplicates in another split", "sources in two splits", "people in two splits"
CHECKS = (
    MISSING, EMPTY, COUNT, TWICE, UNREADABLE, TRUNCATED, BLANK, COPIES, LEAKS, NEAR_LEAKS, SOURCES, PEOPLE
)  # fmt: skip


class Folder(NamedTuple):
    """One line of a label file.

    Attributes:
        split: train, val or test.
        label: 0 real, 1 fake.
        path: the folder as in the label file.
        declared: number of images in the label file.
        names: file names of the images.
        origin: the video, and its sources and people.
    """

    split: str
    label: int
    path: str
    declared: int
    names: Names
    origin: Origin

    @property
    def part(self) -> str:
        """The split and the class, such as "train real"."""
        return f"{self.split} {CLASSES[self.label]}"


class Part(NamedTuple):
    """What a worker process found in up to `PART` images of one folder.

    Attributes:
        readable: n, indices of the readable images in the folder.
        sizes: n x 2, width and height in pixels.
        pixels: n, uint64, digest of the pixels.
        hashes: n x WORDS, uint16, perceptual hash.
        flat: n, whether the image is black or of one colour.
        unreadable: number and reason of each other image.
    """

    readable: list[int]
    sizes: np.ndarray
    pixels: np.ndarray
    hashes: np.ndarray
    flat: np.ndarray
    unreadable: list[tuple[int, str]]


@dataclass
class Pair:
    """Images that two videos have in common.

    Attributes:
        images: number of pairs of images.
        first: an image of one video: its split and path.
        second: the image of the other video that it equals or resembles.
    """

    images: int
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first} = {self.second}" + (f" ({self.images} pairs)" if self.images > 1 else "")


Problems = dict[str, list[str]]  # one printable line per problem, by check


class Parts(Dataset):
    """The images of several folders, in parts that belong to one folder each; an item is a `Part`."""

    def __init__(self, folders: list[tuple[str, Names]]) -> None:
        self.folders = folders
        self.starts = [(i, start) for i, (_, names) in enumerate(folders) for start in range(0, len(names), PART)]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: int) -> Part:
        number, start = self.starts[part]
        folder, names = self.folders[number]
        readable: list[int] = []
        sizes, pixels, hashes, flat = [], [], [], []
        unreadable: list[tuple[int, str]] = []
        for i in range(start, min(start + PART, len(names))):
            file = Path(folder, names[i])
            try:
                image = read_image(file)
            except InputError as error:
                unreadable.append((i, str(error).removeprefix(f"{file}: ")))
                continue
            readable.append(i)
            sizes.append(image.shape[1::-1])
            digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
            digest.update(np.ascontiguousarray(image).data)
            pixels.append(int.from_bytes(digest.digest(), "little"))
            flat.append(bool((np.ptp(image, axis=(0, 1)) < FLAT).all()))
            hashes.append(perceptual_hash(image))
        return Part(
            readable,
            np.array(sizes, np.int32).reshape(-1, 2),
            np.array(pixels, np.uint64),
            np.array(hashes, np.uint16).reshape(-1, WORDS),
            np.array(flat, bool),
            unreadable,
        )


def list_folders(args: CheckArguments, problems: Problems) -> tuple[list[Folder], list[str]]:
    """Return the folders in the label files and their real paths; add the faults of the folders to `problems`.

    Raises:
        InputError: there are no label files, or they or sources.csv are malformed.
    """
    label_folder = find_label_folder(args.name, args.dataset_root)
    known = read_sources(label_folder / SOURCES_FILE)
    splits = [split for split in SPLITS if any((label_folder / f"{split}_{kind}.txt").is_file() for kind in CLASSES)]
    lines = [
        (split, label, path, declared)
        for split in splits or SPLITS
        for label, kind in enumerate(CLASSES)
        for path, declared in parse_label_file(label_folder / f"{split}_{kind}.txt", label)
    ]
    root, parents = str(root_of(args.name, args.data_root)), dict[str, str]()
    folders: dict[str, Folder] = {}
    for split, label, path, declared in progress(lines, "label files", unit="folders", delay=2):
        place, real = f"{split} {CLASSES[label]} {path}", real_path(os.path.join(root, path), parents)
        if real in folders:
            before = folders[real]
            problems[TWICE].append(f"{before.part} {before.path} = {place}")
            continue
        names = list_images(real)
        folders[real] = Folder(
            split, label, path, declared, names or Names(np.array([], "S1")), known.get(path) or origin_of_path(path)
        )
        if not names:
            problems[MISSING if names is None else EMPTY].append(place)
        elif len(names) != declared:
            problems[COUNT].append(f"{place}: {len(names)} images, {declared} in the label file")
    return list(folders.values()), list(folders)


def shared_names(named: Iterable[tuple[str, frozenset[str]]]) -> list[str]:
    """List the names that occur in more than one split.

    Args:
        named: the split and the names of each folder.

    Returns:
        A printable line per name, with its splits.
    """
    splits: dict[str, set[str]] = {}
    for split, names in named:
        for name in names:
            splits.setdefault(name, set()).add(split)
    return [
        f"{name}: {' and '.join(split for split in SPLITS if split in found)}"
        for name, found in sorted(splits.items())
        if len(found) > 1
    ]


def check_images(folders: list[Folder], places: list[str], workers: int, problems: Problems) -> dict[str, Counter[str]]:
    """Read all images, and add their faults and copies to the problems.

    Args:
        folders: the folders.
        places: real path of each folder.
        workers: number of worker processes.
        problems: the problems so far; the function adds to them.

    Returns:
        The number of images of each size, such as 224x224, by split and class.
    """
    parts = Parts([(place, folder.names) for place, folder in zip(places, folders, strict=True)])
    loader = DataLoader(parts, 1, num_workers=workers, collate_fn=list, worker_init_fn=init_worker)
    sizes: dict[str, Counter[str]] = {folder.part: Counter() for folder in folders}
    kept: list[tuple[np.ndarray, ...]] = []
    with progress(None, "checking", unit="images", total=sum(len(folder.names) for folder in folders)) as bar:
        for (number, _), (part,) in zip(parts.starts, iterate(loader), strict=True):
            folder = folders[number]
            named = f"{folder.split} {folder.path}"
            for i, reason in part.unreadable:
                check = TRUNCATED if "truncated" in reason.lower() else UNREADABLE
                problems[check].append(f"{named}/{folder.names[i]}: {reason}")
            problems[BLANK] += [f"{named}/{folder.names[part.readable[i]]}" for i in np.flatnonzero(part.flat)]
            sizes[folder.part].update(f"{width}x{height}" for width, height in part.sizes.tolist())
            use = ~part.flat
            images = np.array(part.readable, np.int32)[use]
            kept.append((np.full(len(images), number, np.int32), images, part.pixels[use], part.hashes[use]))
            bar.update(len(part.readable) + len(part.unreadable))
    if kept:
        folder_of, image_of, pixels, hashes = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
        find_copies(folders, folder_of, image_of, pixels, hashes, problems)
    return sizes


def find_copies(
    folders: list[Folder],
    folder_of: np.ndarray,
    image_of: np.ndarray,
    pixels: np.ndarray,
    hashes: np.ndarray,
    problems: Problems,
) -> None:
    """Add a problem for two folders with equal images of different videos, or near-duplicates in different splits.

    Args:
        folders: the folders.
        folder_of: N, index of each image's folder in `folders`.
        image_of: N, index of each image in its folder.
        pixels: N, digest of the pixels.
        hashes: N x WORDS, perceptual hash.
        problems: the problems so far; the function adds to them.
    """
    numbers: dict[str, int] = {}
    videos = np.array([numbers.setdefault(folder.origin.video, len(numbers)) for folder in folders])[folder_of]
    splits = np.array([SPLITS.index(folder.split) for folder in folders])[folder_of]
    pairs: dict[str, dict[tuple[int, int], Pair]] = {COPIES: {}, LEAKS: {}, NEAR_LEAKS: {}}

    def add(check: str, first: int, second: int, count: int = 1) -> None:
        both = sorted((first, second))  # in the order of the splits
        key = int(folder_of[both[0]]), int(folder_of[both[1]])
        if key in pairs[check]:
            pairs[check][key].images += count
            return
        names = [
            f"{folders[f].split} {folders[f].path}/{folders[f].names[image_of[i]]}"
            for f, i in zip(key, both, strict=True)
        ]
        pairs[check][key] = Pair(count, *names)

    for first, second in equal_pairs(pixels, videos):
        add(COPIES if splits[first] == splits[second] else LEAKS, first, second)
    for firsts, seconds in near_pairs(hashes, splits):
        other = pixels[firsts] != pixels[seconds]
        ordered = np.sort(np.stack([firsts[other], seconds[other]], 1), 1)
        _, start, counts = np.unique(folder_of[ordered], axis=0, return_index=True, return_counts=True)
        for (first, second), count in zip(ordered[start].tolist(), counts.tolist(), strict=True):
            add(NEAR_LEAKS, first, second, count)
    for check, found in pairs.items():
        problems[check] += map(str, found.values())


def count_folders(folders: list[Folder], sizes: dict[str, Counter[str]]) -> dict[str, dict[str, Any]]:
    """Count the folders, the images and the images of each size, by split and class.

    Args:
        folders: the folders.
        sizes: result of `check_images`.
    """
    counts = {}
    for part, sizes_of_part in sizes.items():
        chosen = [folder for folder in folders if folder.part == part]
        images, declared = sum(len(folder.names) for folder in chosen), sum(folder.declared for folder in chosen)
        numbers = {"folders": len(chosen), "images": images, "in_label_files": declared}
        counts[part] = {**numbers, "sizes": dict(sizes_of_part.most_common())}
    return counts


def format_report(counts: dict[str, dict[str, Any]], problems: Problems) -> str:
    """Format the result as text: a table of counts, a table of checks, and the first problems of each check."""
    rows = [["", "folders", "images", "in label files", "most frequent sizes"]]
    for part, (*numbers, sizes) in ((part, numbers.values()) for part, numbers in counts.items()):
        frequent = ", ".join(f"{size} ({count})" for size, count in [*sizes.items()][:3])
        rows.append([part, *map(str, numbers), frequent])
    checks = [["check", "found"], *([check, str(len(lines))] for check, lines in problems.items())]
    details = [f"{check}: {first_ten(lines, '; ')}" for check, lines in problems.items() if lines]
    return "\n\n".join([format_rows(rows), format_rows(checks), *details])


def run(args: CheckArguments) -> int:
    """Check the dataset, print the result and write the JSON file; return 1 if there is a problem, otherwise 0."""
    with require_package("imagehash", by="datasets.check"):
        import imagehash  # noqa: F401  # in the worker processes, a missing package would be a traceback
    problems: Problems = {check: [] for check in CHECKS}
    folders, places = list_folders(args, problems)
    for check, kind in ((SOURCES, "sources"), (PEOPLE, "people")):
        problems[check] += shared_names((folder.split, getattr(folder.origin, kind)) for folder in folders)
    sizes = check_images(folders, places, worker_count(args.num_workers), problems)
    counts, found = count_folders(folders, sizes), any(problems.values())
    print(format_report(counts, problems))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"dataset": args.name, "splits": counts, "problems": problems})
    print(f"\n{args.name}: {'problems found' if found else 'no problem found'}")
    return int(found)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 if there is a problem, 2 for wrong input, 130 for Ctrl-C."""
    parser = parse.Parser("-m datasets.check", __doc__, CheckArguments)
    return run_command("datasets.check", lambda: run(parser.parse(argv)), "a machine with more memory")


if __name__ == "__main__":
    sys.exit(main())
