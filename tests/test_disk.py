"""Power failures, full disks and signals in everything that writes: nothing good is lost, and nothing partial stays."""

import csv
import gc
import io
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import inference
import preprocessing
import training
from analysis.embedding import write_projector
from analysis.study import write_study
from corpora import lists
from corpora.label_files import check_label_folder, write_contact_sheet, write_label_files
from corpora.layouts import SourceVideo
from datasets import pack as pack_command
from datasets.packs import Pack
from demo.dataset import make_demo
from engine import optimizer_step
from evaluation.predictions import read_predictions
from evaluation.report import write_report
from faces.extraction import Source
from faces.recipe import Recipe
from faces.videos import FrameReader
from models.shared_model import write_shared_model
from run_folder import RunFolder
from scoring import detector as scoring_detector
from scoring.records import open_records
from tests.helpers import ROOT, arguments, make_dataset, start_fork
from tests.test_given_datasets import make_frames
from tests.test_inference import checkpoint, photo, write_image
from tests.test_preprocessing import arguments as preprocessing_arguments
from tests.test_preprocessing import fixed_detector, folder_dataset, write_video
from tests.test_records import record, settings
from tests.test_report import make_run
from train_state import TrainState, make_optimizer
from utils.command import run_command
from utils.files import LOCK_NAME, copy_file, remove_stale_parts
from utils.logs import TrainingLog
from utils.world import World

PAGE = 4096  # bytes: tmpfs gives space in pages
INPUTS = Path()  # what the writers read: `inputs` sets it


@pytest.fixture(scope="module", autouse=True)
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("inputs")
    for version in (1, 2):
        make_dataset(folder / f"{version}", videos=1, frames=2, seed=version)
        write_video(folder / f"{version}.mp4", frames=2 * version)
        make_run(folder / f"run{version}", frames=version, pictures=False)
    write_image(folder / "photo.png", photo(0))
    checkpoint(folder / "model.pth")
    content: dict[str, Any] = {"FF-DF": {"FF-real": {}, "FF-DF": {}}}
    for split in ("train", "val", "test"):
        for kind in content["FF-DF"]:
            frames = make_frames(folder / "data", f"{kind}/frames/{split}")
            content["FF-DF"][kind][split] = {split: {"label": kind, "frames": frames[1:]}}  # not all, so links are made
    (folder / "list.json").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.INPUTS", folder)
        found = fixed_detector, {"detector": "mtcnn", "weights": None}
        patch.setattr(scoring_detector, "load_face_detector", lambda *_: found)
        yield


# ------------------------------------------------------------------------------------------------------------- writers


def faces(root: Path, version: int) -> None:
    args: Any = SimpleNamespace(faces=root, bs=8, num_workers=0)
    recipe, source = Recipe(every=1, crop_size=16), Source(INPUTS / f"{version}.mp4", root / "video")
    remove_stale_parts(root)
    preprocessing.extract_here([source], args, recipe, fixed_detector)


def label_files(root: Path, version: int) -> None:
    videos = [
        SourceVideo(folder, str(folder), int(kind == "fake"), split)
        for split in ("train", "val", "test")
        for kind in ("real", "fake")
        for folder in [INPUTS / f"{version}/faces/tiny/{split}/{kind}/000"]
    ]
    for name in ("old", "new")[:version]:
        check_label_folder(root / name)
        write_label_files(videos, root, root / name, {"all_faces": False}, None)
        write_contact_sheet(videos[: 3 * version], root, root / name / "contact_sheet.png")


def links(root: Path, version: int) -> int:
    argv = ["--root", str(INPUTS / "data"), "--dataset_root", str(root), "--name", "bench"]
    return lists.main([str(INPUTS / "list.json"), *argv]) if version == 2 else 0


def pack(root: Path, version: int) -> int:
    if not (root / "tiny").exists():
        shutil.copytree(INPUTS / "1/labels/tiny", root / "tiny")
    where = ["--dataset_root", str(root), "--data_root", str(INPUTS / f"{version}/faces"), "--num_workers", "0"]
    return pack_command.main(["tiny", "--size", "32", *where])


def records(root: Path, version: int) -> None:
    with open_records(root / "a.json", root / "a.csv", "c", settings, overwrite=False) as (write, _):
        write(record(f"{version}.png", notes=["x" * PAGE]))


def study(root: Path, version: int) -> None:
    write_study(root, "one", "data", f"{version}", "", [["a"]], {"n": version}, Figure(figsize=(version, 1)))


def projector(root: Path, version: int) -> None:
    rows = [["real", "", f"{number}.png"] for number in range(4)]
    write_projector(root / "study_embedding", {"G": np.full((4, 3), version, np.float32)}, rows)


def share(root: Path, version: int) -> None:
    content = {"state_dict": {"w": torch.full((3,), float(version))}, "sha256": "0" * 64, "args": {}, "epoch": version}
    write_shared_model(root / "model", content, f"card {version}")


def demo(root: Path, version: int) -> None:
    make_demo(root / "demo", seed=version, size=32, people=(2, 2, 2), videos_per_person=2, frames=1)


def results(root: Path, version: int) -> int:
    more = ["--test", "--resume_model", str(INPUTS / "model.pth"), "--overwrite", "True", "--name", "test"]
    return training.main(arguments(INPUTS / f"{version}", *more, "--save_path", str(root)))


def report(root: Path, version: int) -> None:
    for name in ("results.json", "predictions.csv"):
        copy_file(INPUTS / f"run{version}" / name, root / name)
    write_report(root)


def score(root: Path, version: int) -> int:
    files = [str(INPUTS / "photo.png"), str(INPUTS / f"{version}.mp4")]
    outputs = ["--json", str(root / "a.json"), "--csv", str(root / "a.csv"), "--annotate", str(root / "out")]
    more = ["--overwrite", "True", "--gpu_num", "cpu"]
    return inference.main(["--model", str(INPUTS / "model.pth"), *files, *outputs, *more])


def checkpoints(root: Path, version: int) -> None:
    """Save the ninth epoch of a run; in the second version, also the tenth, which gets a file of its own."""
    args, _ = training.parse_arguments(arguments(INPUTS / "1", "--save_path", str(root), "--name", "run"))
    args.resume_model = root / "run/model_last.pth"
    world = World("cpu")
    state = TrainState(args, None, 1, world)
    state.network, state.epoch = torch.nn.Linear(1, 1), 8  # small, because each crash point is a copy of the folder
    state.optimizer = make_optimizer(state.network, state.objective.balance, 1e-3, 0)
    with closing(RunFolder(args, world)) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "localtime", lambda *_: (1980, 1, 1, 0, 0, 0))  # a zip archive holds the time
        folder.open()
        for epoch in (9, 10)[:version]:
            loss = state.network(torch.ones(2, 1)).sum()
            optimizer_step(state.optimizer, loss, state.scaler)
            state.record.add({"total": loss}, torch.tensor([0, 1]), torch.tensor([0.2, 0.8]))
            state.record.read(state.epoch, 1)
            is_best = state.finish_epoch({"acc": 1.0, "auc": epoch / 10, "log_loss": 1.0}, None)
            folder.save(state, is_best)


Writer = Callable[[Path, int], int | None]
FOLDERS = (faces, projector, share, demo)  # their unit is a folder; of the other writers, a file


def visible(root: Path) -> dict[str, bytes]:
    """The content of all files below a folder that are not hidden; TensorBoard's name the second."""
    files = (file.relative_to(root) for file in sorted(root.rglob("*")) if file.is_file() and "events" not in file.name)
    return {str(file): (root / file).read_bytes() for file in files if not is_hidden(file)}


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") and part != ".." for part in path.parts)


def hidden(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".*") if path.name != LOCK_NAME]


def assert_complete(writer: Writer, root: Path, old: dict[str, bytes], new: dict[str, bytes]) -> None:
    """Assert that each file or folder is the old or the new one; for files that have a date, that they are complete."""
    if writer is pack:
        found = Pack(root / "tiny/pack_32")
        assert len(found.entries) == 6
        for entry in found.entries.values():
            found.find(entry.path, "")  # raises if names or checksums are damaged
            assert all(found.read(row) is not None for row in range(entry.row, entry.row + entry.images))
    elif writer is results:
        assert json.loads((root / "test/results.json").read_text())["datasets"]["tiny"]["frames"] == 4
        assert len(read_predictions(root / "test/predictions.csv")["tiny"].labels) == 4
        assert (root / "test/report.html").read_text().rstrip().endswith("</html>")
    elif writer is score:
        assert all(json.loads(line) for line in (root / "a.json").read_text().splitlines(keepends=True))
        with (root / "a.csv").open(newline="") as table:
            assert all(row["settings"] for row in csv.DictReader(table))
        for image in (root / "out").glob("*.png"):
            Image.open(image).load()
        for video in (root / "out").glob("*.mp4"):
            assert len(list(FrameReader(video, every=1))) in (2, 4)
    else:
        found_files = visible(root)
        for name in {*old, *new, *found_files}:
            unit = name.partition("/")[0] + "/" if writer in FOLDERS else name
            units = [{n: of[n] for n in of if n.startswith(unit)} for of in (found_files, old, new, {})]
            # A folder that replaces another is missing between two renames; a new file is missing before its first.
            assert units[0] in units[1:] or (name == "new/preprocessing_report.json" and is_unfinished(root / name)), (
                name
            )


def is_unfinished(report: Path) -> bool:
    """Return whether the report says that the label files are not complete."""
    return json.loads(report.read_text())["unfinished"] > 0


# ------------------------------------------------------------------------------------------------- crashes and power


CHANGES = ("rename", "replace", "mkdir", "unlink", "rmdir", "truncate", "symlink", "fsync", "open")
CREATE = ("os.open", "io.open", "os.mkdir", "os.fsync")
WRITE = os.O_CREAT | os.O_WRONLY | os.O_RDWR


class Watch:
    """Copy a folder before each change in the file system, and check that what gets visible has reached the disk."""

    def __init__(self, root: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.copies, self.count, self.busy = root, copies, 0, 0
        self.events = 0
        self.synced = dict(self.stamps().values())
        self.renamed_in: set[int] = set()  # folders to flush after a rename
        self.lock = threading.RLock()
        functions = [*((os, name) for name in CHANGES), (io, "open")]
        pathlib_310 = getattr(pathlib, "_NormalAccessor", None)  # holds the functions since the import of pathlib
        for module, name in functions:
            function = self.wrap(f"{module.__name__}.{name}", getattr(module, name))
            monkeypatch.setattr(module, name, function)
            if pathlib_310 and hasattr(pathlib_310, name) and (module, name) != (os, "open"):
                monkeypatch.setattr(pathlib_310, name, staticmethod(function))

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            mode = args[1] if len(args) > 1 and name.endswith("open") else options.get("mode", "r")
            reads = not mode & WRITE if name == "os.open" else not set("wax+") & set(mode)
            if self.busy == threading.get_ident() or (name.endswith("open") and reads):
                return real(*args, **options)
            with self.lock:
                self.busy = threading.get_ident()
                self.events += 1
                # A change of a hidden file does not change the visible ones: a quarter of the copies will do.
                path = Path(os.readlink(f"/proc/self/fd/{args[0]}") if name == "os.fsync" else os.fsdecode(args[0]))
                if name not in CREATE or not is_hidden(path) or self.events % 4 == 0:
                    shutil.copytree(self.root, self.copies / f"{self.count}", symlinks=True)
                    self.count += 1
                if name == "os.fsync":
                    self.note(args[0])
                elif name in ("os.rename", "os.replace"):
                    self.check_rename(Path(args[0]), Path(args[1]))
                self.busy = 0
                return real(*args, **options)

        return call

    def note(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.synced[status.st_ino] = status.st_size, status.st_mtime_ns
        self.renamed_in.discard(status.st_ino)

    def check_rename(self, source: Path, target: Path) -> None:
        if not is_hidden(target.relative_to(self.root)):
            for path in (source, *source.rglob("*")):
                status = path.lstat()
                if not stat.S_ISLNK(status.st_mode):
                    stamp = status.st_size, status.st_mtime_ns
                    assert self.synced.get(status.st_ino) == stamp, f"{path} is renamed before it is on the disk"
            self.renamed_in.add(target.parent.stat().st_ino)

    def stamps(self) -> dict[Path, tuple[int, tuple[int, int]]]:
        files = [file for file in self.root.rglob("*") if file.is_file() and not is_hidden(file.relative_to(self.root))]
        return {f: (s.st_ino, (s.st_size, s.st_mtime_ns)) for f in files if not f.is_symlink() for s in [f.stat()]}

    def check_end(self) -> None:
        assert not self.renamed_in, "a folder was not flushed after a rename"
        for file, (inode, stamp) in self.stamps().items():
            assert self.synced.get(inode) == stamp, f"{file} is not flushed"


@pytest.mark.parametrize(
    "writer",
    [faces, label_files, links, pack, records, study, projector, share, demo, report, checkpoints],
    ids=lambda w: w.__name__,
)
def test_a_crash_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: Writer) -> None:
    root, copies = tmp_path / "root", tmp_path / "copies"
    root.mkdir()
    copies.mkdir()
    assert not writer(root, 1)
    old = visible(root)
    with monkeypatch.context() as patch:
        watch = Watch(root, copies, patch)
        assert not writer(root, 2)
    watch.check_end()
    new = visible(root)
    assert new != old and not hidden(root) and watch.count >= 4
    for number in range(watch.count):
        assert_complete(writer, copies / f"{number}", old, new)
    for number in np.linspace(0, watch.count - 1, 4).astype(int):  # the next run completes, and leaves nothing
        shutil.rmtree(root)
        shutil.copytree(copies / f"{number}", root, symlinks=True)
        assert not writer(root, 2)
        assert visible(root) == new and not hidden(root)


# ---------------------------------------------------------------------------------------------------------- full disks


@pytest.mark.parametrize(
    "writer",
    [faces, label_files, links, pack, records, study, projector, share, demo, report, results, score],
    ids=lambda w: w.__name__,
)
def test_a_full_disk(disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture, writer: Writer) -> None:
    gc.collect()  # closes files of an earlier failure, which would free space later
    root = disk / writer.__name__
    root.mkdir()
    assert not run_command("test", lambda: writer(root, 1), "")
    old = visible(root)
    for pages in (0, 2, 8, 32, 128, 512):
        capsys.readouterr()
        (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free - pages * PAGE))
        code = run_command("test", lambda: writer(root, 2), "")
        (disk / "other").unlink()
        if code == 0:
            break
        (sentence,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert code == 2 and ": error: " in sentence and str(root) in sentence and not hidden(root)
        shutil.copytree(root, tmp_path / f"{pages}", symlinks=True)
    failures, new = list(tmp_path.iterdir()), visible(root)
    assert code == 0 and failures and new != old and not hidden(root)
    for failed in failures:
        assert_complete(writer, failed, old, new)
    shutil.rmtree(root)


def test_a_full_disk_ends_the_thread_of_tensorboard(disk: Path, capsys: pytest.CaptureFixture) -> None:
    root = disk / "curves"

    def work() -> None:
        log = TrainingLog(root, 0)
        log.flush()
        (disk / "other").write_bytes(bytes(shutil.disk_usage(disk).free))
        while True:
            log.scalars("loss", {"total": 1.0}, 0)

    assert run_command("test", work, "") == 2
    (disk / "other").unlink()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("warning: ") and f"error: {root}: " in lines[1]
    shutil.rmtree(root)


# ------------------------------------------------------------------------------------------------------------- signals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_in_inference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, how: signal.Signals
) -> None:
    calls: list[int] = []

    def detect(frames: np.ndarray) -> Any:
        calls.append(1)
        if len(calls) == 2:  # the image, then the video
            signal.raise_signal(how)
        return fixed_detector(frames)

    with monkeypatch.context() as patch:
        patch.setattr(
            scoring_detector, "load_face_detector", lambda *_: (detect, {"detector": "mtcnn", "weights": None})
        )
        assert score(tmp_path, 2) == 128 + how
    assert sorted(visible(tmp_path)) == ["a.csv", "a.json", "out/photo_annotated.png"] and not hidden(tmp_path)
    assert len((tmp_path / "a.json").read_text().splitlines()) == 1
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("inference.py: ") and "Traceback" not in said
    assert signal.getsignal(how) in (signal.SIG_DFL, signal.default_int_handler)


STUB = """
import os, sys, time
from pathlib import Path

sys.path.insert(0, {root!r})
from utils.command import run_command
from utils.files import atomic_folder


def work():
    with atomic_folder(Path({folder!r}) / sys.argv[-1]) as new:
        (new / str(os.getpid())).touch()
        time.sleep(600)


sys.exit(run_command("stub", work, ""))
"""


@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_ends_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, how: signal.Signals
) -> None:
    root, parts = folder_dataset(tmp_path / "root", INPUTS / "1.mp4", videos=1), tmp_path / "parts"
    (tmp_path / "stub.py").write_text(STUB.format(root=str(ROOT), folder=str(parts)))
    monkeypatch.setattr(preprocessing, "__file__", str(tmp_path / "stub.py"))  # what the jobs run
    found = fixed_detector, {"detector": "mtcnn", "weights": None}
    monkeypatch.setattr(preprocessing, "load_face_detector", lambda *_: found)
    run = start_fork(preprocessing.main, preprocessing_arguments(root, "--jobs", "2"))
    end = time.monotonic() + 120
    while len(written := list(parts.glob(".*/new/*"))) < 2:
        assert run.is_alive() and time.monotonic() < end
        time.sleep(0.02)
    os.kill(run.pid, how)
    run.join(60)
    assert run.exitcode == 128 + how
    assert not any(Path(f"/proc/{file.name}").exists() for file in written)
    assert not hidden(tmp_path) and not list(parts.iterdir())
    said = capfd.readouterr().err
    assert said.splitlines()[-1].startswith("preprocessing.py: ") and "Traceback" not in said


def test_ctrl_c_during_imports(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    model, new = str(INPUTS / "model.pth"), str(tmp_path / "new")
    commands: dict[str, list[str]] = {
        **{f"{name}.py": [f"{name}.py"] for name in ("training", "preprocessing", "inference")},
        **{f"analysis.{name}": [] for name in ("ablation", "embedding", "evidence", "robustness")},
        **{name: [] for name in ("corpora.lists", "corpora.realorfake", "demo")},
        **{"datasets.check": ["tiny"], "datasets.pack": ["tiny"], "scoring.share": [model, new]},
        "analysis.reproduce": ["--table", "losses", "--data_root", str(tmp_path)],
        "analysis.compare": [str(tmp_path), str(tmp_path)],
    }
    processes = {
        name: subprocess.Popen(
            [sys.executable, *([] if name.endswith(".py") else ["-m", name]), *more],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, more in commands.items()
    }
    for name, process in processes.items():
        assert process.communicate()[1] == f"{name}: interrupted\n" and process.returncode == 130, name
