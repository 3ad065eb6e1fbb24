"""Files of strangers: they run no code, write nothing outside their folder, send no escapes and fit into memory."""

import csv
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

import training
from datasets.labels import parse_label_file, read_split
from datasets.packs import checksum_of, find_pack, index_line
from datasets.sources import Origin, read_sources, write_sources
from evaluation.predictions import make_scores, read_predictions, write_predictions
from run_folder import RunFolder
from scoring.files import annotation_targets
from scoring.page import _heading
from tests.conftest import arguments
from tests.test_given_datasets import make_frames, run_lists
from tests.test_inference import checkpoint, photo, write_image
from tests.test_packs import write_pack
from tests.test_report import assert_self_contained, make_run, page_of
from utils.command import run_command
from utils.errors import InputError, one_line
from utils.progress import progress
from utils.tables import TableReader, csv_line
from utils.world import World

ROOT = Path(__file__).parent.parent
# Clear the screen, colour, ring, go back to the start of the line, C1 escape, reverse the direction of the text.
ESCAPES = "a\x1b[2J\x1b[31m\x07\r\x9b1m\u202egnp.exe"


def has_escapes(text: str) -> bool:
    return any(character in text for character in "\x1b\x07\r\x9b\u202e")


# ------------------------------------------------------------------------------------------------------- terminal


def test_a_command_prints_no_control_characters(capsys: pytest.CaptureFixture) -> None:
    def work() -> None:
        print(f"note: {ESCAPES}\n\tsecond line")
        print(f"warning: {ESCAPES} \udcff", file=sys.stderr)
        tqdm.write(ESCAPES)
        raise InputError(f"{ESCAPES}\nis wrong.")

    out, err = sys.stdout, sys.stderr
    assert run_command("program", work, "") == 2
    assert (sys.stdout, sys.stderr) == (out, err)
    printed = capsys.readouterr()
    for text in printed:
        assert not has_escapes(text) and text.count("\\x1b[2J") == 2 and "\\u202e" in text
    assert "\n\tsecond line\n" in printed.out and "\\udcff" in printed.err
    assert printed.err.endswith(" is wrong.\n")


def test_progress_bars_move_the_cursor_and_names_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)

    def work() -> None:
        with progress(None, ESCAPES, unit="frames", total=2, mininterval=0, ncols=90, dynamic_ncols=False) as bar:
            bar.update()
            with tqdm.external_write_mode():  # hides the bar, although the streams are wrapped
                assert screen.getvalue().endswith("\r")

    assert run_command("program", work, "") == 0
    shown = screen.getvalue()
    assert "\r" in shown and "a\\x1b[2J" in shown
    assert "\x1b[2J" not in shown and "\x07" not in shown and "\u202e" not in shown


def test_one_line() -> None:
    assert one_line("a\nb\x1bc\udcff \u200d\xa0\u00e9") == "a b\\x1bc\\udcff \u200d\xa0\u00e9"


# ------------------------------------------------------------------------------- names in tables, pages and pictures

MARKUP = "<img src=x onerror=alert(1)>"
FORMULAS = ["=1+1|x", "+1", "-1", "@SUM(1)", "\t=1", "'=1", "''+x", "\uff1d1"]


@pytest.mark.parametrize("name", [*FORMULAS, "'plain", "a=1", "", "'", "1"])
def test_a_spreadsheet_runs_no_cell_and_the_name_is_read_back(name: str) -> None:
    (cells,) = csv.reader([csv_line([name, -1.5, None])])
    assert not cells[0].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert cells[1:] == ["-1.5", ""] and (cells[0] == name or name in FORMULAS)
    (row,) = TableReader(io.StringIO("a,b,c\n" + csv_line([name, -1.5, None]), newline=""))
    assert row["a"] == name


def test_files_with_names_of_formulas_are_read_back(tmp_path: Path) -> None:
    origins = {name: Origin(name, frozenset({name}), frozenset({"@me"})) for name in FORMULAS}
    write_sources(tmp_path / "sources.csv", origins)
    assert read_sources(tmp_path / "sources.csv") == origins
    paths = [f"{name}/0.png" for name in FORMULAS]
    scores = make_scores(paths, np.arange(8) % 2, np.linspace(0, 1, 8), FORMULAS, FORMULAS)
    write_predictions(tmp_path / "predictions.csv", {"=tiny": scores})
    assert list(read_predictions(tmp_path / "predictions.csv")["=tiny"].paths) == paths
    for file in tmp_path.iterdir():
        rows = list(csv.reader(io.StringIO(file.read_text(), newline="")))
        assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\uff1d"))]


def test_names_are_text_in_pages(tmp_path: Path) -> None:
    odd = MARKUP + ESCAPES
    page = page_of(make_run(tmp_path / MARKUP, (odd,), certain=0.1, pictures=False, trained_with={odd: odd}))
    assert_self_contained(page)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(MARKUP) > 5 and "\\x1b[2J" in page.text and not has_escapes(page.text)
    assert "<" not in _heading(odd, "real") and not has_escapes(_heading(odd, "real"))


# -------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["../secret", "tiny/../../secret", "./.././secret", ".."])
def test_a_label_file_does_not_lead_out_of_the_data_root(tiny: Path, path: str, capsys: pytest.CaptureFixture) -> None:
    (tiny / "faces/tiny/train/real/000").rename(tiny / "secret")
    file = tiny / "labels/tiny/train_real.txt"
    file.write_text(file.read_text().replace("tiny/train/real/000", path))
    assert training.main(arguments(tiny)) == 2
    assert "--data_root" in capsys.readouterr().err and not (tiny / "output").exists()
    file.write_text(file.read_text().replace(path, f"{tiny}/secret").replace("tiny/train/real/001", "tiny/./x/../z"))
    assert [path for path, _ in parse_label_file(file, 0)] == [f"{tiny}/secret", "tiny/./x/../z"]


@pytest.mark.parametrize("how", ["absolute", "climbs", "link", "link to a folder of images"])
def test_a_list_of_frames_removes_nothing_outside_its_folder(tmp_path: Path, how: str) -> None:
    data, private = tmp_path / "data", tmp_path / "private"
    frames = make_frames(data, "a/b/x", 3)
    folder = {
        "absolute": f"{private}/y",
        "climbs": "../private/y",
        "link": "c/y",
        "link to a folder of images": "a/b/x/d.png/y",
    }[how]
    make_frames(private, "y", 3)
    if how == "link":  # in the folder of the label files
        make_frames(data, "c/y", 3)
        (tmp_path / "labels/bench/frames").mkdir(parents=True)
        (tmp_path / "labels/bench/frames/c").symlink_to(private)
    if how == "link to a folder of images":
        (data / "a/b/x/d.png").symlink_to(private)
        frames.append("a/b/x/d.png")
    video = {"label": "real", "frames": [*frames[1:], f"{folder}/000.png"]}
    code = run_lists(tmp_path, {"A": {"real": {"test": {"x": video}}}})
    assert sorted(file.name for file in (private / "y").iterdir()) == ["000.png", "001.png", "002.png"]
    assert not any(file.is_symlink() for file in (private / "y").iterdir())
    assert code == 2


@pytest.mark.parametrize("name", ["../../faces/tiny/test/fake/000/0000.png", "/etc/passwd"])
def test_a_pack_does_not_name_files_elsewhere(tiny: Path, name: str) -> None:
    folder = write_pack(tiny)
    pack = find_pack(folder.parent, 32)
    assert pack is not None
    entry = pack.entries["tiny/test/real/000"]
    names = np.array([name.encode()] * entry.images)
    start = (folder / "names.bin").stat().st_size
    with (folder / "names.bin").open("ab") as file:
        file.write(names.tobytes())
    checksums = np.fromfile(folder / "checksums.bin", np.uint32)[entry.row : entry.row + entry.images]
    entry = entry._replace(offset=start, width=names.itemsize, checksum=checksum_of(names.view(np.uint8), checksums))
    with (folder / "index.jsonl").open("ab") as file:
        file.write(index_line(entry))
    with pytest.raises(InputError, match="slash"):
        read_split("tiny", "test", tiny / "labels", tiny / "faces", 32)


@pytest.mark.parametrize("change", [{"row": -1}, {"offset": -1}, {"width": 0}, {"images": 0}, {"offset": 10**15}])
def test_impossible_numbers_in_a_pack(tiny: Path, change: dict[str, int]) -> None:
    folder = write_pack(tiny)
    pack = find_pack(folder.parent, 32)
    assert pack is not None
    with (folder / "index.jsonl").open("ab") as file:
        file.write(index_line(pack.entries["tiny/test/real/000"]._replace(**change)))
    with pytest.raises(InputError, match="damaged"):
        find_pack(folder.parent, 32)


@pytest.mark.parametrize("entries", [{"save_path": "{root}/victim"}, {"name": "../victim"}, {"name": "{root}/victim"}])
def test_a_checkpoint_does_not_choose_where_a_resumed_run_writes(
    tiny: Path, entries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = {name: value.format(root=tiny) for name, value in entries.items()}
    args = {"model": "test_resnet", "num_LIBs": 2, "size": 32, "dataset": ["tiny"], "name": "run", "save_path": "x"}
    checkpoint(tiny / "strangers.pth", args=args | hostile, val={"auc": 1.0}, best=1.0)
    monkeypatch.setattr(training, "run_training", lambda args, *_: RunFolder(args, World("cpu")).open())
    monkeypatch.chdir(tiny)
    before = set(tiny.rglob("*"))
    code = training.main(["--resume_model", str(tiny / "strangers.pth"), "--gpu_num", "cpu", "--num_workers", "0"])
    assert code == (2 if "name" in entries else 0)
    assert all(file.is_relative_to(tiny / "output") for file in set(tiny.rglob("*")) - before)


@pytest.mark.parametrize("name", ["..\\..\\x", "...x", "..%2fx", "-o", "a/../../x"])
def test_annotated_copies_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "in" / "a/b/c.png", photo(0))
    file = write_image(tmp_path / "in/a" / f"{name}.png", photo(0))
    targets = annotation_targets([tmp_path / "in/a/b/c.png", file], tmp_path / "out")
    assert all(Path(os.path.abspath(target)).is_relative_to(tmp_path / "out") for target in targets.values())
