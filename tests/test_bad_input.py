"""Wrong input: one sentence on standard error, exit code 2, and no incomplete files."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import torch

import engine
import training
from datasets.images import FaceImages
from docs.generate import COMMANDS
from models.checkpoints import load_checkpoint
from models.lib_network import LIBNetwork
from tests.helpers import Run, arguments, make_dataset
from utils.command import run_command
from utils.errors import InputError

REAL = "tiny/train/real/000"  # the folder of the first line of train_real.txt
Refused = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes | None] | None:
    """Return the content of every file below `folder`, None for a subfolder; None if `folder` is missing."""
    if not folder.exists():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def check(root: Path, before: dict | None, code: int, err: str, says: tuple[str, ...], started: bool) -> str:
    """Assert what all errors have in common, and return the message.

    A command that `started` has made its folder and shown progress bars; it must keep all earlier files.
    """
    lines = [line.strip() for line in err.replace("\r", "\n").splitlines() if line.strip()]
    after = contents(root / "output")
    assert code == 2, err
    assert "Traceback" not in err and lines[-1].startswith("training.py: error: "), err
    if started:
        assert all(after[name] == content for name, content in (before or {}).items())
    else:
        assert len(lines) == 1, err
        assert after == before
    assert not [name for name in after or () if name.endswith(".part")]
    assert not re.search(r"[\w'] Give ", lines[-1]), f"two sentences without a stop: {lines[-1]}"
    for words in says:
        assert words in lines[-1], f"no '{words}' in: {lines[-1]}"
    return lines[-1]


@pytest.fixture
def refused(tiny: Path, capsys: pytest.CaptureFixture) -> Refused:
    """Run training.py on the tiny dataset in this process; assert that it fails with an input error."""

    def run(*more: Any, says: tuple[str, ...] = (), started: bool = False) -> str:
        before = contents(tiny / "output")
        capsys.readouterr()
        code = training.main(arguments(tiny, *map(str, more)))
        return check(tiny, before, code, capsys.readouterr().err, says, started)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of two epochs."""
    root = tmp_path_factory.mktemp("trained")
    make_dataset(root)
    assert training.main(arguments(root, "--epoch", "2", "--name", "run")) == 0
    return root / "output" / "run"


# ------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--modle resnet", ("--modle", "'--model'")),
        ("--model resnet18x", ("'resnet18x'", "'resnet18'")),
        ("--model zzzzqqqq", ("'zzzzqqqq'", "resnet, efficientnet, mobilenet")),
        ("--model resnet34.tv_in2k", ("'tv_in2k'", "'tv_in1k'")),
        ("--dataset tinny", ("'tinny'", "'tiny'")),
        ("--dataset tiny,tiny", ("--dataset", "'tiny,tiny'")),
        ("--dataset_root nowhere", ("nowhere", "--dataset_root")),
        ("--data_root nowhere", ("4 of the 4 folders", "nowhere", REAL)),
        ("--mi_calculator KL", ("'KL'", "'kl'")),
        ("--lr_schedule cosin", ("'cosin'", "'cosine'")),
        ("--oversample some", ("--oversample", "'some'", "paper", "auto")),
        ("--mixup yes", ("--mixup", "'yes'", "True", "False")),
        ("--test 1", ("--test", "'1'", "True", "False")),
        ("--scales 1,2", ("--scales", "'1,2'", "1,2,10")),
        ("--scales [1,2,nan]", ("--scales", "nan")),
        ("--lr nan", ("--lr", "'nan'")),
        ("--lr", ("--lr", "expected one argument")),
        ("--epoch 1.5", ("--epoch", "'1.5'")),
        pytest.param(f"--epoch {'9' * 400}", ("--epoch",), id="--epoch of 400 digits"),
        ("--bs 1", ("--bs", "from 2")),
        ("--num_LIBs 0", ("--num_LIBs",)),
        ("--num_LIBs 1", ("--num_LIBs 1", "--lil_loss False")),
        ("--name ../x", ("--name", "'../x'", "plain folder name")),
        ("--gpu_num gpu", ("--gpu_num", "'gpu'", "cpu")),
        ("--test True", ("--test", "--resume_model")),
        ("--batch_size 8", ("--batch_size", "'--bs'")),
        ("--batch-size 8", ("--batch-size", "'--bs'")),
        ("--batchsize 8", ("--batchsize", "'--bs'")),
        ("--resume_model no.pth", ("no.pth", "--resume_model")),
        ("--pretrained no.pth", ("no.pth", "--pretrained", "True, False")),
        ("--model test_vit --size 100", ("test_vit", "--size 100")),
        ("--model maxvit_pico_rw_256 --size 7", ("maxvit_pico_rw_256", "--size 7")),
        ("--size 1", ("--size",)),
    ],
)
def test_arguments(refused: Refused, argv: str, says: tuple[str, ...]) -> None:
    refused(*argv.split(" "), says=says)


def test_the_missing_folder_is_named(refused: Refused, tiny: Path) -> None:
    (tiny / "empty").mkdir()
    for folder, dataset_is_missing in (("empty", True), ("nowhere", False)):
        said = refused("--dataset_root", tiny / folder, says=(folder, "--dataset_root"))
        assert ("'tiny'" in said) is dataset_is_missing


def test_no_gpu(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("--gpu_num", "0", says=("--gpu_num 0", "CUDA", "cpu"))


def test_a_real_process(command: Run, tiny: Path) -> None:
    done = command("--dataset", "Celeb")
    assert done.stdout == ""
    check(tiny, None, done.returncode, done.stderr, ("'Celeb'", "tiny"), started=False)


# --------------------------------------------------------------------------------------------------- output folder


def test_output_folder_of_another_run(refused: Refused, tiny: Path, trained: Path) -> None:
    shutil.copytree(trained, tiny / "output" / "run")
    says = ("holds another run", "--overwrite", "--name")
    refused("--name", "run", says=says)
    refused("--name", "run", "--test", "True", "--resume_model", trained / "model_last.pth", says=says)
    # Even with --overwrite, a command that cannot start keeps the old files.
    refused("--name", "run", "--overwrite", "True", "--data_root", "nowhere", says=("nowhere",))


def test_save_path_is_a_file(refused: Refused, tiny: Path) -> None:
    refused("--save_path", tiny / "labels/tiny/train_real.txt", says=("train_real.txt", "cannot be written"))
    (tiny / "output").mkdir()
    (tiny / "output/taken").write_text("mine")
    refused("--name", "taken", says=("taken is a file",))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_save_path_is_read_only(refused: Refused, tiny: Path) -> None:
    (tiny / "output").mkdir(mode=0o555)
    refused(says=("output", "Permission denied"))


# ----------------------------------------------------------------------------------------------------------- labels


LABELS = {
    "missing": (None, ("there is no label file",)),
    "empty": ("", ("empty",)),
    "blank": (" \n\n", ("empty",)),
    "two fields": (f"0,{REAL},3\n0,{REAL}\n", ("line 2", "2 fields")),
    "twelve bad lines": (f"0,{REAL},3\n" + "0,x\n" * 12, ("12 bad lines", "line 2:", "line 11:", "2 more")),
    "contradicts the name": (f"1,{REAL},3\n", ("line 1", "contradicts the file name", "real")),
    "a word for a label": (f"real,{REAL},3\n", ("line 1", "'real'")),
    "a word for a count": (f"\n0,{REAL},three\n", ("line 2", "'three'")),
    "endless count": (f"0,{REAL},{'9' * 5000}\n", ("line 1",)),
    "no path": ("0,,3\n", ("line 1", "path")),
    "twice": (f"0,{REAL},3\n0,{REAL},3\n", ("listed twice", "train_real.txt", REAL)),
    "twice, spelt otherwise": (f"0,{REAL},3\n0,./{REAL}/,3\n", (REAL,)),
    "NUL": ("0,a\0b,3\n", ("line 1",)),
    "latin-1": (f"0,{REAL},3\n0,tiny/caf\xe9,3\n".encode("latin-1"), ("UTF-8", "line 2")),
    "utf-16": (f"0,{REAL},3\n".encode("utf-16"), ("UTF-8",)),
    "no such folder": (f"0,{REAL},3\n0,gone,3\n", ("1 of the 4 folders", "are missing", "gone")),
    "a file for a folder": (f"0,{REAL}/0000.png,3\n", ("1 of the 3 folders", "0000.png")),
}


@pytest.mark.parametrize("case", LABELS)
def test_label_files(refused: Refused, tiny: Path, case: str) -> None:
    content, says = LABELS[case]
    file = tiny / "labels/tiny/train_real.txt"
    file.unlink()
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(says=("train_real", *says))


@pytest.mark.parametrize("hidden", [False, True])
def test_folder_without_images(refused: Refused, tiny: Path, hidden: bool) -> None:
    for file in (tiny / "faces" / REAL).iterdir():
        file.rename(file.with_name("._" + file.name)) if hidden else file.unlink()
    refused(says=("1 of the 4 folders", "have no images", REAL))


@pytest.mark.parametrize("spelling", ["{real}", "{real}/", "{root}/faces/{real}"])
@pytest.mark.parametrize(("file", "label"), [("val_real", 0), ("test_fake", 1), ("train_fake", 1)])
def test_a_folder_in_two_places(refused: Refused, tiny: Path, file: str, label: int, spelling: str) -> None:
    with (tiny / f"labels/tiny/{file}.txt").open("a") as lines:
        lines.write(f"{label},{spelling.format(real=REAL, root=tiny)},3\n")
    refused(says=(REAL, "train", file.split("_")[0]))


@pytest.mark.parametrize("files", [["val_fake.txt"], ["test_real.txt", "test_fake.txt"]])
def test_empty_splits(refused: Refused, tiny: Path, files: list[str]) -> None:
    for file in files:
        (tiny / "labels/tiny" / file).write_text("")
    refused(says=(*files, "empty"))


@pytest.mark.parametrize("final", [False, True])
def test_a_test_set_of_one_class(tiny: Path, trained: Path, capsys: pytest.CaptureFixture, final: bool) -> None:
    (tiny / "labels/tiny/test_real.txt").write_text("")
    more = () if final else ("--test", "True", "--resume_model", str(trained / "model_last.pth"))
    assert training.main(arguments(tiny, "--name", "one", *more)) == 0
    results = json.loads((tiny / "output/one/results.json").read_text())["datasets"]["tiny"]
    undefined = {"auc", "ap", "eer", "tpr_at_fpr_0.01", "tpr_at_fpr_0.1", "auc_interval"}
    assert {n for n, v in results.items() if v is None} == undefined | {f"video_{n}" for n in undefined}
    assert re.search(r"warning: .*\btiny\b", capsys.readouterr().err)


# ----------------------------------------------------------------------------------------------------------- images


def corrupt(folder: Path, ending: str, how: str) -> Path:
    """Replace the first image by one that cannot be read."""
    (folder / "0000.png").unlink()
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    data = cv2.imencode(ending, image)[1].tobytes()
    file = folder / f"0000{ending}"
    if how == "dangling":
        file.symlink_to("nowhere.png")
    else:
        file.write_bytes({"empty": b"", "text": b"not an image\n", "truncated": data[: len(data) * 3 // 4]}[how])
    return file


@pytest.mark.parametrize(
    ("ending", "how"),
    [*((e, h) for e in (".png", ".jpg") for h in ("empty", "text", "truncated")), (".png", "dangling")],
)
def test_unreadable_image(refused: Refused, tiny: Path, trained: Path, ending: str, how: str) -> None:
    shutil.copytree(trained, tiny / "output" / "before")
    file = corrupt(tiny / "faces" / REAL, ending, how)
    refused(says=(str(file), "--skip_bad_images"), started=True)


def test_unreadable_image_in_a_worker_process(tiny: Path, capfd: pytest.CaptureFixture) -> None:
    file = corrupt(tiny / "faces/tiny/val/fake/001", ".jpg", "truncated")
    code = training.main(arguments(tiny, "--num_workers", "2"))
    check(tiny, None, code, capfd.readouterr().err, (str(file), "--skip_bad_images"), started=True)


def test_unreadable_images_are_skipped_and_listed(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    bad = [
        corrupt(tiny / "faces" / REAL, ".png", "truncated"),
        corrupt(tiny / "faces/tiny/val/fake/001", ".jpg", "truncated"),
        corrupt(tiny / "faces/tiny/test/real/000", ".png", "empty"),
    ]
    assert training.main(arguments(tiny, "--skip_bad_images", "True")) == 0
    said = capsys.readouterr().out
    assert sum(map(int, re.findall(r"\((\d+) so far\)", said))) == 3
    assert all(str(file) in said for file in bad)
    results = json.loads((tiny / "output/train_model/results.json").read_text())["datasets"]["tiny"]
    assert results["frames"] == 11


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_all_images_are_unreadable(refused: Refused, tiny: Path, split: str) -> None:
    for file in (tiny / "faces/tiny" / split).rglob("*.png"):
        file.write_bytes(b"")
    refused("--skip_bad_images", "True", says=("read",), started=True)


# ------------------------------------------------------------------------------------------------------ checkpoints


class Bomb:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> tuple:
        return open, (self.file, "w")


@pytest.fixture(scope="session")
def garbage(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are not checkpoints; some are not weights files either."""
    folder = tmp_path_factory.mktemp("garbage")
    good = torch.load(trained / "model_last.pth")
    bomb = Bomb(folder / "exploded")
    for name, content in {
        "list": [1, 2],
        "numbered": {"state_dict": {1: torch.ones(1)}, "epoch": 1},
        "bomb": {"state_dict": bomb, "epoch": 1},
        "no_state_dict": {"model": 1},
        "no_epoch": {"state_dict": {"a": torch.ones(1)}},
        "words_for_args": {**good, "args": "x"},
        "no_channels": {key: value for key, value in good.items() if key != "channels"},
    }.items():
        torch.save(content, folder / name)
    torch.save(good["state_dict"], folder / "old", _use_new_zipfile_serialization=False)
    for name, content in {
        "empty": b"",
        "text": b"hello\n",
        "bracket": b"(see README)\n",  # "(" is a pickle opcode
        "junk": b"junk",
        "truncated": (trained / "model_last.pth").read_bytes()[:100_000],
        "old_truncated": (folder / "old").read_bytes()[:18],
        "raw_bomb": pickle.dumps({"state_dict": bomb}),
    }.items():
        (folder / name).write_bytes(content)
    return folder


NO_WEIGHTS = "empty text bracket junk truncated old_truncated list numbered bomb raw_bomb".split()


@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("kind", [*NO_WEIGHTS, "no_state_dict", "no_epoch", "words_for_args", "no_channels"])
def test_file_is_not_a_checkpoint(refused: Refused, garbage: Path, kind: str, test: bool) -> None:
    says = ("--resume_model", str(garbage / kind), "checkpoint")
    refused("--resume_model", garbage / kind, "--test", test, "--epoch", 3, says=says)
    assert not (garbage / "exploded").exists()


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_file_is_not_a_weights_file(refused: Refused, garbage: Path, kind: str) -> None:
    warned = pytest.warns(UserWarning, match="pickle protocol") if kind == "raw_bomb" else nullcontext()  # by PyTorch
    with warned:
        refused("--pretrained", garbage / kind, says=("--pretrained", str(garbage / kind), "not a weights file"))
    assert not (garbage / "exploded").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("--model mobilenet", ("--model mobilenet", "--model tiny_cnn")),
        ("--num_LIBs 3", ("--num_LIBs 3", "--num_LIBs 2")),
        ("--size 64 --test True", ("--size 64", "--size 32")),
        ("--balance_loss_method hyper", ("--balance_loss_method hyper", "--balance_loss_method auto")),
        ("--epoch 1", ("--epoch 1", "2")),
    ],
)
def test_an_argument_contradicts_the_checkpoint(
    refused: Refused, trained: Path, argv: str, says: tuple[str, ...]
) -> None:
    refused("--resume_model", trained / "model_last.pth", "--epoch", 3, *argv.split(), says=("model_last.pth", *says))


def test_another_network(refused: Refused, tiny: Path) -> None:
    file = tiny / "other.pth"
    torch.save({"state_dict": {"linear.1.weight": torch.ones(3)}, "epoch": 1}, file)
    refused("--resume_model", file, says=("--resume_model", "another network", "--model"))
    refused("--pretrained", file, says=("--pretrained", str(file), "another network", "tiny_cnn"))


def test_the_best_checkpoint_is_broken(tiny: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(trained, tiny / "run")
    (tiny / "run/model_best.pth").write_bytes(b"")
    assert training.main(arguments(tiny, "--resume_model", str(tiny / "run/model_last.pth"), "--epoch", "3")) == 0
    assert "model_best.pth" in capsys.readouterr().out


def test_weights_cannot_be_downloaded(refused: Refused, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub gets one request; by default, huggingface_hub retries for half a minute."""
    look_up, requests = socket.getaddrinfo, []

    def counted(host: str, port: int, *args: Any, **options: Any) -> list:
        requests.append((host, port))
        return look_up(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tiny / "cache"))
    more = "--model test_resnet --pretrained True".split()
    refused(*more, says=("--pretrained True", "--pretrained False", "--pretrained FILE"))
    assert requests == [("127.0.0.1", 9)]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE  # for the next tests


# --------------------------------------------------------------------------------------------------- while it runs


def no_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_gpu_out_of_memory(refused: Refused, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIBNetwork, "features", no_memory)
    test = ("--test", True, "--resume_model", trained / "model_last.pth")
    refused("--name", "a", says=("memory", "try --bs 2"), started=True)
    refused("--name", "b", *test, says=("memory", "try --test_bs 8"), started=True)
    assert "try --bs" not in refused("--name", "c", "--bs", "2", says=("memory", "--size"), started=True)
    monkeypatch.setattr(LIBNetwork, "to", no_memory)  # the weights do not fit
    refused("--name", "d", says=("memory",), started=True)
    refused("--name", "e", *test, says=("memory",), started=True)


def test_out_of_memory_in_numpy(capsys: pytest.CaptureFixture) -> None:
    assert run_command("training.py", lambda: np.empty(10**17).size, "a smaller --bs") == 2
    assert capsys.readouterr().err == "training.py: error: out of memory; try a smaller --bs.\n"


def test_a_killed_loading_process(refused: Refused, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = FaceImages.__getitem__

    def killed(faces: FaceImages, index: Any) -> Any:
        if multiprocessing.parent_process() and isinstance(index, tuple) and index[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(faces, index)

    monkeypatch.setattr(FaceImages, "__getitem__", killed)
    last = tiny / "output/train_model/model_last.pth"
    says = ("was killed", "--shm-size", "--num_workers", f"--resume_model {last}")
    refused("--epoch", "2", "--num_workers", "1", says=says, started=True)


def test_loss_is_not_finite(refused: Refused, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = tiny / "output/train_model/model_last.pth"
    true_terms, saved = engine.loss_terms, []

    def terms(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
        if last.exists():  # epoch 2
            saved.append(last.read_bytes())
        return {name: term * (float("nan") if saved else 1) for name, term in true_terms(*args, **options).items()}

    monkeypatch.setattr(engine, "loss_terms", terms)
    says = ("epoch 2, step 1", "total nan", "classification nan", "local nan", "global nan", "--lr")
    refused("--epoch", "3", says=says, started=True)
    assert last.read_bytes() == saved[0]
    checkpoint = load_checkpoint(last)
    assert checkpoint["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in checkpoint["state_dict"].values())


def test_a_write_is_interrupted(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    last = tiny / "output/train_model/model_last.pth"
    save, before = torch.save, []

    def interrupted_save(content: Any, file: BinaryIO) -> None:
        save(content, file)
        if last.exists():  # epoch 2
            before.append(last.read_bytes())
            file.truncate(5000)
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted_save)
    assert training.main(arguments(tiny, "--epoch", "3")) == 130
    assert str(last) in capsys.readouterr().err
    assert last.read_bytes() == before[0]
    assert not list(tiny.rglob("*.part"))


# ------------------------------------------------------------------------------------------------------- traceback


def test_a_traceback_only_when_asked_for(tiny: Path, command: Run) -> None:
    done = command("--dataset_root", str(tiny / "nowhere"), "--traceback")
    assert done.returncode == 2 and done.stderr.startswith("Traceback")
    assert "nowhere" in done.stderr.splitlines()[-1]  # other tests check that there is no traceback without the flag


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_traceback(command: str, capsys: pytest.CaptureFixture) -> None:
    module = import_module({"-m demo": "demo.__main__"}.get(command) or command.removeprefix("-m ").removesuffix(".py"))
    for flags, shown in ((["--traceback"], True), ([], False)):  # the second command forgets the flag of the first
        for wrong in (["--nonsense", "1"], ["--", "--nonsense", "1"]):
            assert module.main([*flags, *wrong]) == 2
            assert capsys.readouterr().err.startswith("Traceback") is shown


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a\x1b"), ["warning: a\\x1b: No space left on device."]),
        (OSError("no number"), ["warning: no number."]),
    ],
)
def test_a_full_disk_in_a_thread_is_one_sentence(
    capsys: pytest.CaptureFixture, error: OSError, said: list[str]
) -> None:
    def fail() -> None:
        raise error

    def work() -> None:
        thread = Thread(target=fail)
        thread.start()
        thread.join()

    before = threading.excepthook
    assert run_command("test", work, "") == 0 and threading.excepthook is before
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_does_not_suppress_the_message_of_an_error(
    capsys: pytest.CaptureFixture, number: signal.Signals
) -> None:
    def work() -> None:
        raise RuntimeError("Connection closed by peer")

    def how_to_continue() -> str:
        os.kill(os.getpid(), number)  # as torchrun does when another process has died
        return "; continue"

    assert run_command("test", work, "", how_to_continue) == 2
    assert capsys.readouterr().err.endswith("; continue.\n")
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_defect_in_a_thread_has_its_traceback(capsys: pytest.CaptureFixture) -> None:
    def work() -> None:
        thread = Thread(target=lambda: [][0])
        thread.start()
        thread.join()

    assert run_command("test", work, "") == 0
    assert capsys.readouterr().err.endswith("IndexError: list index out of range\n")


def test_after_an_error_the_memory_is_free() -> None:
    images: list[weakref.ref] = []

    def work() -> None:
        image = np.zeros(9)
        images.append(weakref.ref(image))
        raise InputError("a reason")

    assert run_command("test", work, "") == 2 and images[0]() is None


def test_only_rank_0_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def work() -> None:
        print("note")
        raise InputError("wrong")

    for rank, said in (("0", "note\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert run_command("test", work, "") == 2
        assert capsys.readouterr().out == said
