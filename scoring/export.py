"""Export a trained network to ONNX."""

import copy
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from models.lib_network import LIBNetwork
from scoring.detector import ForgeryDetector
from utils.errors import InputError, require_package
from utils.files import atomic_write

SCORE_TOLERANCE = 1e-4  # largest absolute difference between PyTorch and ONNX Runtime
LOGIT_TOLERANCE = 1e-3  # the same, relative to the largest logit


class Score(nn.Module):
    """The network with its score as the only output: B x 3 x size x size, normalised, to B, 0 (real) to 1 (fake)."""

    def __init__(self, network: LIBNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Score a batch of face crops."""
        return self.network.fused(images).softmax(dim=1)[:, 1]


def export(detector: ForgeryDetector, file: Path) -> None:
    """Export the network to ONNX, with its preprocessing in the metadata, and check it against PyTorch.

    The exported network maps ``images``, B x 3 x size x size, normalised, to ``score``, B, 0 (real) to 1 (fake).

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
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise InputError(f"--export: ONNX does not support this network: {reason}") from error
    assert program is not None  # never None with dynamo=True
    model = program.model_proto
    metadata = {
        "size": detector.size, "channels": detector.channels, "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
        "normalisation": "(pixels in [0, 1], in the order of channels, - mean) / std",
        "threshold": detector.threshold,
        "faces": detector.training_faces,
    }  # fmt: skip
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
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
                raise InputError(f"--export: the {name} of ONNX Runtime and PyTorch differ by {difference:.1e}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_bytes(content)
