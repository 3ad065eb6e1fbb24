"""The folder layout and the split of each dataset, as its authors distribute it: one function per dataset.

Each function takes the values of ``--dataset`` and ``--videos`` and returns all videos that the dataset should have,
including videos that are not on the disk. It raises InputError if a folder or a list of the dataset is missing or
malformed.
"""

import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from urllib.parse import quote

from corpora.files import (
    check_folders,
    check_path,
    describe_content,
    find_listed,
    list_files,
    list_videos,
    match_files,
    match_videos,
    read_csv,
    read_json,
    read_label,
    read_listed_videos,
    read_text,
)
from corpora.identities import Identities, split_by_identity
from datasets.labels import CLASSES, SPLITS
from datasets.sources import celeb_df_source
from faces.kinds import VIDEO_ENDINGS, file_kind, format_counts, skip_reason
from utils.errors import InputError, did_you_mean, first_ten
from utils.images import IMAGE_ENDINGS

MANIPULATIONS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
COMPRESSIONS = ("raw", "c23", "c40")
DEEPERFORENSICS_VARIANTS = (
    "end_to_end",
    *(f"end_to_end_level_{level}" for level in range(1, 6)),
    "end_to_end_random_level",
    *(f"end_to_end_mix_{count}_distortions" for count in (2, 3, 4)),
    "reenact_postprocess",
)
SPLIT_WORDS = {**{split: split for split in SPLITS}, "valid": "val", "validation": "val"}
DUPLICATE = "a link to a file that is already in the dataset"
UNKNOWN_LABEL = "its label is unknown"
FAKE_SOUND = "its picture is real and its sound is fake"
NEVER_USED = (DUPLICATE, UNKNOWN_LABEL, FAKE_SOUND)
NOBODY: Identities = frozenset()
MAX_NAME = 200  # bytes of a folder's name; file systems allow 255
SPLIT_CHOICES = ("disjoint", "published", "all")
WITHOUT_PUBLISHED_TRAINING_SET = ("DeepFakeDetection", "UADFV", "FakeAVCeleb", "folder")  # starts of names
VALIDATION = {"val": 0.15}  # shares of the identities
VALIDATION_AND_TEST = {"val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class SourceVideo:
    """A video of a dataset; a photo counts as a video of one frame.

    Attributes:
        file: the video, animation or photo; or a folder of face crops, if the dataset distributes these.
        folder: the folder of its face crops below ``--faces``, escaped for a label file; absolute if it is `file`.
        label: 0 real, 1 fake.
        split: train, val or test; empty if the video is left out.
        identities: the people and source videos that the dataset names.
        sources: the source videos that it was made from; empty if the dataset does not name them.
        left_out: why the video is in no split; empty if it is in one.
        mask: the video that shows which pixels are manipulated, if the dataset has one; it may be missing.
    """

    file: Path
    folder: str
    label: int
    split: str = ""
    identities: Identities = frozenset()
    sources: Identities = frozenset()
    left_out: str = ""
    mask: Path | None = None


def check_dataset(dataset: str, root: Path) -> str:
    """Return the key in `LAYOUTS` of a dataset; raise InputError if there is none, or if `root` does not exist."""
    base, _, manipulation = dataset.partition("/")
    if base not in LAYOUTS or (base != dataset and not (manipulation and base.startswith(("FF++", "DeeperForensics")))):
        raise InputError(
            f"--dataset: '{dataset}' is unknown{did_you_mean(dataset, LAYOUTS)} Give one of {', '.join(LAYOUTS)}, or "
            "FF++_c23/Deepfakes for a single manipulation."
        )
    if not root.exists():
        wanted = "your videos, or a CSV file" if base == "folder" else f"the videos of {base}"
        raise InputError(f"--videos {root} does not exist; give the folder of {wanted}.")
    return base


def find_videos(dataset: str, root: Path, name: str, split: str = "disjoint") -> list[SourceVideo]:
    """List the videos of a dataset with their splits.

    Args:
        dataset: the value of ``--dataset``: a key of `LAYOUTS`, for FaceForensics++ optionally with ``/Deepfakes``, for
            DeeperForensics-1.0 optionally with a variant.
        root: the value of ``--videos``.
        name: the dataset's folder below ``--faces``.
        split: disjoint, as the functions below split it; published, where the training set also has the videos that
            disjoint leaves out; or all, where every video is in the test set.

    Raises:
        InputError: the dataset is unknown, its files are not below the root, two files fit a listed name, or the
            dataset has no published training set.
    """
    base = check_dataset(dataset, root)
    if split == "published" and base.startswith(WITHOUT_PUBLISHED_TRAINING_SET):
        raise InputError(f"--split published: {base} has no published training set; give disjoint or all.")
    videos = LAYOUTS[base](dataset, root)
    if base.startswith(("FF++", "DeepFakeDetection")):  # 004/0000.png instead of videos/004/0000.png
        videos = [replace(video, folder=video.folder.replace("/videos/", "/")) for video in videos]
    if split != "disjoint":
        videos = [_change_split(video, split) for video in videos]
    videos = _folders_of_faces(videos) if base == "WildDeepfake" else _unique_folders(videos, name)
    if found := find_listed(file for video in videos for file in (video.file, video.mask) if file):
        videos = [replace(v, file=found.get(v.file, v.file), mask=v.mask and found.get(v.mask, v.mask)) for v in videos]
    if not videos:
        raise InputError(
            f"--videos {root} has no videos of {dataset}; found {describe_content(root)}; give its root folder."
        )
    if not any(video.file.exists() for video in videos):
        folders = first_ten(sorted({str(v.file.parent) for v in videos}))
        raise InputError(
            f"--videos {root} has none of the {len(videos)} videos of {dataset}; looked in {folders}; give its "
            "root folder."
        )
    return videos


def _change_split(video: SourceVideo, split: str) -> SourceVideo:
    """Move a video to the test set (all), or a video that was left out to the training set (published)."""
    if video.left_out in NEVER_USED or (split == "published" and video.split):
        return video
    return replace(video, split="test" if split == "all" else "train", left_out="")


# ----------------------------------------------------------------------------------------------------- the datasets


def faceforensics(dataset: str, root: Path) -> list[SourceVideo]:
    """List FaceForensics++ (Rössler et al., ICCV 2019), split by its published pairs of videos."""
    base, _, manipulation = dataset.partition("/")
    compression = base.removeprefix("FF++_")
    _check_part(manipulation, [*MANIPULATIONS, "FaceShifter"])
    manipulations = [manipulation] if manipulation else MANIPULATIONS
    fakes = [f"manipulated_sequences/{name}/{compression}/videos" for name in manipulations]
    reals = f"original_sequences/youtube/{compression}/videos"
    check_folders(dataset, root, [reals, *fakes])
    videos = []
    for split in SPLITS:
        pairs = json.loads((Path(__file__).parent / "splits" / f"ffpp_{split}.json").read_text())
        for pair in pairs:
            both = frozenset(pair)
            videos += [_video(root, f"{reals}/{name}.mp4", 0, split, both, both) for name in pair]
            videos += [
                _video(root, f"{folder}/{a}_{b}.mp4", 1, split, both, both)
                for folder in fakes
                for a, b in (pair, reversed(pair))
            ]
    return videos


def deepfakedetection(dataset: str, root: Path) -> list[SourceVideo]:
    """List DeepFakeDetection (Google, 2019), distributed with FaceForensics++; file names give the actors."""
    compression = dataset.partition("_")[2] or "c23"
    folders = [
        f"original_sequences/actors/{compression}/videos",
        f"manipulated_sequences/DeepFakeDetection/{compression}/videos",
    ]
    check_folders(dataset, root, folders)
    masks = root / "manipulated_sequences/DeepFakeDetection/masks/videos"
    if not masks.is_dir():
        print(f"note: there is no {masks}; from a fake video with several people, the largest face is cropped")
    videos = []
    # TARGET_SOURCE__SCENE__CODE: the target's video of the scene, with the face of the source
    pattern = r"(\d+)(?:_(\d+))?__(.+?)(?:__.*)?"
    for label, folder in enumerate(folders):
        shape = ("ACTOR__SCENE.mp4", "ACTOR_ACTOR__SCENE__CODE.mp4")[label]
        for path, match in match_videos(root, folder, f"{folder}/{pattern}", shape):
            if bool(match[2]) != bool(label):
                raise InputError(f"{root / path}: the file name is not like {shape}; rename or remove it.")
            people, source = frozenset(filter(None, match.groups()[:2])), frozenset({f"{match[1]}__{match[3]}"})
            mask = masks / PurePath(path).name if label else None
            videos.append(replace(_video(root, path, label, "", people, source), mask=mask))
    return _split(videos, VALIDATION_AND_TEST, "its two actors are in different splits")


def celeb_df(dataset: str, root: Path) -> list[SourceVideo]:
    """List Celeb-DF (Li et al., CVPR 2020), where ``id1_id0_0007`` is ``id1_0007`` with the face of id0.

    Celeb-DF++ (Li et al., 2025) has a folder per scenario and method below Celeb-synthesis. A talking face is named
    ``id1_0007_test_...``.

    The official test set has nearly every celebrity, so training and test set share identities. They share no source
    video: other videos made from a source video of the test set are left out.
    """
    folders = {"Celeb-real": 0, "YouTube-real": 0, "Celeb-synthesis": 1}
    check_folders(dataset, root, [*folders, "List_of_testing_videos.txt"])
    test = _testing_list(root / "List_of_testing_videos.txt", folders)
    used = {celeb_df_source(path) for path in test}
    tested: list[SourceVideo] = []
    rest: list[SourceVideo] = []
    left_out: list[SourceVideo] = []
    listed = {file: path for path, file in find_listed(root / path for path in test).items()}
    on_disk = [
        listed.get(file, file).relative_to(root).as_posix()
        for folder in folders
        for file in list_videos(root / folder, recursive=dataset == "Celeb-DF++")
    ]
    for path in sorted({*on_disk, *test}):
        people = re.findall(r"id\d+", PurePath(path).stem.lower()) or [path]  # the people in YouTube-real are unknown
        source = celeb_df_source(path)
        video = _video(root, path, folders[path.partition("/")[0]], "", frozenset(people), frozenset({source}))
        (tested if path in test else left_out if source in used else rest).append(video)
    return [
        *(replace(video, split="test") for video in tested),
        *_split(rest, VALIDATION, "its two people are in different splits"),
        *(replace(video, left_out="its source video is in the test set") for video in left_out),
    ]


def dfdc_preview(dataset: str, root: Path) -> list[SourceVideo]:
    """List DFDC-Preview (Dolhansky et al., 2019); dataset.json has set and label; validation is split by actor."""
    check_folders(dataset, root, ["dataset.json"])
    videos = []
    for path, entry in read_json(root / "dataset.json").items():
        check_path(path, root / "dataset.json")
        label, split = str(entry.get("label")).lower()[:40], str(entry.get("set")).lower()[:40]
        if label not in CLASSES or split not in ("train", "test"):
            raise InputError(
                f"{root / 'dataset.json'}: {path} has the set '{split}' (expected train or test) and the label "
                f"'{label}' (expected real or fake); download the file again."
            )
        declared = {str(entry[key]) for key in ("target_id", "swapped_id") if entry.get(key) not in (None, "")}
        # In the file name, every number of four or more digits is an actor.
        actors = declared or set(re.findall(r"(?<![0-9])[0-9]{4,}(?![0-9])", PurePath(path).stem)) or {path}
        sources = frozenset(actors) & {path}
        videos.append(_video(root, path, CLASSES.index(label), split, frozenset(actors), sources))
    test = [video for video in videos if video.split == "test"]
    tested = frozenset().union(*(video.identities for video in test))
    train = [video for video in videos if video.split == "train"]
    return [
        *test,
        *_split([v for v in train if not v.identities & tested], VALIDATION, "its two actors are in different splits"),
        *(replace(v, split="", left_out="its actor is in the test set") for v in train if v.identities & tested),
    ]


def dfdc(dataset: str, root: Path) -> list[SourceVideo]:
    """List DFDC (Dolhansky et al., 2020): the last tenth of the parts is validation; labels.csv is the test set."""
    parts = [part for part in root.glob("dfdc_train_part_*") if re.fullmatch("dfdc_train_part_[0-9]+", part.name)]
    if not parts:
        check_folders(dataset, root, ["dfdc_train_part_0"])
    parts.sort(key=lambda part: (int(part.name.rpartition("_")[2]), part.name))
    validation = parts[-math.ceil(len(parts) / 10) :] if len(parts) > 1 else []
    videos, split_of = [], {}
    for part in parts:
        check_folders(dataset, part, ["metadata.json"])
        for file, entry in read_json(part / "metadata.json").items():
            check_path(file, part / "metadata.json")
            label = str(entry.get("label")).lower()[:40]
            if label not in CLASSES:
                raise InputError(
                    f"{part / 'metadata.json'}: {file} has the label '{label}' (expected REAL or FAKE); download the "
                    "file again."
                )
            split_of[file] = "val" if part in validation else "train"
            source = frozenset({str(entry.get("original") or file)})
            videos.append(_video(root, f"{part.name}/{file}", CLASSES.index(label), split_of[file], source, source))
    videos = [
        replace(video, split="", left_out="its original is in another split")
        if any(split_of.get(source, video.split) != video.split for source in video.identities)
        else video
        for video in videos
    ]
    return videos + _dfdc_test(root)


def _dfdc_test(root: Path) -> list[SourceVideo]:
    """List the videos in labels.csv; their files are beside or below it."""
    found = [file for file in list_files(root) if file.name == "labels.csv" and not _in_training_part(file, root)]
    lists = [file for file in found if "test" in file.relative_to(root).as_posix().lower()] or found
    if len(lists) > 1:
        raise InputError(
            f"--videos {root}: found {len(lists)} labels.csv files ({first_ten(list(map(str, lists)))}); keep one."
        )
    videos = []
    for file in lists:
        rows = list(read_listed_videos(file, "filename", "label"))
        below = (path for path in list_videos(file.parent) if not _in_training_part(path, root))
        folders = {name: path.parent for name, path in match_files({row["filename"] for _, row in rows}, below).items()}
        for line, row in rows:
            path = folders.get(row["filename"], file.parent) / row["filename"]
            videos.append(_video(root, path.relative_to(root).as_posix(), read_label(row["label"], file, line), "test"))
    return videos


def _in_training_part(file: Path, root: Path) -> bool:
    return any(part.startswith("dfdc_train_part_") for part in file.relative_to(root).parts)


def uadfv(dataset: str, root: Path) -> list[SourceVideo]:
    """List UADFV (Yang et al., ICASSP 2019), all in the test set; ``fake/0000_fake.mp4`` is made from 0000."""
    check_folders(dataset, root, ["real", "fake"])
    return [
        _video(root, path, label, "test", frozenset({match[1]}), frozenset({match[1]}))
        for label, folder in enumerate(CLASSES)
        for path, match in match_videos(root, folder, r"\w+/(?:.*/)?(\d+)(?:_fake)?", "0000.mp4 or 0000_fake.mp4")
    ]


def ffiw(dataset: str, root: Path) -> list[SourceVideo]:
    """List FFIW-10K (Zhou et al., CVPR 2021); a video below target is made from the video of that name below source."""
    check_folders(dataset, root, ["source", "target"])
    videos = []
    for label, folder in enumerate(("source", "target")):
        for path, match in match_videos(root, folder, r"\w+/((train|val|test)[/_].+)", "train/train_00000000.mp4"):
            source = frozenset({match[1]})
            mask = root / f"target_mask/{match[1]}_mask.mp4" if label else None
            videos.append(replace(_video(root, path, label, match[2].lower(), source, source), mask=mask))
    return videos


def deeperforensics(dataset: str, root: Path) -> list[SourceVideo]:
    """List DeeperForensics-1.0 (Jiang et al., CVPR 2020), split by its lists; it shares its real videos with FF++ c23.

    ``000_M101.mp4`` is the FaceForensics++ video 000 with the face of the actor M101.
    """
    variant = dataset.partition("/")[2] or "end_to_end"
    _check_part(variant, DEEPERFORENSICS_VARIANTS)
    fakes, reals = f"manipulated_videos/{variant}", "original_sequences/youtube/c23/videos"
    split_of: dict[str, str] = {}
    splits_of_target: dict[str, set[str]] = {}
    for split in SPLITS:
        check_folders(dataset, root, [f"lists/splits/{split}.txt"])
        file = root / f"lists/splits/{split}.txt"
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            if not line.strip():
                continue
            name = PurePath(line.strip()).name
            if not re.fullmatch(r"\d{3}_[MW]\d{3}\.mp4", name):
                raise InputError(
                    f"{file}: line {number}: '{line[:80]}' is not a video such as 000_M101.mp4; correct it."
                )
            if split_of.setdefault(name, split) != split:
                raise InputError(f"{file}: line {number}: {name} is also in {split_of[name]}.txt; remove one of them.")
            splits_of_target.setdefault(name[:3], set()).add(split)
    check_folders(dataset, root, [fakes, reals])
    videos = []
    for name, split in split_of.items():
        target, actor = PurePath(name).stem.split("_")
        videos.append(_video(root, f"{fakes}/{name}", 1, split, frozenset({target, actor}), frozenset({target})))
    for target, splits in splits_of_target.items():
        video = _video(root, f"{reals}/{target}.mp4", 0, "", frozenset({target}), frozenset({target}))
        cause = "" if len(splits) == 1 else "its face swaps are in different splits"
        videos.append(replace(video, split="" if cause else min(splits), left_out=cause))
    return videos


def fakeavceleb(dataset: str, root: Path) -> list[SourceVideo]:
    """List FakeAVCeleb (Khalid et al., NeurIPS 2021); paths and file names give the people.

    ``FakeVideo-RealAudio/African/men/id00076/00109_id00166_....mp4`` is made from the real video 00109 of id00076.
    """
    label_of = {"RealVideo-RealAudio": 0, "FakeVideo-RealAudio": 1, "FakeVideo-FakeAudio": 1, "RealVideo-FakeAudio": 0}
    check_folders(dataset, root, list(label_of)[:3])
    videos: list[SourceVideo] = []
    only_sound: list[SourceVideo] = []
    for folder, label in label_of.items():
        shape = "RACE/GENDER/id00076/00109.mp4"
        for path, match in match_videos(root, folder, r".+/(id\d+)/([^/_]+)[^/]*", shape):
            people = frozenset(re.findall(r"id\d+", f"{match[1]}/{PurePath(path).stem}".lower()))
            video = _video(root, path, label, "", people, frozenset({f"{match[1]}/{match[2]}".lower()}))
            (only_sound if folder == "RealVideo-FakeAudio" else videos).append(video)
    return [
        *_split(videos, VALIDATION_AND_TEST, "its two people are in different splits"),
        *(replace(video, left_out=FAKE_SOUND) for video in only_sound),
    ]


def deepspeak(dataset: str, root: Path) -> list[SourceVideo]:
    """List DeepSpeak (Barrington et al., 2024): annotations-split-def.csv has the train and test people.

    The files are found by name, because each release is a number of archives.
    """
    tables = ("annotations-real.csv", "annotations-fake.csv", "annotations-split-def.csv")
    check_folders(dataset, root, list(tables))
    split_of = {}
    for line, row in read_csv(root / tables[2], ("identity", "split")):
        split_of[row["identity"]] = _train_or_test(row["split"], root / tables[2], line)
    rows = [
        (label, columns, row)
        for label, columns in enumerate((["identity"], ["identity-source", "identity-target"]))
        for _, row in read_listed_videos(root / tables[label], "video-file", *columns)
    ]
    files = match_files({PurePath(row["video-file"]).name for *_, row in rows}, list_videos(root))
    videos = []
    for label, columns, row in rows:
        file = root / row["video-file"]
        people = frozenset(row[column] for column in columns)
        splits = {split_of.get(person, "") for person in people}
        recording = file.stem if label == 0 else row.get("recording-target", "")
        source = frozenset({recording if label == 0 else f"{row['identity-target']}-{recording}"} if recording else ())
        if file.name in files:
            file = files[file.name].with_name(file.name)
        cause = "" if len(splits) == 1 and "" not in splits else "its people are in different splits, or in none"
        video = _video(root, file.relative_to(root).as_posix(), label, "" if cause else min(splits), people, source)
        videos.append(replace(video, left_out=cause))
    return _with_validation(videos, "its two people are in different splits")


def deepfake_eval_2024(dataset: str, root: Path) -> list[SourceVideo]:
    """List the videos of Deepfake-Eval-2024 (Chandra et al., 2025), split by the column Finetuning Set of its table."""
    table = root / "video-metadata-publish-with-links.csv"
    if not table.exists():
        table = root / "video-metadata-publish.csv"
    check_folders(dataset, root, ["video-data", table.name])
    videos = []
    for line, row in read_listed_videos(table, "Filename", "Video Ground Truth", "Finetuning Set"):
        path, truth = f"video-data/{row['Filename']}", row["Video Ground Truth"].lower()
        known = truth in CLASSES
        split = _train_or_test(row["Finetuning Set"], table, line) if known else ""
        video = _video(root, path, CLASSES.index(truth) if known else 0, split, frozenset({path}), frozenset({path}))
        videos.append(replace(video, left_out="" if known else UNKNOWN_LABEL))
    return _with_validation(videos, "")


def wilddeepfake(dataset: str, root: Path) -> list[SourceVideo]:
    """List the face sequences of WildDeepfake (Zi et al., ACM MM 2020): real_train/0/real/54 has the crops of one.

    The first folder below real_train is the unpacked archive; validation takes complete archives.
    """
    folders = [f"{kind}_{split}" for kind in CLASSES for split in ("train", "test")]
    check_folders(dataset, root, folders)
    videos = []
    for folder in folders:
        kind, split = folder.split("_")
        files = list_files(root / folder)
        sequences = {f.parent for f in files if f.name.lower().endswith(IMAGE_ENDINGS) and not f.name.startswith(".")}
        for sequence in sorted(sequences):
            path = sequence.relative_to(root).as_posix()
            archive = frozenset({"/".join(path.split("/")[:2])})
            videos.append(_video(root, path, CLASSES.index(kind), split, archive))
        if not sequences:
            raise InputError(
                f"{root / folder}: there are no images; found {describe_content(root / folder)}; unpack the archives."
            )
    # The archives are not people, and their authors do not publish which sequences come from one video.
    return [replace(video, identities=NOBODY) for video in _with_validation(videos, "")]


def folder(dataset: str, root: Path) -> list[SourceVideo]:
    """List a folder tree with real and fake folders, optionally below train, val and test folders, or a CSV file."""
    return _from_csv(root) if root.is_file() else _from_tree(root)


LAYOUTS: dict[str, Callable[[str, Path], list[SourceVideo]]] = {
    **{f"FF++_{compression}": faceforensics for compression in COMPRESSIONS},
    "DeepFakeDetection": deepfakedetection,
    **{f"DeepFakeDetection_{compression}": deepfakedetection for compression in COMPRESSIONS},
    "Celeb-DF-v1": celeb_df,
    "Celeb-DF-v2": celeb_df,
    "DFDC-Preview": dfdc_preview,
    "DFDC": dfdc,
    "Celeb-DF++": celeb_df,
    "DeeperForensics-1.0": deeperforensics,
    "FFIW-10K": ffiw,
    "UADFV": uadfv,
    "FakeAVCeleb": fakeavceleb,
    "DeepSpeak-v1.1": deepspeak,
    "DeepSpeak-v2": deepspeak,
    "Deepfake-Eval-2024": deepfake_eval_2024,
    "WildDeepfake": wilddeepfake,
    "folder": folder,
}


# ---------------------------------------------------------------------------------------------- trees and CSV files


def _from_tree(root: Path) -> list[SourceVideo]:
    videos: list[SourceVideo] = []
    duplicates: list[SourceVideo] = []
    skipped: Counter[str] = Counter()
    first_path: dict[str, Path] = {}
    for file in list_files(root):
        path = file.relative_to(root)
        folders = [part.lower() for part in path.parts[:-1]]
        label = next((i for i, part in enumerate(folders) if part in CLASSES), None)
        if kind := skip_reason(file) or ("outside of real and fake folders" if label is None else ""):
            skipped[kind] += 1
        if kind or label is None:
            continue
        split = next((SPLIT_WORDS[part] for part in folders if part in SPLIT_WORDS), "")
        # real/anna/1.mp4 and fake/anna/1.mp4 count as one source video. Photos in one folder may be frames of a video.
        source_path = PurePath(*path.parts[label + 1 :])
        in_folder = len(source_path.parts) > 1 and file_kind(file) == "image"
        source = frozenset({(source_path.parent if in_folder else source_path.with_suffix("")).as_posix()})
        video = _video(root, path.as_posix(), CLASSES.index(folders[label]), split, source, source)
        if first_path.setdefault(os.path.realpath(file), path) is path:
            videos.append(video)
        else:
            duplicates.append(replace(video, split="", left_out=DUPLICATE))
    if not videos:
        raise InputError(
            f"--videos {root} has no videos or photos in folders named real or fake; looked for "
            f"{', '.join((*VIDEO_ENDINGS, *IMAGE_ENDINGS))}; found {describe_content(root)}; rename the folders, or "
            "give a CSV file."
        )
    if skipped:
        print(f"note: {root}: skipped {format_counts(skipped)}")
    _check_all_or_no_splits(root, videos)
    if not videos[0].split:
        videos = _split(videos, VALIDATION_AND_TEST, "its source is in another split")
    return videos + duplicates


def _from_csv(table: Path) -> list[SourceVideo]:
    rows = read_csv(table, ("path", "label"))
    if not rows:
        raise InputError(f"{table}: no rows below the header; give one row per video: path,label.")
    files = [Path(os.path.abspath(table.parent / row["path"])) for _, row in rows]
    if bad := [line for (line, _), file in zip(rows, files, strict=True) if os.path.isdir(file) or "\0" in str(file)]:
        raise InputError(f"{table}: line {bad[0]}: the path is not a file; give a video or a photo.")
    root = Path(os.path.commonpath([file.parent for file in files]))
    if repeated := [file for file, count in Counter(map(os.path.realpath, files)).items() if count > 1]:
        raise InputError(f"{table}: listed twice: {first_ten(repeated)}; remove the repeated rows.")
    videos = []
    for file, (line, row) in zip(files, rows, strict=True):
        split = (row.get("split") or "").lower()
        if split and split not in SPLIT_WORDS:
            raise InputError(f"{table}: line {line}: unknown split '{split}'; give train, val or test.")
        people = frozenset(part.strip() for part in (row.get("identity") or "").split(";") if part.strip())
        path = file.relative_to(root).as_posix()
        label = read_label(row["label"], table, line)
        identities, sources = (people, NOBODY) if people else (frozenset({path}), frozenset({path}))
        videos.append(_video(root, path, label, SPLIT_WORDS.get(split, ""), identities, sources))
    _check_all_or_no_splits(table, videos)
    if not videos[0].split:
        return _split(videos, VALIDATION_AND_TEST, "its identities are in different splits")
    splits: dict[str, set[str]] = {}
    for video in videos:
        for person in video.identities:
            splits.setdefault(person, set()).add(video.split)
    if leaks := [f"{name} ({' and '.join(sorted(inside))})" for name, inside in splits.items() if len(inside) > 1]:
        raise InputError(f"{table}: data leak: identities in two splits: {first_ten(leaks)}; correct the split column.")
    return videos


def _check_all_or_no_splits(source: Path, videos: list[SourceVideo]) -> None:
    """Raise InputError if some videos have a split and others do not."""
    without = [str(video.file) for video in videos if not video.split]
    if without and len(without) < len(videos):
        raise InputError(
            f"{source}: {len(videos) - len(without)} videos have a split (train, val, test) and {len(without)} have "
            f"none: {first_ten(without)}; give a split for all videos or for none."
        )


# ----------------------------------------------------------------------------------------------------------- helpers


def _video(
    root: Path,
    path: str,
    label: int,
    split: str,
    identities: Identities = NOBODY,
    sources: Identities = NOBODY,
) -> SourceVideo:
    """Make a SourceVideo for the file `path` below the dataset's root."""
    return SourceVideo(root / path, PurePath(path).with_suffix("").as_posix(), label, split, identities, sources)


def _train_or_test(text: str, file: Path, line: int) -> str:
    if text.lower() not in ("train", "test"):
        raise InputError(f"{file}: line {line}: unknown split '{text[:40]}'; give train or test.")
    return text.lower()


def _with_validation(videos: list[SourceVideo], cause: str) -> list[SourceVideo]:
    """Move 15 % of the identities of the training set to validation."""
    train = [video for video in videos if video.split == "train"]
    return [*_split(train, VALIDATION, cause), *(video for video in videos if video.split != "train")]


def _check_part(part: str, valid: Sequence[str]) -> None:
    """Raise InputError if the part of ``--dataset`` after the slash is neither empty nor valid."""
    if part and part not in valid:
        raise InputError(f"--dataset: '{part}' is unknown{did_you_mean(part, valid)} Give one of {', '.join(valid)}.")


def _unique_folders(videos: list[SourceVideo], name: str) -> list[SourceVideo]:
    """Prefix every folder with `name`, escape it for a label file, and make the folders distinct.

    Two videos may differ in their extension only, and no folder of images may be inside another.
    """
    escaped = ["/".join([_quote(name), *map(_folder_name, video.folder.split("/"))]) for video in videos]
    count = Counter(escaped)
    above = {str(parent) for folder in escaped for parent in PurePath(folder).parents}
    used: set[str] = set()
    named = []
    for video, folder in zip(videos, escaped, strict=True):
        if count[folder] > 1 or folder in above:
            folder += _quote(video.file.suffix.replace(".", "_"))
        while folder in used or folder in above or count[folder] > 1:
            folder += "_"
        used.add(folder)
        named.append(replace(video, folder=folder))
    return named


def _folders_of_faces(videos: list[SourceVideo]) -> list[SourceVideo]:
    """Replace `folder` by the dataset's own face crops; raise InputError if label files cannot hold the path."""
    named = [replace(video, folder=video.file.resolve().as_posix()) for video in videos]
    if odd := [video.folder for video in named if any(_quote(part) != part for part in video.folder.split("/"))]:
        raise InputError(f"{first_ten(odd)}: label files cannot hold commas and line breaks; rename the folders.")
    return named


def _quote(part: str) -> str:
    """Percent-encode characters that a label file cannot hold: commas, controls, leading and trailing spaces."""
    return re.sub(
        r"[,\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|^\s|\s$|%(?=[0-9A-Fa-f]{2})|^\.+$",
        lambda match: quote(match[0].encode("utf-8", "surrogateescape"), safe="").replace(".", "%2E"),
        part,
    )


def _folder_name(part: str) -> str:
    """Quote a part of a path, and end a long one with a checksum: temporary names beside it are 51 bytes longer."""
    name = _quote(part).encode()
    if len(name) > MAX_NAME:
        name = name[: MAX_NAME - 9] + b"_%08x" % zlib.crc32(name)
    return name.decode(errors="ignore")


def _split(videos: list[SourceVideo], shares: dict[str, float], cause: str) -> list[SourceVideo]:
    splits = split_by_identity([(video.label, video.identities) for video in videos], shares)
    return [
        replace(video, split=split or "", left_out="" if split else cause)
        for video, split in zip(videos, splits, strict=True)
    ]


def _testing_list(file: Path, folders: Iterable[str]) -> set[str]:
    """Read Celeb-DF's list of test videos, with lines such as ``1 Celeb-real/id1_0007.mp4``, where 1 is real."""
    paths = set()
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        label, _, path = line.strip().partition(" ")
        path = path.strip()
        folder, _, name = path.partition("/")
        valid = folder in folders and label == ("0" if folder == "Celeb-synthesis" else "1")
        if not valid or not re.fullmatch(r"[\w/-]+\.mp4", name):
            raise InputError(
                f"{file}: line {number}: '{line.strip()[:80]}' is not '1 REAL_VIDEO' or '0 FAKE_VIDEO'; correct it."
            )
        paths.add(path)
    if not paths:
        raise InputError(f"{file} lists no videos; download it again.")
    return paths
