"""Write label files for frames prepared with DeepfakeBench or GenD, from their lists; copy no images.

    python -m corpora.lists FF-DF.json --root /data/DeepfakeBench --name bench --compression c23
    python -m corpora.lists config/datasets/FF/*/*.txt --root /data/GenD --name gend

A training uses exactly the listed frames. If a folder has more frames, the command creates a folder of symbolic links
to the listed frames, beside the label files.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "corpora.lists")  # before the slow imports

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from corpora.new_labels import Folder, check_label_files, write_label_files
from datasets.folders import list_images
from datasets.labels import SPLITS
from datasets.sources import Origin, origin_of_path
from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError, first_ten
from utils.files import atomic_folder, load_json, read_text
from utils.memory import AllocationLimit
from utils.progress import progress

COMPRESSIONS = ("raw", "c23", "c40")
MAX_BYTES = 2**28  # of a JSON list, which names every frame of a dataset
MAX_MEMORY = 2**31  # bytes that reading a JSON list may take; a limit on Linux only
LINKS = "frames"  # folder beside the label files
GEND_FFPP = re.compile(r"(?:^|/)FF[^/]*/[^/]+/(\d{3})(?:_(\d{3}))?$")  # FF/DF/000_003


@dataclass(kw_only=True)
class ListArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    lists: list[Path] = parse.positional(
        parse.path, "one JSON list of DeepfakeBench, or text lists of GenD (one image path per line)", "+"
    )
    root: Path = parse.required(
        parse.path, "base folder of the images; the listed paths may have additional leading folders"
    )
    name: str = parse.required(parse.folder_name, "name of the dataset, for its folder of label files")
    dataset_root: Path = parse.argument(Path("dataset"), parse.path, "folder of the label files")
    compression: str | None = parse.argument(
        None, parse.one_of(*COMPRESSIONS), "compression to use if a JSON list has several: raw, c23 or c40"
    )
    allow_missing: bool = parse.argument(
        False, parse.boolean, "leave out listed frames that are not on the disk, instead of stopping"
    )


class Listed(NamedTuple):
    """Frames of one folder in a list.

    Attributes:
        split: train, val or test.
        label: 0 real, 1 fake.
        folder: the folder as in the list, with forward slashes.
        names: file names of the frames.
    """

    split: str
    label: int
    folder: PurePosixPath
    names: set[str]


def read_deepfakebench(file: Path, compression: str | None) -> list[Listed]:
    """Read a list of DeepfakeBench: JSON, nested by dataset, label, split, sometimes compression, and video.

    A label with "real" but not "fake" in its name is real, which holds for all labels in the configurations of
    DeepfakeBench and DF40; DF40 has a label whichisreal_Fake.

    Raises:
        InputError: the file is not such a list, or has several compressions and none is chosen.
    """
    try:
        with AllocationLimit(MAX_MEMORY):
            videos = list(_videos(load_json(file, limit=MAX_BYTES), ()))
    except MemoryError as error:
        raise InputError(f"{file} needs over {MAX_MEMORY >> 20} MB of memory; give a list of DeepfakeBench.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); give a list of DeepfakeBench.") from error
    found = sorted({key for keys, _ in videos for key in keys[:-1] if key in COMPRESSIONS})
    if compression is None and len(found) > 1:
        raise InputError(f"{file} has several compressions; give --compression {' or '.join(found)}.")
    if compression is not None and compression not in found:
        advice = f"has only {' and '.join(found)}; give another value" if found else "has no compressions; leave it out"
        raise InputError(f"--compression {compression}: {file} {advice}.")
    listed = []
    for keys, video in videos:
        split = next((key for key in keys[2:] if key in SPLITS), None)
        frames = [PurePosixPath(str(frame).replace("\\", "/")) for frame in video["frames"]]
        if split is None or not isinstance(video.get("label"), str):
            raise InputError(
                f"{file}: the video {'/'.join(keys)} lacks a label or a split; give a list of DeepfakeBench."
            )
        if compression is None or compression in keys[:-1]:
            name = video["label"].lower()
            listed += _by_folder(split, int("real" not in name or "fake" in name), frames)
    return listed


def _videos(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the videos below a node with the keys that lead there; DFDC's list has videos at another depth."""
    if isinstance(node, dict) and isinstance(node.get("frames"), list):
        yield keys, node
    elif isinstance(node, dict):
        for key, below in node.items():
            yield from _videos(below, (*keys, key))


def read_gend(file: Path) -> list[Listed]:
    """Read a list of GenD: a path .../source/video/frame per line; the frame is real if the source has "real" in it.

    The split is the word train, val or test in the name of the file, or else in the name of its folder. Without such a
    word it is test, as in GenD's ``src/utils/files.py``.

    Raises:
        InputError: the file is not such a list.
    """
    try:
        lines = read_text(file, "utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as text ({error}); give a list of GenD.") from error
    frames = [PurePosixPath(line.strip().replace("\\", "/")) for line in lines if line.strip()]
    if short := [str(frame) for frame in frames if len(frame.parts) < 3]:
        raise InputError(f"{file}: {first_ten(short)} does not end in source/video/frame; give a list of GenD.")
    words = [*re.split(r"[-_.]", file.stem), *re.split(r"[-_.]", file.absolute().parent.name)]
    split = next((word for word in words if word in SPLITS), "test")
    real = [frame for frame in frames if "real" in frame.parts[-3]]
    fake = [frame for frame in frames if "real" not in frame.parts[-3]]
    return _by_folder(split, 0, real) + _by_folder(split, 1, fake)


def _by_folder(split: str, label: int, frames: list[PurePosixPath]) -> list[Listed]:
    folders: dict[PurePosixPath, Listed] = {}
    for frame in frames:
        folders.setdefault(frame.parent, Listed(split, label, frame.parent, set())).names.add(frame.name)
    return list(folders.values())


def keep_one_split(listed: list[Listed]) -> list[Listed]:
    """Keep each folder in one split, test before val before train, join its frames, and print what was left out.

    The lists of Celeb-DF, DFDC-Preview and others have their test videos in val or train too.

    Raises:
        InputError: a folder is listed as real and as fake.
    """
    kept: dict[PurePosixPath, Listed] = {}
    left_out = dict.fromkeys(SPLITS, 0)
    for one in sorted(listed, key=lambda one: -SPLITS.index(one.split)):
        before = kept.setdefault(one.folder, one._replace(names=set()))
        if before.label != one.label:
            raise InputError(f"{one.folder} is listed as real and as fake; correct the list.")
        if before.split == one.split:
            before.names.update(one.names)
        else:
            left_out[one.split] += 1
    for split, count in left_out.items():
        if count:
            print(f"note: {count} folders are left out of {split}, because val or test lists them too")
    return list(kept.values())


def find_start(listed: list[Listed], root: Path) -> int:
    """Return how many leading parts of the listed paths to drop so that a folder exists below the root.

    What remains is relative and has no ``..``, because the links to the frames must stay below `LINKS`.

    Raises:
        InputError: no listed folder is below the root.
    """
    for start in range(max((len(one.folder.parts) for one in listed), default=0)):
        tails = [one.folder.parts[start:] for one in listed]
        # An absolute path would replace the root, and then the folder of the links.
        if any(".." in tail or PurePosixPath(*tail).is_absolute() for tail in tails):
            continue
        if any(tail and root.joinpath(*tail).is_dir() for tail in tails):
            return start
    listed_folders = first_ten([str(one.folder) for one in listed]) or "none"
    raise InputError(
        f"--root {root} has no listed folder, even without leading folders: {listed_folders}; give another."
    )


def find_origin(path: str) -> Origin:
    """Find the sources in a path of DeepfakeBench or GenD, for FaceForensics++ and Celeb-DF."""
    known = origin_of_path(path.replace("/frames/", "/"))
    if not known.sources and (match := GEND_FFPP.search(path)):
        known = Origin(path, frozenset(filter(None, match.groups())))
    return known._replace(video=path)


def write_links(links: list[tuple[Path, set[str], str]], folder: Path) -> None:
    """Replace a folder by a tree of symbolic links.

    Args:
        links: (folder of frames, names of the frames to link, path of their links below `folder`).
        folder: the folder.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic_folder(folder) as new:
        for frames, names, path in progress(links, "links", unit="folders", delay=2):
            (new / path).mkdir(parents=True, exist_ok=True)
            for name in names:
                os.symlink(frames.absolute() / name, new / path / name)


def run(args: ListArguments) -> None:
    """Check that the listed frames are on the disk, and write the label files.

    Raises:
        InputError: a list is wrong, listed frames are missing, or the dataset has other label files.
    """
    listed: list[Listed] = []
    for file in args.lists:
        listed += read_deepfakebench(file, args.compression) if file.suffix == ".json" else read_gend(file)
    listed = [one for one in keep_one_split(listed) if one.names]
    start = find_start(listed, args.root)
    label_folder = args.dataset_root / args.name
    folders: list[Folder] = []
    links: list[tuple[Path, set[str], str]] = []
    missing: list[str] = []
    for one in progress(listed, "frames", unit="folders", delay=2):
        path = PurePosixPath(*one.folder.parts[start:]).as_posix()
        present = set(list_images(args.root / path) or ())
        missing += sorted(f"{path}/{name}" for name in one.names - present)
        names = one.names & present
        if not names:
            continue
        written = path
        if present > names:
            links.append((args.root / path, names, path))
            written = (label_folder / LINKS / path).absolute().as_posix()
        folders.append(Folder(one.split, one.label, written, len(names), find_origin(path)))
    if missing:
        message = f"{len(missing)} listed frames are not below --root {args.root}: {first_ten(missing)}"
        if not args.allow_missing:
            raise InputError(f"{message}; give the right --root, or --allow_missing True to leave them out.")
        print(f"note: {message}")
    if links:
        print(f"note: {len(links)} folders have more images than the lists; {label_folder / LINKS} has links")
        check_label_files(label_folder, folders)  # before links are replaced that its label files may need
        write_links(links, label_folder / LINKS)
    write_label_files(label_folder, folders)
    print(f"use it with --dataset {args.name} --data_root {args.root}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    parser = parse.Parser("-m corpora.lists", __doc__, ListArguments)
    return run_command("corpora.lists", lambda: run(parser.parse(argv)), "shorter lists")


if __name__ == "__main__":
    sys.exit(main())
