"""Label files, report and contact sheet of a dataset, made from what lies below ``--faces``."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw
from tqdm import tqdm

from corpora.layouts import SourceVideo
from datasets.labels import CLASSES, SPLITS
from faces.extraction import Source, read_record
from faces.videos import evenly_spaced
from utils.errors import InputError, first_ten
from utils.files import atomic_write, write_if_changed

REPORT = "preprocessing_report.json"
LABEL_FILES = [f"{split}_{kind}.txt" for split in SPLITS for kind in CLASSES]
SHEET_ROWS, SHEET_COLUMNS, SHEET_SIDE = 100, 12, 96  # videos, faces of each, pixels


class Gathered(NamedTuple):
    """What is there of a dataset.

    Attributes:
        report: as `preprocessing_report.json` holds it.
        unfinished: the videos that nobody has looked at yet.
    """

    report: dict[str, Any]
    unfinished: list[SourceVideo]


def check_label_folder(home: Path) -> None:
    """Raise InputError where `home` holds label files that were not made from a report."""
    held = [name for name in LABEL_FILES if (home / name).exists()]
    if held and not (home / REPORT).exists():
        raise InputError(
            f"{home} holds label files of another origin ({first_ten(held)}); give another --dataset_root or --name."
        )


def gather(
    videos: Sequence[SourceVideo], faces: Path, home: Path, recipe: dict[str, Any], speeds: dict[str, Any] | None
) -> Gathered:
    """Write the six label files and the report under `home`; files that would not change are left alone.

    Args:
        videos: of the dataset, as `corpora.layouts.find_videos` lists them.
        faces: the value of ``--faces``.
        home: the dataset's folder of label files.
        recipe: how the faces were made, for the report.
        speeds: of this run, for the report; None keeps those of the run before.
    """
    lines: dict[str, list[str]] = {name: [] for name in LABEL_FILES}
    counts: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    problems, cut_short, upscaled, unfinished = [], [], [], []
    for video in tqdm(videos, "label files", unit=" videos", delay=2, leave=False):
        if not video.split:
            continue
        source = Source(video.file, faces / video.folder)
        record = read_record(source)
        if record is None:
            if video.file.is_file():
                unfinished.append(video)
                continue
            record = {"cause": "missing"}
        if "cause" in record:
            about = {"split": video.split, "label": CLASSES[video.label], "cause": record["cause"]}
            problems.append({"video": str(video.file), **about})
            continue
        name = f"{video.split}_{CLASSES[video.label]}.txt"
        counts[name] += 1
        several = recipe["all_faces"]
        for number, track in enumerate(record["faces"]):
            folder = f"{video.folder}/{number}" if several else video.folder
            lines[name].append(f"{video.label},{folder},{len(track)}\n")
            frames[name] += len(track)
        if "frames_told" in record:
            told = {"frames_read": record["frames"], "frames_told": record["frames_told"]}
            cut_short.append({"video": str(video.file), **told})
        enlarged = [face["enlarged"] for track in record["faces"] for face in track if face["enlarged"] > 2]
        if enlarged:
            upscaled.append({"video": str(video.file), "images": len(enlarged), "at_most": max(enlarged)})

    left_out = [{"video": str(v.file), "cause": v.left_out} for v in videos if v.left_out]
    before = home / REPORT
    if speeds is None and before.is_file():
        speeds = json.loads(before.read_text(encoding="utf-8")).get("frames_per_second")
    report = {
        "recipe": recipe,
        "label_files": {name: {"videos": counts[name], "images": frames[name]} for name in LABEL_FILES},
        "causes": dict(Counter(kind_of(problem["cause"]) for problem in problems)),
        "left_out_causes": dict(Counter(entry["cause"] for entry in left_out)),
        "unfinished": len(unfinished),
        "images_upscaled_more_than_twice": sum(entry["images"] for entry in upscaled),
        "frames_per_second": speeds,
        "problems": problems,
        "left_out": left_out,
        "cut_short": cut_short,
        "upscaled": upscaled,
    }
    if counts:
        for name in LABEL_FILES:
            write_if_changed(home / name, "".join(lines[name]))
    write_if_changed(before, json.dumps(report, indent=1) + "\n")
    return Gathered(report, unfinished)


def kind_of(cause: str) -> str:
    """Shorten a cause to what is counted: missing, unreadable, no face."""
    return "no face" if cause.startswith("no face") else cause.partition(":")[0]


def write_contact_sheet(videos: Sequence[SourceVideo], faces: Path, file: Path) -> int:
    """Draw a PNG with a row a video (a face track), `SHEET_COLUMNS` faces each, evenly spaced in time.

    Returns:
        The number of rows. Of more than `SHEET_ROWS` videos every so many are drawn.
    """
    rows = []
    for video in videos:
        folder = faces / video.folder
        if video.split and folder.is_dir():
            tracks = sorted(f for f in folder.iterdir() if f.is_dir()) or [folder]
            rows += [(video, track) for track in tracks]
    rows = [rows[i] for i in evenly_spaced(len(rows), SHEET_ROWS)]
    band = 16  # pixels above the faces, for the row's name
    sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_SIDE, max(1, len(rows)) * (SHEET_SIDE + band)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (video, folder) in enumerate(tqdm(rows, "contact sheet", unit=" videos", delay=2, leave=False)):
        top = row * (SHEET_SIDE + band)
        images = sorted(folder.glob("*.png"))
        name = folder.relative_to(faces).as_posix()
        draw.text((4, top + 2), f"{video.split} {CLASSES[video.label]}, {len(images)} faces: {name}", fill="black")
        for column, i in enumerate(evenly_spaced(len(images), SHEET_COLUMNS)):
            with Image.open(images[i]) as face:
                sheet.paste(face.convert("RGB").resize((SHEET_SIDE, SHEET_SIDE)), (column * SHEET_SIDE, top + band))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        sheet.save(part, "PNG")
    return len(rows)
