"""A training that is stopped, killed or short of disk continues as if nothing had happened."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import engine
import run_folder
import run_with_submitit
import training
from models.checkpoints import load_checkpoint
from tests.helpers import arguments, in_processes, make_dataset, start_fork
from utils.errors import InputError
from utils.files import atomic_write
from utils.parsing import Parser
from utils.process import launcher
from utils.training_arguments import TrainingArguments
from utils.world import World

CONTINUE = ("--resume_model", "auto")
EVERY_STEP = ("--save_every_minutes", "1e-9")
TWO_EPOCHS = ("--name", "run", "--epoch", "2", "--seed", "7")  # of three steps


def log_lines(folder: Path) -> list[str]:
    """Return train.log without the speeds."""
    return re.sub(r"[\d.]+ images/s", "", (folder / "train.log").read_text()).splitlines()


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs ended with the same weights, moments, scores, log and curves, bit for bit."""
    for file in ("model_last.pth", "model_best.pth"):
        ours, theirs = load_checkpoint(one / file), load_checkpoint(other / file)
        for entry in ("state_dict", "balance", *(["optimizer"] if file == "model_last.pth" else [])):
            torch.testing.assert_close(ours[entry], theirs[entry], rtol=0, atol=0)
        assert [ours[key] for key in ("epoch", "best", "val", "calibration")] == [
            theirs[key] for key in ("epoch", "best", "val", "calibration")
        ]
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    assert log_lines(one) == log_lines(other)
    curves = [EventAccumulator(str(folder)).Reload() for folder in (one, other)]
    assert set(curves[0].Tags()["scalars"]) == set(curves[1].Tags()["scalars"])
    for tag in curves[1].Tags()["scalars"]:
        is_speed = tag.startswith("speed/")
        ours_, theirs_ = ([(p.step, None if is_speed else p.value) for p in curve.Scalars(tag)] for curve in curves)
        assert ours_ == theirs_, tag


def stop_before(step: int, how: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `how` before the `step`-th step, from 1, of the next training."""
    real, count = training.train_one_epoch.__globals__["train_step"], []

    def train_step(*args: Any) -> Any:
        count.append(1)
        if len(count) == step:
            torch.rand(100)  # random numbers that the uninterrupted run never draws
            how()
        return real(*args)

    monkeypatch.setitem(training.train_one_epoch.__globals__, "train_step", train_step)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def terminate_rank_1() -> None:
    if os.environ["RANK"] == "1":
        terminate()


# ---------------------------------------------------------------------------------------------- exact continuation


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and ``output/complete``, a run of two epochs."""
    root = tmp_path_factory.mktemp("complete")
    make_dataset(root)
    assert training.main(arguments(root, *TWO_EPOCHS, "--name", "complete")) == 0
    return root


@pytest.mark.parametrize("step", range(1, 7))
def test_a_stopped_run_continues_from_any_step(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, step: int
) -> None:
    name = f"run{step}"
    argv = arguments(complete, *TWO_EPOCHS, "--name", name)
    last = complete / f"output/{name}/model_last.pth"
    with monkeypatch.context() as patch:
        stop_before(step, terminate, patch)
        assert training.main(argv) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "SIGTERM" in said and f"python training.py --resume_model {last} --gpu_num cpu" in said
    stopped = load_checkpoint(last)
    assert 3 * stopped["epoch"] + stopped["step"] == step  # the step was finished
    assert training.main([*argv, *CONTINUE, "--num_workers", "2"]) == 0
    epoch, done = divmod(step - 1, 3)
    where = f"in epoch {epoch + 1} at step {done + 2} of 3" if done < 2 else f"with the validation of epoch {epoch + 1}"
    assert f"continuing {where}" in capsys.readouterr().out
    assert_same_run(complete / f"output/{name}", complete / "output/complete")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_every_signal_lets_the_step_finish(complete: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number, real, calls = signal.Signals[name], engine.optimizer_step, []

    def optimizer_step(*args: Any) -> None:
        real(*args)
        calls.append(1)
        if len(calls) == 2:  # Adam has taken the step that the state does not count yet
            os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "optimizer_step", optimizer_step)
            code = training.main(arguments(complete, *TWO_EPOCHS, "--name", name))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 128 + number
    assert load_checkpoint(complete / f"output/{name}/model_last.pth")["step"] == 2
    assert training.main(arguments(complete, *TWO_EPOCHS, "--name", name, *CONTINUE)) == 0
    assert_same_run(complete / f"output/{name}", complete / "output/complete")


def test_a_run_under_nohup_ignores_sighup(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_before(2, lambda: os.kill(os.getpid(), signal.SIGHUP), monkeypatch)
        assert training.main(arguments(complete, *TWO_EPOCHS, "--name", "nohup")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_printed_command_continues(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = ("--name", "my run", "--epoch", "2", "--seed", "7", "--checkpoint_blocks")
    assert training.main(arguments(tiny, *run, "--save_path", str(tiny / "complete"))) == 0
    with monkeypatch.context() as patch:
        stop_before(2, terminate, patch)
        assert training.main(arguments(tiny, *run)) == 128 + signal.SIGTERM
    python, script, *argv = shlex.split(capsys.readouterr().err.rpartition("continue with: ")[2])
    assert (python, script) == ("python", "training.py")
    assert training.main(argv) == 0
    assert json.loads((tiny / "output/my run/args.json").read_text())["checkpoint_blocks"] is True
    assert_same_run(tiny / "output/my run", tiny / "complete/my run")


def test_a_second_ctrl_c_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr("utils.world.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    with World("cpu", catch_signals=True) as world:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # torchrun passes on what the terminal has sent already
        assert world.stop == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_checkpoint_is_written_every_15_minutes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minutes, saved, real_step, real_save = [0.0], [], engine.train_step, run_folder.RunFolder.save

    def train_step(*args: Any) -> None:
        minutes[0] += 10
        real_step(*args)

    def save(folder: run_folder.RunFolder, state: Any, *more: Any) -> None:
        saved.append(state.step)
        real_save(folder, state, *more)

    monkeypatch.setattr("run_folder.time", SimpleNamespace(monotonic=lambda: 60 * minutes[0]))
    monkeypatch.setattr(engine, "train_step", train_step)
    monkeypatch.setattr(run_folder.RunFolder, "save", save)
    assert training.main(arguments(tiny, "--name", "run", "--bs", "2", "--save_every_minutes", "15")) == 0
    assert saved == [2, 4, 0]  # of six steps; the last one ends the epoch


def test_the_printed_command_starts_as_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher() == "python"
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert launcher() == "torchrun --nnodes 2 --nproc_per_node 4"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--mixup", "False"],
        ["--balance_loss_method", "hyper", "--lr_schedule", "official"],
        ["--lr_schedule", "official", "--mi_calculator", "w", "--num_workers", "1"],
    ],
    ids=" ".join,
)
def test_settings_continue_exactly(tiny: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    assert training.main(arguments(tiny, *TWO_EPOCHS, *options)) == 0
    (tiny / "output/run").rename(tiny / "complete")
    for step in (2, 3):  # stopped twice: in the first epoch and in the second
        with monkeypatch.context() as patch:
            stop_before(step, terminate, patch)
            assert training.main(arguments(tiny, *TWO_EPOCHS, *options, *CONTINUE)) == 128 + signal.SIGTERM
    assert training.main(arguments(tiny, *TWO_EPOCHS, *options, *CONTINUE)) == 0
    assert_same_run(tiny / "output/run", tiny / "complete")


@pytest.mark.slow
def test_two_processes_continue_exactly(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*more: str) -> list[int]:
        return in_processes(2, lambda: training.main(arguments(tiny, *TWO_EPOCHS, *more)))

    assert train() == [0, 0]
    (tiny / "output/run").rename(tiny / "complete")
    with monkeypatch.context() as patch:
        # One process receives the signal, and both stop after the same step.
        stop_before(2, terminate_rank_1, patch)
        assert train() == [128 + signal.SIGTERM] * 2
    stopped = load_checkpoint(tiny / "output/run/model_last.pth")
    assert (stopped["epoch"], stopped["step"]) == (0, 2)
    assert train(*CONTINUE) == [0, 0]
    assert_same_run(tiny / "output/run", tiny / "complete")


def test_a_stop_during_validation_loses_nothing(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = arguments(complete, *TWO_EPOCHS, "--name", "validation")
    real = training.evaluate

    def evaluate(*args: Any, **options: Any) -> Any:
        terminate()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", evaluate)
        assert training.main(argv) == 128 + signal.SIGTERM
    stopped = load_checkpoint(complete / "output/validation/model_last.pth")
    assert (stopped["epoch"], stopped["step"]) == (0, 3)
    assert training.main([*argv, *CONTINUE]) == 0
    assert_same_run(complete / "output/validation", complete / "output/complete")


@pytest.mark.slow
def test_a_resume_with_another_number_of_processes_continues_at_the_same_image(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        stop_before(2, terminate, patch)
        assert training.main(arguments(tiny, *TWO_EPOCHS)) == 128 + signal.SIGTERM
    codes = in_processes(2, lambda: training.main(arguments(tiny, *TWO_EPOCHS, *CONTINUE)))
    assert codes == [0, 0]
    assert "continuing in epoch 1 at step 3 of 3" in capfd.readouterr().out


# --------------------------------------------------------------------------------------------------- killed at random


def killed_at_random(root: Path, times: int, epochs: int, seed: int) -> int:
    """Start a training `times` times, and kill it at random moments; return how often a checkpoint was half written.

    The moments are spread over the start, which takes about a second, and a few steps with their checkpoints.
    """
    draw, writing = random.Random(seed), 0
    argv = arguments(root, "--name", "run", "--epoch", str(epochs), *EVERY_STEP, *CONTINUE)
    last = root / "output/run/model_last.pth"
    for _ in range(times):
        before = run_folder.modified(last)
        process = start_fork(training.main, argv)
        moment = draw.random()
        if moment < 0.9:  # else killed while it starts
            while process.is_alive() and run_folder.modified(last) == before:
                time.sleep(0.001)
        if moment < 0.3:  # killed while it writes
            while process.is_alive() and not list((root / "output/run").glob(".model_last*.part")):
                pass
        else:
            time.sleep(draw.uniform(0, 0.05 if moment < 0.9 else 0.5))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the training had ended before the kill"
        writing += bool(list((root / "output/run").glob(".model_*.part")))
    return writing


@pytest.mark.slow
def test_a_run_killed_25_times_equals_an_uninterrupted_one(tiny: Path) -> None:
    epochs = ("--epoch", "30")  # of three steps
    assert training.main(arguments(tiny, "--name", "complete", *epochs)) == 0
    assert killed_at_random(tiny, times=25, epochs=30, seed=1) > 0  # while a checkpoint was half written
    assert training.main(arguments(tiny, "--name", "run", *epochs, *EVERY_STEP, *CONTINUE)) == 0
    assert_same_run(tiny / "output/run", tiny / "output/complete")
    assert not list((tiny / "output/run").glob(".*.part"))


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of two epochs, not to be changed."""
    root = tmp_path_factory.mktemp("trained")
    make_dataset(root)
    assert training.main(arguments(root, *TWO_EPOCHS)) == 0
    return root / "output/run"


@pytest.fixture
def finished(tiny: Path, trained: Path) -> Path:
    """A copy of the finished run, in the output folder of the tiny dataset."""
    return Path(shutil.copytree(trained, tiny / "output/run"))


def test_only_the_last_checkpoint_holds_what_continuing_needs(finished: Path) -> None:
    sizes = {name: (finished / f"model_{name}.pth").stat().st_size for name in ("best", "last")}
    assert sizes["best"] < 0.4 * sizes["last"]
    assert "optimizer" in load_checkpoint(finished / "model_last.pth")
    assert "optimizer" not in load_checkpoint(finished / "model_best.pth")


def test_a_crash_between_the_last_two_renames_costs_no_checkpoint(complete: Path) -> None:
    """The last epoch is the best, its ``model_last.pth`` is in place, and its ``model_best.pth`` is not."""
    folder = complete / "output/crashed"
    shutil.copytree(complete / "output/complete", folder)
    (folder / "model_best.pth").unlink()
    (folder / "results.json").unlink()
    assert training.main(arguments(complete, *TWO_EPOCHS, "--name", "crashed", *CONTINUE)) == 0
    best, last = (load_checkpoint(folder / f"model_{name}.pth") for name in ("best", "last"))
    assert all(torch.equal(best["state_dict"][key], value) for key, value in last["state_dict"].items())
    assert "familiar" in best
    assert Path(json.loads((folder / "results.json").read_text())["checkpoint"]).name == "model_best.pth"


def test_a_best_and_last_checkpoint_is_serialised_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = [], torch.save

    def counted(content: Any, file: Any) -> None:
        written.append(set(content))
        save(content, file)

    monkeypatch.setattr(torch, "save", counted)
    assert training.main(arguments(tiny, "--name", "run")) == 0
    saved = [entries for entries in written if "state_dict" in entries]
    assert len([entries for entries in saved if "familiar" not in entries]) == 1  # these are added once, after the end
    last, best = (load_checkpoint(tiny / f"output/run/model_{name}.pth") for name in ("last", "best"))
    torch.testing.assert_close(last["state_dict"], best["state_dict"], rtol=0, atol=0)


def test_continuing_without_optimizer_state_says_what_is_lost(
    tiny: Path, finished: Path, capsys: pytest.CaptureFixture
) -> None:
    more = ("--resume_model", str(finished / "model_best.pth"), "--name", "on", "--epoch", "3")
    assert training.main(arguments(tiny, *more)) == 0
    assert "Adam starts without its moments" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["torn", "altered"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_offered(
    tiny: Path, finished: Path, capsys: pytest.CaptureFixture, how: str
) -> None:
    last, previous = finished / "model_last.pth", finished / "model_previous.pth"
    content = bytearray(last.read_bytes())
    if how == "torn":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert training.main(arguments(tiny, *TWO_EPOCHS, "--resume_model", str(last))) == 2
    said = capsys.readouterr().err
    assert str(last) in said and f"{previous} is intact" in said
    assert training.main(arguments(tiny, *TWO_EPOCHS, *CONTINUE)) == 0
    said = capsys.readouterr().out
    assert str(last) in said and "continuing in epoch 2 at step 1" in said


def test_auto_starts_where_there_is_no_checkpoint(tiny: Path) -> None:
    assert training.main(arguments(tiny, *TWO_EPOCHS, *CONTINUE)) == 0
    assert load_checkpoint(tiny / "output/run/model_last.pth")["epoch"] == 2


@pytest.mark.parametrize("seed", range(3))
def test_any_flipped_bit_is_noticed_or_harmless(finished: Path, seed: int) -> None:
    file, draw = finished / "model_last.pth", random.Random(seed)
    whole, content = load_checkpoint(file), file.read_bytes()
    for _ in range(20):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        try:
            read = load_checkpoint(file)
        except InputError:
            continue
        for entry in ("state_dict", "optimizer", "epoch", "step"):
            torch.testing.assert_close(read[entry], whole[entry], rtol=0, atol=0)


def test_a_full_disk_stops_with_path_and_bytes(
    tiny: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    disk = tiny / "disk"
    disk.mkdir()
    size = 3 * (finished / "model_last.pth").stat().st_size // 1024
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        shutil.copytree(finished, disk / "run", ignore=shutil.ignore_patterns("model_previous.pth", "results.json"))
        free = shutil.disk_usage(disk).free
        (disk / "other").write_bytes(bytes(free))
        before = (disk / "run/model_last.pth").read_bytes()
        more = ("--resume_model", str(disk / "run/model_last.pth"), "--save_path", str(disk), "--epoch", "3")
        assert training.main(arguments(tiny, "--name", "run", *more)) == 2
        said = capsys.readouterr().err
        assert str(disk / "run") in said
        (disk / "other").write_bytes(bytes(free - 200_000))  # room for logs, not for a checkpoint
        assert training.main(arguments(tiny, "--name", "run", *more)) == 2
        said = capsys.readouterr().err
        needed = re.search(r"needs ([\d,]+) bytes", said)
        assert str(disk / "run/model_last.pth") in said and needed is not None
        assert int(needed[1].replace(",", "")) > 100_000
        assert (disk / "run/model_last.pth").read_bytes() == before
        (disk / "other").unlink()
        assert training.main(arguments(tiny, "--name", "run", *more)) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ------------------------------------------------------------------------------------------------- one run per folder


PAIRS = 20


def compete(root: Path, barrier: Any, codes: Any) -> None:
    """Start `PAIRS` trainings, each together with the other process, and put their exit codes."""
    real = run_folder.RunFolder.open

    def open_together(folder: run_folder.RunFolder, state: Any = None) -> None:
        barrier.wait()
        real(folder, state)
        barrier.wait()  # the other has been refused

    training.test = lambda *_: None  # to save time
    setattr(run_folder.RunFolder, "open", open_together)  # noqa: B010  # mypy allows no other assignment
    for pair in range(PAIRS):
        code = training.main(arguments(root, "--name", f"run{pair}", "--bs", "12"))  # one step
        if code:
            barrier.wait()
        codes.put((pair, code))


@pytest.mark.slow
def test_of_two_trainings_started_at_once_one_runs(tiny: Path) -> None:
    context = get_context("fork")
    barrier, codes = context.Barrier(2, timeout=300), context.SimpleQueue()
    processes = [start_fork(compete, tiny, barrier, codes) for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    found = sorted(codes.get() for _ in range(2 * PAIRS))
    assert found == [(pair, code) for pair in range(PAIRS) for code in (0, 2)]
    for pair in range(PAIRS):
        assert load_checkpoint(tiny / f"output/run{pair}/model_last.pth")["epoch"] == 1


def test_a_test_gets_a_folder_of_its_own(tiny: Path, finished: Path) -> None:
    argv = arguments(tiny, "--test", "--resume_model", str(finished / "model_best.pth"))
    assert training.main(argv) == 0
    assert (tiny / "output/run_test/predictions.csv").is_file() and not (tiny / "output/train_model").exists()


def test_overwrite_keeps_the_old_run_until_the_first_checkpoint(
    tiny: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    again = arguments(tiny, *TWO_EPOCHS, "--overwrite", "True", "--seed", "8")

    def crash() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stop_before(2, crash, patch)
        assert training.main(again) == 130
    kept = {file.name: file.read_bytes() for file in finished.iterdir()}
    assert kept.items() >= before.items()
    assert all(name.startswith("events") for name in kept.keys() - before.keys())
    assert training.main(again) == 0
    assert not [name for name in kept if name.startswith("events") and (finished / name).exists()]
    assert load_checkpoint(finished / "model_last.pth")["args"]["seed"] == 8
    assert len(log_lines(finished)) == 2 and (finished / "results.json").read_bytes() != before["results.json"]


def test_a_stop_before_the_first_step_keeps_the_old_run(
    tiny: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in finished.iterdir() if "events" not in file.name}
    real = training.describe

    def describe(*args: Any) -> None:
        real(*args)
        terminate()

    monkeypatch.setattr(training, "describe", describe)
    argv = arguments(tiny, *TWO_EPOCHS, "--overwrite", "True")
    assert training.main(argv) == 128 + signal.SIGTERM
    assert {file.name: file.read_bytes() for file in finished.iterdir() if "events" not in file.name} == before


@pytest.mark.parametrize("change", [("--bs", "2"), ("--seed", "9"), ("--oversample", "2")])
def test_within_an_epoch_the_order_of_the_images_cannot_change(
    complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, change: tuple[str, str]
) -> None:
    argv = arguments(complete, *TWO_EPOCHS, "--name", f"order{change[0]}")
    with monkeypatch.context() as patch:
        stop_before(2, terminate, patch)
        assert training.main(argv) == 128 + signal.SIGTERM
    assert training.main([*argv, *CONTINUE, *change]) == 2
    assert " ".join(change) in capsys.readouterr().err


def test_a_requeued_job_keeps_the_folder_that_a_checkpoint_named(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = pytest.importorskip("submitit.helpers")
    task = SimpleNamespace(master_addr="", master_port=0, rank=0, world_size=1, local_rank=0, local_world_size=1)
    monkeypatch.setattr(helpers, "TorchDistributedEnvironment", lambda: task)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    called: list[list[str]] = []
    monkeypatch.setattr(training, "main", called.append)
    last = complete / "output/complete/model_last.pth"
    job = run_with_submitit.TrainingJob(["--resume_model", str(last)], last)
    job()
    job.submitted = 0  # before the checkpoint
    job()
    assert called[0] == ["--resume_model", str(last)]
    args = TrainingArguments(**vars(Parser("training.py", None, TrainingArguments).parse(called[1])))
    assert (args.name, args.save_path, args.resume_model) == ("complete", complete / "output", Path("auto"))


def test_atomic_writes_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    with atomic_write(tmp_path / "a") as part:
        part.write_text("x")
    assert synced == [str(part), str(tmp_path)]


def test_a_run_that_another_command_has_continued_is_not_overwritten(
    tiny: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Between its start and the lock, another command trains a third epoch."""
    argv, real = arguments(tiny, *TWO_EPOCHS, *CONTINUE, "--epoch", "3"), run_folder.RunFolder.open

    def late(folder: run_folder.RunFolder, state: Any = None) -> None:
        monkeypatch.setattr(run_folder.RunFolder, "open", real)
        assert training.main(argv) == 0
        real(folder, state)

    monkeypatch.setattr(run_folder.RunFolder, "open", late)
    assert training.main(argv) == 2
    assert "another command has just continued" in capsys.readouterr().err
    assert load_checkpoint(finished / "model_last.pth")["epoch"] == 3
