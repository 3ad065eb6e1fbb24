"""Score images and videos with a trained network.

    python inference.py --model output/ff/model_best.pth clip.mp4 photos/ --annotate annotated

From Python:

    from inference import load_detector
    detector = load_detector("output/ff/model_best.pth", detector="mtcnn")
    detector(images)  # H x W x 3 arrays, uint8, RGB
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "inference.py")  # before the slow imports

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faces.recipe import DETECTORS
from models.shared_model import require_model
from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.errors import InputError, one_line, require_package
from utils.files import require_file
from utils.images import MAX_MEGAPIXELS, set_max_megapixels

NOT_ALL_SCORED = 3  # exit code if a file has no score
MIN_PASSWORD = 12  # characters, too many to guess over a network


@dataclass(kw_only=True)
class InferenceArguments:
    """The arguments of inference.py; the help texts document the fields."""

    paths: list[Path] = parse.positional(parse.path, "images, videos, and folders to search for them", "*")
    model: Path = parse.required(parse.path, parse.MODEL_TEXT)
    faces_given: bool = parse.argument(
        False, parse.boolean, "treat every image and frame as one face crop, without face detection"
    )
    json: Path | None = parse.argument(
        None, parse.path, "JSON Lines file to write, one record per image or video (docs/inference.md)"
    )
    csv: Path | None = parse.argument(None, parse.path, "CSV file to write, one row per image or video")
    error: float = parse.argument(0.05, parse.share, parse.ERROR_TEXT)
    overwrite: bool = parse.argument(
        False,
        parse.boolean,
        "replace the files of --json, --csv and --export; without it, the command adds missing records to --json and "
        "--csv",
    )
    annotate: Path | None = parse.argument(
        None, parse.path, "output folder for copies of the images and videos with boxes and scores"
    )
    evidence: bool = parse.argument(False, parse.boolean, "with --annotate: add Grad-CAM heatmaps for the class fake")
    serve: bool = parse.argument(False, parse.boolean, "start a local web page for uploading images and videos")
    host: str = parse.argument(
        "127.0.0.1",
        str,
        "with --serve: address to listen on; 0.0.0.0 allows access from other machines, and needs --password_file",
    )
    port: int = parse.argument(
        0, parse.number(int, 0, high=65535), "with --serve: port to listen on; 0 means the first free port from 7860"
    )
    password_file: Path | None = parse.argument(
        None, parse.path, "with --serve: file with the password that visitors of the page must enter"
    )
    export: Path | None = parse.argument(None, parse.path, "ONNX file to write the network to")
    every: int | None = parse.argument(
        None,
        parse.count,
        "sampling interval of videos in frames, from frame 0 (default: as in the training data, or 5)",
    )
    frames: int | None = parse.argument(
        None, parse.count, "number of evenly spaced frames per video, instead of --every"
    )
    max_megapixels: float = parse.argument(
        MAX_MEGAPIXELS,
        parse.positive,
        "size limit for images, in megapixels; half of it for WebP; larger images get no score",
    )
    detector: str | None = parse.argument(
        None,
        parse.one_of(*DETECTORS),
        f"face detector: {', '.join(DETECTORS)} (default: the detector of the training data, or retinaface)",
    )
    detector_weights: Path | None = parse.argument(
        None, parse.path, "RetinaFace checkpoint file (default: the published one, downloaded once)"
    )
    precision: str = parse.argument(
        "auto",
        parse.one_of("auto", "fp32", "bf16"),
        "number format of the backbones: fp32, bf16, or auto (bf16 where the GPU computes in it, and for ResNets where "
        "the CPU does; else fp32)",
    )
    gpu_num: str | None = parse.argument(
        None, str, "GPU number, or cpu (default: the first GPU, or the CPU if there is none)"
    )


def read_password(args: InferenceArguments) -> bytes | None:
    """Read the password of the page; None for a page without one.

    Raises:
        InputError: the file is missing, the password is short, or the page needs one because of its address.
    """
    if args.password_file is None:
        if args.host != "localhost" and not re.fullmatch(r"127\.[0-9.]+|::1", args.host):
            raise InputError(f"--host {args.host} opens the page to other machines; add --password_file FILE.")
        return None
    require_file(args.password_file, "--password_file")
    password = args.password_file.read_bytes().strip()
    if len(password.decode(errors="replace")) < MIN_PASSWORD:
        raise InputError(
            f"--password_file {args.password_file}: give a password of at least {MIN_PASSWORD} characters."
        )
    return password


def parse_arguments(argv: list[str] | None) -> InferenceArguments:
    """Parse the command line.

    Raises:
        InputError: an argument is wrong or missing, contradicts another, or names a missing file.
    """
    args = parse.Parser("inference.py", __doc__, InferenceArguments).parse(argv)
    if not args.paths and args.export is None and not args.serve:
        raise InputError("nothing to score; give images, videos or folders, or --serve, or --export.")
    for flag in ("json", "csv", "annotate"):
        if not args.paths and getattr(args, flag) is not None:
            raise InputError(f"--{flag} needs images or videos; give their paths, or remove --{flag}.")
    if args.serve and args.paths:
        raise InputError(f"--serve scores uploads and takes no paths; remove --serve or {args.paths[0]}.")
    if args.evidence and args.annotate is None:
        raise InputError("--evidence draws into annotated copies; add --annotate FOLDER.")
    if args.annotate is not None and args.annotate.exists() and not args.annotate.is_dir():
        raise InputError(f"--annotate {args.annotate} is a file; give a folder.")
    if args.every is not None and args.frames is not None:
        raise InputError(f"--every {args.every} and --frames {args.frames} contradict each other; give only one.")
    for path in args.paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; give images, videos or folders.")
    if args.serve:
        read_password(args)
    require_model(args.model, "--model")
    if args.detector_weights is not None:
        require_file(args.detector_weights, "--detector_weights")
    return args


if __name__ == "__main__":
    check_command_line("inference.py", lambda: parse_arguments(None))  # before the slow imports

from tqdm import tqdm

from scoring.detector import ScoredFace, load_detector
from scoring.export import export
from scoring.files import annotation_targets, find_files, is_video, score_file
from scoring.records import current_settings, describe_detector, describe_faces, file_sha256, make_record, open_records
from utils.progress import progress


def find_inputs(args: InferenceArguments) -> tuple[list[Path], dict[Path, Path]]:
    """List the files to score and the annotated copy of each, and check the outputs.

    Raises:
        InputError: there is no file to score, PyAV is missing, or an output would replace another file.
    """
    files = find_files(args.paths) if args.paths else []
    if args.serve or (args.annotate is not None and any(is_video(file) for file in files)):
        with require_package("PyAV", by="--serve" if args.serve else "--annotate for videos"):
            import av  # noqa: F401  fail before scoring starts
    targets = annotation_targets(files, args.annotate) if args.annotate is not None else {}
    given = filter(None, (args.model, args.detector_weights, args.password_file, *files, *targets.values()))
    taken = {file.resolve() for file in given}
    for flag, target in (("json", args.json), ("csv", args.csv), ("export", args.export)):
        if target is not None:
            if target.is_dir():
                raise InputError(f"--{flag} {target} is a folder; give a file.")
            if target.resolve() in taken:
                raise InputError(f"--{flag} {target} would replace another input or output; give another file.")
            if flag == "export" and target.is_file() and not args.overwrite:
                raise InputError(f"--export {target} exists; give another file, or --overwrite to replace it.")
            taken.add(target.resolve())
    return files, targets


def run(args: InferenceArguments) -> int:
    """Score, export or serve; return the exit code: 0, or 3 if a file has no score."""
    set_max_megapixels(args.max_megapixels)
    files, targets = find_inputs(args)
    detector = load_detector(
        args.model,
        gpu_num=args.gpu_num,
        faces_given=args.faces_given,
        detector=args.detector,
        detector_weights=args.detector_weights,
        evidence=args.evidence,
        precision=args.precision,
        every=args.every,
        frames=args.frames,
    )
    if args.export is not None:
        export(detector, args.export)
        print(f"network: {args.export}", flush=True)
    if args.serve:
        from scoring.page import serve  # imports matplotlib, which takes seconds

        serve(detector, args.host, args.port, args.model, args.error, read_password(args))
    if not files:
        return 0
    unscored = False
    shared = describe_detector(detector, args.model)
    settings = partial(current_settings, detector, shared, args.error)
    sha = detector.checkpoint["sha256"]
    with open_records(args.json, args.csv, sha, settings, args.overwrite) as (write, known):
        finished = {
            file
            for file in files
            if str(file) in known and known[str(file)].sha256 == file_sha256(file)
            if file not in targets or targets[file].exists() or not known[str(file)].scored
        }
        if finished:
            print(
                f"note: {len(finished)} of {len(files)} files already have records; --overwrite scores all files again"
            )
            unscored = not all(known[str(file)].scored for file in finished)
        left = [file for file in files if file not in finished]
        for file in progress(left, "scoring", unit="files", disable=len(left) < 2):
            detections: list[dict[str, Any]] = []

            def keep(position: int, time: float, faces: Sequence[ScoredFace], found: list[Any] = detections) -> None:
                found += describe_faces(position, time, faces)

            result = score_file(detector, file, keep if args.json else None, targets.get(file), args.error)
            write(make_record(result, shared, detector, detections))
            copy = f" -> {one_line(targets[file])}" if targets and result.score is not None else ""
            with tqdm.external_write_mode():
                print(f"{result}{copy}", flush=True)
            unscored = unscored or result.score is None
    return NOT_ALL_SCORED if unscored else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, 2 for wrong input, 3 if a file has no score, or 130 if interrupted."""
    return run_command("inference.py", lambda: run(parse_arguments(argv)), "fewer or smaller files, or --gpu_num cpu")


if __name__ == "__main__":
    sys.exit(main())
