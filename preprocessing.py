"""Turn a dataset's videos into face crops and label files for training.py.

    python preprocessing.py --dataset FF++_c23 --videos /data/FaceForensics++ --faces /data/faces
    python training.py --dataset FF++_c23 --data_root /data/faces

After an interruption, run the same command again: it skips finished videos.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "preprocessing.py")  # before the slow imports

import os
import shlex
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.layouts import LAYOUTS, SPLIT_CHOICES, SourceVideo, check_dataset, find_videos
from faces.recipe import DETECTORS, Recipe, claim_folder, read_recipe
from utils import parsing as parse
from utils.command import check_command_line, run_command, traceback_flag
from utils.errors import InputError, first_ten, one_line, require_package
from utils.files import remove_stale_parts, require_file
from utils.jobs import SLURM_TEXT, LocalJob, check_job_arguments, key_values, submit_jobs
from utils.progress import progress
from utils.tables import format_rows

if TYPE_CHECKING:
    import submitit

NOT_FOR_JOBS = ("jobs", "submit", "nodes", "slurm", "shard", "contact_sheet")  # arguments that jobs do not inherit


# ---------------------------------------------------------------------------------------------------- arguments


@dataclass(kw_only=True)
class PreprocessingArguments:
    """The arguments of preprocessing.py; the help texts document the fields."""

    dataset: str = parse.argument(
        "FF++_c23", str, f"dataset: {', '.join(LAYOUTS)}; FF++_c23/Deepfakes for a single manipulation", "data"
    )
    videos: Path = parse.required(
        parse.path,
        "root folder of the dataset's videos; with --dataset folder, a tree with real and fake folders, or a CSV file",
        "data",
    )
    faces: Path = parse.required(parse.path, "output folder of the face crops; each dataset gets a subfolder", "data")
    dataset_root: Path = parse.argument(
        Path("dataset"), parse.path, "output folder of the label files; each dataset gets a subfolder", "data"
    )
    name: str | None = parse.argument(
        None,
        parse.folder_name,
        "name of the subfolders of --faces and --dataset_root (default: the value of --dataset)",
        "data",
    )
    split: str = parse.argument(
        "disjoint",
        parse.one_of(*SPLIT_CHOICES),
        "split: disjoint (training leaves out videos that share a source or a person with the other sets), published "
        "(training keeps them, as many papers do), or all (every video with a known label is a test video); the label "
        "files of the last two have the suffix _published or _all",
        "data",
    )

    every: int | None = parse.argument(
        None, parse.count, "sampling interval in frames, starting at frame 0 (default: 5)", "frames and faces"
    )
    frames: int | None = parse.argument(
        None, parse.count, "number of evenly spaced frames per video, instead of --every", "frames and faces"
    )
    detector: str = parse.argument(
        "retinaface",
        parse.one_of(*DETECTORS),
        "face detector: retinaface (MobileNet-0.25), retinaface_resnet50, or mtcnn",
        "frames and faces",
    )
    detector_weights: Path | None = parse.argument(
        None, parse.path, "RetinaFace checkpoint file (default: the published one, downloaded once)", "frames and faces"
    )
    margin: float = parse.argument(
        1.3, parse.margin, "side of the crop divided by the longer side of the face box", "frames and faces"
    )
    crop_size: int = parse.argument(
        256, parse.crop_size, "side of the saved crops in pixels; 0 keeps the original size", "frames and faces"
    )
    all_faces: bool = parse.argument(
        False,
        parse.boolean,
        "crop all faces of a video, each into its own folder, instead of the main face only",
        "frames and faces",
    )
    contact_sheet: bool = parse.argument(
        False,
        parse.boolean,
        "write contact_sheet.png next to the label files, with one row of faces per video",
        "frames and faces",
    )

    bs: int = parse.argument(8, parse.count, "batch size of the face detector, in frames", "machines")
    num_workers: int = parse.argument(
        12,
        parse.count_or_zero,
        "number of decoding processes, at most one per core; 0 decodes in the main process",
        "machines",
    )
    gpu_num: str | None = parse.argument(
        None,
        str,
        "GPU numbers such as 0,1, or cpu; each job or shard uses one GPU (default: all GPUs, or the CPU if there are "
        "none)",
        "machines",
    )
    num_shards: int = parse.argument(
        1,
        parse.count,
        "number of shards; above 1 and without --shard, the command writes only the label files",
        "machines",
    )
    shard: int | None = parse.argument(
        None,
        parse.count_or_zero,
        "index of the shard to process, from 0; the command then writes no label files",
        "machines",
    )
    jobs: int = parse.argument(
        1, parse.count, "number of parallel processes on this machine, one shard each", "machines"
    )
    submit: str = parse.argument(
        "local", parse.one_of("local", "slurm"), "where the jobs run: local, or slurm for a SLURM cluster", "machines"
    )
    nodes: int = parse.argument(1, parse.count, "number of nodes with --submit slurm, one shard each", "machines")
    slurm: dict[str, str] = parse.argument({}, key_values, SLURM_TEXT, "machines")


def parse_arguments(argv: list[str] | None) -> PreprocessingArguments:
    """Parse the command line.

    Raises:
        InputError: an argument is wrong or missing, contradicts another argument, or names a missing file.
    """
    args: PreprocessingArguments = parse.Parser("preprocessing.py", __doc__, PreprocessingArguments).parse(argv)
    if args.every is not None and args.frames is not None:
        raise InputError(f"--every {args.every} and --frames {args.frames} contradict each other; give only one.")
    if args.shard is not None and args.shard >= args.num_shards:
        raise InputError(
            f"--shard {args.shard} is too high; with --num_shards {args.num_shards}, give 0 to {args.num_shards - 1}."
        )
    job_count = max(args.jobs, args.nodes if args.submit == "slurm" else 1)
    if (job_count > 1 or args.submit == "slurm") and (args.num_shards > 1 or args.shard is not None):
        raise InputError("--jobs and --submit slurm create their own shards; leave out --num_shards and --shard.")
    if args.submit == "slurm" and args.jobs > 1:
        raise InputError("--jobs runs on this machine only; with --submit slurm, give --nodes instead.")
    check_job_arguments(args.submit, args.nodes, args.slurm)
    check_dataset(args.dataset, args.videos)
    if args.detector_weights is not None:
        require_file(args.detector_weights, "--detector_weights")
    return args


if __name__ == "__main__":
    check_command_line("preprocessing.py", lambda: parse_arguments(None))  # before the slow imports

import torch

from corpora.label_files import REPORT, check_label_folder, write_contact_sheet, write_label_files
from faces.detectors import Detector, load_face_detector
from faces.extraction import Source, StageTimes, extract_faces, is_done, read_record
from utils.devices import core_count, select_devices, worker_count

# ------------------------------------------------------------------------------------- extraction in this process


def assign_shards(videos: Sequence[SourceVideo], shards: int) -> dict[str, int]:
    """Map each video's folder to a shard; shards have equal size and mix real and fake, long and short videos."""
    mixed = sorted((video.folder for video in videos), key=lambda folder: zlib.crc32(folder.encode()))
    return {folder: position % shards for position, folder in enumerate(mixed)}


def find_unfinished(videos: Sequence[SourceVideo], faces: Path) -> list[Source]:
    """List the videos on the disk that are not processed yet."""
    sources = [Source(video.file, faces / video.folder, video.mask) for video in videos if video.split]
    bar = progress(sources, "looking for finished videos", unit="videos", delay=2)
    return [source for source in bar if not is_done(source) and source.file.is_file()]


def extract_here(sources: list[Source], args: PreprocessingArguments, recipe: Recipe, detector: Detector) -> StageTimes:
    """Extract the faces of `sources` in this process, with a progress bar; return the times of the stages.

    Raises:
        InputError: a folder cannot be written, such as on a full disk.
    """
    times, began = StageTimes(), time.perf_counter()
    workers = min(worker_count(args.num_workers), len(sources))
    outcomes = closing(extract_faces(sources, recipe, detector, args.bs, workers, times))
    bar = progress(None, unit="videos", total=len(sources), leave=True)
    try:
        with bar, outcomes as finished:
            for outcome in finished:
                if outcome.failure:
                    bar.write(f"{one_line(outcome.source.file)}: {outcome.failure}")
                bar.update()
                bar.set_postfix_str(f"{times.frames / (time.perf_counter() - began):.1f} frames/s")
    except OSError as error:
        raise InputError(
            f"{error.filename or args.faces}: {error.strerror or error}; free disk space or make the folder writable, "
            "and run the same command again: it skips finished videos."
        ) from error
    return times


# --------------------------------------------------------------------------------------------- extraction in jobs


def run_jobs(args: PreprocessingArguments, sources: list[Source], jobs: int, label_folder: Path) -> None:
    """Run this command once per shard, on this machine or on a SLURM cluster, and wait for the jobs.

    Raises:
        InputError: a job failed, or SLURM or submitit is not installed.
    """
    logs, workers = label_folder / "jobs", args.num_workers
    if args.submit == "local":
        cores_per_job = max(1, core_count() // jobs)
        workers = min(workers, cores_per_job)
        os.environ.setdefault("OMP_NUM_THREADS", str(cores_per_job))
    command = [sys.executable, str(Path(__file__).absolute()), *traceback_flag]
    for key, value in {**vars(args), "num_workers": workers, "num_shards": jobs}.items():
        if value is not None and key not in NOT_FOR_JOBS:
            command += [f"--{key}", str(value.absolute() if isinstance(value, Path) else value)]
    commands = [[*command, "--shard", str(shard)] for shard in range(jobs)]
    running: list[LocalJob | submitit.Job[str]] = []
    try:
        if args.submit == "slurm":
            with require_package("submitit", by="--submit slurm"):
                from submitit.helpers import CommandFunction
            calls = [CommandFunction(each) for each in commands]
            running += submit_jobs(calls, logs, name="preprocessing", nodes=1, slurm_additional_parameters=args.slurm)
        else:
            for shard, each in enumerate(commands):
                running.append(LocalJob(each, logs / f"shard_{shard}_of_{jobs}"))
        print(f"{jobs} {args.submit} jobs: {', '.join(job.job_id for job in running)}; logs: {logs}")
        _wait(running, sources)
    except BaseException:  # an interruption, or an error of this process
        for job in running:
            job.cancel(check=False)
        for job in running if args.submit == "local" else ():
            job.wait()
        raise
    failed = [(shard, job) for shard, job in enumerate(running) if job.exception() is not None]
    if failed:
        shard, job = failed[0]
        last_line = f"{job.exception()}\n{job.stderr() or ''}".strip().splitlines()[-1]
        raise InputError(
            f"{len(failed)} of {jobs} jobs failed (shards {first_ten([str(s) for s, _ in failed])}); shard {shard} "
            f"ended with: {last_line} (logs: {logs}); fix it and run the same command again: it skips finished videos."
        )


def _wait(running: "list[LocalJob | submitit.Job[str]]", sources: list[Source]) -> None:
    unfinished, frames, began = sources, 0, time.perf_counter()
    with progress(None, unit="videos", total=len(sources), leave=True) as bar:
        while unfinished:
            ended = all(job.done() for job in running)
            finished = {source for source in unfinished if is_done(source)}
            frames += sum((read_record(source) or {}).get("looked_at", 0) for source in finished)
            unfinished = [source for source in unfinished if source not in finished]
            bar.update(len(finished))
            bar.set_postfix_str(f"{frames / (time.perf_counter() - began):.1f} frames/s")
            if ended:
                break
            time.sleep(2 + len(unfinished) / 1000)  # checking every folder is slow on a network disk
    for job in running:
        job.wait()


# ------------------------------------------------------------------------------------------------------- command


def label_name(args: PreprocessingArguments) -> str:
    """Return the name of the label files: the dataset's, and the split's unless it is the default."""
    return (args.name or args.dataset) + ("" if args.split == "disjoint" else f"_{args.split}")


def run(args: PreprocessingArguments) -> None:
    """Extract the faces, then write the label files unless ``--shard`` is given.

    Raises:
        InputError: the folder of the videos, of the faces or of the label files is wrong; also as for `extract` and
            `write_outputs`.
    """
    subfolder = (args.name or args.dataset).partition("/")[0]  # FF++_c23/Deepfakes uses the faces of FF++_c23
    videos = find_videos(args.dataset, args.videos, subfolder, args.split)
    label_folder, face_folder = args.dataset_root / label_name(args), args.faces / subfolder
    check_label_folder(label_folder)
    shard_of = assign_shards(videos, args.num_shards)
    speeds = None
    if all(video.file.is_dir() for video in videos):
        description = {"all_faces": False, "videos": str(args.videos.resolve())}
        print("note: the dataset consists of face crops; the label files point to them")
    elif args.num_shards > 1 and args.shard is None:
        recipe = read_recipe(face_folder)
        if recipe is None:
            raise InputError(f"{face_folder} has no faces yet; run the shards first: --shard 0, --shard 1, ...")
        description = recipe
    else:
        selected = [video for video in videos if args.shard in (None, shard_of[video.folder])]
        description, speeds = extract(args, selected, face_folder, label_folder)
    if args.shard is None:
        write_outputs(args, videos, shard_of, label_folder, description, speeds)
    else:
        print(
            f"shard {args.shard} of {args.num_shards} is finished; after the last shard, run the same command without "
            "--shard to write the label files"
        )


def extract(
    args: PreprocessingArguments, videos: Sequence[SourceVideo], face_folder: Path, label_folder: Path
) -> tuple[dict[str, Any], dict[str, float] | None]:
    """Extract the faces of the videos that are not processed yet, in this process or in jobs.

    Args:
        args: the command line.
        videos: the videos of this process.
        face_folder: the dataset's folder of face crops.
        label_folder: the dataset's folder of label files, for the logs of the jobs.

    Returns:
        The recipe, detector and source of the faces; and the frames per second of each stage, None if this process
        extracted no faces.

    Raises:
        InputError: wrong device or weights, faces with another recipe, a full disk, or a failed job.
    """
    jobs = args.nodes if args.submit == "slurm" else args.jobs
    in_jobs = jobs > 1 or args.submit == "slurm"
    devices = select_devices("cpu" if args.submit == "slurm" else args.gpu_num)  # a cluster's nodes have other GPUs
    # Each job loads its own detector; this process then needs the detector's name and SHA-256 only.
    device = torch.device("cpu") if in_jobs else devices[(args.shard or 0) % len(devices)]
    recipe = Recipe(args.every or 5, args.frames, args.margin, args.crop_size, args.all_faces)
    detector, detector_description = load_face_detector(args.detector, args.detector_weights, device)
    description = {**asdict(recipe), **detector_description, "videos": str(args.videos.resolve())}
    claim_folder(face_folder, description)
    for parent in {(args.faces / video.folder).parent for video in videos if video.split}:
        remove_stale_parts(parent)  # of killed runs
    sources = find_unfinished(videos, args.faces)
    if sources and in_jobs:
        run_jobs(args, sources, jobs, label_folder)
    elif sources:
        times = extract_here(sources, args, recipe, detector)
        speeds = times.speeds()
        stages = ", ".join(f"{stage} {speed:g}" for stage, speed in speeds.items())
        print(f"{times.frames} frames; frames/s per process in each stage: {stages}")
        return description, speeds if times.frames else None
    return description, None


def write_outputs(
    args: PreprocessingArguments,
    videos: Sequence[SourceVideo],
    shard_of: dict[str, int],
    label_folder: Path,
    description: dict[str, Any],
    speeds: dict[str, float] | None,
) -> None:
    """Write the label files and the report, and print a summary and the next command.

    Args:
        args: the command line.
        videos: all videos of the dataset.
        shard_of: the shard of each video's folder.
        label_folder: the dataset's folder of label files.
        description: the recipe, detector and source of the faces.
        speeds: frames per second of each stage in this run, or None.

    Raises:
        InputError: no video gave a face.
    """
    report, unfinished = write_label_files(videos, args.faces, label_folder, description, speeds)
    print_summary(report, label_folder)
    if args.contact_sheet:
        rows = write_contact_sheet(videos, args.faces, label_folder / "contact_sheet.png")
        print(f"contact sheet of {rows} videos: {label_folder / 'contact_sheet.png'}")
    if unfinished:
        shards = first_ten([str(shard) for shard in sorted({shard_of[video.folder] for video in unfinished})])
        advice = f"run the missing shards: {shards}" if args.num_shards > 1 else "run the same command again"
        print(f"note: {len(unfinished)} videos are not processed yet; {advice}")
    empty = [name for name, count in report["label_files"].items() if not count["videos"]]
    if len(empty) == len(report["label_files"]):
        raise InputError(
            f"no video has face crops, so no label files were written; {label_folder / REPORT} lists the causes."
        )
    test_only = args.split == "all"
    if empty and not (test_only and all(name.startswith(("train", "val")) for name in empty)):
        print(f"note: empty label files: {', '.join(empty)}; training needs all six, a test only one of the test files")
    else:
        test = ["--test", "--resume_model", "CHECKPOINT"] if test_only else []
        next_command = ["python", "training.py", *test, "--dataset", label_name(args), "--data_root", str(args.faces)]
        if args.dataset_root != Path("dataset"):
            next_command += ["--dataset_root", str(args.dataset_root)]
        print(f"next: {shlex.join(next_command)}")


def print_summary(report: dict[str, Any], label_folder: Path) -> None:
    """Print one row per label file, and the number of videos without faces by cause."""
    rows = [[name, str(count["videos"]), str(count["images"])] for name, count in report["label_files"].items()]
    print(f"\n{format_rows([[str(label_folder), 'videos', 'images'], *rows])}\n")
    for title, causes in (("without faces", report["causes"]), ("left out", report["left_out_causes"])):
        if causes:
            print(f"{title}: " + ", ".join(f"{count} {cause}" for cause, count in causes.items()))
    if report["masks"]:
        print("manipulation masks: " + ", ".join(f"{count} {state}" for state, count in report["masks"].items()))
    if report["images_upscaled_more_than_twice"]:
        print(f"enlarged by more than a factor of 2: {report['images_upscaled_more_than_twice']} images")
    if report["cut_short"]:
        print(f"fewer frames than the header declares: {len(report['cut_short'])} videos")
    print(f"report: {label_folder / REPORT}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for an error that the user can fix, 130 for an interruption."""
    return run_command(
        "preprocessing.py",
        lambda: run(parse_arguments(argv)),
        "a smaller --bs",
        lambda: "; run the same command again: it skips finished videos",
    )


if __name__ == "__main__":
    sys.exit(main())
