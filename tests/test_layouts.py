"""The videos, identities and splits of each dataset."""

import codecs
import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest

from corpora.identities import Identities, split_by_identity
from corpora.layouts import DUPLICATE, LAYOUTS, SourceVideo, find_videos
from datasets.labels import CLASSES, SPLITS, read_split
from tests.helpers import ROOT
from utils.errors import InputError
from utils.files import write_if_changed

SHARES = {"val": 0.15, "test": 0.15}
MANIPULATIONS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")


def touch(root: Path, *paths: str) -> None:
    """Make empty files, and folders for paths that end in a slash."""
    for folder in {path.rpartition("/")[0] for path in paths}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not path.endswith("/"):
            open(f"{root}/{path}", "w").close()


def write(file: Path, content: Any) -> Path:
    """Write text or bytes; anything else is written as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, str | bytes) else json.dumps(content)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def list_checked_videos(dataset: str, root: Path) -> dict[str, SourceVideo]:
    """The videos by folder, after the assertions that hold for every dataset."""
    videos = find_videos(dataset, root, dataset)
    for video in videos:
        assert video.folder.startswith(f"{dataset}/")
        assert video.label in (0, 1)
        assert (video.split in SPLITS) if video.split else video.left_out, video
        assert not (video.split and video.left_out), video
    check_folders([video.folder for video in videos])
    return {video.folder.removeprefix(f"{dataset}/"): video for video in videos}


def check_folders(folders: list[str]) -> None:
    """Assert that the folders differ, no folder is inside another, and none has . or .. in its path."""
    parts = [PurePosixPath(folder).parts for folder in folders]
    assert len(set(parts)) == len(parts), sorted(folders)
    above = {path[:length] for path in parts for length in range(1, len(path))}
    assert not above & set(parts), sorted(folders)
    assert not [folder for folder in folders if "//" in folder or {".", ".."} & set(folder.split("/"))]


def splits(videos: dict[str, SourceVideo]) -> dict[str, str]:
    return {folder: video.split for folder, video in videos.items()}


def splits_of_identities(videos: Iterable[SourceVideo], *among: str) -> dict[str, set[str]]:
    """The splits of each identity, among the given splits (default: all)."""
    where: dict[str, set[str]] = {}
    for video in videos:
        for person in video.identities if video.split in (among or SPLITS) else ():
            where.setdefault(person, set()).add(video.split)
    return where


def check_disjoint_splits(videos: Iterable[SourceVideo], *among: str) -> None:
    assert not {person: where for person, where in splits_of_identities(videos, *among).items() if len(where) > 1}


def classes(videos: Iterable[SourceVideo]) -> set[tuple[str, int]]:
    return {(video.split, video.label) for video in videos if video.split}


def refused(dataset: str, root: Path, *says: str) -> str:
    with pytest.raises(InputError) as error:
        find_videos(dataset, root, dataset)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence and "in )" not in sentence, sentence
    assert not re.search(r"[\w'] Give ", sentence), f"two sentences without a full stop: {sentence}"
    for words in says:
        assert words in sentence, f"no '{words}' in: {sentence}"
    return sentence


# ----------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("dataset", LAYOUTS)
@pytest.mark.parametrize("kind", ["missing", "empty", "something else", "file"])
def test_a_root_without_the_dataset(tmp_path: Path, dataset: str, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        refused(dataset, write(root, "hello"), str(root))
    elif kind == "missing":
        refused(dataset, root, "--videos", f"{root} does not exist")
    else:
        content = "nothing" if kind == "empty" else "pictures"
        touch(tmp_path, "root/" if kind == "empty" else "root/pictures/")
        refused(dataset, root, f"--videos {root}", "looked for", content)


@pytest.mark.parametrize(
    ("dataset", "inside"),
    [
        ("FF++_c23", "original_sequences/youtube/c23/videos/"),
        ("Celeb-DF-v2", "Celeb-real/"),
        ("DFDC-Preview", "dataset.json"),
        ("DFDC", "dfdc_train_part_0/"),
    ],
)
def test_a_root_one_level_too_high(tmp_path: Path, dataset: str, inside: str) -> None:
    touch(tmp_path, f"here/{inside}")
    refused(dataset, tmp_path, f"give --videos {tmp_path / 'here'}")


def test_a_root_one_level_too_high_beside_a_folder_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "lost+found/", "my videos/dataset.json")
    stat = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if "lost+found/" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    refused("DFDC-Preview", tmp_path, f"give --videos {tmp_path / 'my videos'}")


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("FF+_c23", ("'FF+_c23'", "did you mean 'FF++_c23'")),
        ("", ("''", "FF++_c23")),
        ("FF++_c23/DeepFake", ("'DeepFake'", "did you mean 'Deepfakes'")),
        ("FF++_c23/Deepfakes/x", ("'Deepfakes/x'",)),
        ("Celeb-DF-v2/Deepfakes", ("'Celeb-DF-v2/Deepfakes'",)),
    ],
)
def test_an_unknown_dataset(tmp_path: Path, dataset: str, says: tuple[str, ...]) -> None:
    refused(dataset, tmp_path, "--dataset", *says)


def shuffled_walk(top: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as on a file system that lists files in another order."""
    for folder, folders, names in WALK(top, **options):
        random.Random(len(names)).shuffle(names)
        folders.reverse()
        yield folder, folders, names


WALK = os.walk


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["folder", "DeepFakeDetection", "Celeb-DF-v2"])
def test_the_order_of_the_file_system_does_not_matter(
    tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    BUILDERS[dataset](tmp_path)
    before = find_videos(dataset, tmp_path, "x")
    monkeypatch.setattr(os, "walk", shuffled_walk)
    assert find_videos(dataset, tmp_path, "x") == before


# ---------------------------------------------------------------------------------------------------------- FF++


@pytest.mark.parametrize("compression", ["raw", "c23", "c40"])
def test_faceforensics(tmp_path: Path, compression: str) -> None:
    reals = f"original_sequences/youtube/{compression}"
    touch(tmp_path, f"{reals}/videos/004.mp4")
    videos = list_checked_videos(f"FF++_{compression}", tmp_path)
    assert videos[f"{reals}/004"].file == tmp_path / reals / "videos/004.mp4"
    count = {"train": 720, "val": 140, "test": 140}
    expected = {(split, label): n * (4 if label else 1) for split, n in count.items() for label in (0, 1)}
    assert Counter((video.split, video.label) for video in videos.values()) == expected
    for manipulation in MANIPULATIONS:
        folder = f"manipulated_sequences/{manipulation}/{compression}"
        video = videos[f"{folder}/953_974"]
        assert video.file == tmp_path / folder / "videos/953_974.mp4"
        assert (video.label, video.split, video.identities, video.sources) == (1, "test", *[{"953", "974"}] * 2)
    check_disjoint_splits(videos.values())


def test_faceforensics_keeps_its_pairs_together(tmp_path: Path) -> None:
    touch(tmp_path, "original_sequences/youtube/c23/videos/004.mp4")
    videos = list_checked_videos("FF++_c23", tmp_path)
    for folder, video in videos.items():
        names = folder.rpartition("/")[2].split("_")
        if video.label:
            assert video.identities == set(names)
            assert folder.replace("_".join(names), "_".join(reversed(names))) in videos
        for name in video.identities:
            real = videos[f"original_sequences/youtube/c23/{name}"]
            assert (real.split, real.label, real.identities) == (video.split, 0, video.identities)
    assert [videos[f"original_sequences/youtube/c23/{n}"].split for n in ("071", "720", "003")] == [*SPLITS]


@pytest.mark.parametrize("manipulation", [*MANIPULATIONS, "FaceShifter"])
def test_faceforensics_with_one_manipulation(tmp_path: Path, manipulation: str) -> None:
    touch(tmp_path, f"manipulated_sequences/{manipulation}/c23/videos/071_054.mp4")
    videos = list_checked_videos(f"FF++_c23/{manipulation}", tmp_path)
    assert Counter(video.label for video in videos.values()) == {0: 1000, 1: 1000}
    assert all(manipulation in folder for folder, video in videos.items() if video.label)


def test_faceforensics_in_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    touch(tmp_path, "original_sequences/youtube/c23/videos/004.mp4")
    videos = list_checked_videos("FF++_c23", tmp_path)
    assert [folder for folder, video in videos.items() if video.file.exists()] == ["original_sequences/youtube/c23/004"]
    said = capsys.readouterr().out
    assert all(f"manipulated_sequences/{name}/c23/videos" in said for name in MANIPULATIONS)
    (tmp_path / "original_sequences/youtube/c23/videos/004.mp4").unlink()
    refused("FF++_c23", tmp_path, "none of the 5000 videos", "original_sequences/youtube/c23/videos")


def test_faceforensics_in_another_compression(tmp_path: Path) -> None:
    touch(tmp_path, "original_sequences/youtube/c23/videos/004.mp4")
    refused("FF++_c40", tmp_path, "original_sequences/youtube/c40/videos", "c23")


# --------------------------------------------------------------------------------------------- DeepFakeDetection


def make_deepfakedetection(root: Path) -> None:
    actors = [f"{number:02d}" for number in range(1, 29)]
    reals = [f"original_sequences/actors/c23/videos/{a}__{s}.mp4" for a in actors for s in ("walk", "talk__loud")]
    fakes = "manipulated_sequences/DeepFakeDetection/c23/videos"
    touch(root, *reals, *(f"{fakes}/{a}_{b}__walk__AB12.mp4" for a, b in itertools.permutations(actors, 2)))


@pytest.mark.slow
def test_deepfakedetection(tmp_path: Path) -> None:
    make_deepfakedetection(tmp_path)
    videos = list_checked_videos("DeepFakeDetection", tmp_path)
    assert len(videos) == 28 * 2 + 28 * 27
    assert videos["original_sequences/actors/c23/01__talk__loud"].identities == {"01"}
    fake = videos["manipulated_sequences/DeepFakeDetection/c23/01_02__walk__AB12"]
    assert (fake.label, fake.identities, fake.sources) == (1, {"01", "02"}, {"01__walk"})
    assert fake.file.is_file()
    check_disjoint_splits(videos.values())
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))
    split_of = {person: split for person, (split,) in splits_of_identities(videos.values()).items()}
    assert Counter(split_of.values()) == {"train": 20, "val": 4, "test": 4}
    for video in videos.values():
        assert {split_of[person] for person in video.identities} == {video.split} or video.left_out
        assert not video.left_out or len({split_of[person] for person in video.identities}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["actors/c23/videos/scene.mp4", "actors/c23/videos/01_02__walk__AB12.mp4"])
def test_deepfakedetection_with_a_name_without_an_actor(tmp_path: Path, name: str) -> None:
    make_deepfakedetection(tmp_path)
    touch(tmp_path, f"original_sequences/{name}")
    refused("DeepFakeDetection", tmp_path, name, "ACTOR__SCENE.mp4")


# ------------------------------------------------------------------------------------------------------ Celeb-DF

LIST = "List_of_testing_videos.txt"
TESTED = [
    "1 Celeb-real/id1_0000.mp4",
    "1 Celeb-real/id2_0009.mp4",  # not on the disk
    "1 YouTube-real/00003.mp4",
    "0 Celeb-synthesis/id1_id0_0000.mp4",
    "0 Celeb-synthesis/id5_id7_0001.mp4",
]


def make_celeb_df(root: Path) -> None:
    people, numbers = [f"id{i}" for i in range(20)], ["0000", "0001", "0002"]
    touch(root, *(f"Celeb-real/{person}_{number}.mp4" for person in people for number in numbers))
    touch(root, *(f"YouTube-real/{i:05d}.mp4" for i in range(10)))
    pairs = itertools.permutations(people, 2)
    touch(root, *(f"Celeb-synthesis/{a}_{b}_{number}.mp4" for a, b in pairs for number in numbers))
    write(root / LIST, "".join(f"{line}\n" for line in TESTED))


@pytest.fixture(scope="module")
def celeb_df(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("celeb_df")
    make_celeb_df(root)
    return root


def source(folder: str) -> str:
    kind, name = folder.split("/")
    return re.sub(r"_id\d+_", "_", name) if kind == "Celeb-synthesis" else name


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_celeb_df(celeb_df: Path, version: str) -> None:
    videos = list_checked_videos(f"Celeb-DF-{version}", celeb_df)
    assert len(videos) == 60 + 1 + 10 + 20 * 19 * 3
    assert all(video.label == folder.startswith("Celeb-synthesis") for folder, video in videos.items())
    test = {folder for folder, video in videos.items() if video.split == "test"}
    assert test == {line[2:].removesuffix(".mp4") for line in TESTED}
    check_disjoint_splits(videos.values(), "train", "val")
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))
    assert videos["Celeb-synthesis/id3_id4_0002"].identities == {"id3", "id4"}
    assert videos["Celeb-synthesis/id3_id4_0002"].sources == {"id3_0002"}


@pytest.mark.slow
def test_celeb_df_leaves_out_the_source_videos_of_its_test_set(celeb_df: Path) -> None:
    videos = list_checked_videos("Celeb-DF-v2", celeb_df)
    tested = {source(folder) for folder, video in videos.items() if video.split == "test"}
    made = {folder for folder, video in videos.items() if source(folder) in tested and video.split != "test"}
    assert {"Celeb-real/id5_0001", "Celeb-synthesis/id1_id9_0000"} <= made
    assert all(videos[folder].split == "" for folder in made)
    kept = {folder for folder, video in videos.items() if not video.left_out}
    assert {"Celeb-real/id1_0001", "Celeb-real/id5_0000", "Celeb-real/id7_0001"} <= kept


@pytest.mark.parametrize(
    ("dataset", "left_out"),
    [
        ("Celeb-DF-v2", {"Celeb-synthesis/id5_id1_0001"}),
        ("DFDC-Preview", {"original_videos/32/32_A", "method_A/32/32_34_A"}),
        ("DFDC", {"dfdc_train_part_1/across1", "dfdc_train_part_2/across2"}),
    ],
)
def test_published_keeps_the_training_videos_that_share_a_source(
    tmp_path: Path, dataset: str, left_out: set[str]
) -> None:
    LISTED[dataset](tmp_path)
    default, published, everything = (
        {video.folder: video for video in find_videos(dataset, tmp_path, "faces", split)}
        for split in ("disjoint", "published", "all")
    )
    assert list(default) == list(published) == list(everything)
    assert {f"faces/{folder}" for folder in left_out} <= {folder for folder in default if default[folder].left_out}
    assert {video.split for video in default.values()} >= set(SPLITS)
    for folder, video in default.items():
        assert published[folder].split == (video.split or "train") and not published[folder].left_out
        assert everything[folder].split == "test" and not everything[folder].left_out


@pytest.mark.parametrize("dataset", ["folder", "DeepFakeDetection"])
def test_published_without_a_published_training_set(tmp_path: Path, dataset: str) -> None:
    BUILDERS[dataset](tmp_path)
    with pytest.raises(InputError, match="--split published"):
        find_videos(dataset, tmp_path, dataset, "published")
    assert {video.split for video in find_videos(dataset, tmp_path, dataset, "all")} == {"test"}


def test_all_lists_no_file_twice(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}/{i}.mp4" for kind in ("real", "fake") for i in range(3)))
    (tmp_path / "real/link.mp4").symlink_to(tmp_path / "real/0.mp4")
    videos = find_videos("folder", tmp_path, "folder", "all")
    assert [video.left_out for video in videos if video.split != "test"] == [DUPLICATE] and len(videos) == 7


@pytest.mark.parametrize("ends", ["\r\n", " \n", "\n\n"])
def test_celeb_df_with_a_list_from_another_system(tmp_path: Path, ends: str) -> None:
    touch(tmp_path, *(line[2:] for line in TESTED[:1] + TESTED[2:]))
    write(tmp_path / LIST, codecs.BOM_UTF8 + "".join(line + ends for line in TESTED).encode())
    assert {video.split for video in list_checked_videos("Celeb-DF-v2", tmp_path).values()} == {"test"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 Celeb-real/id1_0000.mp4", ("line 2", "0 Celeb-real")),
        ("1 Celeb-synthesis/id1_id0_0000.mp4", ("line 2",)),
        ("Celeb-real/id1_0000.mp4", ("line 2",)),
        ("2 Celeb-real/id1_0000.mp4", ("line 2",)),
        ("1 id1_0000.mp4", ("line 2",)),
        ("1 Celeb-real", ("line 2",)),
        ("1 Celeb-real/../../id1_0000.mp4", ("line 2",)),
    ],
)
def test_celeb_df_with_a_malformed_list(tmp_path: Path, line: str, says: tuple[str, ...]) -> None:
    touch(tmp_path, "Celeb-real/id1_0000.mp4", "YouTube-real/", "Celeb-synthesis/")
    write(tmp_path / LIST, f"{TESTED[0]}\n{line}\n")
    refused("Celeb-DF-v2", tmp_path, LIST, *says)


@pytest.mark.parametrize("content", ["", "\n \n", "1 Celeb-real/id\xe9.mp4".encode("latin-1")])
def test_celeb_df_without_a_list(tmp_path: Path, content: str | bytes) -> None:
    touch(tmp_path, "Celeb-real/id1_0000.mp4", "YouTube-real/", "Celeb-synthesis/")
    refused("Celeb-DF-v2", tmp_path, f"looked for {LIST}", "Celeb-synthesis, YouTube-real")
    write(tmp_path / LIST, content)
    refused("Celeb-DF-v2", tmp_path, LIST)


# ------------------------------------------------------------------------------------------------------- DFDC


def make_dfdc_preview(root: Path) -> dict[str, dict]:
    entries = {f"original_videos/{a}/{a}_A.mp4": {"label": "real", "target_id": a} for a in range(40)}
    for a in range(40):
        for b in (a ^ 1, a ^ 2):
            entries[f"method_A/{a}/{a}_{b}_A.mp4"] = {"label": "fake", "target_id": str(a), "swapped_id": str(b)}
    for entry in entries.values():
        entry["set"] = "test" if int(entry["target_id"]) >= 34 else "train"
    write(root / "dataset.json", entries)
    touch(root, *entries)
    return entries


def test_dfdc_preview(tmp_path: Path) -> None:
    entries = make_dfdc_preview(tmp_path)
    videos = list_checked_videos("DFDC-Preview", tmp_path)
    assert len(videos) == len(entries)
    for path, entry in entries.items():
        video = videos[path.removesuffix(".mp4")]
        assert video.label == CLASSES.index(entry["label"])
        assert (video.split == "test") == (entry["set"] == "test")
        assert video.identities == {str(entry[key]) for key in ("target_id", "swapped_id") if key in entry}
    check_disjoint_splits(videos.values())
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))
    # The test set contains actors 34 to 39, and the fakes 34_32 and 35_33.
    assert {a for a in range(34) if "test set" in videos[f"original_videos/{a}/{a}_A"].left_out} == {32, 33}


def test_dfdc_preview_without_actors_in_its_list(tmp_path: Path) -> None:
    entries = {
        f"method_A/{1000000 + i}_{2000000 + i // 2}_0.mp4": {"label": CLASSES[i % 2], "set": "train"} for i in range(30)
    }
    write(tmp_path / "dataset.json", entries)
    touch(tmp_path, *entries)
    videos = list_checked_videos("DFDC-Preview", tmp_path)
    assert videos["method_A/1000003_2000001_0"].identities == {"1000003", "2000001"}
    assert not videos["method_A/1000003_2000001_0"].sources
    check_disjoint_splits(videos.values())


GOOD = {"label": "real", "set": "train"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        {},
        {"b.mp4": [1]},
        {"b.mp4": {"set": "train"}},
        {"b.mp4": {"label": "real"}},
        {"b.mp4": {"label": "maybe", "set": "train"}},
        {"": GOOD},
        {".": GOOD},
        {"/etc/b.mp4": GOOD},
        {"../../b.mp4": GOOD},
        '{"\xe9.mp4": {}}'.encode("latin-1"),
    ],
    ids=lambda content: repr(content)[:30],
)
def test_dfdc_preview_with_a_malformed_list(tmp_path: Path, content: Any) -> None:
    touch(tmp_path, "a.mp4")
    content = {"a.mp4": GOOD, **content} if content and isinstance(content, dict) else content
    write(tmp_path / "dataset.json", content)
    refused("DFDC-Preview", tmp_path, "dataset.json")


def make_dfdc(root: Path, parts: Iterable[int]) -> None:
    for part in parts:
        folder = f"dfdc_train_part_{part}"
        entries = {
            f"real{part}.mp4": {"label": "REAL", "split": "train"},
            f"fake{part}.mp4": {"label": "FAKE", "split": "train", "original": f"real{part}.mp4"},
        }
        write(root / folder / "metadata.json", entries)
        touch(root, *(f"{folder}/{name}" for name in entries))


@pytest.mark.parametrize(("parts", "validating"), [(2, [1]), (10, [9]), (20, [18, 19]), (50, [45, 46, 47, 48, 49])])
def test_dfdc_validates_on_its_last_parts(tmp_path: Path, parts: int, validating: list[int]) -> None:
    make_dfdc(tmp_path, range(parts))
    videos = list_checked_videos("DFDC", tmp_path)
    expected = {
        f"dfdc_train_part_{part}/{kind}{part}": "val" if part in validating else "train"
        for part in range(parts)
        for kind in CLASSES
    }
    assert splits(videos) == expected
    assert all(video.label == ("fake" in folder) for folder, video in videos.items())
    assert videos["dfdc_train_part_1/fake1"].identities == videos["dfdc_train_part_1/real1"].identities
    assert videos["dfdc_train_part_1/fake1"].sources == videos["dfdc_train_part_1/real1"].sources == {"real1.mp4"}


@pytest.mark.parametrize("at", ["test/labels.csv", "labels.csv"])
def test_dfdc_with_its_test_set(tmp_path: Path, at: str) -> None:
    make_dfdc(tmp_path, range(3))
    folder = at.rpartition("labels.csv")[0]
    write(tmp_path / at, "filename,label\na.mp4,0\r\nb.mp4,1\nc.mp4,1\n")
    touch(tmp_path, f"{folder}a.mp4", f"{folder}b.mp4")
    videos = list_checked_videos("DFDC", tmp_path)
    test = {folder: video.label for folder, video in videos.items() if video.split == "test"}
    assert test == {f"{folder}a": 0, f"{folder}b": 1, f"{folder}c": 1}
    assert len(videos) == 6 + 3


def test_dfdc_with_the_lists_of_two_test_sets(tmp_path: Path) -> None:
    make_dfdc(tmp_path, range(3))
    for folder, name in (("validation", "a.mp4"), ("test", "b.mp4"), ("dfdc_train_part_0", "real0.mp4")):
        write(tmp_path / folder / "labels.csv", f"filename,label\n{name},0\n")
        touch(tmp_path, f"{folder}/{name}")
    test = {folder for folder, video in list_checked_videos("DFDC", tmp_path).items() if video.split == "test"}
    assert test == {"test/b"}
    (tmp_path / "test").rename(tmp_path / "other")
    refused("DFDC", tmp_path, "2 labels.csv files", "other/labels.csv", "validation/labels.csv", "keep one")


def test_dfdc_with_a_link_to_its_test_set(tmp_path: Path) -> None:
    make_dfdc(tmp_path / "root", range(3))
    write(tmp_path / "elsewhere/labels.csv", "filename,label\na.mp4,0\n")
    touch(tmp_path, "elsewhere/videos/a.mp4")
    (tmp_path / "root/test").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert splits(list_checked_videos("DFDC", tmp_path / "root"))["test/videos/a"] == "test"


def test_dfdc_keeps_a_source_video_in_one_split(tmp_path: Path) -> None:
    make_dfdc(tmp_path, range(10))
    write(tmp_path / "dfdc_train_part_9/metadata.json", {"f.mp4": {"label": "FAKE", "original": "real0.mp4"}})
    check_disjoint_splits(list_checked_videos("DFDC", tmp_path).values())


@pytest.mark.parametrize("content", ["{", "[]", {"a.mp4": {}}, {"a.mp4": {"label": "odd"}}, {"a.mp4": "FAKE"}])
def test_dfdc_with_malformed_metadata(tmp_path: Path, content: Any) -> None:
    make_dfdc(tmp_path, range(3))
    file = write(tmp_path / "dfdc_train_part_1/metadata.json", content)
    refused("DFDC", tmp_path, str(file))
    file.unlink()
    refused("DFDC", tmp_path, "looked for metadata.json", "dfdc_train_part_1")


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "name,label\na.mp4,0\n",
        "filename,label\na.mp4,2\n",
        "filename,label\na.mp4\n",
        "filename,label\na.mp4,0\na.mp4,1\n",
        "filename,label\n/a.mp4,1\n",
        "filename,label\n../../../a.mp4,1\n",
    ],
)
def test_dfdc_with_malformed_labels(tmp_path: Path, lines: str) -> None:
    make_dfdc(tmp_path, range(3))
    refused("DFDC", tmp_path, str(write(tmp_path / "test/labels.csv", lines)))


def test_dfdc_beside_other_files(tmp_path: Path) -> None:
    make_dfdc(tmp_path, range(3))
    before = splits(list_checked_videos("DFDC", tmp_path))
    touch(tmp_path, "dfdc_train_part_3.zip", "dfdc_train_part_x1/", "dfdc_train_part_old/")
    assert splits(list_checked_videos("DFDC", tmp_path)) == before


# -------------------------------------------------------------------------------------------------- newer datasets


class Layout(NamedTuple):
    """A small tree in the layout of a dataset, with the oddities of real downloads.

    Attributes:
        videos: files on the disk that are videos, or images of WildDeepfake.
        files: the content of text files, by path.
        expected: ``label split sources`` by folder, or ``left out``; missing videos too. A split of the project
            is ``any``, or ``dev`` for train or val.
    """

    videos: list[str]
    files: dict[str, str]
    expected: dict[str, str]


DEEPSPEAK_FAKES = "video-file,kind,engine,identity-source,identity-target,recording-source,recording-target"
NEWER = {
    "UADFV": Layout(
        ["real/0000.mp4", "real/0001.MP4", "fake/0000_fake.mp4", "fake/0001_FAKE.avi", "real/0002.mp4"],
        {"real/notes.txt": "", "real/._0000.mp4": ""},
        {
            "real/0000": "0 test 0000",
            "real/0001": "0 test 0001",
            "real/0002": "0 test 0002",
            "fake/0000_fake": "1 test 0000",
            "fake/0001_FAKE": "1 test 0001",
        },
    ),
    "FFIW-10K": Layout(
        [
            *(f"{kind}/{part}/{part}_00000000.mp4" for kind in ("source", "target") for part in ("train", "val")),
            "source/test_00000001.mp4",
            "target/test_00000001.mp4",
            "target_mask/train/train_00000000_mask.mp4",
        ],
        {},
        {
            "source/train/train_00000000": "0 train train/train_00000000",
            "target/train/train_00000000": "1 train train/train_00000000",
            "source/val/val_00000000": "0 val val/val_00000000",
            "target/val/val_00000000": "1 val val/val_00000000",
            "source/test_00000001": "0 test test_00000001",
            "target/test_00000001": "1 test test_00000001",
        },
    ),
    "DeeperForensics-1.0": Layout(
        [
            *(f"original_sequences/youtube/c23/videos/{name}.mp4" for name in ("000", "001", "002", "003")),
            *(f"manipulated_videos/end_to_end/{name}.mp4" for name in ("000_M101", "001_W004", "002_W004", "009_M001")),
            "source_videos/M101/BlendShape/camera_up/M101_BlendShape_camera_up.mp4",
        ],
        {
            "lists/splits/train.txt": "000_M101.mp4\r\n004_M005.mp4\r\n\r\n",
            "lists/splits/val.txt": "001_W004.mp4\n004_M006.mp4\n",
            "lists/splits/test.txt": "002_W004.mp4\n",
        },
        {
            "manipulated_videos/end_to_end/000_M101": "1 train 000",
            "manipulated_videos/end_to_end/001_W004": "1 val 001",
            "manipulated_videos/end_to_end/002_W004": "1 test 002",
            "manipulated_videos/end_to_end/004_M005": "1 train 004",
            "manipulated_videos/end_to_end/004_M006": "1 val 004",
            "original_sequences/youtube/c23/videos/000": "0 train 000",
            "original_sequences/youtube/c23/videos/001": "0 val 001",
            "original_sequences/youtube/c23/videos/002": "0 test 002",
            "original_sequences/youtube/c23/videos/004": "left out",
        },
    ),
    "FakeAVCeleb": Layout(
        [
            *(f"RealVideo-RealAudio/Asian (East)/men/id0000{i}/00109.mp4" for i in range(6)),
            *(f"FakeVideo-RealAudio/Asian (East)/men/id0000{i}/00109_0_id0000{i}_wavtolip.mp4" for i in range(6)),
            "FakeVideo-FakeAudio/African/women/id00000/00109_id00000_x.MP4",
            "RealVideo-FakeAudio/African/women/id00000/00109_fake.mp4",
        ],
        {"meta_data.csv": "source,target1,target2,method,category,type,race,gender,path,\n"},
        {
            **{f"RealVideo-RealAudio/Asian (East)/men/id0000{i}/00109": f"0 any id0000{i}/00109" for i in range(6)},
            **{
                f"FakeVideo-RealAudio/Asian (East)/men/id0000{i}/00109_0_id0000{i}_wavtolip": f"1 any id0000{i}/00109"
                for i in range(6)
            },
            "FakeVideo-FakeAudio/African/women/id00000/00109_id00000_x": "1 any id00000/00109",
            "RealVideo-FakeAudio/African/women/id00000/00109_fake": "left out",
        },
    ),
    "DeepSpeak-v2": Layout(
        [
            *(f"deepspeak-v2-{i % 2}/{i}-0.mp4" for i in range(6)),
            *(f"deepspeak-v2-1/memo-{i}0-{i}1-playht.mp4" for i in range(6)),
            "deepspeak-v2-1/memo-05-00-playht.mp4",
            "deepspeak-v2-0/unlisted.mp4",
        ],
        {
            "annotations-real.csv": "identity,video-file\n" + "".join(f"{i},{i}-0.mp4\n" for i in range(7)),
            "annotations-fake.csv": f"{DEEPSPEAK_FAKES}\n"
            + "".join(f"memo-{i}0-{i}1-playht.mp4,x,memo,{i},{i},1,0\n" for i in range(6))
            + "memo-05-00-playht.mp4,x,memo,0,5,1,0\n",
            "annotations-split-def.csv": "identity,split\n"
            + "".join(f"{i},{'test' if i > 3 else 'train'}\n" for i in range(7)),
        },
        {
            **{f"deepspeak-v2-{i % 2}/{i}-0": f"0 {'test' if i > 3 else 'dev'} {i}-0" for i in range(6)},
            **{f"deepspeak-v2-1/memo-{i}0-{i}1-playht": f"1 {'test' if i > 3 else 'dev'} {i}-0" for i in range(6)},
            "6-0": "0 test 6-0",
            "deepspeak-v2-1/memo-05-00-playht": "left out",
        },
    ),
    "Deepfake-Eval-2024": Layout(
        [f"video-data/{name}.mp4" for name in ("a", "-b", "c", "d", "e", "u", "unlisted")],
        {
            "video-metadata-publish.csv": "Filename,Date,Video Ground Truth,Audio Ground Truth,Public Comments,"
            'Finetuning Set\na.mp4,2024-11-14,Fake,Unknown,"lips, off",train\n-b.mp4,,Real,Fake,,train\n'
            "c.mp4,,Fake,,,test\nd.mp4,,Real,,,train\ne.mp4,,fake,,,train\nu.mp4,,Unknown,,,test\nz.mp4,,Real,,,test\n"
        },
        {
            "video-data/a": "1 dev video-data/a.mp4",
            "video-data/-b": "0 dev video-data/-b.mp4",
            "video-data/c": "1 test video-data/c.mp4",
            "video-data/d": "0 dev video-data/d.mp4",
            "video-data/e": "1 dev video-data/e.mp4",
            "video-data/u": "left out",
            "video-data/z": "0 test video-data/z.mp4",
        },
    ),
    "Celeb-DF++": Layout(
        [
            *(f"Celeb-real/id{i}_0000.mp4" for i in range(6)),
            "YouTube-real/00000.mp4",
            *(f"Celeb-synthesis/FaceSwap/GHOST/id{i}_id{i + 1}_0000.mp4" for i in (1, 3)),
            *(f"Celeb-synthesis/TalkingFace/EDTalk/id{i}_0000_test_3.mp4" for i in (0, 1, 2, 5)),
        ],
        {
            "List_of_testing_videos.txt": "1 Celeb-real/id0_0000.mp4\n"
            "0 Celeb-synthesis/FaceReenact/LIA/id5_id4_0000.mp4\n"
            "0 Celeb-synthesis/TalkingFace/EDTalk/id0_0000_test_3.mp4\n"
        },
        {
            "Celeb-real/id0_0000": "0 test id0_0000",
            **{f"Celeb-real/id{i}_0000": f"0 dev id{i}_0000" for i in (1, 2, 3, 4)},
            "Celeb-real/id5_0000": "left out",
            "YouTube-real/00000": "0 dev YouTube-real/00000.mp4",
            "Celeb-synthesis/FaceSwap/GHOST/id1_id2_0000": "1 dev id1_0000",
            "Celeb-synthesis/FaceSwap/GHOST/id3_id4_0000": "1 dev id3_0000",
            "Celeb-synthesis/FaceReenact/LIA/id5_id4_0000": "1 test id5_0000",
            "Celeb-synthesis/TalkingFace/EDTalk/id0_0000_test_3": "1 test id0_0000",
            "Celeb-synthesis/TalkingFace/EDTalk/id1_0000_test_3": "1 dev id1_0000",
            "Celeb-synthesis/TalkingFace/EDTalk/id2_0000_test_3": "1 dev id2_0000",
            "Celeb-synthesis/TalkingFace/EDTalk/id5_0000_test_3": "left out",
        },
    ),
    "WildDeepfake": Layout(
        [
            *(f"real_train/{i}/real/{n}/{f}.png" for i in (0, 1, 2) for n in (7, 54) for f in (0, 9)),
            *(f"fake_train/{i}/fake/7/{f}.png" for i in (0, 1, 2) for f in (0, 10)),
            *(f"{kind}_test/0/{kind}/3/0.PNG" for kind in CLASSES),
        ],
        {"real_train/0.tar.gz": "", "real_train/0/real/7/._0.png": ""},
        {
            **{f"real_train/{i}/real/{n}": "0 dev" for i in (0, 1, 2) for n in (7, 54)},
            **{f"fake_train/{i}/fake/7": "1 dev" for i in (0, 1, 2)},
            **{f"{kind}_test/0/{kind}/3": f"{label} test" for label, kind in enumerate(CLASSES)},
        },
    ),
}
OWN_SPLITS = {"any": SPLITS, "dev": ("train", "val")}


def make_layout(root: Path, layout: Layout, copy: Callable[[Path], Any] = Path.touch) -> Layout:
    """Write the tree of a layout, each video with `copy`."""
    for path in layout.videos:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        copy(root / path)
    for path, content in layout.files.items():
        write(root / path, content)
    return layout


@pytest.mark.parametrize("dataset", NEWER)
def test_newer_datasets(tmp_path: Path, dataset: str) -> None:
    layout = make_layout(tmp_path, NEWER[dataset])
    videos = find_videos(dataset, tmp_path, dataset)
    start = tmp_path.resolve().as_posix() if dataset == "WildDeepfake" else dataset
    found = {video.folder.removeprefix(f"{start}/"): video for video in videos}
    assert set(found) == set(layout.expected)
    for folder, expected in layout.expected.items():
        video = found[folder]
        if expected == "left out":
            assert video.left_out and not video.split, folder
            continue
        label, split, *sources = expected.split()
        assert (video.label, video.sources, video.left_out) == (int(label), set(sources), ""), folder
        assert video.split in OWN_SPLITS.get(split, (split,)), folder
    check_folders([video.folder for video in videos])
    if dataset != "DeeperForensics-1.0":  # its lists are those of the authors
        check_disjoint_splits(videos, "train", "val")
    wanted = {split for text in layout.expected.values() for split in text.split()[1:2] if split != "out"}
    if wanted & set(OWN_SPLITS):
        own = (("val", 0), ("val", 1), ("train", 0), ("train", 1))
        assert set(own) <= classes(videos), "a split of the project has both classes"


def test_masks_are_those_of_the_fake_videos(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_layout(tmp_path / "ffiw", NEWER["FFIW-10K"])
    masks = {v.folder: v.mask for v in find_videos("FFIW-10K", tmp_path / "ffiw", "x")}
    assert masks["x/target/val/val_00000000"] == tmp_path / "ffiw/target_mask/val/val_00000000_mask.mp4"
    assert masks["x/source/val/val_00000000"] is None
    mask = tmp_path / "ffiw/target_mask/train/train_00000000_mask.mp4"
    assert masks["x/target/train/train_00000000"] == mask
    renamed = mask.rename(mask.with_name("train_00000000_MASK.avi"))
    assert renamed in {v.mask for v in find_videos("FFIW-10K", tmp_path / "ffiw", "x")}
    fakes = "manipulated_sequences/DeepFakeDetection"
    touch(tmp_path, "original_sequences/actors/c23/videos/01__walk.mp4", f"{fakes}/c23/videos/01_02__walk__AB12.mp4")
    for there in (False, True):
        touch(tmp_path, *[f"{fakes}/masks/videos/"][: int(there)])
        real, fake = find_videos("DeepFakeDetection", tmp_path, "x")
        assert (real.mask, fake.mask) == (None, tmp_path / fakes / "masks/videos/01_02__walk__AB12.mp4")
        assert ("note" in capsys.readouterr().out) != there


@pytest.mark.parametrize("dataset", ["FakeAVCeleb", "Deepfake-Eval-2024"])
def test_videos_without_a_usable_label_are_in_no_split(tmp_path: Path, dataset: str) -> None:
    make_layout(tmp_path, NEWER[dataset])
    every = find_videos(dataset, tmp_path, "x", "all")
    assert Counter(video.split for video in every) == {"": 1, "test": len(every) - 1}


def test_deeperforensics_variants(tmp_path: Path) -> None:
    make_layout(tmp_path, NEWER["DeeperForensics-1.0"])
    touch(tmp_path, "manipulated_videos/end_to_end_level_3/000_M101.mp4")
    folders = {v.folder for v in find_videos("DeeperForensics-1.0/end_to_end_level_3", tmp_path, "x") if v.label}
    assert "x/manipulated_videos/end_to_end_level_3/000_M101" in folders
    refused("DeeperForensics-1.0/level_3", tmp_path, "'level_3'", "end_to_end_level_3")


@pytest.mark.parametrize(
    ("dataset", "path", "content", "says"),
    [
        ("UADFV", "fake/interview.mp4", "", "interview.mp4"),
        ("FFIW-10K", "target/00000000.mp4", "", "00000000.mp4"),
        ("FakeAVCeleb", "FakeVideo-FakeAudio/00109.mp4", "", "00109.mp4"),
        ("DeeperForensics-1.0", "lists/splits/val.txt", "000_M101.mp4\n", "also in train.txt"),
        ("DeeperForensics-1.0", "lists/splits/test.txt", "\n000.mp4\n", "line 2"),
        ("DeepSpeak-v2", "annotations-split-def.csv", "identity,split\n1,validation\n", "'validation'"),
        ("DeepSpeak-v2", "annotations-real.csv", "identity,video-file\n1,1-0.mp4\n1,1-0.mp4\n", "line 3"),
        ("DeepSpeak-v2", "annotations-real.csv", "identity,video-file\n1,../1-0.mp4\n", "../1-0.mp4"),
        ("DeepSpeak-v2", "annotations-fake.csv", "video-file,identity-source\na.mp4,1\n", "identity-target"),
        ("Deepfake-Eval-2024", "video-metadata-publish-with-links.csv", "Filename\na.mp4\n", "Finetuning Set"),
        ("Celeb-DF++", "List_of_testing_videos.txt", "1 Celeb-synthesis/FaceSwap/GHOST/id1_id2_0000.mp4\n", "line 1"),
    ],
)
def test_newer_datasets_with_a_malformed_file(tmp_path: Path, dataset: str, path: str, content: str, says: str) -> None:
    make_layout(tmp_path, NEWER[dataset])
    write(tmp_path / path, content)
    refused(dataset, tmp_path, says)


def test_wilddeepfake_with_packed_archives_or_odd_names(tmp_path: Path) -> None:
    make_layout(tmp_path, NEWER["WildDeepfake"])
    odd = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}, copy"))
    refused("WildDeepfake", odd, "commas")
    packed = tmp_path / "packed"
    touch(packed, *(f"{kind}_{split}/0.tar.gz" for kind in CLASSES for split in ("train", "test")))
    refused("WildDeepfake", packed, "0.tar.gz", "unpack")


# -------------------------------------------------------------------------------------------------- files of lists


def make_ffpp(root: Path) -> None:
    touch(root, *(f"original_sequences/youtube/c23/videos/{name}.mp4" for name in ("071", "054", "720", "953")))
    touch(root, *(f"manipulated_sequences/Deepfakes/c23/videos/{name}.mp4" for name in ("071_054", "672_720")))


def make_small_celeb_df(root: Path) -> None:
    touch(root, *(f"Celeb-real/id{i}_000{j}.mp4" for i in range(8) for j in range(2)), "YouTube-real/00003.mp4")
    touch(root, *(f"Celeb-synthesis/id{a}_id{b}_0001.mp4" for a, b in itertools.permutations(range(8), 2)))
    write(root / LIST, "1 Celeb-real/id5_0001.mp4\n0 Celeb-synthesis/id5_id7_0001.mp4\n1 YouTube-real/00003.mp4\n")


def make_dfdc_across_parts(root: Path) -> None:
    """A part for validation with a fake of a training video, and a training part with a fake of a validation video."""
    make_dfdc(root, range(3))
    for part, original in ((1, 2), (2, 0)):
        file = root / f"dfdc_train_part_{part}/metadata.json"
        entry = {f"across{part}.mp4": {"label": "FAKE", "original": f"real{original}.mp4"}}
        write(file, {**json.loads(file.read_text()), **entry})
    write(root / "test/labels.csv", "filename,label\na.mp4,0\nb.mp4,1\nc.mp4,1\nd.mp4,1\n")
    touch(root, *(f"test/videos/{name}.mp4" for name in "abcd"))


def make_csv(root: Path) -> None:
    touch(root, *(f"videos/{i}.mp4" for i in range(6)))
    write(root / "list.csv", "path,label\n" + "".join(f"videos/{i}.mp4,{i % 2}\n" for i in range(6)))


LISTED: dict[str, Callable[[Path], Any]] = {
    "FF++_c23/Deepfakes": make_ffpp,
    "Celeb-DF-v2": make_small_celeb_df,
    "DFDC-Preview": make_dfdc_preview,
    "DFDC": make_dfdc_across_parts,
    "folder": make_csv,
    **{
        name: lambda root, layout=NEWER[name]: make_layout(root, layout)
        for name in ("DeeperForensics-1.0", "DeepSpeak-v2", "Deepfake-Eval-2024", "Celeb-DF++")
    },
}


@pytest.mark.parametrize("dataset", LISTED)
def test_listed_files_with_another_ending_or_case(tmp_path: Path, dataset: str) -> None:
    LISTED[dataset](tmp_path)
    root = tmp_path / "list.csv" if dataset == "folder" else tmp_path
    before = find_videos(dataset, root, dataset)
    present = [video for video in before if video.file.exists()]
    listed = [video.file for video in present if video.split == "test" or not dataset.startswith("Celeb")]
    missing, *others = sorted(listed, reverse=True)
    missing.unlink()
    changes = (lambda f: f.with_name(f.name.upper()), lambda f: f.with_suffix(".avi"), lambda f: f.with_suffix(".MP4"))
    moved = {file: file.rename(change(file)) for file, change in zip(others, itertools.cycle(changes), strict=False)}
    after = find_videos(dataset, root, dataset)
    expected = [replace(video, file=moved.get(video.file, video.file)) for video in present if video.file != missing]
    assert [video for video in after if video.file.exists()] == expected
    assert len(after) == len(before)


def test_a_listed_name_with_several_files(tmp_path: Path) -> None:
    table = write(tmp_path / "list.csv", "path,label\na.mp4,real\n")
    touch(tmp_path, "a.avi", "a.mov", "a.txt", "a.mkv/")
    refused("folder", table, "a.mp4", f"{tmp_path}/a.avi, {tmp_path}/a.mov;")
    for name in ("a.MP4", "a.mp4"):  # a better name
        touch(tmp_path, name)
        assert [video.file for video in find_videos("folder", table, "x")] == [tmp_path / name]
    make_dfdc_across_parts(tmp_path)
    touch(tmp_path, "test/copy/a.mp4")
    refused("DFDC", tmp_path, "a.mp4", "test/copy/a.mp4")


def test_a_file_with_several_listed_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.avi", "b.MP4", "c.mp4")
    table = write(tmp_path / "list.csv", "path,label\na.avi,real\na.mp4,fake\nb.mp4,fake\nc.jpg,fake\n")
    found = [video.file.name for video in find_videos("folder", table, "x") if video.file.exists()]
    assert found == ["a.avi", "b.MP4"], "a.mp4 is not a.avi, which is listed too, and the photo c.jpg is not a video"
    (tmp_path / "a.avi").rename(tmp_path / "a.mkv")
    refused("folder", table, "a.avi, a.mp4", "a.mkv")


def test_people_in_upper_case(tmp_path: Path) -> None:
    people = {}
    for case in (str.lower, str.upper):
        root = tmp_path / case.__name__
        touch(root, "RealVideo-RealAudio/a/men/id1/00109.mp4", "FakeVideo-FakeAudio/a/men/id1/00109.mp4")
        touch(
            root, "Celeb-real/id3_0001.mp4", "Celeb-synthesis/id3_id4_0001.mp4", "YouTube-real/", "FakeVideo-RealAudio/"
        )
        write(root / LIST, "1 Celeb-real/id9_0001.mp4\n")
        for file in list(root.rglob("id*")):
            file.rename(file.with_name(case(file.name)))
        people[case] = [
            (video.label, video.identities, video.sources)
            for dataset in ("FakeAVCeleb", "Celeb-DF-v2")
            for video in find_videos(dataset, root, dataset)
        ]
    assert people[str.upper] == people[str.lower]


# ------------------------------------------------------------------------------------------------- trees of folders


def make_tree(root: Path) -> None:
    touch(root, *(f"{kind}/{person}/{i}.mp4" for kind in CLASSES for person in ("anna", "ben") for i in range(20)))


def test_a_tree_is_split_by_source_video(tmp_path: Path) -> None:
    make_tree(tmp_path)
    videos = list_checked_videos("folder", tmp_path)
    assert len(videos) == 80
    assert all(video.label == CLASSES.index(folder.split("/")[0]) for folder, video in videos.items())
    assert all(video.split == videos[folder.replace("fake/", "real/")].split for folder, video in videos.items())
    check_disjoint_splits(videos.values())
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))


def test_a_tree_with_splits_keeps_them(tmp_path: Path) -> None:
    paths = [f"Data/{s}/{kind}/deep/{s}{i}.mp4" for s in SPLITS for kind in ("Real", "FAKE") for i in range(3)]
    touch(tmp_path, *paths)
    videos = list_checked_videos("folder", tmp_path)
    assert splits(videos) == {path.removesuffix(".mp4"): path.split("/")[1] for path in paths}
    assert all(video.label == ("FAKE" in folder) for folder, video in videos.items())


def test_a_tree_with_splits_in_part(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/1.mp4", "val/fake/2.mp4", "dev/fake/3.mp4")
    refused("folder", tmp_path, "dev/fake/3.mp4", "train, val, test")


def test_a_tree_with_other_files(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.MP4", "real/2.avi", "real/._3.mp4", "real/.trash/4.mp4", "real/notes.txt", "real/5.mp4/")
    touch(tmp_path, "elsewhere/6.mp4", "outside/7.mov", "7.mp4")
    (tmp_path / "fake").symlink_to("outside", target_is_directory=True)
    (tmp_path / "real/8.mp4").symlink_to("nowhere.mp4")
    assert set(list_checked_videos("folder", tmp_path)) == {"real/1", "real/2", "fake/7", "real/8"}


def test_a_tree_with_a_link_to_its_parent(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.mp4")
    (tmp_path / "real/again").symlink_to("..", target_is_directory=True)
    assert set(list_checked_videos("folder", tmp_path)) == {"real/1"}


def test_photos_and_videos_in_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    touch(tmp_path, *(f"{kind}/{i}.{ending}" for kind in CLASSES for i, ending in enumerate(["jpg", "HEIC", "mts"])))
    touch(tmp_path, "real/0.mp4", "real/notes.txt", "real/.a.jpg", "elsewhere/4.png")
    videos = list_checked_videos("folder", tmp_path)
    assert set(videos) == {"real/0_jpg", "real/0_mp4", "real/1", "real/2", "fake/0", "fake/1", "fake/2"}
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))
    note = capsys.readouterr().out
    assert all(part in note for part in ("1 .txt", "1 hidden", "1 outside of real and fake folders"))


def test_photos_in_one_folder_stay_in_one_split(tmp_path: Path) -> None:
    """They may be frames of one video."""
    people = [f"p{i}" for i in range(12)]
    touch(tmp_path, *(f"{kind}/{person}/{i}.png" for kind in CLASSES for person in people for i in range(5)))
    videos = list_checked_videos("folder", tmp_path)
    assert {next(iter(video.identities)) for video in videos.values()} == set(people)
    check_disjoint_splits(videos.values())
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))


# ------------------------------------------------------------------------------------------------------ CSV files


def test_a_csv_file(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4")
    rows = ["videos/a.mp4,real", "videos/sub/b.avi,FAKE", "videos/../videos/c.mp4,0", f"{tmp_path}/videos/d.MOV, 1"]
    table = write(tmp_path / "list.csv", "path,label\n" + "\n".join(rows))
    videos = list_checked_videos("folder", table)
    assert {folder: video.label for folder, video in videos.items()} == {"a": 0, "sub/b": 1, "c": 0, "d": 1}
    assert videos["sub/b"].file == tmp_path / "videos/sub/b.avi"


def test_a_csv_file_with_splits_keeps_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    rows = "a.mp4,real,train,anna;ben\nb.mp4,fake,TRAIN,ben\nc.mp4,fake,val,\nd.mp4,real,test,carl\n"
    videos = list_checked_videos("folder", write(tmp_path / "list.csv", f"path,label,split,identity\n{rows}"))
    assert splits(videos) == {"a": "train", "b": "train", "c": "val", "d": "test"}
    assert videos["a"].identities == {"anna", "ben"} and not videos["a"].sources


def test_a_csv_file_is_split_by_identity(tmp_path: Path) -> None:
    touch(tmp_path, "0.mp4")
    rows = [f"{i}.mp4,{i % 2},p{i // 4}; q{i // 4}" for i in range(80)]
    table = write(tmp_path / "list.csv", "path,label,identity\n" + "\n".join(rows))
    videos = list_checked_videos("folder", table)
    assert videos["9"].identities == {"p2", "q2"}
    check_disjoint_splits(videos.values())
    assert classes(videos.values()) == set(itertools.product(SPLITS, (0, 1)))
    write(table, "path,label,identity\n" + "\n".join(reversed(rows)))
    assert splits(list_checked_videos("folder", table)) == splits(videos)


@pytest.mark.parametrize(
    "content",
    [
        codecs.BOM_UTF8 + b"path,label\r\na.mp4,real\r\nb.mp4,fake\r\n",
        "path,label,note,note\na.mp4,real,x,y\nb.mp4,fake\n",
        'label,path\n"real","a.mp4"\nfake,b.mp4\n',
        "path , label\n a.mp4 , real \nb.mp4,fake\n",
        "path,label\n\na.mp4,real\n\nb.mp4,fake\n\n",
    ],
)
def test_a_csv_file_from_another_program(tmp_path: Path, content: str | bytes) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    videos = list_checked_videos("folder", write(tmp_path / "list.csv", content))
    assert {folder: (video.label, video.file.is_file()) for folder, video in videos.items()} == {
        "a": (0, True),
        "b": (1, True),
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ("no column path and no column label",)),
        ("path,label\n", ("no row",)),
        ("path;label\na.mp4;real\n", ("no column path", "path;label")),
        ("path,kind\na.mp4,real\n", ("no column label", "path,kind")),
        ("path,label\na.mp4,real\n,fake\n", ("line 3", "empty")),
        ("path,label\na.mp4\n", ("line 2", "empty")),
        ("path,label\n\na.mp4\n", ("line 3", "empty")),
        ("path,label\na.mp4,2\n", ("'2'",)),
        ("path,label\na,b.mp4,real\n", ("'b.mp4'",)),
        ("path,label,split\na.mp4,real,training\n", ("line 2", "'training'")),
        ("path,label,split\na.mp4,real,train\nb.mp4,fake,\n", ("b.mp4", "split")),
        ("path,label\na.mp4,real\n./a.mp4,fake\n", ("twice", "a.mp4")),
        ("path,label,split,identity\na.mp4,0,train,x;y\nb.mp4,1,test,z;y\n", ("leak", "y (test and train)")),
        ("path,label\na.mp4,real\n".encode("utf-16"), ("UTF-8",)),
        ("path,label\nq.mp4,real\n", ("none of the 1 videos",)),
        ("path,label\na.mp4,real\n/,fake\n", ("line 3", "not a file")),
        ("path,label\na.mp4,real\n.,fake\n", ("line 3", "not a file")),
        (f"path,label\na.mp4,real\n{'b' * 200_000},fake\n", ()),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, str | bytes) else "",
)
def test_a_malformed_csv_file(tmp_path: Path, content: str | bytes, says: tuple[str, ...]) -> None:
    touch(tmp_path, "a.mp4")
    refused("folder", write(tmp_path / "list.csv", content), str(tmp_path / "list.csv"), *says)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "folder": make_tree,
    "DeepFakeDetection": make_deepfakedetection,
    "Celeb-DF-v2": make_celeb_df,
}


# --------------------------------------------------------------------------------------------------- folders' names

NAMES = {
    "a,b": "a%2Cb",
    " a b ": "%20a b%20",
    "a\nb\r": "a%0Ab%0D",
    "a\tb\x85c\u2028d": "a%09b%C2%85c%E2%80%A8d",
    "\u3000a": "%E3%80%80a",
    b"a\xff": "a%FF",
    "e\u0301": "e\u0301",  # NFD, as macOS writes it
    "\xe9": "\xe9",
    "a.b": "a.b",
    "#a'\"$&": "#a'\"$&",
}


def test_odd_names_fit_into_a_label_file(tmp_path: Path) -> None:
    for name in NAMES:
        for folder in (b"videos/real/x", b"videos/real/" + os.fsencode(name)):
            path = os.path.join(os.fsencode(tmp_path), folder, os.fsencode(name) + b".mp4")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).touch()
    videos = find_videos("folder", tmp_path / "videos", "odd, set")
    expected = [f"odd%2C set/real/{folder}/{name}" for name in NAMES.values() for folder in ("x", name)]
    assert sorted(video.folder for video in videos) == sorted(expected)
    touch(tmp_path / "faces", *(f"{video.folder}/0000.png" for video in videos))
    lines = [f"0,{video.folder},1\n" for video in videos]
    write(tmp_path / "labels/odd/test_real.txt", "".join(lines))
    write(tmp_path / "labels/odd/test_fake.txt", "")
    read = read_split("odd", "test", tmp_path / "labels", tmp_path / "faces")
    assert [video.path for video in read] == [video.folder for video in videos]


def test_long_names_leave_room_for_temporary_files(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"videos/real/{'顔' * 70}{more}.mp4" for more in ("顔" * 12, "顔", "," * 30)), "videos/fake/a.mp4"
    )
    folders = {video.folder for video in find_videos("folder", tmp_path / "videos", "folder")}
    assert len(folders) == 4 and "folder/fake/a" in folders
    for folder in folders:
        write_if_changed(tmp_path / "faces" / f"{folder}.failed.json", "{}\n")


@pytest.mark.parametrize(
    "paths",
    [
        ("real/a.mp4", "real/a.avi"),
        ("real/a.mp4", "real/a.MP4", "real/A.mp4"),
        ("real/a.mp4", "real/a/b.mp4"),
        ("real/a.mp4", "real/a/b.mp4", "real/a/b/c.mp4"),
        ("real/a.mp4", "real/a.avi", "real/a_mp4.mp4"),
        ("real/a.mp4", "real/a/b.mp4", "real/a_mp4/c.mp4"),
        ("real/a,b.mp4", "real/a%2Cb.mp4"),
        ("real/a,.mp4", "real/a%2C/b.mp4"),
    ],
    ids=" ".join,
)
def test_no_two_videos_share_a_folder(tmp_path: Path, paths: tuple[str, ...]) -> None:
    touch(tmp_path, *paths)
    assert len(list_checked_videos("folder", tmp_path)) == len(paths)


def test_a_folder_name_of_dots(tmp_path: Path) -> None:
    touch(tmp_path, "x/...mp4", "a.mp4")
    list_checked_videos("folder", write(tmp_path / "list.csv", "path,label\nx/...mp4,real\na.mp4,fake\n"))


# ------------------------------------------------------------------------------------------------ split_by_identity

Videos = list[tuple[int, Identities]]


def random_videos(seed: int) -> Videos:
    """Random videos: single people up to one linked crowd, of one class or both."""
    rng = random.Random(seed)
    people = [f"p{i}" for i in range(rng.randint(1, 60))]
    crowd, fakes = rng.choice([0, 0.1, 0.5, 1]), rng.choice([0, 0.2, 0.5, 1])
    return [
        (int(rng.random() < fakes), frozenset(rng.choices(people, k=2 if rng.random() < crowd else 1)))
        for _ in range(rng.randint(1, 200))
    ]


def split_of_people(videos: Videos, split: list[str | None]) -> dict[str, set[str]]:
    where: dict[str, set[str]] = {}
    for (_, people), name in zip(videos, split, strict=True):
        for person in people if name else ():
            where.setdefault(person, set()).add(name)
    return where


def both_classes(videos: Videos, split: list[str | None]) -> bool:
    there = {(name, label) for (label, _), name in zip(videos, split, strict=True) if name}
    return there == set(itertools.product(SPLITS, (0, 1)))


def single_identities(count: int, label: int) -> Videos:
    return [(label, frozenset({f"{CLASSES[label]}{i}"})) for i in range(count)]


def crowd(pairs: Iterable[tuple[int, int]]) -> Videos:
    """One real video of each person and one fake video of each pair."""
    pairs = list(pairs)
    people = sorted({person for pair in pairs for person in pair})
    return [(0, frozenset({f"p{i}"})) for i in people] + [(1, frozenset({f"p{a}", f"p{b}"})) for a, b in pairs]


@pytest.mark.parametrize("seed", range(100))
def test_no_identity_is_in_two_splits(seed: int) -> None:
    videos = random_videos(seed)
    split = split_by_identity(videos, SHARES)
    where = split_of_people(videos, split)
    assert all(len(names) == 1 for names in where.values())
    for (_, people), name in zip(videos, split, strict=True):
        if name is None:  # its identities are in two splits, or appear in left-out videos only
            assert len(people) > 1
            known = [where[person] for person in people if person in where]
            assert len(known) < len(people) or len(set().union(*known)) > 1
    assert "train" in split or None in split


@pytest.mark.parametrize("seed", range(30))
def test_the_order_of_the_videos_does_not_matter(seed: int) -> None:
    videos = random_videos(seed)
    split = split_by_identity(videos, SHARES)
    order = random.Random(seed).sample(range(len(videos)), len(videos))
    assert split_by_identity([videos[i] for i in order], SHARES) == [split[i] for i in order]


@pytest.mark.slow
def test_the_split_is_the_same_in_every_process() -> None:
    videos = [random_videos(seed) for seed in range(30)]
    code = (
        "import json, sys; from corpora.identities import split_by_identity as split\n"
        "for videos in json.load(sys.stdin):\n"
        "    print(split([(label, frozenset(people)) for label, people in videos], {'val': 0.15, 'test': 0.15}))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            input=json.dumps(videos, default=sorted),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0].count("\n") == 30
    assert outputs[0] == outputs[1]


def test_the_order_is_by_a_hash_of_the_names() -> None:
    split = split_by_identity(single_identities(20, 0), SHARES)
    assert [i for i, name in enumerate(split) if name == "val"] == [1, 3, 17]
    assert [i for i, name in enumerate(split) if name == "test"] == [7, 9, 18]


@pytest.mark.parametrize("count", [3, 10, 100])
def test_single_identities_are_split_by_class(count: int) -> None:
    videos = single_identities(count, 0) + single_identities(count, 1)
    split = split_by_identity(videos, SHARES)
    assert None not in split
    for label in (0, 1):
        counts = Counter(name for (of, _), name in zip(videos, split, strict=True) if of == label)
        assert counts["val"] == counts["test"] == max(1, round(0.15 * count))


def test_few_fake_among_many_real_identities() -> None:
    videos = single_identities(100, 0) + single_identities(3, 1)
    assert both_classes(videos, split_by_identity(videos, SHARES))


def test_small_groups_stay_together() -> None:
    videos = [(label, frozenset({f"a{i}", f"b{i}"})) for i in range(20) for label in (0, 1)]
    split = split_by_identity(videos, SHARES)
    assert None not in split
    assert both_classes(videos, split)


@pytest.mark.parametrize(
    "pairs",
    [
        list(itertools.combinations(range(28), 2)),  # every pair
        [(i, i + 1) for i in range(99)],  # a chain
        [(i, (i + d) % 28) for i in range(28) for d in (1, 2)],  # two neighbours each
    ],
    ids=["dense", "chain", "ring"],
)
def test_one_giant_group_is_cut(pairs: list[tuple[int, int]]) -> None:
    videos = crowd(pairs)
    split = split_by_identity(videos, SHARES)
    where = Counter(name for names in split_of_people(videos, split).values() for name in names)
    assert all(0.1 < where[name] / where.total() < 0.2 for name in SHARES)
    assert both_classes(videos, split)


@pytest.mark.parametrize("seed", range(10))
def test_one_giant_group_with_few_links_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    videos = crowd((rng.randrange(person), person) for person in range(1, 100))
    assert both_classes(videos, split_by_identity(videos, SHARES))


def test_two_large_groups_are_cut() -> None:
    videos = crowd([*itertools.combinations(range(30), 2), *itertools.combinations(range(30, 60), 2)])
    split = split_by_identity(videos, SHARES)
    where = Counter(name for names in split_of_people(videos, split).values() for name in names)
    assert all(6 <= where[name] <= 12 for name in SHARES)
    assert both_classes(videos, split)


def test_a_large_group_beside_small_ones_is_not_cut() -> None:
    large = crowd(itertools.combinations(range(30), 2))
    small = [(label, frozenset({f"q{i}"})) for i in range(20) for label in (0, 1)]
    split = split_by_identity(large + small, SHARES)
    assert set(split[: len(large)]) == {"train"}
    assert both_classes(large + small, split)


def test_one_identity_goes_to_training() -> None:
    videos = [(label, frozenset({"anna"})) for label in (0, 1, 1, 0)]
    assert split_by_identity(videos, SHARES) == ["train"] * 4


def test_one_of_two_groups_stays_in_training() -> None:
    videos = [(label, frozenset({name})) for name in ("anna", "ben") for label in (0, 1)]
    assert sorted(map(str, split_by_identity(videos, SHARES))) == ["train", "train", "val", "val"]


@pytest.mark.parametrize("seed", range(3))
def test_few_groups_of_any_size_fill_every_split(seed: int) -> None:
    """Three splits need three groups of mixed videos, or for each missing one a real and a fake group."""
    rng = random.Random(seed)
    for real, fake, mixed in itertools.product(range(5), range(5), range(5)):
        if min(real, fake) + mixed < 3:
            continue
        videos: Videos = []
        for group, present in enumerate([{0}] * real + [{1}] * fake + [{0, 1}] * mixed):
            people = [f"{seed} {group} {i}" for i in range(rng.randint(1, 4))]
            videos += [(label, frozenset(people)) for label in present for _ in range(rng.randint(1, 3))]
        split = split_by_identity(videos, SHARES)
        assert both_classes(videos, split), (real, fake, mixed)
        for names in split_of_people(videos, split).values():
            assert len(names) == 1


def test_few_videos_fill_every_split_where_that_is_possible() -> None:
    """Compare with every assignment of the people."""
    possible = 0
    for seed in range(150):
        rng = random.Random(seed)
        people = [f"p{i}" for i in range(rng.randint(3, 6))]
        sizes = [rng.choice([1, 1, 2]) for _ in range(rng.randint(6, 12))]
        videos: Videos = [(rng.randint(0, 1), frozenset(rng.sample(people, size))) for size in sizes]
        assignments = (dict(zip(people, of, strict=True)) for of in itertools.product(SPLITS, repeat=len(people)))
        splits_of_videos = ([{of[person] for person in them} for _, them in videos] for of in assignments)
        if any(
            both_classes(videos, [next(iter(s)) if len(s) == 1 else None for s in sets]) for sets in splits_of_videos
        ):
            possible += 1
            assert both_classes(videos, split_by_identity(videos, SHARES)), seed
    assert possible > 10


@pytest.mark.parametrize("people", [6, 7, 8, 9])
@pytest.mark.parametrize("last", [0, 1], ids=["chain", "ring"])
def test_a_few_linked_people_fill_every_split(people: int, last: int) -> None:
    videos = crowd((i, (i + 1) % people) for i in range(people - 1 + last))
    assert both_classes(videos, split_by_identity(videos, SHARES))


def test_no_videos() -> None:
    assert split_by_identity([], SHARES) == []
