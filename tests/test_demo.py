"""The synthetic faces and the command that draws them."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.demo_baseline import histogram_auc
from datasets.labels import describe_datasets
from datasets.sources import group_folders
from demo import dataset as demo
from demo.__main__ import main
from demo.draw_face import landmarks, random_person, random_poses, random_scene, render
from utils.errors import InputError

SMALL = {"size": 32, "people": (3, 2, 2), "videos_per_person": 2, "frames": 2}


def pixels(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def rows(folder: Path, split: str, word: str) -> list[tuple[int, str, int]]:
    lines = (folder / f"{split}_{word}.txt").read_text().splitlines()
    return [(int(label), path, int(count)) for label, path, count in (line.split(",") for line in lines)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    assert demo.make_demo(folder, seed=3, **SMALL)
    return folder


@pytest.mark.slow
def test_seed_determines_all_bytes_for_any_number_of_processes(small: Path, tmp_path: Path) -> None:
    demo.make_demo(tmp_path / "again", seed=3, processes=2, **SMALL)
    demo.make_demo(tmp_path / "other", seed=4, **SMALL)
    first, again, other = pixels(small), pixels(tmp_path / "again"), pixels(tmp_path / "other")
    assert len(first) == 7 * 2 * 2
    assert first == again
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())
    videos = demo.plan(0, (2, 2, 2), 2)
    qualities = [[demo.draw_video(v, seed, 32, 1)[1] for v in videos] for seed in (3, 4)]
    assert qualities[0] != qualities[1]  # the scenes change with the seed, not only the people


def test_label_files_name_every_video_once(small: Path) -> None:
    named = []
    for split, people in zip(demo.SPLITS, SMALL["people"], strict=True):
        for label, word in enumerate(("real", "fake")):
            listed = rows(small, split, word)
            assert len(listed) == people * SMALL["videos_per_person"] // 2
            for found, path, count in listed:
                assert (found, count) == (label, SMALL["frames"])
                assert Path(path).is_absolute()
                assert sorted(p.name for p in Path(path).iterdir()) == ["0000.png", "0001.png"]
                named.append(Path(path).name)
    assert sorted(named) == sorted(p.name for p in (small / "videos").iterdir())


def test_paths_inside_the_current_directory_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo.make_demo("dataset/demo", **SMALL)
    (_, path, _), *_ = rows(tmp_path / "dataset/demo", "val", "fake")
    assert path.startswith("dataset/demo/videos/")
    assert Path(path).is_dir()


def test_splits_share_no_person_and_classes_share_all() -> None:
    videos = demo.plan(0, (9, 4, 6), 4)
    people = {s: {v.person for v in videos if v.split == s} for s in demo.SPLITS}
    donors = {s: {v.donor for v in videos if v.split == s} - {None} for s in demo.SPLITS}
    assert [len(people[s]) for s in demo.SPLITS] == [9, 4, 6]
    assert len(set().union(*people.values())) == 19
    assert all(donors[s] and donors[s] <= people[s] for s in demo.SPLITS)
    assert all(v.donor != v.person for seed in range(9) for v in demo.plan(seed, (2, 2, 2), 4))
    assert set(Counter((v.person, v.label) for v in videos).values()) == {2}
    for split in demo.SPLITS:
        kinds = Counter(v.kind for v in videos if v.split == split and v.label == 1)
        assert set(kinds) == set(demo.KINDS)
        assert max(kinds.values()) - min(kinds.values()) <= 1


def test_names_are_independent_of_the_class() -> None:
    videos = sorted(demo.plan(0, (48, 12, 20), 4), key=lambda v: v.name)
    labels = np.array([v.label for v in videos])
    assert abs(np.corrcoef(np.arange(len(labels)), labels)[0, 1]) < 0.15
    assert 0.4 < np.mean(labels[1:] != labels[:-1]) < 0.6


def test_a_copy_still_says_that_its_faces_are_drawn(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "copy")
    assert describe_datasets(["copy"], tmp_path) == ["drawn faces"]
    assert describe_datasets(["other"], tmp_path) == []


def test_manifest_lists_all_videos(small: Path) -> None:
    listed = {v["name"]: v for v in json.loads((small / demo.MANIFEST).read_text())["videos"]}
    assert listed == {v.name: vars(v) for v in demo.plan(3, SMALL["people"], SMALL["videos_per_person"])}
    for label, path, _ in rows(small, "test", "fake") + rows(small, "test", "real"):
        assert (listed[Path(path).name]["split"], listed[Path(path).name]["label"]) == ("test", label)


def test_scene_and_compression_are_independent_of_the_class(small: Path) -> None:
    """The label changes neither the frames before the forgery nor the JPEG quality."""
    for video in demo.plan(3, SMALL["people"], SMALL["videos_per_person"])[:4]:
        real, real_quality = demo.draw_video(replace(video, label=0, kind=None, donor=None), 3, 32, 2)
        fake, fake_quality = demo.draw_video(replace(video, label=1, kind="mouth", donor=None), 3, 32, 2)
        assert real_quality == fake_quality
        assert all(np.array_equal(a.before, b.before) for a, b in zip(real, fake, strict=True))
        assert all(np.array_equal(a.before, a.after) and not a.mask.any() for a in real)
        drawn, quality = demo.draw_video(video, 3, 32, 2)
        for number, frame in enumerate(drawn):
            coded = cv2.imencode(".jpg", frame.after[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            path = small / "videos" / video.name / f"{number:04d}.png"
            written = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert written.shape == (32, 32, 3)
            assert np.array_equal(written, cv2.imdecode(coded, cv2.IMREAD_COLOR))


@pytest.mark.parametrize("kind", demo.KINDS)
def test_forgery_stays_inside_the_face(kind: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        person, other, scene = random_person(rng), random_person(rng), random_scene(rng, 64)
        pose = random_poses(rng, 1)[0]
        before = demo.photograph(render(person, scene, pose, 64), scene, rng)
        frame = demo.forge(kind, before, person, other if kind == "swap" else person, scene, pose, rng)
        hull = cv2.convexHull(np.round(landmarks(person, pose, 64)).astype(np.int32))
        face = cv2.fillConvexPoly(np.zeros((64, 64), np.uint8), hull, 1)
        face = cv2.dilate(face, np.ones((7, 7), np.uint8)) > 0
        changed = (frame.after != frame.before).any(-1)
        assert np.array_equal(frame.before, before)
        assert not changed[frame.mask == 0].any()
        assert not changed[~face].any()
        assert changed[frame.mask > 0.9].mean() > 0.8
        assert 0.02 < (frame.mask > 0.5).mean() < 0.4
        assert 0 <= frame.mask.min() and frame.mask.max() <= 1


@pytest.mark.parametrize("kind", demo.KINDS)
def test_forgery_keeps_the_mean_colour(kind: str) -> None:
    """Pairs of frames reveal a shift that a histogram over people hides."""
    shift = []
    for number in range(20):
        video = demo.Video(str(number), "train", number, 1, kind, number + 1 if kind == "swap" else None)
        (frame,), _ = demo.draw_video(video, 0, 32, 1)
        shift.append((frame.after.astype(float) - frame.before)[frame.mask > 0.5].mean(0))
    assert np.abs(np.mean(shift, 0)).max() < 4
    assert np.abs(shift).max() < 40  # no frame has another person's skin colour


def test_swap_matches_the_colours_of_the_face() -> None:
    rng = np.random.default_rng(0)
    patch, frame = rng.normal(90, 9, (32, 32, 3)), rng.normal([150, 120, 100], 20, (32, 32, 3))
    region = np.zeros((32, 32))
    region[8:24, 8:24] = 1
    inside = demo.match_colour(patch, frame, region)[region > 0]
    np.testing.assert_allclose(inside.mean(0), frame[region > 0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(inside.std(0), frame[region > 0].std(0), rtol=1e-3)


@pytest.mark.slow
def test_colour_does_not_separate_the_classes(tmp_path: Path) -> None:
    demo.make_demo(tmp_path / "data", size=32, people=(24, 2, 24), frames=1)
    for frame_auc, video_auc in histogram_auc(tmp_path / "data").values():
        assert 0.35 < frame_auc < 0.65
        assert 0.35 < video_auc < 0.65


def test_second_run_writes_nothing_and_new_settings_replace(tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert demo.make_demo(out, **SMALL)
    (out / "videos" / "stray.txt").write_text("from the first run")
    assert not demo.make_demo(out, **SMALL)
    assert (out / "videos" / "stray.txt").exists()
    assert demo.make_demo(out, **(SMALL | {"frames": 1}))
    assert not (out / "videos" / "stray.txt").exists()
    assert len(pixels(out)) == 14
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["notes.txt", demo.MANIFEST])
def test_other_folder_is_not_changed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / name).write_text("[1, 2]")
    assert main(["--out", str(tmp_path), "--people", "2,2,2", "--frames", "1"]) == 2
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "wrong",
    [{"people": (1, 2, 2)}, {"videos_per_person": 3}, {"frames": 0}, {"size": 8}, {"seed": -1}, {"processes": 0}],
)
def test_settings_out_of_range_are_refused(wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        demo.make_demo(tmp_path / "data", **(SMALL | wrong))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--people", "many", ["--people", "'many'"]),
        ("--people", "1,2", ["--people", "'1,2'"]),
        ("--size", "8", ["--size", "'8'", "32"]),
        ("--size", "100000", ["--size", "'100000'", "2048"]),
        ("--frame", "6", ["--frame", "'--frames'"]),
        ("--videos_per_person", "3", ["--videos_per_person", "3"]),
        ("--out", "/proc/no/data", ["/proc/no"]),
        ("--out", "/proc/data", ["/proc/data"]),
        ("--out", "a,b", ["--out", "a,b", "commas"]),
    ],
)
def test_wrong_argument_is_one_line(flag: str, value: str, words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([flag, value]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("demo: error: ")
    assert all(word in message for word in words)


def test_interruption_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_draw_all", interrupted)
    assert main(["--out", str(tmp_path / "data")]) == 130
    assert capsys.readouterr().err == "demo: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_the_videos_of_a_person_are_one_cluster(small: Path) -> None:
    lines = [line for kind in ("real", "fake") for line in (small / f"train_{kind}.txt").read_text().splitlines()]
    groups = group_folders([line.split(",")[1] for line in lines], small / "sources.csv")
    videos = json.loads((small / "demo.json").read_text())["videos"]
    people = {video["name"]: video["person"] for video in videos}
    assert groups.unit == "source"
    assert groups.clusters == [f"person {people[path.rpartition('/')[2]]}" for path in groups.videos]
