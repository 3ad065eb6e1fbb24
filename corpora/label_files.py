"""Write the label files, the report and the contact sheet of a dataset from its face crops."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from corpora.layouts import SourceVideo
from datasets.folders import list_images
from datasets.labels import CLASSES, SPLITS
from datasets.sources import SOURCES_FILE, Origin, write_sources
from faces.extraction import Source, read_record
from faces.videos import evenly_spaced
from utils.errors import InputError, first_ten
from utils.files import atomic_write, read_json, write_if_changed
from utils.images import read_image
from utils.progress import progress

REPORT = "preprocessing_report.json"
LABEL_FILES = [f"{split}_{kind}.txt" for split in SPLITS for kind in CLASSES]
SHEET_ROWS, SHEET_COLUMNS, SHEET_SIDE = 100, 12, 96  # videos, faces per video, pixels


class Summary(NamedTuple):
    """The state of a dataset's face crops.

    Attributes:
        report: the content of `preprocessing_report.json`.
        unfinished: the videos that are on the disk but not processed yet.
    """

    report: dict[str, Any]
    unfinished: list[SourceVideo]


def check_label_folder(label_folder: Path) -> None:
    """Raise InputError if the folder has label files but no report of preprocessing.py."""
    existing = [name for name in LABEL_FILES if (label_folder / name).exists()]
    if existing and not (label_folder / REPORT).exists():
        raise InputError(
            f"{label_folder} has label files that preprocessing.py did not write ({first_ten(existing)}); give another "
            "--dataset_root or --name."
        )


def is_prepared(label_folder: Path) -> bool:
    """Return whether a dataset has all label files, and preprocessing.py has no video left to process."""
    report = label_folder / REPORT
    complete = all((label_folder / name).is_file() for name in LABEL_FILES)
    return complete and not (report.is_file() and read_json(report).get("unfinished", True))


def write_label_files(
    videos: Sequence[SourceVideo],
    faces: Path,
    label_folder: Path,
    recipe: dict[str, Any],
    speeds: dict[str, float] | None,
) -> Summary:
    """Write the six label files, sources.csv and the report; a file that would not change is not written again.

    Args:
        videos: all videos of the dataset, from `corpora.layouts.find_videos`.
        faces: the value of ``--faces``.
        label_folder: the dataset's folder of label files.
        recipe: the recipe of the faces, for the report.
        speeds: frames per second of each stage in this run; None keeps the values of the existing report.

    Returns:
        The report, and the videos that are not processed yet.
    """
    lines: dict[str, list[str]] = {name: [] for name in LABEL_FILES}
    video_counts: Counter[str] = Counter()
    image_counts: Counter[str] = Counter()
    masks: Counter[str] = Counter()
    origins: dict[str, Origin] = {}
    problems, cut_short, upscaled, unfinished = [], [], [], []
    for video in progress(videos, "label files", unit="videos", delay=2):
        if not video.split:
            continue
        if video.file.is_dir():  # the face crops of the dataset
            record: dict[str, Any] | None = {"faces": [[{"enlarged": 1}] * len(list_images(video.file) or ())]}
        else:
            record = read_record(Source(video.file, faces / video.folder, video.mask))
        if record is None:
            if video.file.is_file():
                unfinished.append(video)
                continue
            record = {"cause": "missing"}
        path = {"video": str(video.file)}
        if "cause" in record:
            problems.append({**path, "split": video.split, "label": CLASSES[video.label], "cause": record["cause"]})
            continue
        name = f"{video.split}_{CLASSES[video.label]}.txt"
        video_counts[name] += 1
        for number, track in enumerate(record["faces"]):
            folder = f"{video.folder}/{number}" if recipe["all_faces"] else video.folder
            lines[name].append(f"{video.label},{folder},{len(track)}\n")
            origins[folder] = Origin(video.folder, video.sources, video.identities - video.sources)
            image_counts[name] += len(track)
        if "mask" in record:
            masks[record["mask"]] += 1
        if "frames_told" in record:
            cut_short.append({**path, "frames_read": record["frames"], "frames_told": record["frames_told"]})
        scales = [face["enlarged"] for track in record["faces"] for face in track if face["enlarged"] > 2]
        if scales:
            upscaled.append({**path, "images": len(scales), "at_most": max(scales)})

    left_out = [{"video": str(v.file), "cause": v.left_out} for v in videos if v.left_out]
    report_file = label_folder / REPORT
    if speeds is None and report_file.is_file():
        speeds = read_json(report_file).get("frames_per_second")
    report = {
        "recipe": recipe,
        "label_files": {name: {"videos": video_counts[name], "images": image_counts[name]} for name in LABEL_FILES},
        "causes": dict(Counter(short_cause(problem["cause"]) for problem in problems)),
        "left_out_causes": dict(Counter(entry["cause"] for entry in left_out)),
        "masks": dict(masks),
        "unfinished": len(unfinished),
        "images_upscaled_more_than_twice": sum(entry["images"] for entry in upscaled),
        "frames_per_second": speeds,
        "problems": problems,
        "left_out": left_out,
        "cut_short": cut_short,
        "upscaled": upscaled,
    }
    if video_counts:
        if not report_file.is_file():  # `check_label_folder` accepts the folder after a kill between two label files
            write_if_changed(report_file, json.dumps(report | {"unfinished": len(videos)}, indent=1) + "\n")
        for name in LABEL_FILES:
            write_if_changed(label_folder / name, "".join(lines[name]))
        write_sources(label_folder / SOURCES_FILE, origins)
    write_if_changed(report_file, json.dumps(report, indent=1) + "\n")
    return Summary(report, unfinished)


def short_cause(cause: str) -> str:
    """Shorten a cause to the word that the report counts: missing, unreadable, no face."""
    return "no face" if cause.startswith("no face") else cause.partition(":")[0]


def write_contact_sheet(videos: Sequence[SourceVideo], faces: Path, file: Path) -> int:
    """Write a PNG with one row of `SHEET_COLUMNS` faces, evenly spaced in time, per video or face track.

    Returns:
        The number of rows: at most `SHEET_ROWS`, evenly spaced over the videos.
    """
    rows = []
    for video in videos:
        folder = faces / video.folder
        if video.split and folder.is_dir():
            tracks = sorted(f for f in folder.iterdir() if f.is_dir()) or [folder]
            rows += [(video, track) for track in tracks]
    rows = [rows[i] for i in evenly_spaced(len(rows), SHEET_ROWS)]
    band = 16  # pixels above the faces, for the caption
    sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_SIDE, max(1, len(rows)) * (SHEET_SIDE + band)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (video, folder) in enumerate(progress(rows, "contact sheet", unit="videos", delay=2)):
        top = row * (SHEET_SIDE + band)
        images = [folder / image for image in list_images(folder) or ()]
        name = folder.relative_to(faces).as_posix() if folder.is_relative_to(faces) else folder.as_posix()
        draw.text((4, top + 2), f"{video.split} {CLASSES[video.label]}, {len(images)} faces: {name}", fill="black")
        for column, i in enumerate(evenly_spaced(len(images), SHEET_COLUMNS)):
            face = Image.fromarray(read_image(images[i])).resize((SHEET_SIDE, SHEET_SIDE))
            sheet.paste(face, (column * SHEET_SIDE, top + band))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        sheet.save(part, "PNG")
    return len(rows)
