"""Score images and videos with a trained network.

    python inference.py --model output/ff/model_best.pth clip.mp4 photos/ --annotate annotated

From Python:

    from inference import load_detector
    detector = load_detector("output/ff/model_best.pth")
    detector(images)
"""

# Reads from top to bottom: the arguments, and the command.

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from faces.detectors import DETECTORS
from scoring.detector import load_detector
from scoring.export import export
from scoring.files import annotation_targets, find_files, is_video, open_tables, score_file
from utils import arguments as parse
from utils.command import exit_code
from utils.errors import InputError, needed, one_line

NOT_ALL_SCORED = 3  # the exit code where a file got no score


def make_parser() -> parse.Parser:
    """Declare every argument."""
    parser, add = parse.Parser("inference.py", __doc__), parse.add
    parser.add_argument("paths", nargs="*", type=parse.path, metavar="PATH", help="images, videos, and folders of them")
    add(parser, "--model", None, Path, "a checkpoint of training.py, or of the authors' release")
    add(parser, "--faces_given", False, parse.boolean, "images and frames are crops of one face already")
    add(parser, "--json", None, Path, "write every face of every frame with its box and score")
    add(parser, "--csv", None, Path, "the same as a table")
    add(parser, "--annotate", None, Path, "a folder for images and videos with boxes and scores drawn in")
    add(parser, "--evidence", False, parse.boolean, "with --annotate: and heatmaps of what speaks for fake")
    parser.add_argument("--serve", action="store_true", help="open a local page to drop images and videos on")
    add(parser, "--host", "127.0.0.1", str, "for --serve: 0.0.0.0 lets other machines in")
    add(parser, "--port", 0, parse.number(int, 0, high=65535), "for --serve: 0 takes the first free one from 7860 on")
    add(parser, "--export", None, Path, "write the network as an ONNX file")
    add(parser, "--detector", None, parse.one_of(*DETECTORS), "the face detector (default: that of the training data)")
    add(parser, "--detector_weights", None, Path, "a RetinaFace checkpoint (default: the published one, fetched once)")
    add(parser, "--gpu_num", None, str, "a GPU's number, or cpu (default: the first GPU there is, else the CPU)")
    return parser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line; ``files`` are those that the paths name, ``targets`` where each of them is drawn.

    Raises:
        InputError: an argument that is wrong, missing, or contradicts another.
    """
    args = make_parser().parse_args(argv)
    if args.model is None:
        raise InputError("--model is missing: give the checkpoint to score with.")
    if not args.paths and args.export is None and not args.serve:
        raise InputError("give images, videos or folders of them (or --serve, or --export).")
    for flag in ("json", "csv", "annotate"):
        if not args.paths and getattr(args, flag) is not None:
            raise InputError(f"--{flag} is for images and videos, and none is given; add their paths, or leave it out.")
    if args.serve and args.paths:
        raise InputError(f"--serve scores what is dropped on its page, not {args.paths[0]}; leave out one of them.")
    if args.evidence and args.annotate is None:
        raise InputError("--evidence True draws into what --annotate writes; give --annotate FOLDER.")
    args.files = find_files(args.paths) if args.paths else []
    if args.annotate is not None:
        if args.annotate.exists() and not args.annotate.is_dir():
            raise InputError(f"--annotate {args.annotate} is a file; give a folder.")
    if args.serve or (args.annotate is not None and any(is_video(file) for file in args.files)):
        with needed("PyAV", by="--serve" if args.serve else "--annotate, for videos"):
            import av  # noqa: F401  whoever lacks it learns so before anything is scored
    args.targets = annotation_targets(args.files, args.annotate) if args.annotate is not None else {}
    taken = {file.resolve() for file in (args.model, *args.files, *args.targets.values())}
    for flag in ("json", "csv", "export"):
        if (target := getattr(args, flag)) is not None:
            if target.is_dir():
                raise InputError(f"--{flag} {target} is a folder; give a file.")
            if target.resolve() in taken:
                raise InputError(f"--{flag} {target} would replace what is read or written besides; give another file.")
            taken.add(target.resolve())
    return args


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; return the exit code: 0, or 3 where a file got no score."""
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
    if not args.files:
        return 0
    code = 0
    with open_tables(args.json, args.csv) as tables:
        for file in tqdm(args.files, unit=" files", disable=len(args.files) < 2, leave=False):
            tables.begin(file)
            result = score_file(detector, file, tables.add, args.targets.get(file))
            tables.end(result, detector.threshold)
            drawn = f" -> {one_line(args.targets[file])}" if args.targets and result.score is not None else ""
            with tqdm.external_write_mode():
                print(f"{result}{drawn}", flush=True)
            if result.score is None:
                code = NOT_ALL_SCORED
    return code


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 3 where a file got no score, 2 for wrong input, 130."""
    return exit_code("inference.py", lambda: run(parse_arguments(argv)), "fewer or smaller files, or --gpu_num cpu")


if __name__ == "__main__":
    sys.exit(main())
