"""Score images and videos with a trained network.

    python inference.py --model output/ff/model_best.pth clip.mp4 photos/ --annotate annotated

From Python:

    from inference import load_detector
    detector = load_detector("output/ff/model_best.pth")
    detector(images)
"""

# Reads from top to bottom: the detector, one file, the arguments, and the command.

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from datasets.augmentation import IMAGENET_MEAN, IMAGENET_STD, normalise, resize
from datasets.labels import IMAGE_ENDINGS
from engine import fake_probability
from faces.crops import crop_face, crop_square
from faces.detectors import DETECTORS, Detector, load_face_detector, shrink
from faces.extraction import MIN_TRACK, Recipe
from faces.tracks import Face, FaceTracker
from faces.videos import VIDEO_ENDINGS, FrameReader, VideoError
from models.backbones import build_network, check_model_name
from models.gradcam import heatmaps
from utils import arguments as parse
from utils.annotate import Drawn, annotate_video, draw_faces
from utils.checkpoints import load_checkpoint, load_network
from utils.command import exit_code
from utils.devices import select_devices
from utils.errors import InputError
from utils.files import whole_file

RECIPE_FIELDS = ("every", "frames", "margin", "crop_size")
BATCH = 16  # frames and faces that go through a network together


# --------------------------------------------------------------------------------------------------- the detector


class ScoredFace(NamedTuple):
    """A face of an image or a frame.

    Attributes:
        box: left, top, right, bottom in pixels, as the face detector gave it.
        found: the face detector's score, 0 to 1.
        score: 0 (real) to 1 (fake).
        track: which person of a video, from 0.
        frame: the position in a video; 0 in an image.
        heat: h x w, 0 to 1, where the blocks see the forgery, their mean; None where it was not asked for.
        square: left, top and side, in pixels, of what the network saw.
    """

    box: np.ndarray
    found: float
    score: float
    track: int
    frame: int
    heat: np.ndarray | None
    square: tuple[int, int, int]


class ForgeryDetector:
    """A trained network with the face detector and the crop of its training data.

    Attributes:
        threshold: a score above it means fake; 0.5 where the checkpoint has none.
        size: side of the images that the network takes, in pixels.
        channels: RGB or BGR, the order that it was trained with.
        recipe: how faces are cropped.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        gpu_num: str | None = None,
        face_detector: str | None = None,
        detector_weights: Path | None = None,
        evidence: bool = False,
    ) -> None:
        content = load_checkpoint(Path(checkpoint), "--model")
        settings = {"size": 224, **content["args"]}
        for name in ("model", "num_LIBs"):
            if name not in settings:
                raise InputError(f"--model: {checkpoint} does not tell its --{name}.")
        check_model_name(settings["model"])
        self.device = select_devices(gpu_num)[0]
        self.network = build_network(settings["model"], settings["num_LIBs"], settings["size"])
        load_network(self.network, content)
        self.network.to(self.device).eval()
        self.size, self.channels = settings["size"], content["channels"]
        self.threshold = content.get("threshold")
        if self.threshold is None:
            self.threshold = 0.5
        made = content.get("faces") or {}
        self.recipe = Recipe(**{name: made[name] for name in RECIPE_FIELDS if name in made})
        self.evidence = evidence
        self._face_detector = (face_detector or made.get("detector") or "retinaface", detector_weights)
        self._find: Detector | None = None

    def find_faces(self, frames: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Find the faces of B frames, B x H x W x 3, BGR; return boxes (N x 4, pixels) and scores (N) of each."""
        if self._find is None:  # not needed for ready crops
            self._find, _ = load_face_detector(*self._face_detector, self.device)
        small = np.stack([shrink(frame) for frame in frames])
        scale = frames.shape[2] / small.shape[2]
        return [(boxes * scale, scores) for boxes, scores in self._find(small)]

    def score(self, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray | None]]:
        """Score crops of faces, each H x W x 3, uint8, RGB.

        Returns:
            The scores, N, float64, 0 (real) to 1 (fake); and each crop's heatmap, h x w, or None.
        """
        scores, heats = [], []
        for start in range(0, len(crops), BATCH):
            batch = np.stack([resize(crop, self.size) for crop in crops[start : start + BATCH]])
            images = normalise(torch.from_numpy(batch).permute(0, 3, 1, 2).to(self.device), self.channels)
            with torch.inference_mode():
                scores.append(fake_probability(self.network(images)).cpu().numpy())
            if self.evidence:
                heats += list(heatmaps(self.network, images).mean(dim=1).cpu().numpy())
        found = np.concatenate(scores) if scores else np.empty(0)
        return found, heats if self.evidence else [None] * len(crops)

    def __call__(self, images: Sequence[np.ndarray], faces_given: bool = False) -> list[list[ScoredFace]]:
        """Score the faces of images.

        Args:
            images: each H x W x 3, uint8, RGB, of any size.
            faces_given: the images are crops of one face each already.

        Returns:
            The faces of each image, the largest first; none where no face was found.
        """
        return [self._score_image(image, faces_given) for image in images]

    def _score_image(self, image: np.ndarray, faces_given: bool) -> list[ScoredFace]:
        if faces_given:
            scores, heats = self.score([image])
            height, width = image.shape[:2]
            box = np.array([0, 0, width, height], np.float32)
            return [ScoredFace(box, 1.0, float(scores[0]), 0, 0, heats[0], (0, 0, max(height, width)))]
        frame = np.ascontiguousarray(image[..., ::-1])
        ((boxes, found),) = self.find_faces(frame[None])
        order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        faces = [Face(track, boxes[i], boxes[i], float(found[i])) for track, i in enumerate(order)]
        return self._score_faces([(0, frame, faces)])

    def video(self, file: Path) -> Iterator[list[ScoredFace]]:
        """Score a video frame by frame, in memory that does not grow with its length.

        Yields:
            The faces of each frame that was looked at, in order.

        Raises:
            VideoError: it cannot be read.
        """
        tracker, waiting, positions = FaceTracker(), [], []
        for position, frame in FrameReader(file, self.recipe.every, self.recipe.frames):
            if waiting and (len(waiting) == BATCH or frame.shape != waiting[0].shape):
                yield from self._frames(tracker, positions, waiting)
                waiting, positions = [], []
            waiting.append(frame)
            positions.append(position)
        if waiting:
            yield from self._frames(tracker, positions, waiting)
        yield from self._by_frame(tracker.flush())

    def _frames(
        self, tracker: FaceTracker, positions: list[int], frames: list[np.ndarray]
    ) -> Iterator[list[ScoredFace]]:
        ready = []
        for position, frame, (boxes, scores) in zip(positions, frames, self.find_faces(np.stack(frames)), strict=True):
            ready += tracker.push(position, frame, boxes, scores)
        yield from self._by_frame(ready)

    def _by_frame(self, ready: list[Any]) -> Iterator[list[ScoredFace]]:
        scored = iter(self._score_faces(ready))
        for _, _, faces in ready:
            yield [next(scored) for _ in faces]

    def _score_faces(self, frames: Sequence[tuple[int, np.ndarray, list[Face]]]) -> list[ScoredFace]:
        every = [(position, frame, face) for position, frame, faces in frames for face in faces]
        crops = [
            crop_face(frame, face.box, self.recipe.margin, self.recipe.crop_size)[0][..., ::-1]
            for _, frame, face in every
        ]
        scores, heats = self.score([np.ascontiguousarray(crop) for crop in crops])
        return [
            ScoredFace(
                face.found, face.score, float(score), face.track, position, heat,
                crop_square(face.box, self.recipe.margin),
            )
            for (position, _, face), score, heat in zip(every, scores, heats, strict=True)
        ]  # fmt: skip


def load_detector(checkpoint: Path | str, **options: Any) -> ForgeryDetector:
    """Load a checkpoint of training.py, or of the authors' release, to score images with; see `ForgeryDetector`."""
    return ForgeryDetector(checkpoint, **options)


# --------------------------------------------------------------------------------------------------------- one file


@dataclass
class FileScore:
    """What is known of a file.

    Attributes:
        score: of its most suspicious face: the mean over a video's frames of that face; None where there is none.
        verdict: fake or real; empty where there is no score.
        faces: people in it.
        frames: frames looked at.
        cause: why there is no score.
        detections: every face of every frame.
    """

    file: Path
    kind: str
    score: float | None = None
    verdict: str = ""
    faces: int = 0
    frames: int = 0
    cause: str = ""
    detections: list[ScoredFace] = field(default_factory=list, repr=False)

    def judge(self, threshold: float) -> None:
        """Find score and verdict from the detections.

        A track of fewer frames than a tenth of those looked at, or than `MIN_TRACK`, is taken for a mistake of the
        face detector, where there is a longer one.
        """
        tracks: dict[int, list[float]] = {}
        for face in self.detections:
            tracks.setdefault(face.track, []).append(face.score)
        shortest = max(MIN_TRACK, self.frames / 10) if self.kind == "video" else 0
        kept = [scores for scores in tracks.values() if len(scores) >= shortest] or list(tracks.values())
        self.faces = len(kept)
        if kept:
            self.score = max(float(np.mean(scores)) for scores in kept)
            self.verdict = "fake" if self.score > threshold else "real"
        else:
            self.cause = "no face"


def read_picture(file: Path) -> np.ndarray:
    """Read an image, H x W x 3, uint8, RGB, turned as its camera says.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: no image that can be read") from error


def score_file(detector: ForgeryDetector, file: Path, faces_given: bool) -> FileScore:
    """Score an image or a video; what cannot be read or has no face gets a cause in place of a score."""
    kind = "video" if file.name.lower().endswith(VIDEO_ENDINGS) else "image"
    result = FileScore(file, kind)
    try:
        if kind == "image":
            (result.detections,) = detector([read_picture(file)], faces_given)
            result.frames = 1
        else:
            with tqdm(desc=file.name[:40], unit=" frames", leave=False, delay=1) as bar:
                for faces in detector.video(file):
                    result.frames += 1
                    result.detections += faces
                    bar.update()
    except VideoError as error:
        result.cause = str(error)
    except InputError as error:
        if not file.is_file() or "no image" in str(error):
            result.cause = "unreadable"
        else:
            raise
    if not result.cause:
        result.judge(detector.threshold)
    return result


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List the images and videos that are named or lie in and below named folders.

    Raises:
        InputError: a path that is not there, or is no image or video; nothing at all.
    """
    files = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith("."))
            files += [file for file in inside if file.name.lower().endswith((*IMAGE_ENDINGS, *VIDEO_ENDINGS))]
        elif not path.exists():
            raise InputError(f"there is no {path}; give images, videos or folders of them.")
        else:
            files.append(path)
    if not files:
        raise InputError(f"no image or video in {', '.join(map(str, paths))}.")
    return files


def annotate(result: FileScore, folder: Path, threshold: float) -> Path:
    """Write the image or the video with boxes, scores and heatmaps into `folder`; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[int, dict[int, Drawn]] = {}
    for face in result.detections:
        drawn.setdefault(face.frame, {})[face.track] = Drawn(face.box, face.score, face.heat, face.square)
    target = folder / f"{result.file.stem}_annotated{'.mp4' if result.kind == 'video' else '.png'}"
    with whole_file(target) as part:
        if result.kind == "video":
            annotate_video(result.file, part, sorted(drawn.items()), threshold)
        else:
            image = np.ascontiguousarray(read_picture(result.file)[..., ::-1])
            image = draw_faces(image, list(drawn.get(0, {}).values()), threshold)
            part.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return target


# -------------------------------------------------------------------------------------------------------- arguments


def make_parser() -> parse.Parser:
    """Declare every argument."""
    parser, add = parse.Parser("inference.py", __doc__), parse.add
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="images, videos, and folders of them")
    add(parser, "--model", None, Path, "a checkpoint of training.py, or of the authors' release")
    add(parser, "--faces_given", False, parse.boolean, "the images are crops of a face already")
    add(parser, "--json", None, Path, "write every face of every frame with its box and score")
    add(parser, "--csv", None, Path, "the same as a table")
    add(parser, "--annotate", None, Path, "a folder for images and videos with boxes and scores drawn in")
    add(parser, "--evidence", False, parse.boolean, "with --annotate: and heatmaps of what speaks for fake")
    add(parser, "--export", None, Path, "write the network as an ONNX file")
    add(parser, "--detector", None, parse.one_of(*DETECTORS), "the face detector (default: that of the training data)")
    add(parser, "--detector_weights", None, Path, "a RetinaFace checkpoint (default: the published one, fetched once)")
    add(parser, "--gpu_num", None, str, "a GPU's number, or cpu (default: the first GPU there is, else the CPU)")
    return parser


# ---------------------------------------------------------------------------------------------------------- command


def write_tables(results: list[FileScore], threshold: float, as_json: Path | None, as_csv: Path | None) -> None:
    """Write every face of every frame, as JSON and as CSV, each whole or not at all."""
    if as_json is not None:
        content = [
            {
                **{key: value for key, value in asdict(result).items() if key not in ("detections", "file")},
                "file": str(result.file),
                "threshold": threshold,
                "detections": [
                    {
                        "frame": face.frame,
                        "face": face.track,
                        "box": [round(float(x), 1) for x in face.box],
                        "found": face.found,
                        "score": face.score,
                    }
                    for face in result.detections
                ],
            }
            for result in results
        ]
        with whole_file(as_json) as part:
            part.write_text(json.dumps(content, indent=1) + "\n")
    if as_csv is not None:
        with whole_file(as_csv) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "frame", "face", "left", "top", "right", "bottom", "found", "score"])
            for result in results:
                for face in result.detections:
                    box = [f"{x:.1f}" for x in face.box]
                    writer.writerow([result.file, face.frame, face.track, *box, f"{face.found:.4f}", repr(face.score)])


def export(detector: ForgeryDetector, file: Path) -> None:
    """Write the network as ONNX, with the constants of its preprocessing in the metadata, and check it.

    The file maps ``images``, B x 3 x size x size, normalised, to ``score``, B, from 0 (real) to 1 (fake).

    Raises:
        InputError: ONNX is not installed, or the exported network's scores differ by more than 1e-4.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise InputError("--export needs ONNX: pip install --no-deps -r requirements-extra.txt") from error

    class Score(torch.nn.Module):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)["p_y_given_z"].softmax(dim=1)[:, 1]

    network = Score(detector.network.cpu()).eval()
    images = torch.randn(3, 3, detector.size, detector.size, generator=torch.Generator().manual_seed(0))
    with whole_file(file) as part:
        torch.onnx.export(
            network, (images,), str(part), input_names=["images"], output_names=["score"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}, dynamo=True, external_data=False,
            verbose=False,
        )  # fmt: skip
        model = onnx.load(part)
        constants = {
            "size": detector.size, "channels": detector.channels, "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
            "range": "pixels from 0 to 1, less the mean, over the standard deviation",
            "threshold": detector.threshold, "faces": asdict(detector.recipe),
        }  # fmt: skip
        for key, value in constants.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
        onnx.save(model, part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        for batch in (images, images[:1]):
            (score,) = session.run(None, {"images": batch.numpy()})
            with torch.inference_mode():
                worst = float(np.abs(score - network(batch).numpy()).max())
            if not worst <= 1e-4:
                raise InputError(f"--export: the exported network's scores differ by {worst:.1e} from PyTorch's.")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say; return the exit code: 0, or 3 where a file got no score."""
    if args.model is None:
        raise InputError("--model is missing: give the checkpoint to score with.")
    if not args.paths and args.export is None:
        raise InputError("give images, videos or folders of them (or --export).")
    if args.evidence and args.annotate is None:
        raise InputError("--evidence True draws into what --annotate writes; give --annotate FOLDER.")
    files = find_files(args.paths) if args.paths else []
    detector = load_detector(
        args.model,
        gpu_num=args.gpu_num,
        face_detector=args.detector,
        detector_weights=args.detector_weights,
        evidence=args.evidence,
    )
    if args.export is not None:
        export(detector, args.export)
        print(f"network: {args.export}")
        detector.network.to(detector.device)
    results = []
    for file in tqdm(files, unit=" files", disable=len(files) < 2):
        result = score_file(detector, file, args.faces_given)
        results.append(result)
        tqdm.write(line(result))
        if args.annotate is not None and result.score is not None:
            tqdm.write(f"    {annotate(result, args.annotate, detector.threshold)}")
        for face_number, face in enumerate(result.detections):  # heatmaps are drawn by now
            result.detections[face_number] = face._replace(heat=None)
    write_tables(results, detector.threshold, args.json, args.csv)
    return 0 if all(result.score is not None for result in results) else 3


def line(result: FileScore) -> str:
    """Say in a line what came out of a file."""
    name = str(result.file).encode("utf-8", "backslashreplace").decode()
    if result.score is None:
        return f"{name}: not scored: {result.cause}"
    frames = f", {result.frames} frames" if result.kind == "video" else ""
    return f"{name}: {result.verdict} {result.score:.3f} ({result.faces} face{'s' * (result.faces != 1)}{frames})"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 3 where a file got no score, 2 for wrong input, 130."""
    code = 0

    def work() -> None:
        nonlocal code
        code = run(make_parser().parse_args(argv))

    return exit_code("inference.py", work, lambda: "", "fewer or smaller files, or --gpu_num cpu") or code


if __name__ == "__main__":
    sys.exit(main())
