"""Files of strangers: they run no code, write nothing outside their folder, send no escapes and fit into memory."""

import csv
import io
import json
import multiprocessing
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import training
from corpora.files import read_json as read_json_of_dataset
from corpora.lists import MAX_BYTES, read_deepfakebench
from datasets.labels import parse_label_file, read_split
from datasets.packs import checksum_of, find_pack, index_line
from datasets.sources import Origin, read_sources, write_sources
from evaluation.predictions import make_scores, read_predictions, write_predictions
from faces.detectors import load_retinaface
from faces.kinds import VideoError
from faces.videos import FrameReader
from models.backbones import weights_from_file
from models.checkpoints import CONTINUING, extend_checkpoint, load_checkpoint, load_trained, newest_checkpoint
from run_folder import RunFolder
from scoring.files import annotation_targets
from scoring.page import _heading
from tests.helpers import arguments, start_fork
from tests.test_bad_input import Bomb
from tests.test_given_datasets import make_frames, run_lists
from tests.test_inference import checkpoint, photo, write_image
from tests.test_packs import write_pack
from tests.test_preprocessing import write_video
from tests.test_report import assert_self_contained, make_run, page_of
from utils.command import run_command
from utils.errors import InputError, one_line
from utils.files import MAX_TEXT, sha256
from utils.images import read_image, to_rgb
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


def test_a_library_cannot_close_the_streams_of_a_command(capsys: pytest.CaptureFixture) -> None:
    def work() -> None:
        sys.stdout.close()
        sys.stderr.close()

    assert run_command("program", work, "") == 0
    print("open")
    print("open", file=sys.stderr)
    assert capsys.readouterr() == ("open\n", "open\n")


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
    assert code == (0 if how == "link" else 2)  # a link in the folder of the label files is replaced by a folder
    assert how != "link" or not (tmp_path / "labels/bench/frames/c").is_symlink()


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
    args = {"model": "tiny_cnn", "num_LIBs": 2, "size": 32, "dataset": ["tiny"], "name": "run", "save_path": "x"}
    checkpoint(tiny / "strangers.pth", args=args | hostile, val={"acc": 1.0, "auc": 1.0, "log_loss": 0.1}, best=1.0)
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


# ----------------------------------------------------------------------------------------------- code in checkpoints


def write_bomb(file: Path, kind: str, bomb: Bomb) -> None:
    """Write a checkpoint with an object that creates a file when it is unpickled."""
    content = {"state_dict": {"a": torch.ones(1), "b": bomb}, "epoch": 1}
    if kind == "member":  # what only a continued training reads
        checkpoint(file)
        with zipfile.ZipFile(file, "a") as archive, archive.open(CONTINUING, "w") as member:
            torch.save({"optimizer": bomb}, member)
    elif kind == "tar":  # the format of PyTorch 0.1
        with tarfile.open(file, "w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                data = pickle.dumps(content, 2)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")


READERS: dict[str, Callable[[Path], object]] = {
    "resume": load_checkpoint,
    "score": load_trained,
    "resume auto": lambda file: newest_checkpoint(file.parent),
    "extend": lambda file: extend_checkpoint(file, {}),
    "detector": load_retinaface,
    "pretrained": lambda file: weights_from_file(file, torch.nn.Identity(), "resnet"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "tar", "member"])
@pytest.mark.parametrize("reader", READERS)
def test_no_code_runs_from_a_checkpoint(tmp_path: Path, kind: str, reader: str) -> None:
    file, exploded = tmp_path / "model_last.pth", tmp_path / "exploded"
    write_bomb(file, kind, Bomb(exploded))
    refuses = not (kind == "member" and reader in ("score", "extend", "pretrained")) and reader != "resume auto"
    with pytest.raises(InputError) if refuses else suppress(InputError):
        READERS[reader](file)
    assert not exploded.exists()


def test_a_shared_model_reads_no_pickle(tmp_path: Path) -> None:
    exploded, folder = tmp_path / "exploded", tmp_path / "shared"
    folder.mkdir()
    for name in ("model.safetensors", "pytorch_model.bin", "familiar_features.safetensors", "model_best.pth"):
        write_bomb(folder / name, "zip", Bomb(exploded))
    (folder / "config.json").write_text(json.dumps({"weights_sha256": sha256(folder / "model.safetensors")}))
    with pytest.raises(InputError):
        load_checkpoint(folder)
    assert not exploded.exists()
    pickle.loads(pickle.dumps(Bomb(exploded)))  # the bomb works
    assert exploded.exists()


def test_files_are_unpickled_in_one_place_only() -> None:
    for file in ROOT.rglob("*.py"):
        if not {".venv", "tests"} & set(file.relative_to(ROOT).parts):
            text = file.read_text(encoding="utf-8")
            assert text.count("torch.load(") == text.count("weights_only=True)") - (file.name == "backbones.py"), file
            assert not re.search(r"\b(np|numpy)\.load\(|allow_pickle|yaml\.", text), file


# ----------------------------------------------------------------------------------------------------------- bombs


def peak(function: Callable[[], object]) -> int:
    """Run a function that must raise InputError or VideoError in a fork; return the memory that it took, in MB."""

    def work(results: Any) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sentence = ""
        try:
            function()
        except (InputError, VideoError) as error:
            sentence = str(error)
        results.send(((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, sentence))

    receiver, sender = multiprocessing.Pipe()
    began = time.monotonic()
    process = start_fork(work, sender)
    process.join()
    megabytes, sentence = receiver.recv() if receiver.poll() else (0, "")
    print(f"{megabytes} MB, {time.monotonic() - began:.1f} s, {sentence[-100:]}")
    assert sentence and "\n" not in sentence
    return megabytes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((1 + 3 * 4) * 4)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    frame = b"\x2c\0\0\0\0" + struct.pack("<HH", width, height) + b"\0\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * 3 + b";"


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


BIG = zlib.compress(bytes(2**28), 1)  # a megabyte
IMAGES = {
    "pixels.png": png(100_000, 100_000),
    "text.png": png(4, 4, chunk(b"zTXt", b"a\0\0" + BIG)),
    "texts.png": png(4, 4, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 1)))] * 100),
    "profile.png": png(4, 4, chunk(b"iCCP", b"a\0\0" + BIG)),
    "pixels.gif": gif(65535, 65535),
    "pixels.tif": tiff((256, 4, 1, 2**31 - 1), (257, 4, 1, 2**31 - 1), (258, 3, 1, 8), (262, 3, 1, 1)),
    "tag.tif": tiff((256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 2**30 - 1, 8)),
    "pixels.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_claim_much_take_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(IMAGES[name])
    assert peak(lambda: read_image(tmp_path / name)) < 200


def test_strips_of_a_large_image_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (37, 20, 4), np.uint8))
    whole = to_rgb(image)
    monkeypatch.setattr("utils.images.STRIP", 100)
    assert np.array_equal(to_rgb(image), whole)


def claim(file: Path, width: int, height: int, frames: int) -> None:
    """Write an AVI whose headers claim other numbers than those of its 12 frames."""
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 25, (200, 140))
    for _ in range(12):
        writer.write(np.zeros((140, 200, 3), np.uint8))
    writer.release()
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, content.index(b"avih") + 8 + 16, frames)
    struct.pack_into("<II", content, content.index(b"avih") + 8 + 32, width, height)
    struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, frames)
    struct.pack_into("<ii", content, content.index(b"strf") + 8 + 4, width, height)
    if width > 200:  # raw pixels instead of JPEG, which has a size of its own
        content[content.index(b"strh") + 12 : content.index(b"strh") + 16] = bytes(4)
        content[content.index(b"strf") + 24 : content.index(b"strf") + 28] = bytes(4)
    file.write_bytes(content)


def test_a_video_that_claims_large_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path / "a.avi", 30_000, 30_000, 12)
    assert peak(lambda: list(FrameReader(tmp_path / "a.avi"))) < 500
    claim(tmp_path / "b.avi", 200, 140, 12)
    monkeypatch.setattr("faces.kinds.MAX_FRAME_MEGAPIXELS", 0.02)
    with pytest.raises(VideoError, match="0.02 megapixels"):
        FrameReader(tmp_path / "b.avi")


def test_a_video_that_claims_a_billion_frames(tmp_path: Path) -> None:
    claim(tmp_path / "a.avi", 200, 140, 10**9)
    reader = FrameReader(tmp_path / "a.avi", count=4)
    assert len(list(reader)) == 4 and reader.frames_read == 12


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8"])
@pytest.mark.parametrize("more", ["", "#\0\n"])  # a file with a null character is no text
@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, text: str, more: str, name: str) -> None:
    write_video(tmp_path / "private.mp4", frames=12)
    (tmp_path / name).write_text(text.format("private.mp4") + more)
    with pytest.raises(VideoError):
        list(FrameReader(tmp_path / name))


def write_big_json(file: Path) -> None:
    file.write_bytes(b"[" + b"[]," * (MAX_TEXT // 3 + 1) + b"[]]")


TEXTS = {"nested": lambda file: file.write_bytes(b"[" * 10**6), "large": write_big_json}


@pytest.mark.parametrize("how", TEXTS)
def test_texts_that_take_much_memory(tmp_path: Path, how: str) -> None:
    for file in ("config.json", "model.safetensors", "list.json", "val_real.txt"):
        TEXTS[how](tmp_path / file)
    assert peak(lambda: load_checkpoint(tmp_path)) < 500
    assert peak(lambda: read_json_of_dataset(tmp_path / "list.json")) < 500
    assert peak(lambda: parse_label_file(tmp_path / "val_real.txt", 0)) < 500


READ_LIST = """
import re, sys
from pathlib import Path
from corpora import lists
lists.MAX_MEMORY = 2**27
try:
    lists.read_deepfakebench(Path(sys.argv[1]), None)
except lists.InputError as error:
    print(int(re.search("VmHWM:(.*) kB", Path("/proc/self/status").read_text())[1]) // 1024, error)
"""


@pytest.mark.parametrize(("how", "says"), [("nested", "give a list of DeepfakeBench"), ("large", "128 MB of memory")])
def test_lists_that_take_much_memory(tmp_path: Path, how: str, says: str) -> None:
    """In a new process, because this one has free memory, which the limit does not count."""
    TEXTS[how](tmp_path / "list.json")
    command = [sys.executable, "-c", READ_LIST, str(tmp_path / "list.json")]
    megabytes, sentence = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split(" ", 1)
    assert int(megabytes) < 500 and says in sentence


def test_lists_may_be_large_but_not_too_large(tmp_path: Path) -> None:
    file, frames = tmp_path / "list.json", ["a/0.png"]
    videos = {"real": {"train": {"a": {"label": "real", "frames": frames}}}}
    file.write_text(json.dumps({"d": videos, "other frames": "x" * MAX_TEXT}))
    assert len(read_deepfakebench(file, None)) == 1
    os.truncate(file, MAX_BYTES + 1)
    assert peak(lambda: read_deepfakebench(file, None)) < 500


def laughs() -> list[Any]:
    """A list of 10^12 values that takes a few bytes in a pickle."""
    value: list[Any] = [0] * 10
    for _ in range(11):
        value = [value] * 10
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


ARGS: dict[str, Any] = {"model": "tiny_cnn", "num_LIBs": 2, "size": 32}
CLAIMS: dict[str, dict[str, Any]] = {
    "laughs": {"args": ARGS | {"x": laughs()}},
    "laughing calibration": {"calibration": laughs()},
    "endless": {"history": endless()},
    "size": {"args": ARGS | {"size": 10**5}},
    "LIBs": {"args": ARGS | {"num_LIBs": 10**6}},
    "features": {"familiar_features": torch.ones(1).expand(10**9, 64)},
    "hub": {"args": ARGS | {"model": "hf-hub:user/model"}},
    "folder": {"args": ARGS | {"model": "local-dir:/tmp"}},
}


@pytest.mark.parametrize("name", CLAIMS)
def test_checkpoints_that_claim_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "laughing calibration":  # "laughs" takes the memory of the limit
        monkeypatch.setattr("models.checkpoints.MAX_VALUES", 10**5)
    content = torch.load(checkpoint(tmp_path / "a.pth"))
    torch.save(content | CLAIMS[name], tmp_path / "a.pth")
    assert peak(lambda: load_trained(tmp_path / "a.pth")) < 500


@pytest.mark.parametrize("reader", ["score", "detector", "pretrained"])
def test_a_compressed_checkpoint(tmp_path: Path, reader: str) -> None:
    """`torch.load` would inflate it."""
    checkpoint(tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as old,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/data/more", bytes(2**26))
    assert peak(lambda: READERS[reader](tmp_path / "b.pth")) < 40


@pytest.mark.parametrize("header", [2**40, 99_000_000])
def test_a_safetensors_file_that_claims_much(tmp_path: Path, header: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", header) + b'{"a":{}}')
    (tmp_path / "config.json").write_text(json.dumps({"weights_sha256": sha256(tmp_path / "model.safetensors")}))
    assert peak(lambda: load_checkpoint(tmp_path)) < 500
    tensor = {"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    text = json.dumps(tensor).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    (tmp_path / "config.json").write_text(json.dumps({"weights_sha256": sha256(tmp_path / "model.safetensors")}))
    assert peak(lambda: load_checkpoint(tmp_path)) < 500


def test_a_legacy_checkpoint_that_claims_much(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(12345)}}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    size = struct.pack("<H", 12345)
    assert content.count(b"M" + size) >= 1  # BININT2
    (tmp_path / "a.pth").write_bytes(content.replace(b"M" + size, b"J" + struct.pack("<i", 2**31 - 1)))
    assert peak(lambda: load_checkpoint(tmp_path / "a.pth")) < 500
