"""Training on a GPU; skipped without one. Two processes share the GPU, as if on two machines with one GPU each."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import training
from benchmarks.train_step import our_step
from losses.terms import Logits
from models.backbones import build_network
from models.checkpoints import load_checkpoint
from tests.helpers import arguments, in_processes, make_dataset
from tests.test_world import train
from utils.devices import seed_everything
from utils.training_arguments import TrainingArguments
from utils.world import World

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on_two_machines(function: Any, *args: Any, **options: Any) -> list[Any]:
    """Run a function in two processes that share the GPU; return their results by rank."""
    return in_processes(2, partial(function, *args, **options), machines=True)


def assert_same_steps(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    (losses, gradients), (expected_losses, expected_gradients) = found, expected
    for ours, theirs in zip(losses, expected_losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8, abs=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        # A bias before a batch norm has a gradient of 0, up to rounding.
        bar = 1e-11 * abs(expected_gradients[name]).max() + 1e-15
        assert abs(gradient - expected_gradients[name]).max() <= bar, name


@pytest.mark.parametrize("divergence", ["kl", "w"])
def test_two_processes_take_the_step_of_one_that_passes_two_halves(divergence: str) -> None:
    expected = train(2, "0", mi_calculator=divergence)
    for found in on_two_machines(train, 1, "0", mi_calculator=divergence):
        assert_same_steps(found, expected)


def test_with_sync_bn_two_processes_take_the_step_of_one_with_the_whole_batch() -> None:
    expected = train(1, "0")
    for found in on_two_machines(train, 1, "0", sync_bn=True):
        assert_same_steps(found, expected)


class Double(nn.Module):
    """A network in float64."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: Tensor) -> Logits:
        return self.network(images.double())


def test_data_parallel_gives_the_logits_and_gradients_of_two_halves() -> None:
    world = World("0")
    world.devices = world.devices * 2
    seed_everything(0)
    network = Double(build_network("test_resnet", 2, 32)).eval()
    images = torch.rand(5, 3, 32, 32, device=world.device)
    split = world.wrap_network(network)
    assert isinstance(split, nn.DataParallel)
    results = []
    for module in (split, network):
        outputs = module(images)
        logits = torch.cat([outputs.fused, outputs.all, *outputs.leave_one_out])
        network.zero_grad()
        logits.square().sum().backward()
        gradients = [p.grad.cpu() for p in network.parameters() if p.grad is not None]
        results.append([logits.detach().cpu(), *gradients])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_does_not_wait_for_the_gpu(precision: str) -> None:
    args = TrainingArguments(model="test_resnet", num_LIBs=2, size=32, bs=4, pretrained=False, precision=precision)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8).pin_memory()
    step = our_step(args, World("0"), images)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("gpu")
    make_dataset(root, videos=3, frames=3)
    return root


def scores(folder: Path) -> np.ndarray:
    with (folder / "predictions.csv").open(newline="") as lines:
        return np.array([float(row["score"]) for row in csv.DictReader(lines)])


def on_gpu(root: Path, *more: str) -> list[str]:
    return arguments(root, "--gpu_num", "0", "--epoch", "2", *more)


def test_a_training_on_the_gpu_scores_on_the_cpu_alike(root: Path) -> None:
    assert training.main(on_gpu(root, "--name", "one")) == 0
    best = str(root / "output/one/model_best.pth")
    on_cpu = arguments(root, "--test", "--resume_model", best, "--name", "on_cpu")
    assert training.main(on_cpu) == 0
    assert scores(root / "output/on_cpu") == pytest.approx(scores(root / "output/one"), abs=5e-3)


@pytest.mark.parametrize("sync_bn", ["False", "True"])
def test_two_processes_train_on_gpus_and_one_continues(root: Path, sync_bn: str) -> None:
    name = f"two{sync_bn}"
    assert on_two_machines(training.main, on_gpu(root, "--name", name, "--sync_bn", sync_bn)) == [0, 0]
    last = root / "output" / name / "model_last.pth"
    assert load_checkpoint(last)["epoch"] == 2
    assert training.main(on_gpu(root, "--resume_model", str(last), "--epoch", "3", "--name", name)) == 0
    assert load_checkpoint(last)["epoch"] == 3
