"""Find and read the files of a dataset; InputError says in one sentence what to do about a wrong file."""

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath

import utils.files
from datasets.labels import CLASSES
from faces.kinds import VIDEO_ENDINGS
from utils.errors import InputError, first_ten


def list_files(root: Path, recursive: bool = True) -> list[Path]:
    """List the files in a folder and its subfolders, sorted, without hidden folders."""
    files: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        seen.add(os.path.realpath(folder))
        # A symbolic link may lead back to a folder above it.
        new = (name for name in folders if os.path.realpath(os.path.join(folder, name)) not in seen)
        folders[:] = sorted(name for name in new if not name.startswith(".")) if recursive else []
        files += [Path(folder) / name for name in names]
    return sorted(files)


def list_videos(root: Path, recursive: bool = True) -> list[Path]:
    """List the videos in a folder and its subfolders, sorted, without hidden ones."""
    files = list_files(root, recursive)
    return [file for file in files if file.name.lower().endswith(VIDEO_ENDINGS) and not file.name.startswith(".")]


def match_videos(root: Path, folder: str, pattern: str, shape: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Find the videos in a folder, and match their paths with a pattern.

    Args:
        root: root folder of the dataset.
        folder: folder below `root`, which is searched with its subfolders.
        pattern: regular expression that each path below `root`, without its ending, must match.
        shape: an example of such a path, for the message.

    Yields:
        The path of each video below `root`, and the match.

    Raises:
        InputError: a path does not match.
    """
    for file in list_videos(root / folder):
        path = file.relative_to(root).as_posix()
        match = re.fullmatch(pattern, path.removesuffix(file.suffix), re.IGNORECASE)
        if match is None:
            raise InputError(f"{file}: the path does not end like {shape}; rename or remove the file.")
        yield path, match


def find_listed(paths: Iterable[Path]) -> dict[Path, Path]:
    """Map listed paths that are not on the disk to the files that `match_files` finds in their folders."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    found: dict[Path, Path] = {}
    for folder, listed in names.items():
        with suppress(OSError), os.scandir(folder) as entries:  # one listing, because a search per file is slow
            on_disk = {entry.name for entry in entries if entry.is_file()}
            others = [folder / name for name in sorted(on_disk - listed)]
            found |= {folder / name: file for name, file in match_files(listed - on_disk, others).items()}
    return found


def match_files(names: Iterable[str], files: Iterable[Path]) -> dict[str, Path]:
    """Map listed names to files: by the exact name, else in another case, else with another video ending.

    Each file has at most one name; names without a file are left out.

    Raises:
        InputError: two files fit a name, or two names fit a file.
    """
    found: dict[str, Path] = {}
    missing, left = sorted(names), list(files)
    for key in (str, str.lower, _with_any_ending):
        groups = defaultdict[str, tuple[list[str], list[Path]]](lambda: ([], []))
        for name in missing:
            groups[key(name)][0].append(name)
        for file in left:
            groups[key(file.name)][1].append(file)
        for listed, on_disk in groups.values():
            if listed and on_disk:
                if len(listed) + len(on_disk) > 2:
                    raise InputError(
                        f"no unique match between the listed {first_ten(listed)} and the files "
                        f"{first_ten(list(map(str, on_disk)))}; rename or remove the wrong files."
                    )
                found[listed[0]] = on_disk[0]
        used = set(found.values())
        missing, left = [name for name in missing if name not in found], [file for file in left if file not in used]
    return found


def _with_any_ending(name: str) -> str:
    """Return a name in lower case, with ``.*`` in place of a video ending."""
    stem, ending = os.path.splitext(name.lower())
    return f"{stem}.*" if ending in VIDEO_ENDINGS else stem + ending


def check_path(path: str, file: Path) -> None:
    """Raise InputError if a path listed in `file` is not a plain path below the dataset's root."""
    plain = PurePath(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        plain = PurePath()
    if plain.is_absolute() or not plain.name or ".." in plain.parts or plain.as_posix() != path or "\0" in path:
        raise InputError(f"{file}: {path[:80]!r} is not a path inside the dataset; correct it.")


def check_folders(dataset: str, root: Path, wanted: list[str]) -> None:
    """Raise InputError if one of the `wanted` files and folders is missing; the message lists what was found.

    If only some are missing, and these are nested folders, print a note instead.
    """
    missing = [path for path in wanted if not (root / path).exists()]
    if not missing:
        return
    if len(missing) < len(wanted) and all("/" in path for path in missing):
        # Many users have a part of FaceForensics++ only; the report lists the other videos as missing.
        print(f"note: {root} has no {' and no '.join(missing)}; their videos are reported as missing")
        return
    deepest = root / missing[0]
    while not deepest.exists():
        deepest = deepest.parent
    inside = sorted(d.name for d in root.iterdir() if os.path.exists(d / wanted[0])) if root.is_dir() else []
    hint = f"; give --videos {root / inside[0]}" if inside else ""
    raise InputError(
        f"--videos {root} is not the root of {dataset}: looked for {' and '.join(missing)}; found in {deepest}: "
        f"{describe_content(deepest)}{hint}."
    )


def describe_content(folder: Path) -> str:
    """Return the names of the first files and folders in a folder, for an error message."""
    if not folder.is_dir():
        return "a file"
    return first_ten(sorted(entry.name for entry in folder.iterdir())) or "nothing"


def read_text(file: Path) -> str:
    """Read a text file; raise InputError if it is not UTF-8."""
    try:
        return utils.files.read_text(file, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text; save it as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"{file} cannot be read: {error}; replace the file.") from error


def read_json(file: Path) -> dict[str, dict]:
    """Read a JSON object with one object per video; raise InputError for anything else."""
    try:
        entries = utils.files.load_json(file, "utf-8-sig")
        json.dumps(entries, ensure_ascii=False).encode()  # fails for half of a surrogate pair, which no file can hold
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}); download it again.") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise InputError(f"{file} is not a JSON object with one object per video; download it again.")
    return entries


def read_csv(file: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Read the rows of a CSV file with their line numbers.

    Raises:
        InputError: the file is malformed, lacks one of the `columns`, or has a row without a value in one of them.
    """
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""), skipinitialspace=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        rows = [
            (reader.line_num, {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)})
            for row in reader
        ]
    except csv.Error as error:
        raise InputError(f"{file}: line {reader.line_num}: not valid CSV ({error}); correct it.") from error
    header = reader.fieldnames or []
    if absent := [column for column in columns if column not in header]:
        raise InputError(
            f"{file}: the header '{','.join(header)}' has no column {' and no column '.join(absent)}; add it."
        )
    for line, row in rows:
        if not all(row[column] for column in columns):
            raise InputError(f"{file}: line {line}: {' or '.join(columns)} is empty; fill it in.")
    return rows


def read_listed_videos(file: Path, name: str, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file of videos with their line numbers.

    Args:
        file: the file.
        name: the column of the path.
        columns: other columns that must have a value.

    Raises:
        InputError: as for `read_csv`; a path leads out of the dataset, or is listed twice.
    """
    listed = set()
    for line, row in read_csv(file, (name, *columns)):
        check_path(row[name], file)
        if row[name] in listed:
            raise InputError(f"{file}: line {line}: {row[name]} is listed twice; remove one of the lines.")
        listed.add(row[name])
        yield line, row


def read_label(text: str, file: Path, line: int) -> int:
    """Return 0 for ``real`` or ``0``, and 1 for ``fake`` or ``1``; raise InputError for another text."""
    word = {"0": "real", "1": "fake"}.get(text, text.lower())
    if word not in CLASSES:
        raise InputError(f"{file}: line {line}: unknown label '{text[:40]}'; give real (0) or fake (1).")
    return CLASSES.index(word)
