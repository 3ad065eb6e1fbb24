"""``--precision``, ``--log_every``, and what a step may wait for."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import train_state
import training
from datasets.images import FaceImages, make_loader
from datasets.labels import read_split
from datasets.samplers import TrainingBatches
from models.checkpoints import load_checkpoint
from tests.helpers import arguments
from tests.test_interruptions import CONTINUE, assert_same_run, stop_before, terminate
from train_state import Record
from utils.devices import choose_precision
from utils.errors import InputError
from utils.world import World

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_auto_is_bf16_where_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert choose_precision("auto", CPU, "resnet") == expected
    assert choose_precision("auto", CPU, "mobilenet") == "fp32"
    assert choose_precision("bf16", CPU, "mobilenet") == "bf16"
    assert choose_precision("fp16", CPU, "resnet") == "fp16"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision("auto", GPU, "mobilenet") == expected


def test_the_precision_is_printed_once_and_stored(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "run", "--precision", "bf16")) == 0
    assert capsys.readouterr().out.count("bf16") == 1
    folder = tiny / "output/run"
    checkpoint = load_checkpoint(folder / "model_best.pth")
    assert checkpoint["args"]["precision"] == "bf16"
    assert {value.dtype for value in checkpoint["state_dict"].values()} <= {torch.float32, torch.int64}
    assert json.loads((folder / "results.json").read_text())["precision"] == "bf16"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stopped_run_continues_exactly(tiny: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    argv = arguments(tiny, "--precision", precision)
    assert training.main([*argv, "--name", "complete"]) == 0
    with monkeypatch.context() as patch:
        stop_before(2, terminate, patch)
        assert training.main([*argv, "--name", "run"]) > 128
    assert training.main([*argv, "--name", "run", *CONTINUE]) == 0
    assert_same_run(tiny / "output/run", tiny / "output/complete")


@pytest.mark.parametrize(("scale", "skipped"), [(2.0, 0), (2.0**60, 3)])  # the larger one makes gradients overflow
def test_fp16_counts_the_steps_that_it_skips(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, scale: float, skipped: int
) -> None:
    monkeypatch.setattr(train_state, "GradScaler", partial(torch.amp.GradScaler, init_scale=scale))
    assert training.main(arguments(tiny, "--precision", "fp16", "--name", "run")) == 0
    checkpoint = load_checkpoint(tiny / "output/run/model_last.pth")
    assert int(next(iter(checkpoint["optimizer"]["state"].values()))["step"]) == 3 - skipped
    assert f"{skipped} steps skipped" in (tiny / "output/run/train.log").read_text()
    assert checkpoint["scaler"]["scale"] == scale * 0.5**skipped


def record(*losses: float) -> Record:
    found = Record()
    for loss in losses:
        found.add({"total": torch.tensor(loss), "local": torch.tensor(0.5)}, torch.tensor([0]), torch.tensor([0.0]))
    return found


def test_a_loss_that_is_not_finite_is_named_when_the_losses_are_read() -> None:
    assert record(1.0, 2.0).read(0, 2) == {"total": 2.0, "local": 0.5}
    with pytest.raises(InputError, match="epoch 3, step 6: total nan, local 0.5"):
        record(1.0, float("nan"), 2.0).read(2, 7)


def test_a_loss_that_is_not_finite_reaches_no_checkpoint(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    real = training.train_one_epoch.__globals__["train_step"]

    def train_step(state: Any, *more: Any) -> None:
        real(state, *more)
        if state.step == 1:
            state.record._unread[-1]["total"] = torch.tensor(float("inf"))

    monkeypatch.setitem(training.train_one_epoch.__globals__, "train_step", train_step)
    saving = ("--log_every", "100", "--save_every_minutes", "1e-9")  # after every step
    assert training.main(arguments(tiny, "--name", "run", *saving)) == 2
    assert "step 2" in capsys.readouterr().err
    assert load_checkpoint(tiny / "output/run/model_last.pth")["step"] == 1


def test_losses_are_read_every_log_every_steps(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, real = [], Record.read
    monkeypatch.setattr(Record, "read", lambda self, epoch, step: read.append(step) or real(self, epoch, step))
    assert training.main(arguments(tiny, "--name", "run", "--log_every", "2", "--save_every_minutes", "0")) == 0
    assert read == [1, 3, 3]  # the last at the end of the epoch


def test_loader_processes_stay_between_epochs(tiny: Path) -> None:
    faces = FaceImages(read_split("tiny", "train", tiny / "labels", tiny / "faces"), 32, seed=0)
    batches = TrainingBatches(len(faces), 4, 0, World("cpu"))
    loader = make_loader(faces, 4, 1, World("cpu"), batches)
    epochs = []
    for batches.epoch in (1, 2):
        images = torch.cat([batch.images[batch.positions.argsort()] for batch in loader])
        epochs.append((loader._iterator._workers[0].pid, images))
    assert epochs[0][0] == epochs[1][0]
    assert not torch.equal(epochs[0][1], epochs[1][1])  # another augmentation
