"""datasets.check: each fault is found, and only it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets import check
from datasets.copies import NEAR, WORDS, near_pairs
from tests.helpers import ROOT, make_dataset


def run(root: Path, code: int) -> dict[str, list[str]]:
    """Check the tiny dataset; return the problems by check, without the checks that found none."""
    where = ["--dataset_root", str(root / "labels"), "--data_root", str(root / "faces"), "--num_workers", "0"]
    assert check.main(["tiny", *where, "--json", str(root / "new/check.json")]) == code
    content = json.loads((root / "new/check.json").read_text())
    assert set(content["problems"]) == set(check.CHECKS)
    return {name: lines for name, lines in content["problems"].items() if lines}


@pytest.fixture
def faces(tiny: Path) -> Path:
    return tiny / "faces/tiny"


def test_a_dataset_without_problems(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copy(tiny / "faces/tiny/val/real/000/0000.png", tiny / "faces/tiny/val/real/000/0001.png")  # one video
    assert run(tiny, 0) == {}
    counts = json.loads((tiny / "new/check.json").read_text())["splits"]
    assert counts["train fake"] == {"folders": 2, "images": 6, "in_label_files": 6, "sizes": {"40x40": 6}}
    assert "40x40 (6)" in capsys.readouterr().out


def test_images_that_cannot_be_used(tiny: Path, faces: Path) -> None:
    content = (faces / "train/real/000/0000.png").read_bytes()
    (faces / "train/real/000/0000.png").write_bytes(content[: len(content) // 2])
    (faces / "train/real/001/0001.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 10, (40, 40, 3), np.uint8)
    for name in ("test/fake/000/0002.png", "val/real/000/0000.png"):  # no copies of each other
        cv2.imwrite(str(faces / name), noise)
    problems = run(tiny, 1)
    assert [[line.split(":")[0] for line in problems.pop(kind)] for kind in (check.TRUNCATED, check.UNREADABLE)] == [
        ["train tiny/train/real/000/0000.png"],
        ["train tiny/train/real/001/0001.png"],
    ]
    assert problems == {check.BLANK: ["val tiny/val/real/000/0000.png", "test tiny/test/fake/000/0002.png"]}


def test_folders_that_differ_from_the_label_files(tiny: Path, faces: Path) -> None:
    shutil.rmtree(faces / "train/real/000")
    for file in (faces / "train/real/001").iterdir():
        file.unlink()
    (faces / "val/fake/000/0002.png").unlink()
    with (tiny / "labels/tiny/test_fake.txt").open("a") as lines:
        lines.write("1,tiny/train/fake/001,3\n")
    problems = run(tiny, 1)
    assert set(problems) == {check.MISSING, check.EMPTY, check.COUNT, check.TWICE}
    assert problems[check.MISSING] == ["train real tiny/train/real/000"]
    assert problems[check.TWICE] == ["train fake tiny/train/fake/001 = test fake tiny/train/fake/001"]


def test_copies(tiny: Path, faces: Path, capsys: pytest.CaptureFixture) -> None:
    equal = cv2.imread(str(faces / "train/real/000/0001.png"))
    cv2.imwrite(str(faces / "test/fake/000/0002.png"), equal, [cv2.IMWRITE_PNG_COMPRESSION, 0])  # another file
    shutil.copy(faces / "val/real/000/0001.png", faces / "val/fake/001/0000.png")
    for number in range(2):
        picture = cv2.resize(cv2.imread(str(faces / f"train/fake/001/000{number}.png")), (80, 80))
        cv2.imwrite(str(faces / f"train/fake/001/000{number}.png"), picture)
        picture = cv2.resize(picture, (60, 60), interpolation=cv2.INTER_AREA)
        (faces / f"test/real/001/000{number}.png").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    problems = {
        check.COPIES: ["val tiny/val/real/000/0001.png = val tiny/val/fake/001/0000.png"],
        check.LEAKS: ["train tiny/train/real/000/0001.png = test tiny/test/fake/000/0002.png"],
        check.NEAR_LEAKS: ["train tiny/train/fake/001/0000.png = test tiny/test/real/001/0000.png (2 pairs)"],
    }
    assert run(tiny, 1) == problems
    *lines, last = capsys.readouterr().out.splitlines()
    for name in check.CHECKS:
        (count,) = (line.split()[-1] for line in lines if re.fullmatch(rf"{name} +\d+", line))
        assert int(count) == len(problems.get(name, []))
        assert [line for line in lines if line.startswith(f"{name}: ")] == [
            f"{name}: {pair}" for pair in problems.get(name, [])
        ]
    assert last == "tiny: problems found"


@pytest.mark.slow
def test_the_command_exits_with_code_1(tiny: Path, faces: Path) -> None:
    shutil.copy(faces / "train/real/000/0000.png", faces / "test/fake/000/0000.png")
    where = ["--dataset_root", str(tiny / "labels"), "--data_root", str(tiny / "faces"), "--num_workers", "0"]
    command = [sys.executable, "-m", "datasets.check", "tiny", *where]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("tiny: problems found\n")


def test_sources_and_people_in_two_splits(tiny: Path) -> None:
    (tiny / "labels/tiny/sources.csv").write_text(
        "path,video,source,identity\n"
        "tiny/train/real/000,a,a,Ann\n"
        "tiny/train/fake/000,b,a,\n"
        "tiny/val/real/000,c,a,\n"
        "tiny/test/real/000,d,d,Ann\n"
    )
    assert run(tiny, 1) == {check.SOURCES: ["a: train and val"], check.PEOPLE: ["Ann: train and test"]}


def test_a_video_with_several_folders_is_one_video(tiny: Path, faces: Path) -> None:
    shutil.copy(faces / "train/real/000/0000.png", faces / "train/real/001/0000.png")
    rows = "".join(f"tiny/train/real/00{number},one,,\n" for number in range(2))
    (tiny / "labels/tiny/sources.csv").write_text(f"path,video,source,identity\n{rows}")
    assert run(tiny, 0) == {}


def test_wrong_input(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    assert check.main(["other", "--dataset_root", str(tmp_path / "labels")]) == 2
    (tmp_path / "labels/tiny/val_real.txt").write_text("0,a\n")
    assert check.main(["tiny", "--dataset_root", str(tmp_path / "labels")]) == 2


def test_near_pairs_equal_a_search_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2, (20, 16 * WORDS))
    flips = rng.random((200, 16 * WORDS)) < rng.choice([0.01, 0.03, 0.05], (200, 1))
    bits = centres[rng.integers(0, 20, 200)] ^ flips
    splits = rng.integers(0, 3, 200)
    distance = (bits[:, None] != bits).sum(2)
    expected = np.argwhere(np.triu((distance <= NEAR) & (splits[:, None] != splits), 1)).tolist()
    hashes = np.packbits(bits, axis=1).view(np.uint16)
    found = [sorted(pair) for pairs in near_pairs(hashes, splits) for pair in np.stack(pairs, 1).tolist()]
    assert sorted(found) == expected and 100 < len(found) < 2000
    assert (distance[tuple(np.array(found).T)] == NEAR).any() and (distance == NEAR + 1).any()
