"""Targets for texts: label files, lists, tables, JSON files, and command lines."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import inference
import preprocessing
import training
from analysis import ablation, compare, embedding, evidence, reproduce, robustness, runs, study
from corpora import lists, realorfake
from corpora.label_files import REPORT, is_prepared, write_label_files
from corpora.layouts import find_videos
from datasets import check, pack
from datasets.labels import describe_datasets, read_split
from datasets.sources import group_folders, read_sources, write_sources
from demo import __main__ as demo
from demo.dataset import MANIFEST, make_demo
from evaluation.predictions import read_predictions, write_predictions
from evaluation.report import read_study
from evaluation.results import COLUMNS as METRICS
from faces.extraction import Source, is_done
from faces.recipe import RECIPE_FILE, claim_folder, common_recipe
from fuzz.target import HOSTILE, Target, answers
from models.backbones import check_model_name
from scoring import share
from scoring.familiarity import face_side
from scoring.records import COLUMNS, csv_row, open_records
from utils import parsing as parse
from utils.devices import select_devices
from utils.files import write_json
from utils.tables import csv_line
from utils.training_arguments import TrainingArguments, parse_training_arguments

SHA256 = "0" * 64


def write(file: Path, content: bytes = b"") -> Path:
    """Write a file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


# -------------------------------------------------------------------------------------------- label files and lists


def check_label_file(content: bytes, folder: Path) -> bool:
    """Read a test set whose real videos are in the label file."""
    write(folder / "labels/d/test_real.txt", content)
    write(folder / "labels/d/test_fake.txt", b"1,fake,1\n")
    for kind in ("real", "fake"):
        write(folder / f"faces/{kind}/0.png")
    return answers(lambda: read_split("d", "test", folder / "labels", folder / "faces"))


def check_about(content: bytes, folder: Path) -> bool:
    """Print what is special about the faces of a dataset."""
    write(folder / "d/about.txt", content)
    return answers(lambda: print(describe_datasets(["d"], folder)))


def check_sources(content: bytes, folder: Path) -> bool:
    """Group folders with sources.csv; what was read is the same after it is written and read again."""
    file, again = write(folder / "sources.csv", content), folder / "again.csv"

    def read() -> None:
        origins = read_sources(file)
        write_sources(again, origins)
        assert read_sources(again) == origins
        group_folders([*origins, "another folder"], file)

    return answers(read)


def check_list(ending: str, content: bytes, folder: Path) -> bool:
    """Make a dataset from a list of another project, and read it."""
    file = write(folder / f"train{ending}", content)
    for name in ("real/v/0.png", "real/v/1.png", "fake/v/0.png"):
        write(folder / "root" / name)

    def read() -> None:
        lists.run(lists.ListArguments(lists=[file], root=folder / "root", name="d", dataset_root=folder / "labels"))
        read_split("d", "train", folder / "labels", folder / "root")

    return answers(read)


def deepfakebench_lists() -> list[bytes]:
    """Return a list of DeepfakeBench with and without compression."""
    fake = {"label": "FF-DF", "frames": ["data\\fake\\v\\0.png"]}
    real = {"label": "FF-real", "frames": ["data\\real\\v\\0.png", "data\\real\\v\\1.png"]}
    plain = {"d": {"FF-DF": {"train": {"v": fake}}, "FF-real": {"train": {"v": real}}}}
    packed = {"d": {"FF-DF": {"train": {"c23": {"v": fake}}}, "FF-real": {"train": {"c23": {"v": real}}}}}
    return [json.dumps(content).encode() for content in (plain, packed)]


# ------------------------------------------------------------------------------------------ lists of published datasets


@dataclass(frozen=True)
class Listing:
    """A file of a published dataset that lists its videos.

    Attributes:
        dataset: the value of ``--dataset``.
        file: the file.
        seeds: valid contents.
        others: the other files of the dataset.
    """

    dataset: str
    file: str
    seeds: tuple[bytes, ...]
    others: dict[str, bytes]

    def check(self, content: bytes, folder: Path) -> bool:
        """List the videos of the dataset with every split, and write its label files."""
        root = folder / "videos"
        for name, other in {**self.others, self.file: content}.items():
            write(root / name, other)
        videos = root / self.file if self.dataset == "folder" else root

        def read() -> None:
            found = find_videos(self.dataset, videos, "d", "all")
            write_label_files(found, folder / "faces", folder / "labels/d", {"all_faces": False}, None)
            find_videos(self.dataset, videos, "d")

        return answers(read)


LISTINGS = {
    "videos_csv": Listing(
        "folder",
        "videos.csv",
        (
            b"path,label\na.mp4,real\nb/c.mp4,fake\n",
            b"path,label,split,identity\na.mp4,0,train,x;y\nb/c.mp4,1,validation,z\n",
        ),
        {"a.mp4": b"", "b/c.mp4": b""},
    ),
    "dataset_json": Listing(
        "DFDC-Preview",
        "dataset.json",
        (
            b'{"m/1111_2222_A_001.mp4": {"label": "fake", "set": "train", "target_id": 1111, "swapped_id": 2222},'
            b' "o/3333_A_001.mp4": {"label": "real", "set": "test"}}',
        ),
        {"m/1111_2222_A_001.mp4": b""},
    ),
    "metadata_json": Listing(
        "DFDC",
        "dfdc_train_part_0/metadata.json",
        (
            b'{"a.mp4": {"label": "FAKE", "split": "train", "original": "b.mp4"},'
            b' "b.mp4": {"label": "REAL", "split": "train"}}',
        ),
        {"dfdc_train_part_0/a.mp4": b""},
    ),
    "labels_csv": Listing(
        "DFDC",
        "test/labels.csv",
        (b"filename,label\na.mp4,1\nb.mp4,0\n",),
        {"test/a.mp4": b"", "dfdc_train_part_0/metadata.json": b"{}"},
    ),
    "celeb_df_list": Listing(
        "Celeb-DF-v2",
        "List_of_testing_videos.txt",
        (b"1 Celeb-real/id1_0007.mp4\n0 Celeb-synthesis/id1_id0_0007.mp4\n1 YouTube-real/00170.mp4\n",),
        {"Celeb-real/id2_0001.mp4": b"", "YouTube-real/00001.mp4": b"", "Celeb-synthesis/id2_id3_0001.mp4": b""},
    ),
    "deeperforensics_list": Listing(
        "DeeperForensics-1.0",
        "lists/splits/train.txt",
        (b"000_M101.mp4\n001_W102.mp4\n",),
        {
            "lists/splits/val.txt": b"002_M101.mp4\n",
            "lists/splits/test.txt": b"003_M101.mp4\n",
            "manipulated_videos/end_to_end/002_M101.mp4": b"",
            "original_sequences/youtube/c23/videos/000.mp4": b"",
        },
    ),
    "deepspeak_csv": Listing(
        "DeepSpeak-v2",
        "annotations-fake.csv",
        (
            b"video-file,identity-source,identity-target,recording-target\nf.mp4,1,1,7\ng.mp4,2,2,8\n",
            b"video-file,identity-source,identity-target\nf.mp4,1,2\n",
        ),
        {
            "annotations-real.csv": b"video-file,identity\nr.mp4,1\ns.mp4,2\n",
            "annotations-split-def.csv": b"identity,split\n1,train\n2,test\n",
            "x/f.mp4": b"",
        },
    ),
    "deepfake_eval_csv": Listing(
        "Deepfake-Eval-2024",
        "video-metadata-publish.csv",
        (b"Filename,Video Ground Truth,Finetuning Set\na.mp4,Fake,Train\nb.mp4,Real,Test\nc.mp4,Unknown,Test\n",),
        {"video-data/a.mp4": b""},
    ),
}


# --------------------------------------------------------------------------------------------- results and records

PREDICTIONS = (
    b"dataset,path,label,score,video,cluster\n"
    b"d,r/1.png,0,0.1,r,r\nd,r/2.png,0,0.4,r,r\nd,s/1.png,0,0.7,s,s\nd,f/1.png,1,0.9,f,r\nd,g/1.png,1,0.6,g,g\n"
)


def check_predictions(content: bytes, folder: Path) -> bool:
    """Compare a run with itself; what was read is the same after it is written and read again."""
    file, again = write(folder / "a/predictions.csv", content), folder / "again.csv"

    def read() -> None:
        predictions = read_predictions(file)
        write_predictions(again, predictions)
        assert [scored.paths for scored in read_predictions(again).values()] == [
            scored.paths for scored in predictions.values()
        ]
        pairs = compare.pair_runs(file.parent, file.parent)
        results = {dataset: compare.compare(pair, "top2") for dataset, pair in pairs.items()}
        print(compare.summarise(results), compare.make_table(results))

    return answers(read)


def results_files() -> list[bytes]:
    """Return the results.json of a small test."""
    metrics = {**dict.fromkeys(METRICS.values(), 0.75), "frames": 5, "videos": 4, "video_auc_interval": [0.5, 1.0]}
    results = {
        "checkpoint": "model_best.pth",
        "checkpoint_sha256": SHA256,
        "data_root": "faces",
        "video_score": "mean",
        "group_by": None,
        "precision": "fp32",
        "datasets": {"d": metrics},
        "trained_with": {"dataset": ["d"], "lr": 1e-3},
        "run": {"date": "2026-01-01"},
    }
    return [json.dumps(results).encode()]


def check_results(content: bytes, folder: Path) -> bool:
    """Write everything that a results.json is read for: report, model card, tables of studies."""
    write(folder / "run/results.json", content)
    write(folder / "run/predictions.csv", PREDICTIONS)
    job = runs.Run(folder / "run", [], {})
    arguments = share.ShareArguments(checkpoint=folder / "model_best.pth", folder=folder, tests=[folder / "run"])

    def read() -> None:
        ablation.measure(job)
        reproduce.make_table("test set", [reproduce.Row("d", job, "d")])
        share.find_tests(arguments, SHA256)
        with patch("evaluation.report.dataset_plots", lambda *_: []):  # they come from predictions.csv
            study.update_report(folder / "run")

    return answers(read)


def check_study(content: bytes, folder: Path) -> bool:
    """Read a study for the report, which shows any problem in the study's place."""
    return answers(lambda: read_study(write(folder / "study_d.json", content), SHA256))


RECORD: dict[str, Any] = {
    "format": 1, "file": "clip.mp4", "sha256": SHA256, "verdict": "fake", "score": 0.75, "spread": [0.5, 1.0],
    "false_positive_rate": 0.05, "false_negative_rate": 0.05, "cutoffs": {"error": 0.05}, "people": [], "frames": 3,
    "cause": "", "notes": [], "model": {"sha256": SHA256, "precision": "fp32"}, "face_detector": None,
    "crops": {"faces_given": True, "every": 5, "frames": None}, "run": {"date": "2026-01-01T00:00:00+00:00"},
}  # fmt: skip
SETTINGS = {"faces_given": True, "every": 5, "frames": None, "precision": "fp32", "error": 0.05}


def check_records(kind: str, content: bytes, folder: Path) -> bool:
    """Continue the records of an earlier command; the next command finds the new record."""
    file = write(folder / f"records.{kind}", content)
    files = [file, None] if kind == "jsonl" else [None, file]

    def read() -> None:
        with open_records(files[0], files[1], SHA256, lambda: SETTINGS, False) as (append, _):
            append(RECORD)
        with open_records(files[0], files[1], SHA256, lambda: SETTINGS, False) as (_, known):
            assert known[RECORD["file"]].sha256 == SHA256

    return answers(read)


# ------------------------------------------------------------------------------------- files of this project's commands


def check_recipe(content: bytes, folder: Path) -> bool:
    """Compare the recipe of a folder of faces."""
    write(folder / "d" / RECIPE_FILE, content)
    write(folder / "d/0/0.png")

    def read() -> None:
        common_recipe(["d", "d_all"], folder)
        claim_folder(folder / "d", {"every": 5, "all_faces": False})

    return answers(read)


def check_faces(content: bytes, folder: Path) -> bool:
    """Read the record of a video's faces: for label files, and for the size of a face."""
    video = write(folder / "videos/real/a.mp4", b"video")
    write(folder / "videos/fake/b.mp4", b"video")
    image = write(folder / "faces/d/real/a/faces.json", content).with_name("0.png")

    def read() -> None:
        is_done(Source(video, image.parent))
        face_side(image)
        videos = find_videos("folder", folder / "videos", "d")
        write_label_files(videos, folder / "faces", folder / "labels/d", {"all_faces": True}, None)

    return answers(read)


def check_report(content: bytes, folder: Path) -> bool:
    """Read the report of an earlier preprocessing."""
    for split in ("train", "val", "test"):
        for kind in ("real", "fake"):
            write(folder / f"labels/d/{split}_{kind}.txt")
    write(folder / "labels/d" / REPORT, content)

    def read() -> None:
        is_prepared(folder / "labels/d")
        write_label_files([], folder / "faces", folder / "labels/d", {"all_faces": False}, None)

    return answers(read)


def check_args(content: bytes, folder: Path) -> bool:
    """Compare the arguments of an earlier run."""
    write(folder / "run/args.json", content)
    write(folder / "run/results.json")
    return answers(lambda: runs.check_folder(runs.Run(folder / "run", [], {"lr": 1e-3, "precision": "auto"})))


def check_demo(content: bytes, folder: Path) -> bool:
    """Look for an earlier synthetic dataset."""
    write(folder / "demo" / MANIFEST, content)
    with patch("demo.dataset.plan", return_value=[]):  # draw nothing
        return answers(lambda: make_demo(folder / "demo", 0, 32, [2, 2, 2], 2, 1, 1))


# ---------------------------------------------------------------------------------------------------- command lines


def check_training(argv: list[str]) -> None:
    """Check a command line of training.py, as far as this needs no checkpoint, and store it as args.json."""
    training.check_arguments(argv)
    args = parse_training_arguments(argv)
    check_model_name(args.model)
    select_devices(args.gpu_num)
    write_json(Path("args.json"), parse.plain_arguments(args))


def parser_of(program: str, arguments: type) -> Callable[[list[str]], object]:
    """Return the parser of a command without further checks."""
    return lambda argv: parse.Parser(program, None, arguments).parse(argv)


STUDY = "--model model.pth --dataset d --dataset_root labels"
# The dataclass of each command's arguments, what checks them, and a valid command line.
COMMANDS: dict[str, tuple[type, Callable[[list[str]], object], str]] = {
    "training": (TrainingArguments, check_training, "--name x --dataset d --dataset_root labels --scales 1,2,3"),
    "inference": (
        inference.InferenceArguments, inference.parse_arguments, "--model model.pth clip.mp4 --evidence --annotate o",
    ),
    "preprocessing": (
        preprocessing.PreprocessingArguments, preprocessing.parse_arguments, "--videos . --faces f --every 5",
    ),
    "compare": (compare.CompareArguments, compare.parse_arguments, "labels labels --video_score top5"),
    "ablation": (
        ablation.AblationArguments, ablation.parse_arguments, "--save_path o --seeds 0,1 --only mixup -- --lr 1e-3",
    ),
    "reproduce": (
        reproduce.ReproduceArguments, reproduce.parse_arguments, "--table cross --data_root f --speed 1,2,3 -- --bs 8",
    ),
    "embedding": (embedding.EmbeddingArguments, embedding.parse_arguments, STUDY),
    "evidence": (evidence.EvidenceArguments, evidence.parse_arguments, STUDY),
    "robustness": (robustness.RobustnessArguments, robustness.parse_arguments, STUDY),
    "share": (share.ShareArguments, share.parse_arguments, "model.pth new"),
    "check": (check.CheckArguments, parser_of("-m datasets.check", check.CheckArguments), "d --json o.json"),
    "pack": (pack.PackArguments, parser_of("-m datasets.pack", pack.PackArguments), "d --size 64"),
    "lists": (lists.ListArguments, parser_of("-m corpora.lists", lists.ListArguments), "a.json b --root r --name n"),
    "realorfake": (
        realorfake.RealOrFakeArguments,
        parser_of("-m corpora.realorfake", realorfake.RealOrFakeArguments),
        "c --faces f",
    ),
    "demo": (demo.DemoArguments, parser_of("-m demo", demo.DemoArguments), "--people 1,2,3 --size 64"),
}  # fmt: skip


def command_line(content: bytes, flags: list[str]) -> list[str]:
    """Return one argument per line, as the system gives it; ``@`` and a character before a value stand for a flag."""
    argv = []
    for line in content.replace(b"\0", b"").split(b"\n"):
        if line.startswith(b"@") and len(line) > 1:
            argv.append(flags[line[1] % len(flags)])
            line = line[2:]
        argv.append(os.fsdecode(line))
    return argv


def check_command(command: str, content: bytes, folder: Path) -> bool:
    """Parse and check a command line in a folder with a video, a checkpoint and a dataset."""
    arguments, work, _ = COMMANDS[command]
    argv = command_line(content, [f"--{item.name}" for item in fields(arguments)])
    argv = [part for part in argv if part != "--traceback"]  # would print more than the sentence
    write(folder / "clip.mp4")
    write(folder / "model.pth")
    write(folder / "labels/d/train_real.txt")
    before = Path.cwd()
    os.chdir(folder)
    try:
        return answers(lambda: work(argv))
    finally:
        os.chdir(before)


def command_seeds(command: str) -> list[bytes]:
    """Return the valid command line, and each flag with a value that may break it."""
    arguments, _, line = COMMANDS[command]
    hostile = (b"@%c%s" % (33 + i, HOSTILE[i % len(HOSTILE)]) for i in range(len(fields(arguments))))
    return [line.replace(" ", "\n").encode(), *(line.replace(" ", "\n").encode() + b"\n" + part for part in hostile)]


# ---------------------------------------------------------------------------------------------------------- targets


def given(*seeds: bytes) -> Callable[[], list[bytes]]:
    """Return a function that returns the seeds."""
    return lambda: list(seeds)


FACES = {
    "bytes": 5, "frames": 10, "looked_at": 2,
    "faces": [[{"image": "0.png", "box": [0, 0, 9, 9], "enlarged": 2.5, "frame": 0}]],
}  # fmt: skip
UTF_16 = "0,real,1\n".encode("utf-16")
TARGETS = {
    "label_file": Target(given(b"0,real,1\n", b"\xef\xbb\xbf0, real ,1\r\n\r\n", UTF_16), check_label_file),
    "about_txt": Target(given(b"drawn faces\n"), check_about),
    "sources_csv": Target(given(b"path,video,source,identity\nr,r,a,x\nr,r,b,x\nf,f,,\n"), check_sources),
    "gend_list": Target(
        given(b"data/real/v/0.png\ndata/real/v/1.png\ndata/fake/v/0.png\n"), partial(check_list, ".txt")
    ),
    "deepfakebench_list": Target(deepfakebench_lists, partial(check_list, ".json")),
    **{name: Target(given(*listing.seeds), listing.check) for name, listing in LISTINGS.items()},
    "predictions_csv": Target(given(PREDICTIONS, PREDICTIONS.replace(b",video,cluster", b"")), check_predictions),
    "results_json": Target(results_files, check_results),
    "study_json": Target(
        given(b'{"title": "t", "text": "x", "table": [["a"], ["1"]], "plots": ["p.png"], "numbers": {}}'), check_study
    ),
    "records_jsonl": Target(given((json.dumps(RECORD) + "\n").encode()), partial(check_records, "jsonl")),
    "records_csv": Target(
        given((csv_line(COLUMNS) + csv_line(csv_row(RECORD))).encode()), partial(check_records, "csv")
    ),
    "recipe_json": Target(given(b'{"every": 5, "all_faces": false}'), check_recipe),
    "faces_json": Target(given(json.dumps(FACES).encode(), b'{"bytes": 5, "cause": "no face"}'), check_faces),
    "report_json": Target(given(b'{"unfinished": 0, "frames_per_second": {"all": 9.5}}'), check_report),
    "args_json": Target(given(b'{"lr": 0.001, "precision": "fp32"}'), check_args),
    "demo_json": Target(given(b'{"settings": {"seed": 0}, "videos": []}'), check_demo),
    **{
        f"{command}_arguments": Target(partial(command_seeds, command), partial(check_command, command))
        for command in COMMANDS
    },
}
