"""sources.csv, and which videos are independent of each other."""

from pathlib import Path

import pytest

from datasets.sources import Origin, group_folders, origin_of_path, read_sources, write_sources
from utils.errors import InputError

NOWHERE = Path("missing.csv")


def test_a_file_survives_a_round_trip(tmp_path: Path) -> None:
    origins = {
        "d/one/0": Origin("d/one", frozenset({"a", "b"}), frozenset({"x", "y, z"})),
        "d/one/1": Origin("d/one", frozenset({"a", "b"})),
        "d/two": Origin("d/two"),
        "d/a\rb": Origin("d/a\rb"),
        "d/caf\udce9": Origin("d/caf\udce9", frozenset({"caf\udce9"})),  # not UTF-8
    }
    write_sources(tmp_path / "sources.csv", origins)
    assert read_sources(tmp_path / "sources.csv") == origins
    assert len((tmp_path / "sources.csv").read_bytes().splitlines()) == 1 + 4 + 2 + 1 + 3 + 1  # "\r" twice
    assert read_sources(NOWHERE) == {}


@pytest.mark.parametrize(
    "path, sources",
    [
        ("FF++_c23/original_sequences/youtube/c23/033", {"033"}),
        ("FF++_c23/manipulated_sequences/Deepfakes/c23/033_097", {"033", "097"}),
        ("anywhere/manipulated_sequences/NeuralTextures/raw/videos/097_033/", {"033", "097"}),
        ("Celeb-DF-v2/Celeb-real/id1_0007", {"id1_0007"}),
        ("Celeb-DF-v2/Celeb-synthesis/id1_id0_0007", {"id1_0007"}),
        ("Celeb-DF++/Celeb-synthesis/FaceSwap/GHOST/id1_id0_0007/1", {"id1_0007"}),
        ("Celeb-DF++/Celeb-synthesis/TalkingFace/EDTalk/id1_0007_test_3", {"id1_0007"}),
        ("Celeb-DF-v2/YouTube-real/00012", {"YouTube-real/00012"}),
        ("original_sequences/actors/c23/01__talk", set()),
        ("mine/033_097", set()),
    ],
)
def test_paths_of_known_layouts_name_their_sources(path: str, sources: set[str]) -> None:
    assert origin_of_path(path) == Origin(path, frozenset(sources))


def test_shared_sources_connect_videos(tmp_path: Path) -> None:
    file = tmp_path / "sources.csv"
    write_sources(
        file,
        {
            "v/0": Origin("v", frozenset({"b"}), frozenset({"anna"})),
            "v/1": Origin("v", frozenset({"b"})),
            "w": Origin("w", frozenset({"b", "c"})),
            "x": Origin("x", frozenset({"c"})),
            "y": Origin("y", frozenset({"d"}), frozenset({"anna"})),  # people do not connect where sources are known
        },
    )
    groups = group_folders(["v/0", "v/1", "w", "x", "y", "unknown"], file)
    assert groups.videos == ["v", "v", "w", "x", "y", "unknown"]
    assert groups.clusters == ["b", "b", "b", "b", "d", "unknown"]
    assert groups.unit == "source or video"


def test_people_connect_videos_without_sources(tmp_path: Path) -> None:
    write_sources(tmp_path / "s.csv", {name: Origin(name, frozenset(), frozenset(name)) for name in ("ab", "bc", "d")})
    groups = group_folders(["ab", "bc", "d"], tmp_path / "s.csv")
    assert groups.clusters == ["a", "a", "d"] and groups.unit == "identity"
    mixed = group_folders(["ab", "x/Celeb-real/id1_0001", "two"], tmp_path / "s.csv")
    assert mixed.unit == "identity or source or video"
    assert group_folders(["one", "two"], NOWHERE) == (["one", "two"], ["one", "two"], "video")


@pytest.mark.parametrize(
    "text, words",
    [
        ("path,video\na,b\n", "identity, source"),
        ("path,video,source,identity\na\n", "line 2"),
        ("path,video,source,identity\na,,b,c\n", "line 2"),
        ("path,video,source,identity\na,v,,\na,w,,\n", "line 3"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "sources.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_sources(tmp_path / "sources.csv")
