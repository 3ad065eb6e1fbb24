"""One epoch of training, step by step."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import engine
from datasets.images import Batch
from datasets.mixup import Mix
from losses.terms import Logits
from utils.workers import iterate


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
    """Two batches of four images, like a DataLoader."""

    dataset = range(8)
    batch_size = 4


def batches() -> Batches:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 4, 3, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]])
    return Batches(Batch(images[i], labels[i], torch.arange(4) + 4 * i, []) for i in range(2))


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    alpha: float | None,
    loader: Batches | DataLoader | None = None,
) -> list[dict[str, float]]:
    steps: list[dict[str, float]] = []
    engine.train_one_epoch(
        network,
        lambda outputs, labels: {"classification": F.cross_entropy(outputs.fused, labels)},
        lambda terms: 3 * terms["classification"],
        optimizer,
        lambda step: (1.0, 0.25)[step % 2],
        loader or batches(),
        torch.device("cpu"),
        alpha=alpha,
        channels="RGB",
        gpus=1,
        bad_images=engine.BadImages(False),
        epoch=1,
        on_step=lambda step, losses, speed: steps.append(losses),
    )
    return steps


def sgd(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": network.parameters(), "lr": lr, "initial_lr": lr}])


def test_mixup_mixes_the_terms_of_both_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "draw_mix", lambda batch_size, alpha: Mix(0.25, torch.arange(batch_size).flip(0)))
    monkeypatch.setattr(engine, "mix_images", lambda images, mix: images)
    network = MeanNetwork()
    steps = train(network, sgd(network, lr=0.0), alpha=0.5)
    for batch, losses in zip(batches(), steps, strict=True):
        logits = network(engine.normalise(batch.images)).fused
        both = [F.cross_entropy(logits, labels).item() for labels in (batch.labels, batch.labels.flip(0))]
        assert losses["classification"] == pytest.approx(0.25 * both[0] + 0.75 * both[1])
        assert losses["total"] == pytest.approx(3 * losses["classification"])  # the balance follows mixup


def test_the_schedule_sets_the_rates_of_each_step() -> None:
    network, by_hand = MeanNetwork(), MeanNetwork()
    train(network, sgd(network, lr=0.1), alpha=None)
    for batch, rate in zip(batches(), (0.1, 0.025), strict=True):
        loss = 3 * F.cross_entropy(by_hand(engine.normalise(batch.images)).fused, batch.labels)
        gradient = torch.autograd.grad(loss, by_hand.weight)[0]
        with torch.no_grad():
            by_hand.weight -= rate * gradient
    assert network.weight.item() == pytest.approx(by_hand.weight.item())


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_batch_keeps_a_file_of_its_worker_open() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    each = [Batch(images, torch.tensor([0, 1]), torch.arange(2), []) for _ in range(40)]
    loader = DataLoader(each, batch_size=None, num_workers=1)
    network = MeanNetwork()
    most_open = []

    def count_open_files(*_: object) -> None:
        most_open.append(len(os.listdir("/proc/self/fd")))

    network.register_forward_hook(count_open_files)
    options = {"channels": "RGB", "bad_images": engine.BadImages(False)}
    engine.evaluate(network, loader, torch.device("cpu"), title="test", **options)
    train(network, sgd(network, lr=0.1), alpha=None, loader=loader)
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
