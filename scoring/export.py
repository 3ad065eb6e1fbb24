"""Export a trained network to ONNX, with a description of every step that leads to a score."""

import copy
import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from evaluation.verdicts import ERROR, LEVELS, choose_cutoffs
from faces.detectors import LONGER_SIDE, MIN_SCORE
from faces.extraction import MIN_TRACK_LENGTH
from faces.tracks import MAX_DISTANCE, MAX_GAP, MAX_LOOK_DISTANCE, MIN_IOU, REACH, SMOOTHING_RADIUS, SPEED
from models.lib_network import LIBNetwork
from scoring.detector import ForgeryDetector
from scoring.scores import MIN_TRACK_SHARE
from utils.errors import InputError, require_package
from utils.files import atomic_write

if TYPE_CHECKING:
    import onnx

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would send usage data

FORMAT = 1  # of the metadata; raise it if programs for the previous format would compute other scores
SCORE_TOLERANCE = 1e-4  # largest absolute difference between PyTorch and ONNX Runtime
LOGIT_TOLERANCE = 1e-3  # largest difference of a logit, divided by the largest logit


class Score(nn.Module):
    """The network with its score as the only output: B x 3 x size x size, normalised, to B, 0 (real) to 1 (fake)."""

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch of face crops."""
        return self.network.fused(images).softmax(dim=1)[:, 1]


def describe_steps(detector: ForgeryDetector) -> dict[str, Any]:
    """Describe every step from an image or a video to its score, in JSON values; docs/onnx.md explains the keys.

    The checkpoint's recipe is not copied, because it also names the folder of the training videos.
    """
    recipe, stored = detector.recipe, detector.training_faces or {}
    return {
        "format": FORMAT,
        "recipe": "checkpoint" if stored else "default",
        "image": {
            "dtype": "uint8",
            "exif_rotation": True,
            "grey": "copied to three channels",
            "alpha": "dropped",
            "grey_16_bit": "value // 257",
        },
        "sample": {
            "every": recipe.every,
            "first": 0,
            "count": recipe.frames,
            "count_positions": "unique(round(linspace(0, frames - 1, min(count, frames))))",
            "decoder": "OpenCV with FFmpeg",
        },
        "detect": {
            "detector": stored.get("detector"),
            "weights_sha256": stored.get("weights"),
            "longer_side": LONGER_SIDE,
            "shrink": "INTER_AREA",
            "min_score": MIN_SCORE,
        },
        "track": {
            "match": "optimal assignment by cost; pairs that cost 1 or more are not linked",
            "cost": "hypot(movement / (reach + speed * frames), look_distance / max_look_distance)",
            "movement": "distance of the centres / sqrt(side * last_side) + abs(log2(side / last_side))",
            "side": "sqrt(width * height)",
            "look_distance": "sqrt(max(0, 1 - sum(look * last_look)))",
            "look": "square root of the 8 x 24 x 24 histogram of CIELAB (shares), of the 64 x 64 crop with margin 1",
            "reach": REACH,
            "speed": SPEED,
            "max_look_distance": MAX_LOOK_DISTANCE,
            "max_gap": MAX_GAP,
        },
        "smooth": {
            "method": "mean box",
            "radius": SMOOTHING_RADIUS,
            "max_distance": MAX_DISTANCE,
            "min_overlap": MIN_IOU,
        },
        "crop": {
            "margin": recipe.margin,
            "side": "max(1, round(margin * max(right - left, bottom - top)))",
            "left": "round((left + right - side) / 2)",
            "top": "round((top + bottom - side) / 2)",
            "rounding": "half to even",
            "arithmetic": "sums and differences in float32, then float64",
            "padding": 0,
            "size": recipe.crop_size,
            "shrink": "INTER_AREA",
            "enlarge": "INTER_CUBIC",
        },
        "resize": {"size": detector.size, "interpolation": "INTER_LINEAR", "library": "OpenCV", "antialiasing": False},
        "normalise": {
            "channels": detector.channels,
            "layout": "batch x channel x row x column",
            "dtype": "float32",
            "formula": "(pixel / 255 - mean) / std",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        },
        "combine": {
            "frames_of_a_face": detector.calibration["video_score"] if detector.calibration else "mean",
            "faces_of_a_file": "max",
            "min_frames": MIN_TRACK_LENGTH,
            "min_share": MIN_TRACK_SHARE,
            "ignored": "faces with fewer than max(min(min_frames, frames), min_share * frames) of the sampled frames, "
            "unless there is no other face",
        },
        "verdict": describe_cutoffs(detector.calibration),
    }


def describe_cutoffs(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the cutoffs of verdicts on one face, and their error rate; None without a calibration."""
    if calibration is None:
        return None
    cutoffs = {level: choose_cutoffs(calibration, level, ERROR) for level in LEVELS}
    levels = {level: {"real_below": found.real, "fake_above": found.fake} for level, found in cutoffs.items()}
    return {"error": ERROR, "between": "uncertain", **levels}


def _remove_exporter_notes(graph: "onnx.GraphProto") -> None:
    """Remove the notes of the exporter: they contain the paths of this machine's Python files."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def export(detector: ForgeryDetector, file: Path) -> None:
    """Export the network to ONNX, with `describe_steps` in the metadata, and check it against PyTorch.

    The exported network maps ``images``, B x 3 x size x size, normalised, to ``score``, B, 0 (real) to 1 (fake). The
    file contains no path of this machine or of the machine that trained the network.

    Raises:
        InputError: ONNX is not installed or does not support the network, the scores or logits differ by more than
            the tolerances above, or the file cannot be written.
    """
    with require_package("ONNX", by="--export"):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    network = Score(copy.deepcopy(detector.network).cpu()).eval()
    network.network.precision = torch.float32
    images = torch.randn(3, 3, detector.size, detector.size, generator=torch.Generator().manual_seed(0))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network, (images,), input_names=["images"], output_names=["score"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}}, dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        reason = [*str(cause).strip().splitlines(), type(cause).__name__][0]
        raise InputError(f"--export: ONNX does not support this network: {reason}") from error
    assert program is not None  # never None with dynamo=True
    model = program.model_proto
    _remove_exporter_notes(model.graph)
    for key, value in describe_steps(detector).items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    content = model.SerializeToString()

    # A wrong network may also score noise near 0 or 1, so the logits are compared too.
    logits = [node for node in model.graph.node if node.op_type == "Softmax"][-1].input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, ["batch", 2]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (images, images[:1]):
        actual = session.run(None, {"images": batch.numpy()})
        with torch.inference_mode():
            expected = network.network.fused(batch)
        for name, found, wanted, tolerance in (
            ("scores", actual[0], expected.softmax(dim=1)[:, 1], SCORE_TOLERANCE),
            ("logits", actual[1], expected, LOGIT_TOLERANCE * float(expected.abs().max())),
        ):
            difference = float(np.abs(found - wanted.numpy()).max())
            if not difference <= tolerance:
                raise InputError(
                    f"--export {file}: not written, because the {name} of ONNX Runtime and PyTorch differ by "
                    f"{difference:.1e}; score with PyTorch instead."
                )
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_bytes(content)
