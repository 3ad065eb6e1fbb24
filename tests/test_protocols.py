"""Protocols of a test: what they bundle, what contradicts them, and which frames a test scores."""

import csv
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import training
from datasets.images import FaceImages
from datasets.labels import Video
from datasets.samplers import choose_frames
from faces.recipe import claim_folder, common_recipe
from tests.helpers import arguments, in_processes, make_dataset
from utils.errors import InputError
from utils.protocols import PROTOCOLS, check_unknown
from utils.training_arguments import TrainingArguments, check_training_arguments, parse_training_arguments

TEST = ["--test", "--resume_model", "file.pth"]


def parse(*argv: str) -> TrainingArguments:
    args = parse_training_arguments([*TEST, *argv])
    check_training_arguments(args)
    return args


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_sets_its_arguments(name: str) -> None:
    args = parse("--protocol", name)
    assert vars(args).items() >= vars(PROTOCOLS[name]).items()
    assert args.dataset and args.frames_per_video in (30, 32)


def test_the_papers_protocol() -> None:
    args = parse("--protocol", "paper")
    assert all(dataset.endswith("_all") for dataset in args.dataset)
    assert (args.frames_per_video, args.frame_choice, args.video_score) == (30, "random", "mean")


def test_flags_that_agree_with_the_protocol() -> None:
    args = parse("--protocol", "paper", "--dataset", "DFDC_all,Celeb-DF-v2_all", "--frames_per_video", "30")
    assert args.dataset == ["DFDC_all", "Celeb-DF-v2_all"]
    assert parse().frames_per_video is None and parse().dataset == ["FF++_c23"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--dataset", "Celeb-DF-v2"),
        ("--dataset", "Celeb-DF-v2_all,mine"),
        ("--frames_per_video", "32"),
        ("--frame_choice", "even"),
        ("--video_score", "max"),
    ],
)
def test_flags_that_contradict_the_protocol(flags: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=f"{flags[0]} {flags[1]} contradicts --protocol paper") as error:
        parse("--protocol", "paper", *flags)
    assert "\n" not in str(error.value)


def test_protocols_and_frames_are_for_tests() -> None:
    for flags in (["--protocol", "paper"], ["--frames_per_video", "30"]):
        with pytest.raises(InputError, match=flags[0]):
            check_training_arguments(parse_training_arguments(flags))
    with pytest.raises(InputError, match="--frame_choice"):
        parse("--frame_choice", "even")


@pytest.mark.parametrize("trained", ["Celeb-DF-v2", "Celeb-DF-v2_published"])
def test_all_videos_of_a_training_set_are_no_test_set(trained: str) -> None:
    check_unknown(["Celeb-DF-v2", "DFDC_all"], ["FF++_c23", trained])
    with pytest.raises(InputError, match="Celeb-DF-v2_all"):
        check_unknown(["DFDC_all", "Celeb-DF-v2_all"], [trained])
    with pytest.raises(InputError, match="FF"):
        check_unknown(["FF++_c23/Deepfakes_all"], ["FF++_c23"])


def test_a_dataset_whose_own_name_ends_like_a_split(tmp_path: Path) -> None:
    check_unknown(["mine_all"], ["mine_all"])
    for name in ("mine", "mine_all"):
        claim_folder(tmp_path / name, {"crop": name})
    for name, faces in (("mine_all", "mine_all"), ("mine_published", "mine"), ("mine/a_all", "mine")):
        assert common_recipe([name], tmp_path) == {"crop": faces}


@pytest.mark.parametrize(
    ("tested", "trained"), [("FF++_c40_all", "FF++_c23"), ("DeepFakeDetection_raw_all", "DeepFakeDetection")]
)
def test_another_compression_has_the_same_videos(tested: str, trained: str) -> None:
    with pytest.raises(InputError, match="--dataset"):
        check_unknown([tested], [trained])
    check_unknown([tested.removesuffix("_all")], [trained])


# ------------------------------------------------------------------------------------------------------------ frames


def video(path: str, frames: int) -> Video:
    return Video("tiny", path, 0, Path("/") / path, [f"{i:04d}.png" for i in range(frames)])


def test_random_frames_depend_on_the_seed_and_the_folder_only() -> None:
    videos = [video("a", 100), video("b", 100), video("c", 7)]
    first = choose_frames(videos, 30, "random", 1)
    assert first is not None and [len(chosen) for chosen in first] == [30, 30, 7]
    for chosen in first:
        assert (np.diff(chosen) > 0).all() and 0 <= chosen.min() <= chosen.max() < 100
    again = choose_frames([*reversed(videos)], 30, "random", 1)
    assert again is not None and all((a == b).all() for a, b in zip(first, reversed(again), strict=True))
    other = choose_frames(videos, 30, "random", 2)
    assert other is not None and (first[0] != other[0]).any() and (first[0] != first[1]).any()
    assert (other[2] == np.arange(7)).all()


def test_every_frame_is_equally_likely() -> None:
    drawn: Counter[int] = Counter()
    for chosen in choose_frames([video(f"{i}", 10) for i in range(2000)], 3, "random", 0) or []:
        drawn.update(chosen.tolist())
    assert set(drawn) == set(range(10)) and all(abs(count - 600) < 5 * (600 * 0.7) ** 0.5 for count in drawn.values())


def test_even_frames() -> None:
    (chosen,) = choose_frames([video("a", 101)], 5, "even", 0) or []
    assert chosen.tolist() == [0, 25, 50, 75, 100]
    assert choose_frames([video("a", 101)], None, "even", 0) is None


def test_even_frames_of_names_without_leading_zeros() -> None:
    images = sorted(f"{i}.png" for i in range(101))  # as in WildDeepfake
    (chosen,) = choose_frames([Video("tiny", "a", 0, Path("/a"), images)], 5, "even", 0) or []
    assert sorted(int(images[i].removesuffix(".png")) for i in chosen) == [0, 25, 50, 75, 100]
    assert (np.diff(chosen) > 0).all()


def test_only_the_chosen_frames_are_read() -> None:
    videos = [video("a", 5), video("b", 3)]
    faces = FaceImages(videos, 8, frames=[np.array([1, 4]), np.array([0])])
    assert [faces.path(i) for i in range(len(faces))] == ["a/0001.png", "a/0004.png", "b/0000.png"]
    assert len(FaceImages(videos, 8)) == 8


def test_chosen_frames_come_from_their_rows_of_a_pack() -> None:
    images = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    pack: Any = SimpleNamespace(size=8, unreadable=(), folder="pack", read=lambda row: images[row])
    packed = Video("tiny", "a", 0, Path("/a"), ["0.png", "1.png", "2.png"], pack, 2)
    faces = FaceImages([packed], 8, frames=[np.array([0, 2])])
    assert [(faces[i][0].numpy() == images[row].transpose(2, 0, 1)).all() for i, row in enumerate((2, 4))] == [True] * 2


@pytest.mark.slow
def test_one_and_two_processes_score_the_same_frames(tmp_path: Path) -> None:
    for name in ("tiny", "other"):
        make_dataset(tmp_path, name, frames=6)
    assert training.main(arguments(tmp_path, "--name", "run")) == 0
    best = str(tmp_path / "output/run/model_best.pth")

    def test(name: str, datasets: str, seed: int = 3) -> list[int]:
        more = ["--test", "--resume_model", best, "--frames_per_video", "2", "--seed", f"{seed}", "--name", name]
        argv = arguments(tmp_path, *more, "--dataset", datasets)
        return in_processes(2, lambda: training.main(argv)) if name == "two" else [training.main(argv)]

    def rows(name: str) -> list[tuple[str, str]]:
        with (tmp_path / "output" / name / "predictions.csv").open(newline="") as file:
            return sorted((row["dataset"], row["path"]) for row in csv.DictReader(file))

    assert test("one", "tiny,other") == [0] and test("two", "other,tiny") == [0, 0] and test("seed", "tiny", 4) == [0]
    assert rows("one") == rows("two") and len(rows("one")) == 2 * 4 * 2
    assert rows("seed") != [row for row in rows("one") if row[0] == "tiny"]
