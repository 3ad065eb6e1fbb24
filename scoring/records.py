"""The record of each scored file: JSON Lines, and a CSV table.

docs/record.schema.json describes a record. It is written as soon as the file is scored, so an interruption loses
nothing; the same command continues.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evaluation.verdicts import thresholds_of
from scoring.detector import RECIPE_FIELDS, ForgeryDetector, ScoredFace
from scoring.scores import FileScore, Person
from utils.errors import InputError
from utils.files import sha256, sync
from utils.machine import describe_run
from utils.tables import TableReader, csv_line

FORMAT = 1
COLUMNS = (
    "file", "verdict", "score", "spread_low", "spread_high", "false_positive_rate", "false_negative_rate", "people",
    "frames", "cause", "notes", "date", "sha256", "checkpoint_sha256", "settings",
)  # fmt: skip


def describe_detector(detector: ForgeryDetector, model: Path) -> dict[str, Any]:
    """Return what all records of one run share: the network, the face detector, and the crops.

    Args:
        detector: the detector.
        model: the value of ``--model``.
    """
    return {
        "model": {
            "checkpoint": str(model),
            "sha256": detector.checkpoint["sha256"],
            "trained_with": detector.checkpoint["args"],
            "thresholds": detector.calibration and thresholds_of(detector.calibration),
            "precision": detector.precision,
        },
        "crops": {
            **{name: getattr(detector.recipe, name) for name in RECIPE_FIELDS},
            "faces_given": detector.faces_given,
            "default": detector.training_faces is None,
        },
        "run": describe_run(detector.device) | {"date": None},
    }


def make_record(
    result: FileScore, shared: dict[str, Any], detector: ForgeryDetector, detections: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the record of a file.

    Args:
        result: its score.
        shared: the result of `describe_detector`.
        detector: the detector; it describes the face detector only once this is loaded.
        detections: every face of every scored frame, see `describe_faces`.
    """
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    cutoffs = result.cutoffs
    return {
        "format": FORMAT,
        "file": str(result.file),
        "sha256": file_sha256(result.file),
        "verdict": result.verdict or None,
        "score": result.score,
        "spread": result.spread and list(result.spread),
        "false_positive_rate": result.false_positive_rate,
        "false_negative_rate": result.false_negative_rate,
        "cutoffs": cutoffs and {"error": result.error, "real_below": cutoffs.real, "fake_above": cutoffs.fake},
        "highest": result.face,
        "people": [describe_person(person) for person in result.people],
        "ignored_tracks": result.ignored,
        "frames": result.frames,
        "cause": result.cause,
        "notes": result.notes,
        "model": shared["model"],
        "crops": shared["crops"],
        "face_detector": detector.detector_description,
        "run": shared["run"] | {"date": date},
        "detections": detections,
    }


def file_sha256(file: Path) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read."""
    try:
        return sha256(file)
    except OSError:
        return None


def describe_person(person: Person) -> dict[str, Any]:
    """Return a person's number, score, spread over frames (10th and 90th percentile), frames, times and face size."""
    low, high = np.percentile(person.scores, [10, 90])
    return {
        "face": person.face,
        "score": person.score,
        "frame_scores": [float(low), float(high)],
        "frames": len(person.scores),
        "first": round(person.first, 3),
        "last": round(person.last, 3),
        "smallest_face": round(min(person.sides), 1),
    }


def describe_faces(position: int, time: float, faces: Sequence[ScoredFace]) -> list[dict[str, Any]]:
    """Return the box, the confidence and the score of each face of a frame, at a position and a time in seconds."""
    return [
        {
            "frame": position,
            "time": round(time, 3),
            "face": face.track,
            "box": [round(float(x), 1) for x in face.box],
            "found": round(face.confidence, 4),
            "score": face.score,
        }
        for face in faces
    ]


def csv_row(record: dict[str, Any]) -> list[Any]:
    """Return a record as a row of the CSV table."""
    low, high = record["spread"] or (None, None)
    values = {
        **record,
        **{"spread_low": low, "spread_high": high, "people": len(record["people"]), "date": record["run"]["date"]},
        **{"notes": "; ".join(record["notes"]), "checkpoint_sha256": record["model"]["sha256"]},
        "settings": json.dumps(settings_of(record)),
    }
    return [values[name] for name in COLUMNS]


def settings_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that a record depends on, with their values; ``detector_weights`` is a SHA-256.

    ``error`` is left out without a verdict, and ``detector`` without a face detector.
    """
    settings = {name: record["crops"][name] for name in ("faces_given", "every", "frames")}
    settings["precision"] = record["model"]["precision"]
    if record["cutoffs"] is not None:
        settings["error"] = record["cutoffs"]["error"]
    if (found := record["face_detector"]) is not None:
        settings |= {"detector": found["detector"], "detector_weights": found["weights"]}
    return settings


def current_settings(detector: ForgeryDetector, shared: dict[str, Any], error: float) -> dict[str, Any]:
    """Return the settings, as `settings_of` does, of the records that this command will write; load the face detector.

    Args:
        detector: the detector.
        shared: the result of `describe_detector`.
        error: value of ``--error``.

    Raises:
        InputError: the weights of the face detector cannot be downloaded or read.
    """
    if not detector.faces_given:
        detector.load_face_detector()
    return settings_of({**shared, "cutoffs": {"error": error}, "face_detector": detector.detector_description})


class Known(NamedTuple):
    """A record that an earlier command has written.

    Attributes:
        sha256: SHA-256 of the scored file; None if it could not be read.
        scored: whether the file got a score.
    """

    sha256: str | None
    scored: bool


@contextmanager
def open_records(
    json_file: Path | None,
    csv_file: Path | None,
    checkpoint_sha256: str,
    settings: Callable[[], dict[str, Any]],
    overwrite: bool,
) -> Iterator[tuple[Callable[[dict[str, Any]], None], dict[str, Known]]]:
    """Open the outputs, and continue them if an earlier command with this checkpoint and settings has written them.

    Args:
        json_file: file of JSON Lines, or None.
        csv_file: CSV table, or None.
        checkpoint_sha256: the checkpoint that scores.
        settings: returns the `current_settings`; called if there are earlier records.
        overwrite: replace existing files.

    Yields:
        A function that writes a record, and the files that have records in all outputs already.

    Raises:
        InputError: an output exists and is of another command, checkpoint or setting, or cannot be written.
    """
    kinds: list[tuple[str, Path | None, Reader, Callable[[dict[str, Any]], str]]] = [
        ("--json", json_file, _read_lines, lambda record: json.dumps(record) + "\n"),
        ("--csv", csv_file, _read_rows, lambda record: csv_line(csv_row(record))),
    ]
    with ExitStack() as stack:
        outputs, headers = [], {}
        for flag, file, read, line in kinds:
            if file is not None:
                continued = file.is_file() and not overwrite  # a pipe has no earlier records
                known = _known_records(file, flag, read, checkpoint_sha256, settings) if continued else {}
                append = stack.enter_context(_open(file, flag, replace=not continued))
                if flag == "--csv" and not (continued and file.stat().st_size):
                    headers[append] = csv_line(COLUMNS)
                outputs.append((append, known, line))

        def write(record: dict[str, Any]) -> None:
            for append, known, line in outputs:
                if record["file"] not in known or known[record["file"]].sha256 != record["sha256"]:
                    append(headers.pop(append, "") + line(record))

        first = outputs[0][1] if outputs else {}
        yield write, {file: found for file, found in first.items() if all(k.get(file) == found for _, k, _ in outputs)}


# Maps the text of an output to its files with their records, checkpoints and settings.
Reader = Callable[[str], Iterator[tuple[str, Known, str, dict[str, Any]]]]


def _known_records(
    file: Path, flag: str, read: Reader, checkpoint_sha256: str, settings: Callable[[], dict[str, Any]]
) -> dict[str, Known]:
    """Read the records of an earlier command; remove an incomplete last line, which an interruption has left.

    Raises:
        InputError: another command, checkpoint or setting wrote the file, or it cannot be read.
    """
    start = csv_line(COLUMNS) if flag == "--csv" else f'{{"format": {FORMAT}, "file": '
    advice = f"give another file, or --overwrite to replace {file}"
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{flag}: {file} could not be read: {error.strerror}; give another file.") from error
    complete = text[: text.rfind("\n") + 1]
    while flag == "--csv" and complete.count('"') % 2:  # ends within the name of a file, which has a line break
        complete = complete[: complete.rfind("\n", 0, -1) + 1]
    try:
        if not (complete or text.startswith(start) or start.startswith(text)):
            raise ValueError("another beginning")
        entries = list(read(complete))
        if not all(isinstance(name, str) for name, *_ in entries):
            raise TypeError("the name of a file is not a text")
    except (ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(f"{flag}: {file} exists, but this command did not write it; {advice}.") from error
    if any(checkpoint != checkpoint_sha256 for _, _, checkpoint, _ in entries):
        raise InputError(f"{flag}: {file} holds the scores of another checkpoint; {advice}.")
    now = settings() if entries else {}
    for *_, before in entries:
        for name in before:
            if before[name] != now.get(name):
                raise InputError(
                    f"{flag}: {file} holds scores with --{name} {before[name]}, not {now.get(name)}; give the same "
                    f"value, {advice}."
                )
    if complete != text:
        with file.open("r+b") as content:
            content.truncate(len(complete.encode("utf-8", "surrogateescape")))
    return {name: known for name, known, *_ in entries}


@contextmanager
def _open(file: Path, flag: str, replace: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that appends a text to a file and flushes it; a text that does not fit on the disk is removed.

    Args:
        file: the file; at the end, it is removed if it is new and empty.
        flag: the argument that named it, for messages.
        replace: remove the old content when the first text is written.
    """
    new = not file.exists()

    def append(text: str) -> None:
        nonlocal replace
        data = text.encode("utf-8", "surrogateescape")
        with _writing(file, flag):
            size = file.stat().st_size if regular and not replace else 0
            try:
                if regular and replace:
                    out.truncate(0)
                replace = False
                while data:
                    data = data[out.write(data) :]
                if regular:
                    os.fsync(out.fileno())
                if regular and not size:
                    sync(file.parent)
            except BaseException:
                if regular:
                    out.truncate(size)
                raise

    with _writing(file, flag):
        file.parent.mkdir(parents=True, exist_ok=True)
        out = file.open("ab", buffering=0)  # a buffer would write the rest of a cut text later
    regular = file.is_file()
    try:
        with out:
            yield append
    finally:
        if new and regular and file.stat().st_size == 0:
            file.unlink()


@contextmanager
def _writing(file: Path, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{flag}: {file} could not be written: {error.strerror}; give another file.") from error


def _read_lines(text: str) -> Iterator[tuple[str, Known, str, dict[str, Any]]]:
    for line in text.splitlines():
        record = json.loads(line)
        known = Known(record["sha256"], record["score"] is not None)
        yield record["file"], known, record["model"]["sha256"], settings_of(record)


def _read_rows(text: str) -> Iterator[tuple[str, Known, str, dict[str, Any]]]:
    reader = TableReader(io.StringIO(text, newline=""))
    if text and tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError("another header")
    for row in reader:
        known = Known(row["sha256"] or None, row["score"] != "")
        yield row["file"], known, row["checkpoint_sha256"], dict(json.loads(row["settings"]))
