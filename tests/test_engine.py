"""One epoch of training, step by step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

import engine
from datasets.images import Batch
from datasets.mixup import Mix
from datasets.samplers import TrainingBatches
from losses.terms import Logits
from train_state import Record, TrainState
from utils.training_arguments import TrainingArguments
from utils.workers import iterate
from utils.world import World


class MeanNetwork(nn.Module):
    """A network with one weight; its logits are the weighted mean of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: torch.Tensor) -> Logits:
        fake = self.weight * images.mean(dim=(1, 2, 3))
        logits = torch.stack([-fake, fake], dim=1)
        return Logits(logits, logits, [])


class Batches(list):
    """Batches of images, like a DataLoader of training batches."""

    batch_size = 4
    batch_sampler = SimpleNamespace(images=8)
    dataset = range(8)


def batches() -> Batches:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 4, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]])
    return Batches(Batch(images[i], labels[i], torch.arange(4) + 4 * i, []) for i in range(2))


class Factors:
    """A schedule with a factor for each of two steps."""

    def start_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        pass

    def set_rates(self, optimizer: torch.optim.Optimizer, epoch: int, step: int) -> None:
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["initial_lr"] * (1.0, 0.25)[step % 2]


def train(
    network: nn.Module, optimizer: torch.optim.Optimizer, mixup: bool, loader: Batches | DataLoader | None = None
) -> list[dict[str, float]]:
    args = TrainingArguments(mixup=mixup, lil_loss=False, gil_loss=False, balance_loss_method="hyper", scales=[3, 1, 1])
    args.log_every = 1
    objective = engine.Objective(network, args, World("cpu"))
    state = SimpleNamespace(
        args=args, world=objective.world, model=objective, optimizer=optimizer, schedule=Factors(), channels="RGB",
        epoch=0, step=0, record=Record(), scaler=GradScaler(enabled=False),
    )  # fmt: skip
    steps: list[dict[str, float]] = []
    engine.train_one_epoch(state, loader or batches(), engine.BadImages(False), steps.append)
    return steps


def sgd(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": network.parameters(), "lr": lr, "initial_lr": lr}])


def test_mixup_mixes_the_terms_of_both_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "draw_mix", lambda batch_size, alpha: Mix(0.25, torch.arange(batch_size).flip(0)))
    monkeypatch.setattr(engine, "mix_images", lambda images, partners, lam: images)
    network = MeanNetwork()
    steps = train(network, sgd(network, lr=0.0), mixup=True)
    for batch, losses in zip(batches(), steps, strict=True):
        logits = network(engine.normalise(batch.images)).fused
        both = [F.cross_entropy(logits, labels).item() for labels in (batch.labels, batch.labels.flip(0))]
        assert losses["classification"] == pytest.approx(0.25 * both[0] + 0.75 * both[1])
        assert losses["total"] == pytest.approx(3 * losses["classification"])  # the balance follows mixup


def test_the_schedule_sets_the_rates_of_each_step() -> None:
    network, by_hand = MeanNetwork(), MeanNetwork()
    train(network, sgd(network, lr=0.1), mixup=False)
    for batch, rate in zip(batches(), (0.1, 0.025), strict=True):
        loss = 3 * F.cross_entropy(by_hand(engine.normalise(batch.images)).fused, batch.labels)
        gradient = torch.autograd.grad(loss, by_hand.weight)[0]
        with torch.no_grad():
            by_hand.weight -= rate * gradient
    assert network.weight.item() == pytest.approx(by_hand.weight.item())


def test_a_training_on_the_cpu_has_channels_last_weights() -> None:
    args = TrainingArguments(model="tiny_cnn", num_LIBs=2, size=32, pretrained=False, precision="fp32")
    network = TrainState(args, None, 1, World("cpu")).network
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(weights) == 4 and not any(weight.is_contiguous() for weight in weights)
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


class HostReads(TorchDispatchMode):
    """Count the values that a block reads with ``item``, ``float`` or ``bool``; on a GPU, each waits for the step."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_reads_no_value_back(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Test_gpu.py tests this on a GPU; the draws of mixup are on the CPU."""
    mix = Mix(0.25, torch.arange(4).flip(0))
    monkeypatch.setattr(engine, "draw_mix", lambda batch_size, alpha: mix)
    args = TrainingArguments(model="tiny_cnn", num_LIBs=2, size=32, bs=4, pretrained=False, precision=precision)
    state = TrainState(args, None, 1, World("cpu"))
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with HostReads() as reads:
        for _ in range(2):
            engine.train_step(state, Batch(images, torch.arange(4) % 2, torch.arange(4), []), [4])
        assert reads.count == 0
        assert bool(images.sum() > 0) and reads.count == 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_batch_keeps_a_file_of_its_worker_open() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)

    class Images(Dataset):
        def __getitem__(self, index: tuple[int, int]) -> Batch:
            return Batch(images.clone(), torch.tensor([0, 1]), torch.arange(2), [])

        def __len__(self) -> int:
            return 40

    each = Images()
    sampler = TrainingBatches(40, 1, 0, World("cpu"))
    loader = DataLoader(each, batch_sampler=sampler, num_workers=1, collate_fn=lambda batches: batches[0])
    network = MeanNetwork()
    most_open = []

    def count_open_files(*_: object) -> None:
        most_open.append(len(os.listdir("/proc/self/fd")))

    network.register_forward_hook(count_open_files)
    options = {"channels": "RGB", "bad_images": engine.BadImages(False)}
    engine.evaluate(network, loader, World("cpu"), title="test", **options)
    train(network, sgd(network, lr=0.1), mixup=False, loader=loader)
    assert len(most_open) == 80
    assert max(most_open) < most_open[5] + 20


def test_a_broken_connection_waits_for_pytorchs_error() -> None:
    class Loader:
        def __iter__(self) -> Iterator[int]:
            yield 1
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            raise ConnectionResetError

    def raise_worker_error(*_: object) -> None:  # like PyTorch's handler of SIGCHLD
        raise RuntimeError("DataLoader worker (pid 1) is killed")

    before = signal.signal(signal.SIGALRM, raise_worker_error)
    try:
        batches = iterate(Loader())
        assert next(batches) == 1
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            next(batches)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_a_broken_connection_without_pytorchs_error_names_the_worker(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loader:
        def __iter__(self) -> Iterator[int]:
            yield 1
            raise error

    monkeypatch.setattr("utils.workers.time.sleep", lambda seconds: None)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(iterate(Loader()))
