"""analysis.reproduce: its plan, its estimate, and tables from videos to AUCs, with interruptions."""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import IO, Any

import pytest

import preprocessing
import training
from analysis import estimate, reproduce, runs
from corpora.label_files import LABEL_FILES, REPORT, is_prepared
from evaluation.published import paper_auc
from faces import extraction
from models.backbones import BACKBONES, build_network
from run_folder import RunFolder
from tests.helpers import ROOT, TINY, make_dataset
from tests.test_analysis import assert_fails
from tests.test_preprocessing import LAYOUTS, fixed_detector, write_video
from utils.data_roots import DataRoots, base_name, has_root, root_of
from utils.process import Stopped, stop_on_signals
from utils.training_arguments import TrainingArguments

DATASETS = ("FF++_c23", "Celeb-DF-v1", "Celeb-DF-v2", "DFDC-Preview", "DFDC")
COMMANDS = {"training.py": training.main, "preprocessing.py": preprocessing.main}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the videos of every dataset of the tables, each in its published layout."""
    root = tmp_path_factory.mktemp("videos")
    clip = write_video(root / "clip.mp4")
    for name in DATASETS:
        LAYOUTS[name](clip, root / name)
    return root


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The started commands, which run in this process, with a detector that needs no weights."""
    commands: list[list[str]] = []

    def run(command: list[str], _: object) -> int:
        script = Path(command[1])
        assert command[0] == sys.executable and script.parent == ROOT
        commands.append([script.name, *command[2:]])
        code = COMMANDS[script.name](command[2:])
        if code == 130:  # Ctrl-C reaches this command and the one that it started
            raise KeyboardInterrupt
        return code

    monkeypatch.setattr(runs, "call", run)
    for module in (preprocessing, estimate):
        monkeypatch.setattr(module, "load_face_detector", lambda *_: (fixed_detector, {"detector": "fixed"}))
    return commands


def command_line(root: Path, table: str, *more: str, videos: Path | None = None) -> list[str]:
    where = ["--data_root", str(root / "faces"), "--dataset_root", str(root / "labels")]
    if videos is not None:
        where += ["--videos", ",".join(f"{name}={videos / name}" for name in DATASETS)]
    return ["--table", table, *where, "--save_path", str(root / "output"), *more, "--", *TINY.split(), "--epoch", "1"]


def printed_commands(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("   python ")]


def table_of(root: Path, name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    lines = (root / "output" / f"{name}.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    return {row[0]: row[1:] for row in rows[2:]}


@pytest.mark.slow
def test_tables_from_videos_to_aucs(
    tmp_path: Path,
    videos: Path,
    started: list[list[str]],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = command_line(tmp_path, "cross", videos=videos)
    assert reproduce.main([*command[:1], "cross", "--dry_run", *command[2:]]) == 0
    plan = printed_commands(capsys.readouterr().out)
    assert started == [] and list(tmp_path.iterdir()) == []

    extracted: list[Path] = []
    finish = extraction._FaceFolder.finish

    def record(folder: extraction._FaceFolder, end: extraction.VideoEnd) -> extraction.Outcome:
        extracted.append(folder.source.folder)
        return finish(folder, end)

    monkeypatch.setattr(extraction._FaceFolder, "finish", record)

    def interrupted(owner: Any, name: str, number: int) -> list[list[str]]:
        """Press Ctrl-C when a function returns in the started command `number`; return the started commands."""
        function = getattr(owner, name)

        def stop(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if len(started) == number:
                os.kill(os.getpid(), signal.SIGINT)
            return result

        started.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            assert reproduce.main(["--speed", "100,200,10", *command]) == 130
        assert not (tmp_path / "output/cross.md").exists()
        return list(started)

    # Ctrl-C after the first video of the second preparation, in the first step of the training, and in the test. Each
    # time, the same command again skips what is finished, and continues the preparation or the training.
    assert interrupted(extraction._FaceFolder, "finish", 2) == plan[:2]
    assert interrupted(RunFolder, "after_step", 5) == plan[1:-1]
    resumed = [*plan[-2], "--resume_model", str(tmp_path / "output/FF++_c23/default-seed_0/model_last.pth")]
    assert interrupted(training, "evaluate", 2) == [resumed, plan[-1]]
    started.clear()
    capsys.readouterr()
    assert reproduce.main(command) == 0 and started == plan[-1:]
    assert len(set(extracted)) == len(extracted)
    printed = capsys.readouterr().out
    order = [printed.index(text) for text in ("\nto do: ", "\ndisk: ", "\nrunning: ", "published frame AUC")]
    assert order == sorted(order) and printed_commands(printed[: order[2]])[-1] == plan[-1]
    results = json.loads((tmp_path / "output/FF++_c23/default-seed_0-paper/results.json").read_text())
    rows = table_of(tmp_path, "cross")
    assert list(rows) == [f"{name}_all" for name in DATASETS[1:]]
    for name, row in rows.items():
        found = results["datasets"][name]
        assert row == ["0.818* 0.864* 0.851* 0.721*".split()[list(rows).index(name)],
                       f"{found['auc']:.4f}", f"{found['video_auc']:.4f}", str(found["videos"])]  # fmt: skip
        assert [name, *row] in [line.split() for line in printed.splitlines()]
    assert (tmp_path / "output/cross.md").read_text().endswith(f"\n\n{reproduce.FOOTNOTE}\n")
    assert results["datasets"]["Celeb-DF-v2_all"]["videos"] == sum(1 for _ in (videos / "Celeb-DF-v2").rglob("*.mp4"))

    # Nothing is left to do, and another table shares the default. It needs no videos: there are label files.
    started.clear()
    assert reproduce.main(command) == 0 and started == []
    assert reproduce.main(command_line(tmp_path, "balance")) == 0
    assert [part[part.index("--name") + 1] for part in started] == ["balance_loss_method_hyper-seed_0"]
    rows = table_of(tmp_path, "balance")
    assert list(rows) == ["balance_loss_method auto (default)", "balance_loss_method hyper"]
    assert all(row[0] == "" and float(row[1]) >= 0 for row in rows.values())


@pytest.mark.slow
def test_every_table_has_a_plan(tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture) -> None:
    plans = {}
    for table in ("within", "cross", *reproduce.ABLATIONS):
        argv = command_line(tmp_path, table, "--dry_run", "--speed", "100,200,10", videos=tmp_path / "later")
        assert reproduce.main(argv) == 0
        plans[table] = printed_commands(capsys.readouterr().out)
    assert started == [] and list(tmp_path.iterdir()) == []
    for name in DATASETS:
        (tmp_path / "later" / name).mkdir(parents=True)
    trained = {"within": 4, "cross": 1, "losses": 4, "blocks": 6, "backbone": 3, "divergence": 2, "balance": 2}
    for table, plan in plans.items():
        prepared = [preprocessing.parse_arguments(part[1:]) for part in plan if part[0] == "preprocessing.py"]
        assert len(prepared) == {"within": 4, "cross": 5}.get(table, 1)
        assert all(args.split == ("all" if table == "cross" else "disjoint") for args in prepared[1:])
        trainings = [part for part in plan if part[0] == "training.py" and "--test" not in part]
        assert len({str(training.parse_arguments(part[1:])) for part in trainings}) == trained[table]


@pytest.mark.slow
def test_every_table_runs_to_its_end(tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in reproduce.WITHIN:
        make_dataset(tmp_path, name)
    for name in list(BACKBONES):
        monkeypatch.setitem(BACKBONES, name, "tiny_cnn")
    rows = {"within": 4, "losses": 4, "blocks": 6, "backbone": 3, "divergence": 2, "balance": 2}
    for table, number in rows.items():
        assert reproduce.main(command_line(tmp_path, table, "--speed", "100,200,10")) == 0
        cells = table_of(tmp_path, table).values()
        assert len(cells) == number
        assert all(row[0] == "" and {0 <= float(auc) <= 1 for auc in row[1:3]} == {True} for row in cells)
        assert {row[3] for row in cells} == {"4"}
    assert len(started) == sum(rows.values()) - 4  # the default of FF++_c23 is in five tables


def test_estimate_of_the_papers_training(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 epochs of 264,598 fake and 4 x 73,649 real images, without the videos, and with 40 GB on the disk."""
    usage = shutil.disk_usage(tmp_path)._replace(free=40_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", {tmp_path: usage}.__getitem__)
    where = ["--data_root", str(tmp_path / "faces"), "--dataset_root", str(tmp_path / "labels")]
    argv = ["--table", "balance", *where, "--videos", str(tmp_path / "later"), "--save_path", str(tmp_path / "output")]
    argv += ["--speed", "2000,6900,100", "--dry_run"]
    assert reproduce.main([*argv, "--", "--model", "test_resnet", "--num_LIBs", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    train, held_out = 264_598 + 4 * 73_649, 140 * 73_649 / 720 + 560 * 264_598 / 2_880
    hours = (20 * (train / 2000 + held_out / 6900) + held_out / 6900) / 3600
    images = (73_649 + 264_598) * 1000 / 720
    wanted = [f"{images / 100 / 3600:.1f} h, {images * 91e3 / 1e9:.1f} GB", f"{hours:.1f} h, "]
    assert [any(text in line for line in lines) for text in wanted] == [True, True], lines
    parameters = sum(weight.numel() for weight in build_network("test_resnet", 6, 256).parameters())
    checkpoints = 2 * parameters * 4 * (3 + 3 + 1 + 2)  # two runs, with a file at epochs 10 and 20
    assert [line for line in lines if line.startswith("disk: ")] == [
        f"disk: {tmp_path / 'faces'} needs {images * 91e3 / 1e9:.1f} GB, and 40.0 GB are free; this is not enough",
        f"disk: {tmp_path / 'output'} needs {checkpoints / 1e9:.1f} GB, and 40.0 GB are free",
    ]
    assert f"to do: {images / 100 / 3600 + 2 * hours:.1f} h," in "\n".join(lines)
    assert_fails(reproduce.main, argv[:-1], capsys, "--videos", "later")


def test_label_files_and_repetitions_are_counted(tmp_path: Path) -> None:
    for name in LABEL_FILES:
        label = int("fake" in name)
        (tmp_path / name).write_text(f"{label},a,{10 + label}\n{label},b,{30 if label else 20}\n")
    count = estimate.count_labels(tmp_path)
    assert count["val", 0] == (2, 30) and count["test", 1] == (2, 41)
    assert estimate.images_of(count, "train", 4) == 4 * 30 + 41
    assert estimate.images_of(count, "test", frames=12) == 24 + 24
    assert [estimate.repetitions("FF++_c23", count, value) for value in ("paper", "auto", "3")] == [4, 1, 3]
    assert estimate.repetitions("FF++_c23", {("train", 1): (2, 41.0)}, "auto") == 1  # no real video on the disk


def test_a_dataset_with_unfinished_videos_is_not_prepared(tmp_path: Path) -> None:
    for name in LABEL_FILES:
        assert not is_prepared(tmp_path)
        (tmp_path / name).touch()
    assert is_prepared(tmp_path)  # label files of the user
    for unfinished in (1, 0):
        (tmp_path / REPORT).write_text(json.dumps({"unfinished": unfinished}))
        assert is_prepared(tmp_path) == (not unfinished)


def test_datasets_that_are_not_available(
    tmp_path: Path, videos: Path, started: list[list[str]], capsys: pytest.CaptureFixture
) -> None:
    argv = command_line(tmp_path, "cross", "--dry_run", "--speed", "100,200,10")
    assert_fails(reproduce.main, argv, capsys, "--videos FF++_c23=FOLDER")
    some = ["--videos", f"FF++_c23={videos / 'FF++_c23'},Celeb-DF-v2={videos / 'Celeb-DF-v2'}"]
    assert reproduce.main([*some, *argv]) == 0
    printed = capsys.readouterr().out
    assert ": Celeb-DF-v1_all, DFDC-Preview_all, DFDC_all\n" in printed
    test = printed_commands(printed)[-1]
    assert test[test.index("--dataset") + 1] == "Celeb-DF-v2_all"
    assert_fails(reproduce.main, [*some[:1], f"DFDC={videos / 'DFDC'}", *argv], capsys, "FF++_c23")
    assert_fails(reproduce.main, [*argv, "--data_root", "x"], capsys, "--data_root", "--")
    assert_fails(reproduce.main, ["--table", "crass", *argv[2:]], capsys, "did you mean 'cross'")


def test_a_failed_step_is_named(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(command: list[str], out: IO[str]) -> int:
        print("it broke", *[part for part in command if part == "--traceback"], file=out)
        return 2

    monkeypatch.setattr(runs, "call", broken)
    argv = command_line(tmp_path, "balance", "--speed", "1,1,1", videos=videos)
    assert_fails(reproduce.main, argv, capsys, "3 steps failed", "prepare FF++_c23", ".log")
    assert (tmp_path / "output/prepare_FF++_c23.log").read_text() == "it broke\n"
    assert all(row[1] == "-" for row in table_of(tmp_path, "balance").values())
    assert_fails(reproduce.main, ["--detector_weights", "missing.pth", *argv], capsys, "missing.pth")
    assert reproduce.main(["--traceback", *argv]) == 2
    logs = list((tmp_path / "output").rglob("*.log"))
    assert len(logs) == 3 and {log.read_text() for log in logs} == {"it broke\nit broke --traceback\n"}


def test_timings(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "load_face_detector", lambda *_: (fixed_detector, {}))
    args = TrainingArguments(model="test_resnet", num_LIBs=2, size=32, bs=4, gpu_num="cpu", num_workers=0)
    speed = estimate.time_network(args, None)
    assert speed.train > 0 and speed.test > 0 and speed.parameters > 1000
    assert estimate.time_network(args, [1, 2, 3]) == (1, 2, speed.parameters)
    files = sorted((videos / "DFDC").rglob("*.mp4"))
    frames, size = estimate.time_preprocessing(files, "retinaface", None, args)
    assert frames > 0 and 1000 < size < 256 * 256 * 3


def test_paper_aucs() -> None:
    assert paper_auc("paper", "FF++_c23", "Celeb-DF-v2_all") == ("0.864", 6529)
    assert paper_auc("paper", "FF++_c23", "DFDC_all") == ("0.721", None)
    for protocol, dataset in (("paper", "Celeb-DF-v2"), ("sbi", "Celeb-DF-v2_all")):
        assert paper_auc(protocol, "FF++_c23", dataset) == ("", None)


def test_published_aucs_of_other_test_sets_are_marked(tmp_path: Path) -> None:
    run = runs.make_run(["tiny"], tmp_path, [], {})
    run.folder.mkdir()

    def published(name: str, videos: int) -> str:
        found = {"datasets": {name: {"auc": 0.5, "video_auc": None, "videos": videos}}}
        (run.folder / "results.json").write_text(json.dumps(found))
        row = reproduce.Row(name, run, name, paper_auc("paper", "FF++_c23", name))
        return reproduce.make_table("test set", [row])[1][1]

    assert [published("Celeb-DF-v2_all", n) for n in (6529, 5877, 5876, 7182)] == ["0.864", "0.864", "0.864*", "0.864*"]
    assert published("DFDC_all", 124_154) == "0.721*" and published("tiny", 2) == ""


def test_a_split_has_the_folder_of_its_dataset() -> None:
    roots = DataRoots({"Celeb-DF-v2": Path("a"), "FF++_c23": Path("b"), "DFDC_all": Path("c"), "DFDC": Path("d")})
    wanted = {"Celeb-DF-v2_all": "a", "Celeb-DF-v2_published": "a", "FF++_c23/Deepfakes_all": "b", "DFDC_all": "c"}
    assert {name: str(root_of(name, roots)) for name in wanted} == wanted
    assert base_name("FF++_c23/Deepfakes_all") == "FF++_c23/Deepfakes" and not has_root("mine", roots)


def test_a_resumed_run_may_have_an_automatic_precision(tmp_path: Path) -> None:
    run = runs.make_run(["tiny"], tmp_path, [], {})
    run.folder.mkdir()
    (run.folder / "model_last.pth").touch()
    (run.folder / "args.json").write_text(json.dumps({**run.settings, "precision": "fp32"}))
    runs.check_folder(run)


def test_ctrl_c_waits_for_the_checkpoint_of_a_run(tmp_path: Path) -> None:
    script = "import os, signal, time, sys; os.kill(os.getppid(), signal.SIGINT); time.sleep(1); open(sys.argv[1], 'w')"
    with (tmp_path / "log").open("w") as log, pytest.raises(KeyboardInterrupt):
        runs.call([sys.executable, "-c", script, str(tmp_path / "saved")], log)
    assert (tmp_path / "saved").exists()


def test_sigterm_ends_the_run_too(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); os.kill(os.getppid(), 15);"
        "signal.sigtimedwait([15], 30) and open(sys.argv[1], 'w')"
    )
    with (tmp_path / "log").open("w") as log, stop_on_signals(), pytest.raises(Stopped):
        runs.call([sys.executable, "-c", script, str(tmp_path / "saved")], log)
    assert (tmp_path / "saved").exists()
