"""Several processes: the loss of the whole batch, shared evaluation, and what they write."""

import csv
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed import run as torchrun

import engine
import training
from analysis import embedding, evidence, robustness
from datasets.images import Batch, FaceImages, make_loader
from datasets.labels import read_split
from datasets.samplers import TrainingBatches
from engine import Objective, train_step
from losses.terms import Logits
from models.backbones import build_network
from models.checkpoints import load_checkpoint, load_trained
from tests.helpers import ROOT, arguments, in_processes, make_dataset, start_fork
from tests.test_interruptions import EVERY_STEP, TWO_EPOCHS, assert_same_run
from train_state import Record, TrainState, make_optimizer
from utils import fast
from utils.devices import core_count, seed_everything
from utils.errors import InputError
from utils.schedule import Schedule
from utils.training_arguments import TrainingArguments
from utils.world import World

# ------------------------------------------------------------------------------------------- the loss of the batch


class InParts(nn.Module):
    """A float64 network that takes the parts of a batch one after the other, as two processes do side by side."""

    def __init__(self, network: nn.Module, parts: int) -> None:
        super().__init__()
        self.network, self.parts = network, parts

    def forward(self, images: Tensor) -> Logits:
        outputs = [self.network(part.double()) for part in images.tensor_split(self.parts)]
        heads = zip(*([o.fused, o.all, *o.leave_one_out] for o in outputs), strict=True)
        fused, all_, *others = (torch.cat(parts) for parts in heads)
        return Logits(fused, all_, others)


def batches(count: int) -> list[Batch]:
    """Batches of six images and a last one of five."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        size = 5 if number == count - 1 else 6
        images = torch.randint(0, 256, (size, 3, 32, 32), generator=draw, dtype=torch.uint8)
        found.append(Batch(images, torch.arange(size) % 2, torch.arange(size), []))
    return found


def train(
    parts: int, gpu: str = "cpu", steps: int = 10, **options: Any
) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Take steps in float64; return their losses, with the epoch's means last, and the first step's gradients."""
    args = TrainingArguments(lr=1e-3, seed=3, **options)
    seed_everything(0)
    network = build_network("tiny_cnn", 2, 32)
    network.freeze_unused_heads(args.lil_loss, args.gil_loss)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the processes draw different masks
    network = convert_sync_batchnorm(network) if args.sync_bn else network
    with World(gpu) as world:
        objective = Objective(InParts(network, parts), args, world).double().to(world.device).train()
        state: Any = SimpleNamespace(
            args=args, world=world, model=world.wrap(objective),
            schedule=Schedule("cosine", 1, steps, {}), channels="RGB",
            optimizer=make_optimizer(objective.network, objective.balance, args.lr, args.weight_decay),
            epoch=0, step=0, record=Record(), scaler=GradScaler(enabled=False),
        )  # fmt: skip
        gradients: dict[str, np.ndarray] = {}
        for batch in batches(steps):
            mine = Batch(*(world.share(part) for part in batch))
            train_step(state, mine, world.handshake(len(mine.labels)))
            state.step += 1
            if not gradients:
                found = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
                gradients = {name: gradient.cpu().numpy().copy() for name, gradient in found.items()}
        state.record.read(0, state.step)
    images = sum(map(len, state.record.labels))
    return [*state.record.losses, {**state.record.means(), **state.record.metrics(), "images": images}], gradients


NAMES = ("mi_calculator", "balance_loss_method", "mixup")
CASES: list[dict[str, Any]] = [  # every pair of values occurs
    dict(zip(NAMES, values, strict=True))
    for values in (("kl", "auto", True), ("kl", "hyper", False), ("w", "auto", False), ("w", "hyper", True))
]
CASES.append({"lil_loss": False, "gil_loss": False})


# The step of one batch is the uneven one: five images.
@pytest.mark.parametrize("steps", [10, 1])
@pytest.mark.parametrize("options", CASES, ids=lambda options: " ".join(map(str, options.values())))
def test_two_processes_take_the_step_of_one_that_passes_two_halves(options: dict[str, Any], steps: int) -> None:
    expected, expected_gradients = train(2, steps=steps, **options)
    for losses, gradients in in_processes(2, lambda: train(1, steps=steps, **options)):
        for ours, theirs in zip(losses, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-8, abs=0)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            assert abs(gradient - expected_gradients[name]).max() <= 1e-11 * abs(expected_gradients[name]).max(), name


@pytest.mark.parametrize("options", [{"mi_calculator": "kl", "mixup": True}, {"mi_calculator": "w", "mixup": False}])
def test_micro_batches_take_the_step_of_one_that_passes_two_halves(options: dict[str, Any]) -> None:
    expected, expected_gradients = train(2, **options)
    losses, gradients = train(1, accumulate=2, **options)
    for ours, theirs in zip(losses, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-8, abs=0)
    for name, gradient in gradients.items():
        assert abs(gradient - expected_gradients[name]).max() <= 1e-11 * abs(expected_gradients[name]).max(), name


def test_several_gpus_without_torchrun_share_a_batch_in_one_process() -> None:
    world = World("cpu")
    world.devices = [torch.device("cpu")] * 2
    network = nn.Linear(1, 1)
    assert isinstance(world.wrap_network(network), nn.DataParallel)
    assert world.wrap(network) is network


@pytest.mark.parametrize(("steps", "compiled"), [(1999, 0), (2000, 2)])
@pytest.mark.parametrize("more", [{}, {"checkpoint_blocks": True}, {"accumulate": 2}])
def test_a_long_training_on_one_gpu_is_compiled(
    monkeypatch: pytest.MonkeyPatch, steps: int, compiled: int, more: dict[str, Any]
) -> None:
    found: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: found.append(module))
    args = TrainingArguments(model="tiny_cnn", num_LIBs=2, size=32, pretrained=False, precision="fp32", epoch=1, **more)
    TrainState(args, None, steps, World("cpu"))
    assert not found
    compile_modules = World.compile

    def on_gpu(world: World, modules: Any, left: int) -> None:
        world.device = torch.device("cuda", 0)
        compile_modules(world, modules, left)

    monkeypatch.setattr(World, "compile", on_gpu)
    state = TrainState(args, None, steps, World("cpu"))
    assert found == state.network.backbones()[: 0 if more else compiled]


@pytest.mark.parametrize(
    ("variables", "numbers"),
    [
        ({}, [0, 1]),  # DataParallel
        ({"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": 1, "LOCAL_RANK": 1}, [1]),
        ({"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "RANK": 2, "LOCAL_RANK": 0}, [0]),  # the second of two machines
    ],
)
def test_each_process_of_torchrun_takes_one_gpu(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, int], numbers: list[int]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    for gpu_num in ("0,1", None):
        assert World(gpu_num).devices == [torch.device("cuda", number) for number in numbers]
    if variables:
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(InputError, match="share 2 GPUs"):
            World("0,1")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds threads to cores")
@pytest.mark.parametrize("more_threads", [-1, 0, 1])
def test_a_training_binds_its_threads_if_there_is_one_per_core(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, more_threads: int
) -> None:
    every = sorted(os.sched_getaffinity(0))
    found: dict[str, list[list[int]]] = {}

    def watch(name: str) -> None:
        def watched(*args: Any, **kwargs: Any) -> Any:
            threads = [int(thread) for thread in os.listdir("/proc/self/task") if int(thread) != os.getpid()]
            workers = [worker.pid for worker in multiprocessing.active_children()]
            found[name] = [sorted(os.sched_getaffinity(number or 0)) for number in (os.getpid(), *workers)]
            found[f"{name}, threads"] = [sorted(os.sched_getaffinity(thread)) for thread in threads]
            return original(*args, **kwargs)

        original = getattr(training if name == "evaluate" else engine, name)
        monkeypatch.setattr(training if name == "evaluate" else engine, name, watched)

    real_parse = training.parse_arguments

    def parse(argv: list[str] | None) -> Any:
        torch.ones(1 << 20).add_(1)  # as the check of a large checkpoint
        return real_parse(argv)

    def run() -> Any:
        torch.set_num_threads(max(1, len(every) + more_threads))
        monkeypatch.setattr(training, "parse_arguments", parse)
        watch("train_step")
        watch("evaluate")
        code = training.main(arguments(tiny, "--num_workers", "1"))
        return code, sorted(os.sched_getaffinity(0)), found

    ((code, after, found),) = in_processes(1, run)
    assert code == 0
    assert after == every
    main, loader = found["train_step"]
    assert loader == found["evaluate"][0] == every
    bound = [main, *(cores for cores in found["train_step, threads"] if cores != every)]
    assert sorted(bound) == ([every] if more_threads else [[core] for core in every])
    assert all(cores == every for cores in found["evaluate, threads"])


def test_a_training_needs_no_permission_to_bind_threads(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        asked.append(1)
        raise PermissionError(1, "Operation not permitted")

    def run() -> Any:
        torch.set_num_threads(core_count())
        monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)
        return training.main(arguments(tiny)), len(asked)

    asked: list[int] = []
    ((code, refused),) = in_processes(1, run)
    assert code == 0 and (refused or sys.platform != "linux")


@pytest.mark.parametrize("size", [2, 3])
def test_the_order_does_not_depend_on_the_number_of_processes(size: int) -> None:
    def steps(rank: int, size: int) -> list[list[tuple[int, int]]]:
        world = World("cpu")
        world.rank, world.size = rank, size
        batches = TrainingBatches(20, 6, 1, world)
        batches.first_step = 2
        return list(batches)

    shares = zip(*(steps(rank, size) for rank in range(size)), strict=True)
    assert [sum(parts, []) for parts in shares] == steps(0, 1)
    assert len(steps(0, 1)) == 2  # steps 3 and 4 of four


# ---------------------------------------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose images two processes cannot share evenly, and ``output/run``, trained on it."""
    root = tmp_path_factory.mktemp("trained")
    make_dataset(root, videos=3, frames=3)
    (root / "faces/tiny/test/fake/000/0002.png").unlink()
    assert training.main(arguments(root, "--name", "run")) == 0
    return root


def rows(file: Path) -> list[list[str]]:
    with file.open(newline="") as lines:
        return list(csv.reader(lines))


def test_two_processes_test_like_one(trained: Path, capfd: pytest.CaptureFixture) -> None:
    model = ("--test", "--resume_model", str(trained / "output/run/model_best.pth"), "--test_bs", "3")
    assert training.main(arguments(trained, *model, "--name", "one")) == 0
    capfd.readouterr()
    assert in_processes(2, lambda: training.main(arguments(trained, *model, "--name", "two"))) == [0, 0]
    assert capfd.readouterr().out.count("video AUC") == 1  # rank 0 alone prints
    one, two = (rows(trained / f"output/{name}/predictions.csv") for name in ("one", "two"))
    assert len(one) == 18 and [row[:3] for row in one] == [row[:3] for row in two]
    assert [float(row[3]) for row in two[1:]] == pytest.approx([float(row[3]) for row in one[1:]], abs=1e-6)
    one, two = (json.loads((trained / f"output/{name}/results.json").read_text()) for name in ("one", "two"))
    assert two["datasets"]["tiny"]["frames"] == 17
    assert one["run"].pop("date") and two["run"].pop("date")
    assert_close(two, one)


def test_two_processes_report_the_weights_that_they_save(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has batch statistics of its own; validation and test use those of rank 0, which saves them."""
    aucs = iter([0.9, 0.6])  # the first epoch is the best, so the test does not use the last weights
    real = training.binary_metrics
    monkeypatch.setattr(training, "binary_metrics", lambda *given: {**real(*given), "auc": next(aucs)})
    assert in_processes(2, lambda: training.main(arguments(trained, *TWO_EPOCHS, "--name", "saved"))) == [0, 0]
    saved, again = trained / "output/saved", trained / "output/again"
    network, last = load_trained(saved / "model_last.pth")
    faces, world = FaceImages(read_split("tiny", "val", trained / "labels", trained / "faces"), 32), World("cpu")
    loader = make_loader(faces, 16, 0, world)
    _, scores = engine.evaluate(
        network, loader, world, channels="RGB", bad_images=engine.BadImages(False), title="validation"
    )
    assert last["val"]["log_loss"] == pytest.approx(real(faces.labels, scores)["log_loss"], abs=1e-6)
    model = ("--test", "--resume_model", str(saved / "model_best.pth"), "--name", "again")
    assert load_checkpoint(saved / "model_best.pth")["epoch"] == 1 and training.main(arguments(trained, *model)) == 0
    ours, theirs = ([float(row[3]) for row in rows(folder / "predictions.csv")[1:]] for folder in (saved, again))
    assert ours == pytest.approx(theirs, abs=1e-6)


def assert_close(found: Any, expected: Any) -> None:
    """Assert that two JSON values are equal, numbers within 1e-4."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs)
    else:
        assert found == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "more"), [(robustness, ["--corruptions", "noise"]), (embedding, ["--method", "pca"]), (evidence, [])]
)
def test_two_processes_study_like_one(trained: Path, study: Any, more: list[str]) -> None:
    model = trained / "output/run/model_best.pth"
    data = ("--dataset", "tiny", "--dataset_root", trained / "labels", "--data_root", trained / "faces")
    argv = [str(part) for part in ("--model", model, *data, "--gpu_num", "cpu", "--num_workers", "0", *more)]
    folders = [trained / f"{study.__name__}_of_{size}" for size in (1, 2)]
    assert study.main([*argv, "--save_path", str(folders[0])]) == 0
    assert in_processes(2, lambda: study.main([*argv, "--save_path", str(folders[1])])) == [0, 0]
    one, two = (json.loads(next(folder.glob("study_*.json")).read_text())["numbers"] for folder in folders)
    assert_close(two, one)


def score_and_count(root: Path, model: Path) -> tuple[int, int]:
    """Test a checkpoint; return the exit code and the number of networks that were converted for OpenVINO."""
    convert, used = fast.convert, []
    test = ("--test", "--resume_model", str(model), "--name", f"of{os.environ.get('WORLD_SIZE', 1)}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "convert", lambda *given: used.append(given) or convert(*given))
        return training.main(arguments(root, *test)), len(used)


@pytest.mark.slow
def test_two_processes_test_like_one_with_openvino(trained: Path, tmp_path: Path) -> None:
    """OpenVINO scores sets of more than 200 images: here 201, of which one process scores 101 and the other 100."""
    pytest.importorskip("openvino")
    make_dataset(tmp_path, videos=1, frames=101)
    (tmp_path / "faces/tiny/test/fake/000/0100.png").unlink()
    score = partial(score_and_count, tmp_path, trained / "output/run/model_best.pth")
    # If an earlier test has used OpenVINO in this process, a fork would wait forever for OpenVINO's threads, which it
    # does not have. New interpreters do not.
    assert in_processes(2, score, machines="openvino" in sys.modules) == [(0, 1)] * 2
    assert score() == (0, 1)
    one, two = (rows(tmp_path / f"output/of{size}/predictions.csv") for size in (1, 2))
    assert len(one) == 202 and [row[:3] for row in one] == [row[:3] for row in two]
    assert [float(row[3]) for row in two[1:]] == pytest.approx([float(row[3]) for row in one[1:]], abs=1e-6)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--bs", "5"], ("--bs 5", "multiple of 2", "such as 6")),
        (["--bs", "2"], ("--bs 2", "single image")),
        (["--sync_bn", "True"], ("--sync_bn", "GPUs")),
    ],
)
def test_arguments_that_two_processes_cannot_share(
    trained: Path, capfd: pytest.CaptureFixture, more: list[str], says: tuple[str, ...]
) -> None:
    assert in_processes(2, lambda: training.main(arguments(trained, "--name", "refused", *more))) == [2, 2]
    said = capfd.readouterr().err
    assert all(text in said for text in says)
    assert not (trained / "output/refused").exists()


def test_images_that_any_process_skips_are_listed(trained: Path, capfd: pytest.CaptureFixture) -> None:
    image = trained / "faces/tiny/test/fake/002/0002.png"  # of the second process
    content = image.read_bytes()
    image.write_bytes(b"")
    model = ("--test", "--resume_model", str(trained / "output/run/model_best.pth"), "--skip_bad_images")
    try:
        assert in_processes(2, lambda: training.main(arguments(trained, *model, "--name", "skipped"))) == [0, 0]
    finally:
        image.write_bytes(content)
    assert str(image) in capfd.readouterr().out


def test_processes_that_read_different_checkpoints_are_refused(trained: Path, capfd: pytest.CaptureFixture) -> None:
    """Without a shared disk, one process starts and the other continues."""

    def train() -> int:
        folder = "output" if os.environ["RANK"] == "0" else "elsewhere"
        more = ("--name", "run", "--epoch", "2", "--resume_model", "auto", "--save_path", str(trained / folder))
        return training.main(arguments(trained, *more))

    before = (trained / "output/run/model_last.pth").read_bytes()
    assert in_processes(2, train) == [2, 2]
    assert "share" in capfd.readouterr().err
    assert (trained / "output/run/model_last.pth").read_bytes() == before


def test_rank_0_alone_writes(trained: Path) -> None:
    def train() -> int:
        folder = trained / f"of_rank_{os.environ['RANK']}"
        return training.main(arguments(trained, "--name", "run", "--save_path", str(folder), *EVERY_STEP))

    assert in_processes(2, train) == [0, 0]
    assert (trained / "of_rank_0/run/results.json").is_file() and not (trained / "of_rank_1").exists()


@pytest.mark.slow
def test_when_a_process_dies_the_others_end_and_the_checkpoint_stays(trained: Path) -> None:
    argv = arguments(trained, "--name", "dies", "--epoch", "1000", "--model", "test_resnet")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    with subprocess.Popen(
        [*torchrun, str(ROOT / "training.py"), *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("epoch 2/"):
                break
        ranks = [int(pid) for pid in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()]
        victims = [pid for pid in ranks if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(victims[0], signal.SIGKILL)
        _, error = run.communicate(timeout=60)
    assert run.returncode != 0 and re.search(r"rank\s*:\s*1 ", error)
    last = trained / "output/dies/model_last.pth"
    assert f"--resume_model {last}" in error, error
    assert load_checkpoint(last)["epoch"] >= 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


# ---------------------------------------------------------------------------------------------- torchrun


def start_torchrun(options: str, *argv: str) -> Any:
    """Start torchrun with training.py, all in forks of this process, which import nothing again."""
    program = ["--start_method", "fork", "--run_path", str(ROOT / "training.py")]
    with pytest.MonkeyPatch.context() as patch:
        # torchrun names its caller in each log entry, which is slow in the deep stack of a test.
        patch.setattr("torch.distributed.elastic.rendezvous.dynamic_rendezvous.get_method_name", str, raising=False)
        return start_fork(torchrun.main, [*options.split(), *program, *argv])


def exit_codes(runs: list[Any]) -> list[int]:
    """Wait for processes up to a minute, and kill those that have not ended."""
    for run in runs:
        run.join(60)
        run.kill()
        run.join()
    return [run.exitcode for run in runs]


def in_second_epoch(action: Callable[[World], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `action` in rank 1 before the second step of the second epoch."""

    def train_step(state: Any, batch: Batch, counts: list[int]) -> None:
        if (state.world.rank, state.epoch, state.step) == (1, 1, 1):
            action(state.world)
        real_step(state, batch, counts)

    real_step = engine.train_step
    monkeypatch.setattr(engine, "train_step", train_step)


@pytest.fixture(scope="module")
def complete(trained: Path) -> Path:
    """``output/complete``, a run of two processes over two epochs."""
    assert in_processes(2, lambda: training.main(arguments(trained, *TWO_EPOCHS, "--name", "complete"))) == [0, 0]
    return trained / "output/complete"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_stops_after_a_step(
    trained: Path, complete: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, how: signal.Signals
) -> None:
    def signal_torchrun(world: World) -> None:
        os.kill(os.getppid(), how)
        while not world.stop:  # until torchrun has passed the signal on
            time.sleep(0.01)

    argv = arguments(trained, *TWO_EPOCHS, "--name", how.name)
    last = trained / f"output/{how.name}/model_last.pth"
    with monkeypatch.context() as patch:
        in_second_epoch(signal_torchrun, patch)
        assert exit_codes([start_torchrun("--standalone --nproc_per_node 2", *argv)]) == [1]
    said = capfd.readouterr().err
    assert f"stopped by {how.name}" in said and f"--resume_model {last}" in said
    stopped = load_checkpoint(last)
    assert (stopped["epoch"], stopped["step"]) == (1, 2)
    assert in_processes(2, lambda: training.main([*argv, "--resume_model", "auto"])) == [0, 0]
    assert_same_run(last.parent, complete)


@pytest.mark.slow
def test_two_machines_with_torchrun_each(
    trained: Path, complete: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """One process is killed; both torchruns end, and a second start completes the run of one torchrun."""

    def train() -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = f"--rdzv_backend c10d --rdzv_id run --rdzv_endpoint localhost:{free.getsockname()[1]}"
        options = f"--nnodes 2 --nproc_per_node 1 --local_addr 127.0.0.1 {where}"
        argv = arguments(trained, *TWO_EPOCHS, "--name", "machines", "--resume_model", "auto")
        return exit_codes([start_torchrun(options, *argv) for _ in range(2)])

    with monkeypatch.context() as patch:
        in_second_epoch(lambda _: os.kill(os.getpid(), signal.SIGKILL), patch)
        assert train() == [1, 1]
    said = capfd.readouterr().err
    assert re.search(r"rank\s*:\s*1 .*\n *exitcode\s*:\s*-9 ", said), said
    assert f"--resume_model {trained}/output/machines/model_last.pth" in said
    assert train() == [0, 0]
    assert_same_run(trained / "output/machines", complete)
