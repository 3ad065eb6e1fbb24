"""Scores and face detection with OpenVINO agree with PyTorch."""

import math
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models.fast
import training
from engine import fake_probability
from faces import detectors
from faces.retinaface import MobileNet025, RetinaFace
from faces.videos import FrameReader
from inference import load_detector
from models.backbones import build_network
from models.fast import fast_scorer
from models.lib_network import LIBNetwork
from tests.helpers import ROOT, arguments
from tests.test_faces import VIDEOS, WEIGHTS, needs_videos, needs_weights
from tests.test_inference import checkpoint
from utils import fast

BACKBONES = ("resnet", "mobilenet", "efficientnet")
SIZE = 64


def trained_statistics(network: LIBNetwork) -> LIBNetwork:
    """Give every batch norm the statistics of its input, and a scale and a shift as in a trained network."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.momentum = None  # the statistics are the batch's
    with torch.no_grad():
        network.train()(torch.randn(32, 3, SIZE, SIZE, generator=generator))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("model", BACKBONES)
def test_openvino_gives_equal_scores(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    libs = 1 if model == "efficientnet" else 2  # the conversion of each takes seconds
    network = trained_statistics(build_network(model, libs, SIZE))
    monkeypatch.setattr(models.fast, "PYTORCH_IMAGES", 3)
    scorer = fast_scorer(network)
    spread = []
    for batch in (1, 2, 1, 7, 4, 1):  # PyTorch scores the first two batches
        images = torch.randn(batch, 3, SIZE, SIZE)
        with torch.no_grad():
            expected, found = fake_probability(network(images)), fake_probability(scorer(images))
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)
        assert found.shape == (batch,)
        spread.append(expected)
    assert torch.cat(spread).std() > 0.01  # else equal scores mean nothing
    assert scorer.compiled is not None


def test_openvino_scores_in_bf16() -> None:
    """A CPU without bf16 instructions computes in float32."""
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = trained_statistics(build_network("test_resnet", 2, SIZE))
    images = torch.randn(16, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = fake_probability(network(images))
        network.precision = torch.bfloat16
        scorer = fast_scorer(network, 10**6)
        found = fake_probability(scorer(images))
    assert scorer.compiled is not None and scorer.precision == "bf16"
    assert torch.allclose(found, expected, rtol=0, atol=0.05)
    assert expected.std() > 0.02  # else equal scores mean nothing


def test_only_the_fused_head_is_computed() -> None:
    network = build_network("test_resnet", 3, 32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).fused
    for head in (network.baseline_linear, network.local_linear1, network.local_linear2, network.local_linear3):
        head.forward = pytest.fail
    with torch.no_grad():
        assert torch.equal(fast_scorer(network)(images), expected)


def test_openvino_finds_equal_faces() -> None:
    """Frames of several sizes; the batch norms have the statistics of the first."""
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = RetinaFace(MobileNet025())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    sizes = ((2, 96, 128), (1, 90, 160), (3, 131, 77), (5, 64, 64))
    frames = [torch.rand(batch, 3, height, width) * 255 - 110 for batch, height, width in sizes]
    with torch.no_grad():
        network.train()(frames[0])
        network.eval()
        run = fast.convert(network, frames[0][:1])
        for images in frames:
            for found, expected, tolerance in zip(run(images), network(images), (1e-3, 0.1), strict=True):
                assert found.shape == expected.shape
                assert torch.allclose(found, expected, rtol=0, atol=tolerance)
                assert expected.std() > tolerance


class Doubled(nn.Module):
    """A network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return 2 * images.mean(dim=(2, 3))


def test_the_batch_that_exceeds_the_images_of_pytorch_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []

    def convert(*arguments: Any) -> Any:
        converted.append(arguments)
        return lambda images: torch.full((len(images), 3), 7.0)

    monkeypatch.setattr(fast, "find_spec", lambda name: name)
    monkeypatch.setattr(fast, "convert", convert)
    network = Doubled().eval()
    later = fast.OpenVINOLater(network, 5)
    values = [later(torch.ones(batch, 3, 4, 4))[0, 0].item() for batch in (3, 2, 1, 4)]
    assert values == [2, 2, 7, 7] and network.calls == 2 and len(converted) == 1


def test_without_openvino_pytorch_goes_on_with_one_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(fast, "find_spec", lambda _: None)
    later = fast.OpenVINOLater(Doubled().eval(), 1)
    for _ in range(4):
        assert torch.equal(later(torch.ones(1, 3, 4, 4)), torch.full((1, 3), 2.0))
    err = capsys.readouterr().err
    assert err.count("note:") == 1 and "OpenVINO" in err and "requirements-extra.txt" in err


class Unsupported(Doubled):
    """A network whose trace is wrong for other batches."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * float(len(images))  # a constant in the trace


def test_a_wrong_conversion_is_not_used(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("openvino")
    later = fast.OpenVINOLater(Unsupported().eval(), 0)
    assert later(torch.ones(5, 3, 4, 4))[0, 0].item() == 10
    err = capsys.readouterr().err
    assert "differ from PyTorch's by 0.33 of" in err and "support" not in err  # 2 in the trace, 3 in PyTorch


def test_the_note_names_the_error_of_openvino(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def convert(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(fast, "find_spec", lambda name: name)
    monkeypatch.setattr(fast, "convert", convert)
    assert fast.OpenVINOLater(Doubled().eval(), 0)(torch.ones(1, 3, 4, 4))[0, 0].item() == 2
    assert "does not support this network (NotImplementedError)" in capsys.readouterr().err


SIGNAL = """
import signal
import torch
from utils.fast import convert
networks = [convert(torch.nn.Conv2d(3, 1, 1), torch.ones(1, 3, 4, 4)) for _ in range(2)]
del networks[0]
del networks[0]
signal.signal(signal.SIGINT, lambda *_: print("received"))
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.slow
def test_a_signal_arrives_after_two_networks() -> None:
    """The process crashed when OpenVINO had a core for each network."""
    pytest.importorskip("openvino")
    assert subprocess.check_output([sys.executable, "-c", SIGNAL], cwd=ROOT, text=True) == "received\n"


def test_float64_networks_stay_in_pytorch() -> None:
    network = build_network("test_resnet", 2, 32).eval().double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(fast_scorer(network, 10**6)(images), network(images).fused)


@pytest.mark.slow
def test_training_and_test_mode_use_openvino(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation and test give the scores of PyTorch, and OpenVINO computes them."""
    pytest.importorskip("openvino")
    assert training.main(arguments(tiny, "--name", "slow")) == 0
    used = []
    convert = fast.convert
    monkeypatch.setattr(fast, "convert", lambda *given: used.append(given) or convert(*given))
    monkeypatch.setattr(models.fast, "PYTORCH_IMAGES", 11)  # both sets have 12 images
    assert training.main(arguments(tiny, "--name", "fast")) == 0
    assert len(used) == 2  # validation and test
    slow, quick = (
        [line.split(",") for line in (tiny / f"output/{name}/predictions.csv").read_text().splitlines()[1:]]
        for name in ("slow", "fast")
    )
    assert [row[:3] for row in slow] == [row[:3] for row in quick]
    assert [float(row[3]) for row in quick] == pytest.approx([float(row[3]) for row in slow], abs=1e-4)


def test_usage_data_is_not_sent() -> None:
    pytest.importorskip("openvino")
    fast.convert(Doubled().eval(), torch.ones(1, 3, 4, 4))
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_uses_as_many_threads_as_pytorch(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    pytest.importorskip("openvino")
    core, found = fast._core(), []

    def compile_model(*given: Any) -> Any:
        found.append(given[-1]["INFERENCE_NUM_THREADS"])  # OpenVINO itself uses at most one thread per core
        return core.compile_model(*given)

    monkeypatch.setattr(fast, "_core", lambda: SimpleNamespace(compile_model=compile_model))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)  # OMP_NUM_THREADS sets it
    fast.convert(Doubled().eval(), torch.ones(1, 3, 4, 4))
    assert found == [threads]


@pytest.mark.parametrize(("images", "pytorch_images"), [(None, 200), (200, math.inf), (201, 0)])
def test_of_a_known_number_of_images_openvino_scores_all_or_none(images: int | None, pytorch_images: float) -> None:
    assert fast_scorer(build_network("test_resnet", 2, 32).eval(), images).pytorch_images == pytorch_images


def test_inference_uses_openvino_after_the_images_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    used, convert = [], fast.convert
    monkeypatch.setattr(fast, "convert", lambda *given: used.append(given) or convert(*given))
    faces = [np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8) for number in range(5)]
    file, scores = checkpoint(tmp_path / "model.pth"), []
    for pytorch_images in (5, 3):
        monkeypatch.setattr(models.fast, "PYTORCH_IMAGES", pytorch_images)
        detector = load_detector(file, gpu_num="cpu", faces_given=True, precision="fp32")
        weight = detector.network.region_model1.first[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        scores.append([found[0].score for face in faces for found in detector([face])])
        assert len(used) == (pytorch_images == 3)
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)


@pytest.mark.slow
@needs_weights
@needs_videos
def test_openvino_finds_equal_faces_in_real_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    cpu = torch.device("cpu")
    used, convert = [], fast.convert
    monkeypatch.setattr(fast, "convert", lambda *given: used.append(given) or convert(*given))
    eager, _ = detectors.load_face_detector("retinaface", WEIGHTS, cpu)
    monkeypatch.setattr(detectors, "PYTORCH_FRAMES", 0)
    quick, _ = detectors.load_face_detector("retinaface", WEIGHTS, cpu)
    faces = 0
    for file in sorted(VIDEOS.rglob("*.mp4")):
        frames = np.stack([detectors.shrink(frame) for _, frame in islice(FrameReader(file, every=25), 3)])
        for expected, found in zip(eager(frames), quick(frames), strict=True):
            np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=0.1)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-3)
            faces += len(expected.boxes)
    assert faces >= 24 and len(used) == 1
