"""Turn a dataset's videos into face images and label files for training.py.

    python preprocessing.py --dataset FF++_c23 --videos /data/FaceForensics++ --faces /data/faces
    python training.py --dataset FF++_c23 --data_root /data/faces

Run it again after an interruption: it goes on where it stopped, and writes nothing twice.
"""

# Reads from top to bottom: the arguments, one process's share of the videos, jobs side by side, and the command.

import argparse
import os
import shlex
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from corpora.label_files import REPORT, check_label_folder, gather, write_contact_sheet
from corpora.layouts import LAYOUTS, SourceVideo, find_videos
from faces.detectors import DETECTORS, Detector, load_face_detector
from faces.extraction import Seconds, Source, extract_faces, is_done, read_record
from faces.recipe import Recipe, claim_folder, read_recipe
from utils import parsing as parse
from utils.command import run_command
from utils.devices import core_count, select_devices, worker_count
from utils.errors import InputError, first_ten, one_line, require_package
from utils.tables import format_rows

ONE_CALL = ("jobs", "submit", "nodes", "slurm", "num_shards", "shard", "num_workers", "contact_sheet")


# ---------------------------------------------------------------------------------------------------- arguments


def settings(text: str) -> dict[str, str]:
    """Parse a comma list of key=value."""
    pairs = [part.strip().partition("=") for part in text.split(",")]
    if not all(key and value for key, _, value in pairs):
        raise argparse.ArgumentTypeError(f"'{text}' is not a comma list such as partition=gpu,time=720")
    return {key: value for key, _, value in pairs}


@dataclass(kw_only=True)
class PreprocessingArguments:
    """Every argument of preprocessing.py; the fields are documented by their help texts."""

    dataset: str = parse.argument(
        "FF++_c23", str, f"dataset: {', '.join(LAYOUTS)}; FF++_c23/Deepfakes for a single manipulation", "data"
    )
    videos: Path = parse.required(
        parse.path,
        "root folder of the dataset's videos; for --dataset folder, a folder tree with real and fake or a CSV file",
        "data",
    )
    faces: Path = parse.required(parse.path, "output folder of the face crops; each dataset gets a subfolder", "data")
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "output folder of the label files; each dataset gets a subfolder", "data"
    )
    name: str | None = parse.argument(
        None, parse.folder_name, "name of the dataset's subfolders (default: the value of --dataset)", "data"
    )

    every: int | None = parse.argument(
        None, parse.count, "sample one frame in this many, starting at frame 0 (default: 5)", "frames and faces"
    )
    frames: int | None = parse.argument(
        None, parse.count, "sample this many evenly spaced frames instead of using --every", "frames and faces"
    )
    detector: str = parse.argument(
        "retinaface",
        parse.one_of(*DETECTORS),
        "face detector: retinaface (MobileNet-0.25), retinaface_resnet50, or mtcnn",
        "frames and faces",
    )
    detector_weights: Path | None = parse.argument(
        None, parse.path, "RetinaFace checkpoint (default: the published one, downloaded once)", "frames and faces"
    )
    margin: float = parse.argument(
        1.3, parse.positive, "side of the crop divided by the longer side of the face box", "frames and faces"
    )
    crop_size: int = parse.argument(
        256, parse.count_or_zero, "side of the saved crops in pixels; 0 keeps the original size", "frames and faces"
    )
    all_faces: bool = parse.argument(
        False,
        parse.boolean,
        "save every face of a video, each in its own folder, instead of the main face only",
        "frames and faces",
    )
    contact_sheet: bool = parse.argument(
        False,
        parse.boolean,
        "write contact_sheet.png beside the label files: one row of faces per video",
        "frames and faces",
    )

    bs: int = parse.argument(8, parse.count, "batch size of the face detector, in frames", "machines")
    num_workers: int = parse.argument(
        12, parse.count_or_zero, "processes that decode videos, at most one per core", "machines"
    )
    gpu_num: str | None = parse.argument(
        None, str, "GPU numbers such as 0,1, or cpu (default: all GPUs, or the CPU if there are none)", "machines"
    )
    num_shards: int = parse.argument(
        1, parse.count, "split the videos into this many shards; without --shard, write the label files", "machines"
    )
    shard: int | None = parse.argument(
        None, parse.count_or_zero, "process this shard only (from 0) and write no label files", "machines"
    )
    jobs: int = parse.argument(1, parse.count, "parallel processes on this machine, one shard each", "machines")
    submit: str = parse.argument(
        "local", parse.one_of("local", "slurm"), "where the jobs run: local, or slurm for a SLURM cluster", "machines"
    )
    nodes: int = parse.argument(1, parse.count, "with --submit slurm: number of nodes, one shard each", "machines")
    slurm: dict[str, str] = parse.argument(
        {}, settings, "with --submit slurm: sbatch options such as partition=gpu,time=720,gpus_per_node=1", "machines"
    )


def parse_arguments(argv: list[str] | None) -> PreprocessingArguments:
    """Parse the command line.

    Raises:
        InputError: an argument that is wrong, missing, or contradicts another.
    """
    args = parse.Parser("preprocessing.py", __doc__, PreprocessingArguments).parse(argv)
    if args.every is not None and args.frames is not None:
        raise InputError(f"--every {args.every} and --frames {args.frames} contradict each other; give one.")
    if args.shard is not None and args.shard >= args.num_shards:
        raise InputError(
            f"--shard {args.shard}: with --num_shards {args.num_shards} they are 0 to {args.num_shards - 1}."
        )
    several = max(args.jobs, args.nodes if args.submit == "slurm" else 1)
    if (several > 1 or args.submit == "slurm") and args.num_shards > 1:
        raise InputError("--jobs and --submit slurm make the shards themselves; leave --num_shards and --shard out.")
    if args.submit == "slurm" and args.jobs > 1:
        raise InputError("--jobs is for this machine; for --submit slurm give --nodes.")
    if args.submit == "local" and (args.nodes > 1 or args.slurm):
        raise InputError("--nodes and --slurm are for --submit slurm.")
    return args


# ------------------------------------------------------------------------------------------------- one process's share


def deal_out(videos: Sequence[SourceVideo], shards: int) -> dict[str, int]:
    """Deal the videos' folders out among shards, evenly and in an order that mixes real and fake, long and short."""
    mixed = sorted((video.folder for video in videos), key=lambda folder: zlib.crc32(folder.encode()))
    return {folder: position % shards for position, folder in enumerate(mixed)}


def unfinished(videos: Sequence[SourceVideo], faces: Path) -> list[Source]:
    """List the videos that are on the disk and have neither faces nor a reason for having none."""
    sources = [Source(video.file, faces / video.folder) for video in videos if video.split]
    bar = tqdm(sources, "looking for what is done", unit=" videos", delay=2, leave=False)
    return [source for source in bar if not is_done(source) and source.file.is_file()]


def process(sources: list[Source], args: PreprocessingArguments, recipe: Recipe, detector: Detector) -> Seconds:
    """Write the faces of `sources`, with a bar, and return the time that each stage took."""
    seconds, began = Seconds(), time.perf_counter()
    workers = min(worker_count(args.num_workers), len(sources))
    outcomes = closing(extract_faces(sources, recipe, detector, args.bs, workers, seconds))
    bar = tqdm(total=len(sources), unit=" videos", dynamic_ncols=True)
    with _trouble_is_told(args.faces), bar, outcomes as finished:
        for outcome in finished:
            if outcome.failure:
                bar.write(f"{one_line(outcome.source.file)}: {outcome.failure}")
            bar.update()
            bar.set_postfix_str(f"{seconds.frames / (time.perf_counter() - began):.1f} frames/s")
    return seconds


@contextmanager
def _trouble_is_told(faces: Path) -> Iterator[None]:
    """Turn what stops the work in the middle into one sentence that says how to go on."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or faces}: {error.strerror or error}; mend that (free the disk, allow writing) and run "
            "the same command again: it goes on where it stopped."
        ) from error


# ------------------------------------------------------------------------------------------------- jobs side by side


def run_jobs(args: PreprocessingArguments, sources: list[Source], jobs: int, home: Path) -> None:
    """Run this command once a shard, through submitit, on this machine or on a SLURM cluster, and wait.

    Raises:
        InputError: submitit or SLURM is not there, or a job failed.
    """
    with require_package("submitit", by="--jobs and --submit"):
        import submitit
    logs = home / "jobs"
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=args.submit)
    except RuntimeError as error:
        raise InputError(f"--submit {args.submit}: {error}; give --jobs for this machine.") from error
    shared = {"num_workers": args.num_workers}
    if args.submit == "slurm":
        executor.update_parameters(name="preprocessing", nodes=1, slurm_additional_parameters=args.slurm)
    else:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        executor.update_parameters(timeout_min=60 * 24 * 365, gpus_per_node=gpus)
        shared = {"num_workers": min(args.num_workers, max(1, core_count() // jobs))}
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, core_count() // jobs)))
    command = [sys.executable, str(Path(__file__).absolute())]
    for key, value in {**vars(args), **shared, "num_shards": jobs}.items():
        if value is not None and (key not in ONE_CALL or key in ("num_workers", "num_shards")):
            value = value.absolute() if isinstance(value, Path) else value
            command += [f"--{key}", str(value)]
    calls = [submitit.helpers.CommandFunction([*command, "--shard", str(shard)]) for shard in range(jobs)]
    with executor.batch():
        running = [executor.submit(call) for call in calls]
    print(f"{jobs} jobs, {args.submit}: {', '.join(job.job_id for job in running)}; their logs are in {logs}")
    try:
        _wait(running, sources)
    except KeyboardInterrupt:
        for job in running:
            job.cancel(check=False)
        raise
    failed = [(shard, job) for shard, job in enumerate(running) if job.exception() is not None]
    if failed:
        shard, job = failed[0]
        last = (job.stderr() or str(job.exception())).strip().splitlines()[-1]
        raise InputError(
            f"{len(failed)} of {jobs} jobs failed ({first_ten([str(s) for s, _ in failed])}), shard {shard} with: "
            f"{last} (logs in {logs}); the same command goes on."
        )


def _wait(running: list[Any], sources: list[Source]) -> None:
    left, frames, began = sources, 0, time.perf_counter()
    with tqdm(total=len(sources), unit=" videos", dynamic_ncols=True) as bar:
        while left:
            ended = all(job.done() for job in running)
            done = {source for source in left if is_done(source)}
            frames += sum((read_record(source) or {}).get("looked_at", 0) for source in done)
            left = [source for source in left if source not in done]
            bar.update(len(done))
            bar.set_postfix_str(f"{frames / (time.perf_counter() - began):.1f} frames/s")
            if ended:
                break
            time.sleep(2 + len(left) / 1000)  # a look at every folder takes a network disk a while
    for job in running:
        job.wait()


# ------------------------------------------------------------------------------------------------------- command


def run(args: PreprocessingArguments) -> None:
    """Do what the arguments say: extract faces, and make the label files unless this is one shard of several."""
    name = args.name or args.dataset
    face_folder = name.partition("/")[0]  # FF++_c23/Deepfakes shares the faces of FF++_c23
    videos = find_videos(args.dataset, args.videos, face_folder)
    home, folder = args.dataset_root / name, args.faces / face_folder
    check_label_folder(home)
    shard_of = deal_out(videos, args.num_shards)
    if args.num_shards > 1 and args.shard is None:
        about, speeds = read_recipe(folder), None
        if about is None:
            raise InputError(f"{folder} holds no faces yet; run the shards first: --shard 0, --shard 1, ...")
    else:
        mine = [video for video in videos if args.shard in (None, shard_of[video.folder])]
        about, speeds = extract(args, mine, folder, home)
    if args.shard is None:
        finish(args, videos, shard_of, home, about, speeds)
    else:
        print(
            f"shard {args.shard} of {args.num_shards} is done; when all are, the same command without --shard makes "
            "the label files"
        )


def extract(
    args: PreprocessingArguments, videos: Sequence[SourceVideo], folder: Path, home: Path
) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Write the faces of `videos` that have none yet, in this process or in jobs.

    Args:
        args: the command line.
        videos: this process's share.
        folder: of the dataset's faces.
        home: of its label files, for the logs of jobs.

    Returns:
        How the faces are made; and the frames a second of each stage, None where this process made none.

    Raises:
        InputError: no such device or weights, faces made otherwise, or what stops the work.
    """
    jobs = args.nodes if args.submit == "slurm" else args.jobs
    in_jobs = jobs > 1 or args.submit == "slurm"
    devices = select_devices("cpu" if args.submit == "slurm" else args.gpu_num)  # a cluster's nodes have other GPUs
    # Jobs load a detector each; this process then does so for its name and its SHA-256 alone.
    device = torch.device("cpu") if in_jobs else devices[(args.shard or 0) % len(devices)]
    recipe = Recipe(args.every or 5, args.frames, args.margin, args.crop_size, args.all_faces)
    detector, detector_name = load_face_detector(args.detector, args.detector_weights, device)
    about = {**asdict(recipe), **detector_name, "videos": str(args.videos.resolve())}
    claim_folder(folder, about)
    sources = unfinished(videos, args.faces)
    if sources and in_jobs:
        run_jobs(args, sources, jobs, home)
    elif sources:
        seconds = process(sources, args, recipe, detector)
        stages = ", ".join(f"{stage} {speed:g}" for stage, speed in seconds.speeds().items())
        print(f"{seconds.frames} frames; frames/s a process in each stage: {stages}")
        return about, seconds.speeds() if seconds.frames else None
    return about, None


def finish(
    args: PreprocessingArguments,
    videos: Sequence[SourceVideo],
    shard_of: dict[str, int],
    home: Path,
    about: dict[str, Any],
    speeds: dict[str, float] | None,
) -> None:
    """Make the label files and the report from the faces that are there, and say what is missing and what follows.

    Args:
        args: the command line.
        videos: all of the dataset.
        shard_of: the shard of each video's folder.
        home: where the label files go.
        about: how the faces are made.
        speeds: of this run, as `extract` gives them.

    Raises:
        InputError: no video gave a face.
    """
    report, not_done = gather(videos, args.faces, home, about, speeds)
    print_summary(report, home)
    if args.contact_sheet:
        rows = write_contact_sheet(videos, args.faces, home / "contact_sheet.png")
        print(f"contact sheet of {rows} videos: {home / 'contact_sheet.png'}")
    if not_done:
        shards = sorted({shard_of[video.folder] for video in not_done})
        print(f"note: {len(not_done)} videos are not done yet: shards missing: {first_ten([str(s) for s in shards])}")
    empty = [name for name, count in report["label_files"].items() if not count["videos"]]
    if len(empty) == len(report["label_files"]):
        raise InputError(f"no video gave a face, so there are no label files; {home / REPORT} says why.")
    if empty:
        print(f"note: empty: {', '.join(empty)}; a training needs all six, a test at least one of the last two")
    else:
        next_command = ["python", "training.py", "--dataset", args.name or args.dataset, "--data_root", str(args.faces)]
        if args.dataset_root != Path("dataset"):
            next_command += ["--dataset_root", str(args.dataset_root)]
        print(f"next: {shlex.join(next_command)}")


def print_summary(report: dict[str, Any], home: Path) -> None:
    """Print a row a label file, and how many videos gave nothing, by cause."""
    rows = [[name, str(count["videos"]), str(count["images"])] for name, count in report["label_files"].items()]
    print(f"\n{format_rows([[str(home), 'videos', 'images'], *rows])}\n")
    for what, causes in (("without faces", report["causes"]), ("left out", report["left_out_causes"])):
        if causes:
            print(f"{what}: " + ", ".join(f"{count} {cause}" for cause, count in causes.items()))
    if report["images_upscaled_more_than_twice"]:
        print(f"upscaled more than twice: {report['images_upscaled_more_than_twice']} images")
    if report["cut_short"]:
        print(f"shorter than their headers tell: {len(report['cut_short'])} videos")
    print(f"report: {home / REPORT}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input, 130 for an interruption."""
    return run_command(
        "preprocessing.py",
        lambda: run(parse_arguments(argv)),
        "a smaller --bs",
        lambda: "; the same command goes on where it stopped",
    )


if __name__ == "__main__":
    sys.exit(main())
