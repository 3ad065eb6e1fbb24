"""Packs: equal pixels, continuation after a kill, changed files, damage."""

import gc
import json
import os
import pickle
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch.utils.data import Subset

import training
from datasets import pack as command
from datasets.folders import real_path
from datasets.images import BadImage, FaceImages, ThreadLoader, make_loader
from datasets.labels import SPLITS, read_datasets, read_split
from datasets.packs import IMAGES, Entry, Pack, find_pack, index_line
from models.checkpoints import load_checkpoint
from tests.helpers import arguments, make_dataset, start_fork
from utils.errors import InputError
from utils.world import World

SIZE = 32


def pack_arguments(root: Path, name: str = "tiny", size: int = SIZE) -> list[str]:
    where = ["--dataset_root", str(root / "labels"), "--data_root", str(root / "faces")]
    return [name, "--size", str(size), "--num_workers", "0", *where]


def write_pack(root: Path, name: str = "tiny", size: int = SIZE) -> Path:
    assert command.main(pack_arguments(root, name, size)) == 0
    return root / "labels" / name / f"pack_{size}"


def faces(root: Path, split: str = "test", packed: bool = True, seed: int | None = None) -> FaceImages:
    return FaceImages(read_split("tiny", split, root / "labels", root / "faces", SIZE if packed else None), SIZE, seed)


def packed_folders(root: Path, split: str = "test") -> list[str]:
    return [v.path for v in read_split("tiny", split, root / "labels", root / "faces", SIZE) if v.pack is not None]


@pytest.mark.parametrize("seed", [None, 0])
def test_images_equal_the_files_bit_for_bit(tiny: Path, seed: int | None) -> None:
    write_pack(tiny)
    for split in SPLITS:
        from_pack, from_files = faces(tiny, split, True, seed), faces(tiny, split, False, seed)
        assert all(video.pack for video in from_pack.videos) and not any(video.pack for video in from_files.videos)
        assert len(from_pack) == len(from_files) == 12
        for position in range(12):
            (image, *rest), (expected, *expected_rest) = from_pack[3, position], from_files[3, position]
            assert torch.equal(image, expected) and rest == expected_rest
            assert from_pack.path(position) == from_files.path(position)


@pytest.mark.slow
def test_a_training_from_a_pack_gives_the_same_checkpoint(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    assert training.main(arguments(tiny, "--name", "files")) == 0
    assert "pack_32" not in capsys.readouterr().out
    write_pack(tiny)
    assert training.main(arguments(tiny, "--name", "pack")) == 0
    assert capsys.readouterr().out.count("images come from") == 3
    files, pack = (load_checkpoint(tiny / f"output/{name}/model_last.pth") for name in ("files", "pack"))
    assert all(torch.equal(files["state_dict"][key], tensor) for key, tensor in pack["state_dict"].items())
    results = [json.loads((tiny / f"output/{name}/results.json").read_text())["datasets"] for name in ("files", "pack")]
    assert results[0] == results[1]


def test_several_processes_write_the_same_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PART", 2)
    monkeypatch.setattr(command, "worker_count", lambda requested: requested)
    make_dataset(tmp_path)
    pack, found = tmp_path / "labels/tiny/pack_32", []
    for workers in ("0", "2"):
        assert command.main([*pack_arguments(tmp_path), "--num_workers", workers]) == 0
        found.append({file.name: file.read_bytes() for file in pack.iterdir()})
        shutil.rmtree(pack)
    assert found[0] == found[1] and len(found[0]["images.bin"]) == 36 * SIZE * SIZE * 3


def test_another_size_is_not_used(tiny: Path) -> None:
    write_pack(tiny, size=16)
    assert not packed_folders(tiny)
    videos = read_split("tiny", "test", tiny / "labels", tiny / "faces", 16)
    assert torch.equal(FaceImages(videos, SIZE)[0][0], faces(tiny, packed=False)[0][0])


def test_the_size_is_printed_before_it_is_written(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    append_folders, printed = command.append_folders, []
    monkeypatch.setattr(
        command, "append_folders", lambda *given: printed.append(capsys.readouterr().out) or append_folders(*given)
    )
    size = (write_pack(tiny, size=200) / IMAGES).stat().st_size
    assert f" {size / 1e6:.1f} MB; 36 to write" in printed[0]
    assert size == 36 * 200 * 200 * 3
    assert (command.format_size(2_345_000_000), command.format_size(999_900_000)) == ("2.3 GB", "999.9 MB")


def test_a_killed_command_continues(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    folder, blocked = tiny / "labels/tiny/pack_32", tiny / "faces/tiny/test/fake/001/0002.png"
    image = blocked.read_bytes()
    blocked.unlink()
    os.mkfifo(blocked)  # the command waits here for ever
    process = start_fork(command.main, pack_arguments(tiny))
    deadline = time.monotonic() + 120
    while not (folder / "index.jsonl").is_file() or (folder / "index.jsonl").read_bytes().count(b"\n") < 12:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert len(packed_folders(tiny)) == 3  # a training already uses what is there
    blocked.unlink()
    blocked.write_bytes(image)
    for name in ("images.bin", "checksums.bin", "names.bin", "index.jsonl"):  # half of the next folder
        with (folder / name).open("ab") as file:
            file.write(b"123 [half")
    capsys.readouterr()
    write_pack(tiny)
    assert "36 images" in (out := capsys.readouterr().out) and "; 3 to write" in out
    assert len(packed_folders(tiny)) == 4
    assert (folder / "images.bin").stat().st_size == 36 * SIZE * SIZE * 3
    assert all(torch.equal(faces(tiny)[i][0], faces(tiny, packed=False)[i][0]) for i in range(12))
    capsys.readouterr()
    write_pack(tiny)
    assert "; 0 to write" in capsys.readouterr().out


def new_image(file: Path) -> None:
    cv2.imwrite(str(file), np.full((40, 40, 3), 77, np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: new_image(folder / "0000.png"),
        lambda folder: new_image(folder / "0003.png"),
        lambda folder: (folder / "0001.png").unlink(),
        lambda folder: (folder / "0001.png").rename(folder / "0009.png"),
        lambda folder: (shutil.rmtree(folder), folder.mkdir(), new_image(folder / "0000.png")),
    ],
)
def test_a_changed_folder_is_read_from_its_files(
    tiny: Path, change: Callable[[Path], object], capsys: pytest.CaptureFixture
) -> None:
    folder = tiny / "faces/tiny/test/real/001"
    pack = write_pack(tiny)
    before = (pack / "images.bin").read_bytes()
    change(folder)
    assert "tiny/test/real/001" not in packed_folders(tiny)
    assert "python -m datasets.pack tiny --size 32" in capsys.readouterr().out
    changed, files = faces(tiny), faces(tiny, packed=False)
    assert len(changed) == len(files)
    assert all(torch.equal(changed[i][0], files[i][0]) for i in range(len(files)))
    capsys.readouterr()
    write_pack(tiny)
    count = len(list(folder.iterdir()))
    assert f"; {count} to write" in (out := capsys.readouterr().out) and "note: 3 images" in out
    assert len(packed_folders(tiny)) == 4
    assert (pack / "images.bin").read_bytes().startswith(before)  # for trainings that read the old rows
    assert all(torch.equal(faces(tiny)[i][0], files[i][0]) for i in range(len(files)))


def test_a_file_overwritten_in_place_is_packed_again(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    write_pack(tiny)
    new_image(tiny / "faces/tiny/test/real/001/0002.png")
    capsys.readouterr()
    write_pack(tiny)
    assert "; 3 to write" in capsys.readouterr().out
    assert (faces(tiny)[5][0] == 77).all()


def test_a_folder_with_a_new_time_and_old_files_is_used(tiny: Path) -> None:
    write_pack(tiny)
    (tiny / "faces/tiny/test/real/001/notes.txt").write_text("")
    assert len(packed_folders(tiny)) == 4


def test_changed_label_files(tiny: Path) -> None:
    write_pack(tiny)
    lines = (tiny / "labels/tiny/test_fake.txt").read_text().splitlines()
    (tiny / "labels/tiny/test_fake.txt").write_text(lines[1])
    assert len(packed_folders(tiny)) == 3
    assert all(torch.equal(faces(tiny)[i][0], faces(tiny, packed=False)[i][0]) for i in range(9))
    shutil.rmtree(tiny / "faces/tiny/test/fake/001")
    with pytest.raises(InputError, match="are missing"):
        read_split("tiny", "test", tiny / "labels", tiny / "faces", SIZE)


def test_a_flipped_bit_in_an_image_is_noticed_when_it_is_read(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    pack = write_pack(tiny)
    row = read_split("tiny", "test", tiny / "labels", tiny / "faces", SIZE)[0].row
    flip(pack / "images.bin", (row + 1) * SIZE * SIZE * 3 + 100)
    assert not isinstance(faces(tiny)[0], BadImage)
    bad = faces(tiny)[1]
    assert isinstance(bad, BadImage) and str(pack) in bad.reason and "damaged" in bad.reason
    assert bad.path == str(tiny / "faces/tiny/test/real/000/0001.png")
    capsys.readouterr()
    write_pack(tiny)
    assert "; 3 to write" in capsys.readouterr().out
    assert torch.equal(faces(tiny)[1][0], faces(tiny, packed=False)[1][0])


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)


def change_entry(pack: Path, **changes: Any) -> None:
    """Change the first entry of the index; its checksum stays right."""
    header, first, *others = (pack / "index.jsonl").read_bytes().splitlines(keepends=True)
    entry = Entry(*json.loads(first.partition(b" ")[2]))._replace(**changes)
    (pack / "index.jsonl").write_bytes(b"".join([header, index_line(entry), *others]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda pack: flip(pack / "index.jsonl", 40),
        lambda pack: flip(pack / "names.bin", 3),
        lambda pack: flip(pack / "checksums.bin", 3),
        lambda pack: os.truncate(pack / "images.bin", 36 * SIZE * SIZE * 3 - 1),
        lambda pack: (pack / "names.bin").unlink(),
        lambda pack: (pack / "index.jsonl").write_text("[0, 32]\n"),
        lambda pack: (pack / "index.jsonl").write_text("text\n"),
        lambda pack: (pack / "index.jsonl").write_text("[" * 100_000 + "\n"),
        lambda pack: (pack / "index.jsonl").write_text(f"[1, 1{'0' * 400}]\n"),
        lambda pack: change_entry(pack, row=-1),
        lambda pack: change_entry(pack, path=[]),
        lambda pack: change_entry(pack, width=0),
        lambda pack: change_entry(pack, unreadable=None),
        lambda pack: change_entry(pack, offset=10**9),
        lambda pack: (pack / "index.jsonl").write_text('[1, "x"]\n'),
    ],
)
def test_a_damaged_pack_is_refused(tiny: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture) -> None:
    damage(write_pack(tiny))
    with pytest.raises(InputError, match="pack_32 is damaged or of another version .*; delete it and pack again"):
        faces(tiny, "train")
    assert command.main(pack_arguments(tiny)) == 2
    assert "is damaged" in capsys.readouterr().err


def test_an_unreadable_image_behaves_as_without_a_pack(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    file = tiny / "faces/tiny/test/real/001/0001.png"
    image = file.read_bytes()
    file.write_bytes(image[:500])
    write_pack(tiny)
    assert "tiny/test/real/001/0001.png" in capsys.readouterr().out
    assert len(packed_folders(tiny)) == 4
    assert isinstance(faces(tiny)[4], BadImage) and faces(tiny)[4] == faces(tiny, packed=False)[4]
    file.write_bytes(image)  # in place
    assert torch.equal(faces(tiny)[4][0], faces(tiny, packed=False)[4][0])


def test_parts_of_a_long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PART", 2)
    make_dataset(tmp_path, frames=5)
    (tmp_path / "faces/tiny/test/real/000/0003.png").write_bytes(b"")
    write_pack(tmp_path)
    from_pack, from_files = faces(tmp_path), faces(tmp_path, packed=False)
    assert isinstance(from_pack[3], BadImage) and isinstance(from_files[3], BadImage)
    assert all(torch.equal(from_pack[i][0], from_files[i][0]) for i in range(20) if i != 3)


def test_a_union_of_a_packed_and_an_unpacked_dataset(tiny: Path) -> None:
    make_dataset(tiny, "more", seed=1)
    write_pack(tiny, "more")
    where = ["tiny", "more"], tiny / "labels", tiny / "faces", "2"
    packed, files = (FaceImages(read_datasets(*where, size)[0], SIZE, seed=0) for size in (SIZE, None))
    assert [video.pack is not None for video in packed.videos] == [video.dataset == "more" for video in packed.videos]
    assert all(torch.equal(packed[i][0], files[i][0]) for i in range(len(files)))


@pytest.mark.parametrize("empty", [False, True])  # preprocessing.py --split all writes empty ones
def test_only_some_splits(tiny: Path, empty: bool) -> None:
    for split in ("train", "val"):
        for kind in ("real", "fake"):
            file = tiny / f"labels/tiny/{split}_{kind}.txt"
            file.unlink()
            if empty:
                file.touch()
    write_pack(tiny)
    assert len(packed_folders(tiny)) == 4


def test_a_pack_in_another_process(tiny: Path) -> None:
    pack = Pack(write_pack(tiny))
    again = pickle.loads(pickle.dumps(pack))
    assert len(pickle.dumps(pack)) < 500
    assert np.array_equal(again.images, pack.images)


def test_refusals(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pack = write_pack(tiny)
    with FileLock(pack / ".lock"):
        assert command.main(pack_arguments(tiny)) == 2
    assert "another command is writing" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 100))
    assert command.main(pack_arguments(tiny, size=48)) == 2
    assert "36 images of 48 x 48 pixels, 0.2 MB" in (captured := capsys.readouterr()).out
    assert "does not fit" in captured.err
    assert command.main(pack_arguments(tiny, "tinny")) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    assert find_pack(tiny / "labels/tiny", 48) is None


@pytest.mark.parametrize("packed", [False, True])
def test_a_name_takes_no_python_object(tmp_path: Path, packed: bool) -> None:
    """A str takes 57 bytes or more, and every worker process would copy it."""
    make_dataset(tmp_path, videos=1, frames=1)
    folder = tmp_path / "faces/tiny/test/real/000"
    for number in range(1, 2000):
        os.link(folder / "0000.png", folder / f"{number:04d}.png")
    if packed:
        write_pack(tmp_path)
    faces(tmp_path)  # what the first call keeps does not count
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = faces(tmp_path)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert [len(video.images) for video in found.videos] == [2000, 1]
    assert taken < 2000 * 45  # the arrays of `FaceImages` take 24


def test_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/inside").symlink_to("b")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    parents: dict[str, str] = {}
    for path in (
        "a/b",
        "link/b",
        "link/inside",
        "./a/b/",
        "a/b/..",
        "link/..",
        "a/missing",
        "loop",
        "loop/x",
        "a//b",
        "b",
    ):
        for folder in (path, str(tmp_path / path)):
            assert real_path(folder, parents) == os.path.realpath(folder)


def test_threads_read_the_batches_of_a_pack(tiny: Path) -> None:
    (tiny / "faces/tiny/test/real/001/0001.png").write_bytes(b"")
    world = World("cpu")
    assert not isinstance(make_loader(faces(tiny), 5, 2, world), ThreadLoader)
    write_pack(tiny)
    assert not isinstance(make_loader(faces(tiny, seed=0), 5, 2, world), ThreadLoader)
    for packed, files in (
        (faces(tiny), faces(tiny, packed=False)),
        (Subset(faces(tiny), [3, 9, 4]), Subset(faces(tiny, packed=False), [3, 9, 4])),
    ):
        loader = make_loader(packed, 5, 2, world)
        assert isinstance(loader, ThreadLoader) and loader.batch_size == 5
        for _ in range(2):
            for batch, expected in zip(loader, make_loader(files, 5, 0, world), strict=True):
                assert torch.equal(batch.images, expected.images) and batch.images.is_contiguous()
                assert torch.equal(batch.labels, expected.labels) and torch.equal(batch.positions, expected.positions)
                assert batch.bad == expected.bad
    next(iter(loader))  # and stop
