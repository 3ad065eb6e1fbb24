"""Score images and videos with a trained network.

    python inference.py --model output/ff/model_best.pth clip.mp4 photos/ --annotate annotated

From Python:

    from inference import load_detector
    detector = load_detector("output/ff/model_best.pth")
    detector(images)
"""

# Reads from top to bottom: the arguments, and the command.

import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from faces.detectors import DETECTORS
from scoring.detector import load_detector
from scoring.export import export
from scoring.files import annotation_targets, find_files, is_video, open_tables, score_file
from utils import parsing as parse
from utils.command import run_command
from utils.errors import InputError, one_line, require_package

NOT_ALL_SCORED = 3  # the exit code where a file got no score


@dataclass(kw_only=True)
class InferenceArguments:
    """Every argument of inference.py; the fields are documented by their help texts."""

    paths: list[Path] = parse.positional(parse.path, "images, videos, and folders of them", "*")
    model: Path = parse.required(parse.path, "checkpoint of training.py or of the authors' release")
    faces_given: bool = parse.argument(
        False, parse.boolean, "treat every image and frame as a crop of one face; detect no faces"
    )
    json: Path | None = parse.argument(
        None, parse.path, "JSON file to write: the box and score of every face in every frame"
    )
    csv: Path | None = parse.argument(None, parse.path, "CSV file to write: the same table as --json")
    annotate: Path | None = parse.argument(
        None, parse.path, "folder to write copies of the images and videos to, with boxes and scores"
    )
    evidence: bool = parse.argument(
        False, parse.boolean, "with --annotate: also draw heatmaps of the evidence for fake"
    )
    serve: bool = parse.argument(False, parse.boolean, "open a local web page to upload images and videos to")
    host: str = parse.argument("127.0.0.1", str, "with --serve: address to listen on; 0.0.0.0 admits other machines")
    port: int = parse.argument(
        0, parse.number(int, 0, high=65535), "with --serve: port to listen on; 0 takes the first free port from 7860"
    )
    export: Path | None = parse.argument(None, parse.path, "ONNX file to write the network to")
    detector: str | None = parse.argument(
        None, parse.one_of(*DETECTORS), "face detector (default: the one that made the training data)"
    )
    detector_weights: Path | None = parse.argument(
        None, parse.path, "RetinaFace checkpoint (default: the published one, downloaded once)"
    )
    gpu_num: str | None = parse.argument(
        None, str, "GPU number, or cpu (default: the first GPU, or the CPU if there is none)"
    )


def parse_arguments(argv: list[str] | None) -> InferenceArguments:
    """Parse the command line.

    Raises:
        InputError: an argument that is wrong, missing, or contradicts another.
    """
    args = parse.Parser("inference.py", __doc__, InferenceArguments).parse(argv)
    if not args.paths and args.export is None and not args.serve:
        raise InputError("give images, videos or folders of them (or --serve, or --export).")
    for flag in ("json", "csv", "annotate"):
        if not args.paths and getattr(args, flag) is not None:
            raise InputError(f"--{flag} is for images and videos, and none is given; add their paths, or leave it out.")
    if args.serve and args.paths:
        raise InputError(f"--serve scores what is dropped on its page, not {args.paths[0]}; leave out one of them.")
    if args.evidence and args.annotate is None:
        raise InputError("--evidence True draws into what --annotate writes; give --annotate FOLDER.")
    if args.annotate is not None and args.annotate.exists() and not args.annotate.is_dir():
        raise InputError(f"--annotate {args.annotate} is a file; give a folder.")
    return args


def find_inputs(args: InferenceArguments) -> tuple[list[Path], dict[Path, Path]]:
    """List the files to score, and the annotated file that each is drawn to; check the outputs.

    Raises:
        InputError: an input is missing, PyAV is needed and missing, or an output would replace another file.
    """
    files = find_files(args.paths) if args.paths else []
    if args.serve or (args.annotate is not None and any(is_video(file) for file in files)):
        with require_package("PyAV", by="--serve" if args.serve else "--annotate, for videos"):
            import av  # noqa: F401  checked before anything is scored
    targets = annotation_targets(files, args.annotate) if args.annotate is not None else {}
    taken = {file.resolve() for file in (args.model, *files, *targets.values())}
    for flag, target in (("json", args.json), ("csv", args.csv), ("export", args.export)):
        if target is not None:
            if target.is_dir():
                raise InputError(f"--{flag} {target} is a folder; give a file.")
            if target.resolve() in taken:
                raise InputError(f"--{flag} {target} would replace another input or output; give another file.")
            taken.add(target.resolve())
    return files, targets


def run(args: InferenceArguments) -> int:
    """Do what the arguments say; return the exit code: 0, or 3 where a file got no score."""
    files, targets = find_inputs(args)
    detector = load_detector(
        args.model,
        gpu_num=args.gpu_num,
        faces_given=args.faces_given,
        face_detector=args.detector,
        detector_weights=args.detector_weights,
        evidence=args.evidence,
    )
    if args.export is not None:
        export(detector, args.export)
        print(f"network: {args.export}", flush=True)
    if args.serve:
        from scoring.page import serve  # Gradio and matplotlib take seconds to import

        serve(detector, args.host, args.port)
    if not files:
        return 0
    code = 0
    with open_tables(args.json, args.csv) as tables:
        for file in tqdm(files, unit=" files", disable=len(files) < 2, leave=False):
            tables.begin(file)
            result = score_file(detector, file, tables.add, targets.get(file))
            tables.end(result, detector.threshold)
            drawn = f" -> {one_line(targets[file])}" if targets and result.score is not None else ""
            with tqdm.external_write_mode():
                print(f"{result}{drawn}", flush=True)
            if result.score is None:
                code = NOT_ALL_SCORED
    return code


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 3 where a file got no score, 2 for wrong input, 130."""
    return run_command("inference.py", lambda: run(parse_arguments(argv)), "fewer or smaller files, or --gpu_num cpu")


if __name__ == "__main__":
    sys.exit(main())
