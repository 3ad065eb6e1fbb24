"""training.py on a tiny dataset: its files, exact resume, schedules and arguments."""

import csv
import inspect
import json
import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import engine
import training
from datasets.images import Batch
from evaluation.metrics import METRICS
from losses.balance import LearntBalance
from models.checkpoints import load_checkpoint
from tests.helpers import Run, TinyCNN, arguments, make_dataset
from train_state import TrainState, make_optimizer
from utils.devices import seed_everything
from utils.files import sha256
from utils.schedule import Schedule, losses_rose

MACHINE_ARGUMENTS = ["--gpu_num", "cpu", "--num_workers", "0"]  # a resumed run takes all others from the checkpoint


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def predictions(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_checkpoint_blocks_computes_each_lib_twice_with_an_equal_result(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, forward = [0, 0], TinyCNN.forward
    for number, more in enumerate(([], ["--checkpoint_blocks", "True"])):

        def count(network: TinyCNN, images: Tensor, number: int = number) -> Tensor:
            passes[number] += network.training
            return forward(network, images)

        monkeypatch.setattr(TinyCNN, "forward", count)
        assert training.main(arguments(tiny, "--name", f"run{number}", *more)) == 0
    assert passes == [6, 12]  # two LIBs in three steps
    assert equal(*(weights(tiny / f"output/run{number}/model_last.pth") for number in (0, 1)))


def test_the_command_trains_and_tests(command: Run, tiny: Path) -> None:
    done = command("--name", "run", "--epoch", "2")
    assert done.returncode == 0, done.stderr
    folder = tiny / "output/run"
    written = {file.name for file in folder.iterdir() if not file.name.startswith("events")}
    assert written == {
        *(".lock", "args.json", "train.log", "model_best.pth", "model_last.pth", "model_previous.pth"),
        *("results.json", "predictions.csv", "report.html"),
    }
    assert json.loads((folder / "args.json").read_text())["num_LIBs"] == 2

    lines = (folder / "train.log").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "\r" not in done.stderr  # no progress bar in a log file

    results = json.loads((folder / "results.json").read_text())
    assert results["checkpoint"] == str(folder / "model_best.pth")
    metrics = results["datasets"]["tiny"]
    assert (metrics["frames"], metrics["videos"]) == (12, 4)
    rows = predictions(folder / "predictions.csv")
    assert list(rows[0]) == ["dataset", "path", "label", "score", "video", "cluster"]
    assert rows[0]["path"] == "tiny/test/real/000/0000.png"
    labels, scores = [int(row["label"]) for row in rows], [float(row["score"]) for row in rows]
    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    videos = {row["path"].rsplit("/", 1)[0]: int(row["label"]) for row in rows}
    means = [np.mean([s for r, s in zip(rows, scores, strict=True) if r["path"].startswith(v)]) for v in videos]
    assert metrics["video_auc"] == pytest.approx(roc_auc_score(list(videos.values()), means), abs=1e-6)
    assert f"{metrics['auc']:.4f}" in done.stdout
    assert "tensorboard --logdir" in done.stdout

    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) == {
        *(f"loss/{name}" for name in ("total", "classification", "local", "global")),
        *(f"learnt weight/{name}" for name in ("classification", "local", "global")),
        *(f"learning rate/{name}" for name in ("network", "loss weights")),
        "speed/images per second",
        *(f"{split}/{name}" for split in ("train", "val") for name in METRICS),
        *(f"test/tiny {name}" for name in ("auc", "video_auc", "log_loss")),  # of the table of runs
    }  # fmt: skip
    assert events.Tags()["images"] == ["augmented training images"]


def test_test_evaluates_several_datasets_separately(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    make_dataset(tiny, "other", videos=1, seed=5)
    assert training.main(arguments(tiny, "--name", "run")) == 0
    best = tiny / "output/run/model_best.pth"
    capsys.readouterr()
    # The network's settings come from the checkpoint.
    more = ["--test", "--resume_model", str(best), "--dataset", "tiny,other", "--name", "both"]
    argv = [*arguments(tiny)[arguments(tiny).index("--bs") :], *more]
    assert training.main(argv) == 0
    results = json.loads((tiny / "output/both/results.json").read_text())
    assert {name: m["videos"] for name, m in results["datasets"].items()} == {"tiny": 4, "other": 2}
    assert len(predictions(tiny / "output/both/predictions.csv")) == 12 + 6
    table = capsys.readouterr().out
    assert all(word in table for word in ("frames", "videos", "ACC", "AUC", "AP", "EER", "log loss", "video AUC"))
    # The results equal the test at the end of the training.
    own = json.loads((tiny / "output/run/results.json").read_text())
    assert own["datasets"]["tiny"] == results["datasets"]["tiny"]
    # In the run's own folder, a test replaces only the results, and only with --overwrite.
    kept = best.read_bytes()
    assert training.main([*argv[:-1], "run"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert own == json.loads((tiny / "output/run/results.json").read_text())
    (tiny / "output/run/study_x.json").write_text("{}")
    assert training.main([*argv[:-1], "run", "--overwrite", "True"]) == 0
    assert (tiny / "output/run/study_x.json").is_file()
    assert json.loads((tiny / "output/run/args.json").read_text())["test"] is False
    assert set(json.loads((tiny / "output/run/results.json").read_text())["datasets"]) == {"tiny", "other"}
    assert best.read_bytes() == kept


def test_each_dataset_has_its_own_data_root(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    make_dataset(tiny, "other", seed=5)
    (tiny / "elsewhere").mkdir()
    (tiny / "faces/other").rename(tiny / "elsewhere/other")
    roots = f"tiny={tiny}/faces,other={tiny}/elsewhere"
    both = ["--dataset", "tiny,other", "--name", "run"]
    assert training.main(arguments(tiny, *both, "--data_root", f"tiny={tiny}/faces")) == 2
    assert "other=FOLDER" in capsys.readouterr().err
    assert training.main(arguments(tiny, *both, "--data_root", roots)) == 0
    last, results = tiny / "output/run/model_last.pth", tiny / "output/run/results.json"
    assert torch.load(last, weights_only=True)["args"]["data_root"] == roots
    assert json.loads((tiny / "output/run/args.json").read_text())["data_root"] == roots
    found = json.loads(results.read_text())
    assert found["data_root"] == {"tiny": f"{tiny}/faces", "other": f"{tiny}/elsewhere"}
    assert (tiny / "output/run/report.html").read_text().count("data:image/jpeg") > 0  # the pictures of both datasets
    results.unlink()
    assert training.main(["--resume_model", str(last), *MACHINE_ARGUMENTS]) == 0
    assert json.loads(results.read_text()) | {"run": None} == found | {"run": None}  # run has the date
    more = ["--test", "--resume_model", str(last), "--dataset", "other", "--name", "one", "--data_root"]
    for data_root in (roots, f"{tiny}/elsewhere"):
        argv = [*arguments(tiny)[arguments(tiny).index("--bs") :], *more, data_root, "--overwrite", "True"]
        assert training.main(argv) == 0
        one = json.loads((tiny / "output/one/results.json").read_text())
        assert one["datasets"]["other"] == found["datasets"]["other"]


def test_folders_of_the_same_name_are_different_videos(tiny: Path) -> None:
    make_dataset(tiny / "second", "tiny", videos=2, seed=9)
    for kind in ("real", "fake"):
        lines = (tiny / f"labels/tiny/test_{kind}.txt").read_text()
        other = lines.replace(",tiny/", f",{tiny}/second/faces/tiny/")
        (tiny / f"labels/tiny/test_{kind}.txt").write_text(lines + other)
    assert training.main(arguments(tiny, "--name", "run")) == 0
    assert json.loads((tiny / "output/run/results.json").read_text())["datasets"]["tiny"]["videos"] == 8


class Interruption(Exception):
    """A simulated crash."""


def interrupted_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the training in the epoch after `epoch`."""
    real = training.train_one_epoch

    def interrupted(state: TrainState, *args: object) -> object:
        if state.epoch == epoch:
            torch.rand(100)  # random numbers that the uninterrupted run never draws
            raise Interruption
        return real(state, *args)

    monkeypatch.setattr(training, "train_one_epoch", interrupted)


def assert_same_outcome(one: Path, other: Path) -> None:
    """Assert that two runs have identical weights, optimizer, best and scores."""
    for file in ("model_last.pth", "model_best.pth"):
        ours, theirs = (torch.load(folder / file, weights_only=True) for folder in (one, other))
        assert equal(ours["state_dict"], theirs["state_dict"]), file
        assert ours["best"] == theirs["best"]
        assert equal(ours["balance"], theirs["balance"])
    ours, theirs = (load_checkpoint(folder / "model_last.pth") for folder in (one, other))
    torch.testing.assert_close(ours["optimizer"], theirs["optimizer"], rtol=0, atol=0)
    assert predictions(one / "predictions.csv") == predictions(other / "predictions.csv")


def test_resume_is_exact(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After whole epochs, here and in another folder; tests/test_interruptions.py stops within epochs."""
    three = ["--epoch", "3", "--seed", "5"]
    assert training.main(arguments(tiny, "--name", "complete", *three)) == 0
    with monkeypatch.context() as patch:
        interrupted_after(2, patch)
        with pytest.raises(Interruption):
            training.main(arguments(tiny, "--name", "stopped", *three))
    complete, stopped, elsewhere = (tiny / "output" / name for name in ("complete", "stopped", "elsewhere"))
    # Only the arguments of the machine are given again.
    for folder, name in ((elsewhere, ["--name", "elsewhere"]), (stopped, [])):
        assert torch.load(stopped / "model_last.pth", weights_only=True)["epoch"] == 2
        seed_everything(99, 99)
        assert training.main(["--resume_model", str(stopped / "model_last.pth"), *MACHINE_ARGUMENTS, *name]) == 0
        assert_same_outcome(complete, folder)
    logged = [line.split(":")[0] for line in (stopped / "train.log").read_text().splitlines()]
    assert logged == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    curve = EventAccumulator(str(stopped)).Reload().Scalars("val/log_loss")
    assert [point.step for point in curve] == [2, 5, 8]  # the last of three steps per epoch


def test_a_seed_repeats_a_run_with_any_number_of_workers(tiny: Path) -> None:
    for name, seed, workers in (("a", "1", "0"), ("b", "1", "2"), ("c", "2", "0")):
        assert training.main(arguments(tiny, "--name", name, "--seed", seed, "--num_workers", workers)) == 0
    a, b, c = (weights(tiny / "output" / name / "model_last.pth") for name in "abc")
    assert equal(a, b)
    assert not equal(a, c)


def test_resume_of_a_finished_run_tests_the_best_checkpoint(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "run")) == 0
    results = tiny / "output/run/results.json"
    before = json.loads(results.read_text())
    results.unlink()
    assert training.main(["--resume_model", str(tiny / "output/run/model_last.pth"), *MACHINE_ARGUMENTS]) == 0
    assert json.loads(results.read_text()) | {"run": None} == before | {"run": None}  # run has the date
    assert "all 1 epochs are finished" in capsys.readouterr().out


def test_results_name_the_tested_checkpoint(tiny: Path) -> None:
    assert training.main(arguments(tiny, "--name", "run")) == 0
    last, best = (tiny / f"output/run/model_{name}.pth" for name in ("last", "best"))
    resume = ["--resume_model", str(last), *MACHINE_ARGUMENTS, "--name"]
    for name, broken, tested in (("other", False, best), ("third", True, last)):
        if broken:
            best.write_bytes(b"")
        assert training.main([*resume, name]) == 0
        results = json.loads((tiny / f"output/{name}/results.json").read_text())
        assert (Path(results["checkpoint"]), results["checkpoint_sha256"]) == (tested, sha256(tested))


def test_resume_takes_new_arguments_and_keeps_the_others(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "run", "--lr", "0.01", "--seed", "3")) == 0
    last = tiny / "output/run/model_last.pth"
    new = "--epoch 2 --lr 0.002 --scales 1,2,3".split()
    assert training.main(["--resume_model", str(last), *MACHINE_ARGUMENTS, *new]) == 0
    said = capsys.readouterr().out
    assert all(words in said for words in ("--lr 0.002", "--scales 1.0,2.0,3.0", "0.0e+00", "1.0e-03", "2 epochs"))
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["epoch"] == 2
    assert (checkpoint["args"]["lr"], checkpoint["args"]["seed"]) == (0.002, 3)
    assert load_checkpoint(last)["optimizer"]["param_groups"][0]["initial_lr"] == 0.002


def test_resume_of_an_older_checkpoint_loses_nothing(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "run", "--epoch", "2")) == 0
    folder = tiny / "output/run"
    older = load_checkpoint(folder / "model_last.pth")
    torch.save({**older, "epoch": 1, "history": older["history"][:1]}, folder / "model_1.pth")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    capsys.readouterr()
    resume = ["--resume_model", str(folder / "model_1.pth"), *MACHINE_ARGUMENTS]
    assert training.main(resume) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert training.main([*resume, "--name", "branch"]) == 0
    assert training.main([*resume, "--overwrite", "True"]) == 0
    assert [line.split(":")[0] for line in (folder / "train.log").read_text().splitlines()] == [
        "epoch 1/2",
        "epoch 2/2",
    ]


def test_train_log_after_a_checkpoint_without_a_history(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    """Checkpoints of the authors have no history of the epochs, and no validation metrics."""
    assert training.main(arguments(tiny, "--name", "run")) == 0
    foreign = load_checkpoint(tiny / "output/run/model_last.pth") | {"val": None, "best": None}
    del foreign["history"]
    torch.save(foreign, tiny / "foreign.pth")
    resume = [
        "--resume_model",
        str(tiny / "foreign.pth"),
        *MACHINE_ARGUMENTS,
        "--save_path",
        str(tiny),
        "--name",
        "new",
    ]
    assert training.main(resume) == 2
    error = capsys.readouterr().err
    assert "--epoch 1 " in error and str(tiny / "foreign.pth") in error
    assert training.main([*resume, "--epoch", "3"]) == 0
    lines = (tiny / "new/train.log").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 2/3", "epoch 3/3"]


@pytest.mark.parametrize("recipe", ["default", "official"])
def test_best_is_chosen_by_validation_auc(tiny: Path, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    aucs = iter([0.6, 0.9, 0.9, 0.7])
    real = training.binary_metrics

    def scripted(labels: np.ndarray, scores: np.ndarray) -> dict:
        return {**real(labels, scores), "auc": next(aucs)}

    monkeypatch.setattr(training, "binary_metrics", scripted)
    assert training.main(arguments(tiny, "--name", "run", "--epoch", "4", "--recipe", recipe)) == 0
    best = torch.load(tiny / "output/run/model_best.pth", weights_only=True)
    assert (best["epoch"], best["best"]) == (2, 0.9)
    assert torch.load(tiny / "output/run/model_last.pth", weights_only=True)["best"] == 0.9


def test_every_tenth_checkpoint_is_kept(tiny: Path) -> None:
    assert (
        training.main(arguments(tiny, "--name", "run", "--epoch", "11", "--num_LIBs", "1", "--lil_loss", "False")) == 0
    )
    kept = sorted(file.name for file in (tiny / "output/run").glob("model_*"))
    assert kept == ["model_10.pth", "model_best.pth", "model_last.pth", "model_previous.pth"]
    tenth, last = (tiny / f"output/run/model_{name}.pth" for name in ("10", "last"))
    assert "optimizer" not in load_checkpoint(tenth) and load_checkpoint(tenth)["epoch"] == 10
    assert tenth.stat().st_size < 0.4 * last.stat().st_size


def test_save_model_false_writes_no_checkpoint(tiny: Path) -> None:
    assert training.main(arguments(tiny, "--name", "run", "--save_model", "False")) == 0
    assert not list((tiny / "output/run").glob("*.pth"))
    assert json.loads((tiny / "output/run/results.json").read_text())["checkpoint"] is None


def test_a_last_batch_of_one_is_skipped_with_one_note(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "run", "--bs", "11", "--epoch", "2")) == 0  # 12 images: 11 and 1
    assert capsys.readouterr().out.count("skips its last batch of 1") == 1


@pytest.mark.parametrize("recipe", ["default", "official"])
def test_the_test_set_is_read_only_at_the_end(tiny: Path, monkeypatch: pytest.MonkeyPatch, recipe: str) -> None:
    titles = []
    real = training.evaluate

    def evaluate(*args: object, **options: object) -> object:
        titles.append(options["title"])
        return real(*args, **options)

    monkeypatch.setattr(training, "evaluate", evaluate)
    assert training.main(arguments(tiny, "--name", "run", "--epoch", "2", "--recipe", recipe)) == 0
    assert titles == ["validation 1", "validation 2", "test tiny"]


@pytest.mark.parametrize("terms", [("True", "False"), ("False", "True"), ("False", "False")])
def test_switched_off_terms(tiny: Path, terms: tuple[str, str]) -> None:
    lil, gil = terms
    assert training.main(arguments(tiny, "--name", "run", "--lil_loss", lil, "--gil_loss", gil)) == 0
    learnt = torch.load(tiny / "output/run/model_last.pth", weights_only=True)["balance"]
    expected = {"weights.classification"}
    expected |= {"weights.local"} if lil == "True" else set()
    expected |= {"weights.global"} if gil == "True" else set()
    assert set(learnt) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c_prints_how_to_continue(tiny: Path) -> None:
    printed, errors = tiny / "printed", tiny / "errors"

    def run() -> None:
        with printed.open("w", buffering=1) as sys.stdout, errors.open("w", buffering=1) as sys.stderr:
            code = training.main(arguments(tiny, "--name", "run", "--epoch", "1000"))
        os._exit(code)

    process = get_context("fork").Process(target=run)
    process.start()
    try:
        while process.is_alive() and not (printed.is_file() and "\nepoch 2/" in printed.read_text()):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
    finally:
        process.kill()
    assert process.exitcode == 130
    assert "Traceback" not in errors.read_text()
    assert "--resume_model" in errors.read_text().splitlines()[-1]
    assert weights(tiny / "output/run/model_last.pth")


def rates_of(name: str, epochs: int, steps: int) -> list[float]:
    """Return the network's rate in each step of a run that starts with rate 1."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "initial_lr": 1.0}], lr=1.0)
    schedule, rates = Schedule(name, epochs, steps, {}), []
    for epoch in range(1, epochs + 1):
        schedule.start_epoch(optimizer)
        for step in range(steps):
            schedule.set_rates(optimizer, epoch, step)
            rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_schedules() -> None:
    cosine, official = rates_of("cosine", 4, 50), rates_of("official", 2, 400)
    assert [cosine[step] for step in (0, 50, 100)] == pytest.approx([1, 0.8535534, 0.5])
    assert [official[step] for step in (0, 75, 150, 300)] == pytest.approx([1, 0.5, 0, 1], abs=1e-12)
    assert official[400:] == official[:400]  # again in every epoch
    # The authors use torch's scheduler with T_max = 150.
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=150)
    for step in range(400):
        assert official[step] == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_losses_rose() -> None:
    assert not losses_rose([1, 2, 3, 4])  # fewer than five
    assert not losses_rose([5, 4, 3, 2, 1])
    assert losses_rose([5, 4, 3, 3.5, 1])
    assert not losses_rose([1, 9, 8, 7, 6, 5])  # the rise lies before the last five


def test_official_schedule_halves_the_networks_rate_and_rebuilds_adam(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 4.0, 6.0, 3.0, 2.0, 1.0, 0.5])
    real_metrics, real_epoch = training.binary_metrics, training.train_one_epoch
    rates, moments = [], []

    def scripted(labels: np.ndarray, scores: np.ndarray) -> dict:
        return {**real_metrics(labels, scores), "log_loss": next(losses)}

    def watched(state: TrainState, *more: Any) -> None:
        start = state.schedule.start_epoch

        def start_epoch(optimizer: torch.optim.Optimizer) -> None:
            start(optimizer)
            state.schedule.set_rates(optimizer, 1, 0)
            rates.append([group["lr"] for group in optimizer.param_groups])
            moments.append(len(optimizer.state))

        with monkeypatch.context() as patch:
            patch.setattr(state.schedule, "start_epoch", start_epoch)
            real_epoch(state, *more)

    monkeypatch.setattr(training, "binary_metrics", scripted)
    monkeypatch.setattr(training, "train_one_epoch", watched)
    more = ["--epoch", "7", "--lr_schedule", "official"]
    assert training.main(arguments(tiny, "--name", "run", *more)) == 0
    # Halved before the sixth epoch; the list is cleared, so not again. The rate of the learnt loss weights stays.
    assert rates == [[1e-3, 1e-3]] * 5 + [[0.5e-3, 1e-3]] * 2
    assert moments == [0] * 7  # Adam is rebuilt


def test_loss_weights_have_their_own_rate(tiny: Path) -> None:
    network, balance = torch.nn.Linear(1, 1), LearntBalance(["classification"])
    groups = make_optimizer(network, balance, lr=0.5, weight_decay=0.25).param_groups
    assert [(g["lr"], g["initial_lr"], g["weight_decay"], g["betas"]) for g in groups] == [
        (0.5, 0.5, 0.25, (0.9, 0.999)),
        (1e-3, 1e-3, 0.25, (0.9, 0.999)),
    ]


def test_the_core_stays_short() -> None:
    assert len(inspect.getsource(training.run_training).splitlines()) <= 50
    assert len(inspect.signature(engine.train_one_epoch).parameters) <= 6
    assert len(inspect.getsource(training).splitlines()) <= 350


def test_defaults_match_the_paper() -> None:
    args, _ = training.parse_arguments([])
    expected = {
        "name": "train_model", "gpu_num": None, "seed": 0, "model": "resnet", "pretrained": True, "epoch": 20,
        "weight_decay": 1e-6, "lr": 1e-3, "lr_schedule": "cosine", "bs": 256, "test_bs": 1000, "num_workers": 12,
        "size": 224, "mixup": True, "alpha": 0.5, "oversample": "paper", "dataset": ["FF++_c23"],
        "dataset_root": Path("dataset"), "data_root": Path("."), "skip_bad_images": False, "lil_loss": True,
        "gil_loss": True, "temperature": 1.5, "mi_calculator": "kl", "balance_loss_method": "auto",
        "scales": [1, 2, 10], "num_LIBs": 4, "resume_model": None, "test": False, "save_model": True,
        "save_every_minutes": 15, "save_path": Path("output"), "overwrite": False,
        "protocol": None, "frames_per_video": None, "frame_choice": "random",
        "video_score": "mean", "group_by": None, "error": 0.05, "fpr": None, "submit": "local", "nodes": 1, "slurm": {},
        "sync_bn": False, "precision": "auto", "log_every": 10, "accumulate": 1, "checkpoint_blocks": False,
        "recipe": "default", "channels": "RGB",
    }  # fmt: skip
    assert vars(args) == expected


def test_command_line_of_the_authors_readme() -> None:
    line = (
        "--name train_model --gpu_num 0,1 --test False --model efficientnet --pretrained True --epoch 20 "
        "--weight_decay 1e-6 --lr 1e-3 --bs 256 --test_bs 1000 --num_workers 12 --size 224 --mixup True --alpha 0.5 "
        "--dataset Celeb-DF-v1 --lil_loss True --gil_loss false --temperature 1.5 --mi_calculator w "
        "--balance_loss_method hyper --scales [1,2,10] --num_LIBs 4 --save_model True --save_path output"
    )
    args, _ = training.parse_arguments(line.split())
    assert (args.test, args.gil_loss, args.scales, args.gpu_num) == (False, False, [1, 2, 10], "0,1")
    assert training.parse_arguments(["--scales", "1, 2, 10"])[0].scales == [1, 2, 10]
    assert training.parse_arguments([])[0].epoch == 20
    assert training.parse_arguments(["--dataset", "FF++_c23,Celeb-DF-v2"])[0].dataset == ["FF++_c23", "Celeb-DF-v2"]


def test_the_official_recipe_sets_what_the_authors_code_does() -> None:
    names = ("channels", "lr_schedule", "oversample", "precision", "scales")

    def settings(*argv: str) -> list[Any]:
        args, _ = training.parse_arguments([*argv])
        return [getattr(args, name) for name in names]

    assert settings() == ["RGB", "cosine", "paper", "auto", [1, 2, 10]]
    assert settings("--recipe", "official") == ["BGR", "official", "paper", "fp32", [1, 10, 2]]
    given = settings("--recipe", "official", "--lr_schedule", "cosine", "--scales", "1,2,10")
    assert given == ["BGR", "cosine", "paper", "fp32", [1, 2, 10]]


def test_a_training_with_the_official_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images are repeated, the network computes in float32, and its images are BGR with the mean of RGB."""
    make_dataset(tmp_path, "FF++_c23")
    monkeypatch.setattr(training, "choose_precision", lambda asked, *_: "bf16" if asked == "auto" else asked)
    monkeypatch.setattr("datasets.images.augment", lambda image, _: image)
    real_step, real_normalise, real_head = engine.train_step, engine.normalise, TinyCNN.forward_head
    batches: list[Batch] = []
    normalised: list[Tensor] = []
    dtypes: set[torch.dtype] = set()

    def train_step(state: TrainState, batch: Batch, *more: Any) -> None:
        batches.append(batch)
        real_step(state, batch, *more)

    def normalise(images: Tensor, channels: str) -> Tensor:
        normalised.append(real_normalise(images, channels))
        return normalised[-1]

    def forward_head(backbone: TinyCNN, maps: Tensor) -> Tensor:
        dtypes.add(maps.dtype)
        return real_head(backbone, maps)

    monkeypatch.setattr(engine, "train_step", train_step)
    monkeypatch.setattr(engine, "normalise", normalise)
    monkeypatch.setattr(TinyCNN, "forward_head", forward_head)
    argv = arguments(tmp_path, "--name", "run", "--dataset", "FF++_c23", "--recipe", "official")
    del argv[argv.index("--precision") : argv.index("--precision") + 2]
    assert training.main(argv) == 0
    assert dtypes == {torch.float32}
    images = [
        f"{kind}/{video:03d}/{frame:04d}.png"
        for kind, times in (("real", 4), ("fake", 1))
        for video in range(2)
        for _ in range(times)
        for frame in range(3)
    ]
    positions = [position for batch in batches for position in batch.positions.tolist()]
    assert sorted(positions) == list(range(len(images))) == list(range(4 * 6 + 6))
    folder = tmp_path / "faces/FF++_c23/train"
    first = [cv2.resize(cv2.imread(str(folder / images[i])), (32, 32)) for i in positions[:4]]  # OpenCV reads BGR
    expected = (np.stack(first) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert normalised[0].permute(0, 2, 3, 1).numpy() == pytest.approx(expected, abs=1e-5)


def test_a_checkpoint_keeps_its_channels_and_recipe(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "run", "--recipe", "official")) == 0
    last = tiny / "output/run/model_last.pth"
    assert load_checkpoint(last)["channels"] == "BGR"
    for argv in (["--channels", "RGB"], ["--recipe", "default"], ["--channels", "RGB", "--test"]):
        assert training.main(["--resume_model", str(last), *MACHINE_ARGUMENTS, *argv]) == 2
        assert argv[0] in capsys.readouterr().err
    args, _ = training.parse_arguments(["--resume_model", str(last), "--epoch", "2"])
    assert (args.recipe, args.channels, args.lr_schedule) == ("official", "BGR", "official")
    assert "jumps" not in capsys.readouterr().out  # the authors' cosine starts again in each epoch anyway


def test_help_shows_groups_and_defaults(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        training.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    positions = [
        text.index(f"\n{group}:\n") for group in ("run", "train", "data", "loss", "model", "evaluation", "checkpoint")
    ]
    assert positions == sorted(positions)
    assert all(f"--{name}" in text for name in vars(training.parse_arguments([])[0]))
    assert "(default: 256)" in text
