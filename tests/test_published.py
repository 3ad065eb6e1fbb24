"""Published numbers: read from published.json, and shown only for a test with the same protocol."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import training
from corpora.layouts import LAYOUTS, MANIPULATIONS
from evaluation import published
from evaluation.published import read_published, select_tables
from tests.helpers import arguments, make_dataset
from tests.test_report import assert_self_contained, make_run, page_of
from utils.protocols import PROTOCOLS, Protocol

TABLES = [
    {
        "protocol": "deepfakebench",
        "unit": "frames",
        "trained_on": "FF++_c23",
        "source": "Someone, https://example.org/a",
        "datasets": {"Celeb-DF-v2": 518, "tiny": 4},
        "rows": {"One": ["0.70", "0.6543"], "Two": ["", "0.5"], "Three": ["0.8", ""]},
    },
    {
        "protocol": "paper",
        "unit": "videos",
        "trained_on": "tiny",
        "source": "Another",
        "datasets": {"tiny": None},
        "rows": {"One": ["0.9"]},
    },
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small published.json in place of the project's."""
    file = tmp_path / "published.json"
    file.write_text(json.dumps(TABLES))
    monkeypatch.setattr(published, "FILE", file)
    read_published.cache_clear()
    yield file
    read_published.cache_clear()


def test_tables_are_read(file: Path) -> None:
    assert [table._asdict() for table in read_published()] == TABLES


def test_only_numbers_with_the_same_protocol_are_quoted(file: Path) -> None:
    tables = read_published()
    both = {"tiny": {"videos": 4}, "Celeb-DF-v2": {"videos": 500}}
    same = "deepfakebench", ["FF++_c23"]
    (table,) = select_tables(tables, *same, {"tiny": {"videos": 4}, "other": {"videos": 9}})
    assert table.datasets == {"tiny": 4} and table.rows == {"One": ["0.6543"], "Two": ["0.5"]}
    for trained_on in (None, ["FF++_c40"], ["FF++_c23", "DFDC"], []):
        assert select_tables(tables, "deepfakebench", trained_on, both) == []
    for protocol in (None, "paper", "gend"):
        assert select_tables(tables, protocol, ["FF++_c23"], both) == []
    without = [table._replace(protocol=None) for table in tables]
    assert [t for p in (None, "paper", "sbi") for t in select_tables(without, p, ["FF++_c23"], both)] == []
    assert select_tables(tables, *same, {"other": {"videos": 9}}) == []
    assert list(select_tables(tables, *same, both)[0].datasets) == ["Celeb-DF-v2", "tiny"]
    assumed = [tables[0]._replace(trained_on="FF++_c23 (assumed)")]
    assert select_tables(assumed, *same, both)[0].trained_on == "FF++_c23 (assumed)"
    for videos in (466, 570):  # not within 10 % of 518
        assert select_tables(tables, *same, {"Celeb-DF-v2": {"videos": videos}}) == []
    assert list(select_tables(tables, *same, both | {"Celeb-DF-v2": {"videos": 466}})[0].datasets) == ["tiny"]


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"[{",
        b"\xff",
        b"{}x",
        b"3",
        b"[3]",
        b'{"unit": "frames"}',
        b'[{"unit": "frames"}]',
        *(
            json.dumps([TABLES[1] | change]).encode()
            for change in (
                {"more": 1},
                {"datasets": ["tiny"]},
                {"datasets": {"tiny": "4"}},
                {"rows": []},
                {"rows": {"One": ["0.9", "0.8"]}},
                {"rows": {"One": [0.9]}},
                {"rows": {"One": ["1.9"]}},
                {"rows": {"One": ["nan"]}},
                {"rows": {"One": ["o.9"]}},
                {"rows": {"One": None}},
            )
        ),
    ],
)
def test_a_damaged_file_gives_one_warning_and_no_tables(
    file: Path, content: bytes | None, capsys: pytest.CaptureFixture
) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert read_published() == read_published() == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and str(file) in line


def test_a_report_says_that_the_file_is_damaged(file: Path, tmp_path: Path) -> None:
    file.write_text("[")
    text = page_of(make_run(tmp_path / "run", trained_with={"dataset": ["tiny"]})).text
    assert "published numbers could not be read" in text and "Another" not in text


def test_the_data_file_is_well_formed() -> None:
    tables = read_published()
    assert tables
    for table in tables:
        assert table.unit in ("frames", "videos") and table.training_set in LAYOUTS and "http" in table.source
        assert {dataset.split("/")[0].removesuffix("_all") for dataset in table.datasets} <= set(LAYOUTS)
        if table.protocol is not None:
            assert set(table.datasets) <= {
                f"{name}{group}"
                for name in PROTOCOLS[table.protocol].dataset
                for group in ("", *(f"/{manipulation}" for manipulation in MANIPULATIONS))
            }
        assert table.datasets.get("Celeb-DF-v2") in (518, None)
        for cells in table.rows.values():
            assert len(cells) == len(table.datasets) and any(cells)
            assert all(cell == "" or re.fullmatch(r"0\.\d+|1\.0*", cell) for cell in cells)


def test_the_six_methods_are_quoted() -> None:
    tables = {name.split(" (")[0]: (table, cells) for table in read_published() for name, cells in table.rows.items()}
    assert {"Exposing the Deception", "Forensics Adapter", "Effort", "GenD", "SBI", "LAA-Net"} <= set(tables)
    table, cells = tables["Exposing the Deception"]
    assert dict(zip(table.datasets, cells, strict=True)) == {
        "Celeb-DF-v1_all": "0.818",
        "Celeb-DF-v2_all": "0.864",
        "DFDC-Preview_all": "0.851",
        "DFDC_all": "0.721",
    }
    assert (table.protocol, table.unit, table.trained_on) == ("paper", "frames", "FF++_c23 (assumed)")
    assert table.training_set == "FF++_c23"


def test_no_key_of_the_data_file_is_repeated() -> None:
    def check(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names))

    json.loads(published.FILE.read_text(), object_pairs_hook=check)


def test_the_page_holds_the_tables() -> None:
    page = (published.FILE.parents[1] / "docs/published.md").read_text(encoding="utf-8")
    (generated,) = re.findall(r"<!-- generated[^>]*-->\n(.*)<!-- end -->", page, re.DOTALL)
    assert generated == published.published_markdown(read_published()), "run python -m docs.generate"
    assert not re.search(r"\*test videos\*.*\|  \|", generated)


@pytest.mark.slow
def test_a_report_marks_them_as_quoted(file: Path, tmp_path: Path) -> None:
    same: dict[str, Any] = {"trained_with": {"dataset": ["FF++_c23"]}, "protocol": "deepfakebench"}
    found = page_of(make_run(tmp_path / "same", ("tiny", "other"), videos=4, **same))
    assert_self_contained(found)
    measured, quoted = found.text.split("Published numbers, not measured here", 1)
    assert "test videos4 One0.6543" in " ".join(quoted.split())
    assert "0.6543" in quoted and "0.6543" not in measured and "Someone, https://example.org/a" in quoted
    assert "Three" not in quoted and "Another" not in quoted and "could not be read" not in found.text
    for number, change in enumerate(
        ({"trained_with": {}}, {"trained_with": {"dataset": ["other"]}}, {"protocol": None})
    ):
        text = page_of(make_run(tmp_path / f"{number}", ("tiny",), videos=4, **same | change)).text
        assert "Published numbers" not in text and "0.6543" not in text


@pytest.mark.slow
def test_groups_are_quoted_under_their_dataset(file: Path, tmp_path: Path) -> None:
    file.write_text(json.dumps([TABLES[1] | {"datasets": {"tiny/a": None}}]))
    same: dict[str, Any] = {"trained_with": {"dataset": ["tiny"]}, "protocol": "paper"}
    text = page_of(make_run(tmp_path / "run", groups="/([ab])/", **same)).text
    assert "AUC of videos" in text and "tiny/a" in text and "Another" in text


@pytest.mark.slow
def test_a_test_prints_and_names_them(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(tmp_path)
    assert training.main(arguments(tmp_path, "--name", "run")) == 0
    assert "Another" not in capsys.readouterr().out
    monkeypatch.setitem(PROTOCOLS, "paper", Protocol(["tiny", "elsewhere"], 2, "random", "max"))
    best = str(tmp_path / "output/run/model_best.pth")
    more = ["--test", "--resume_model", best, "--protocol", "paper", "--name", "tested"]
    assert training.main(arguments(tmp_path, *more)) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "output/tested/results.json").read_text())
    assert results["trained_with"]["dataset"] == ["tiny"] and "Another" not in json.dumps(results)
    table = r"method +tiny\n-+\ntest videos +unknown\nOne +0\.9"
    assert re.search(rf"AUC of videos, trained on tiny\b.*Another\n{table}", printed)
    assert "Someone" not in printed
    kept = {name: results[name] for name in ("protocol", "frames_per_video", "frame_choice", "video_score", "seed")}
    assert list(kept.values()) == ["paper", 2, "random", "max", 0]
    assert results["datasets"]["tiny"]["frames"] == 2 * results["datasets"]["tiny"]["videos"]
    text = " ".join(page_of(tmp_path / "output/tested").text.split())
    assert "trained on tiny, protocol paper" in text and "Another" in text
    assert "at most 2, random, seed 0" in text and "paper (docs/protocols.md)" in text
    assert training.main(arguments(tmp_path, *more, "--overwrite", "--video_score", "mean")) == 2


@pytest.mark.slow
def test_a_damaged_file_does_not_stop_a_training(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file.write_text('[{"unit": 1')
    make_dataset(tmp_path)
    assert training.main(arguments(tmp_path, "--name", "run")) == 0
    assert (tmp_path / "output/run/report.html").is_file()
    assert capsys.readouterr().err.count(str(file)) == 1
