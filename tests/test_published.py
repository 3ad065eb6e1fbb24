"""Published numbers: read from docs/published.md, shown for the same protocol alone, apart from measured ones."""

import json
import re
from pathlib import Path

import pytest

import training
from corpora.layouts import LAYOUTS
from evaluation.published import FILE, quote, read_published
from tests.conftest import arguments, make_dataset
from tests.test_report import contained, make_run, page_of

PAGE = """# Published

## AUC of frames, trained on FF++_c23

Source: Someone, https://example.org/a

| method | Celeb-DF-v2 | tiny |
|---|---|---|
| *test videos* | 518 | 4 |
| One | 0.70 | 0.6543 |
| Two |  | 0.5 |
| Three | 0.8 |  |

## AUC of videos, trained on tiny

Source: Another

| method | tiny |
|---|---|
| *test videos* | |
| One | 0.9 |

## Others
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "published.md"
    file.write_text(PAGE)
    monkeypatch.setattr(read_published, "__defaults__", (file,))
    return file


def test_the_page_is_read(page: Path) -> None:
    frames, videos = read_published()
    assert frames[:4] == ("frames", "FF++_c23", "Someone, https://example.org/a", ["Celeb-DF-v2", "tiny"])
    assert frames.videos == [518, 4] and videos.videos == [None]
    assert frames.rows == {"One": ["0.70", "0.6543"], "Two": ["", "0.5"], "Three": ["0.8", ""]}
    assert (videos.unit, videos.trained_on, videos.rows) == ("videos", "tiny", {"One": ["0.9"]})


def test_only_the_same_protocol_is_quoted(page: Path) -> None:
    tables = read_published()
    both = {"tiny": {"videos": 4}, "Celeb-DF-v2": {"videos": 500}}
    (table,) = quote(tables, ["FF++_c23"], {"tiny": {"videos": 4}, "other": {"videos": 9}})
    assert table.datasets == ["tiny"] and table.rows == {"One": ["0.6543"], "Two": ["0.5"]}
    for trained_on in (None, ["FF++_c40"], ["FF++_c23", "DFDC"], []):
        assert quote(tables, trained_on, both) == []
    assert quote(tables, ["FF++_c23"], {"other": {"videos": 9}}) == []
    assert quote(tables, ["FF++_c23"], both)[0].datasets == ["Celeb-DF-v2", "tiny"]
    # A few videos of a test set are another test set.
    assert quote(tables, ["FF++_c23"], both | {"Celeb-DF-v2": {"videos": 466}})[0].datasets == ["tiny"]
    for videos in (466, 570):
        assert quote(tables, ["FF++_c23"], {"Celeb-DF-v2": {"videos": videos}}) == []


def test_spaces_mean_nothing_and_a_page_may_be_missing(page: Path) -> None:
    found = read_published()
    page.write_text(PAGE.replace("\n", "  \n").replace("| One | 0.70 | 0.6543 |", "One | 0.70 | 0.6543"))
    assert read_published() == found
    page.unlink()
    assert read_published() == []


def test_every_number_of_the_page_is_an_auc_on_a_known_dataset() -> None:
    tables = read_published()
    assert tables
    for table in tables:
        assert "http" in table.source
        assert {dataset.split("/")[0] for dataset in table.datasets} <= set(LAYOUTS)
        assert dict(zip(table.datasets, table.videos, strict=True)).get("Celeb-DF-v2", 518) == 518
        for cells in table.rows.values():
            assert len(cells) == len(table.datasets)
            assert all(cell == "" or 0 <= float(cell) <= 1 for cell in cells)
    assert FILE.read_text().count("## AUC of") == len(tables)


def test_they_stand_in_the_report_apart_from_measured_ones(page: Path, tmp_path: Path) -> None:
    found = page_of(make_run(tmp_path / "same", ("tiny", "other"), videos=4, trained_with={"dataset": ["FF++_c23"]}))
    contained(found)
    measured, quoted = found.text.split("Published, quoted and not measured here", 1)
    assert "0.6543" in quoted and "0.6543" not in measured and "Someone, https://example.org/a" in quoted
    assert "Three" not in quoted and "Another" not in quoted
    for number, arguments_of in enumerate(({}, {"dataset": ["other"]})):
        text = page_of(make_run(tmp_path / f"{number}", ("tiny",), trained_with=arguments_of)).text
        assert "Published" not in text and "0.6543" not in text


def test_groups_are_quoted_under_their_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "published.md"
    file.write_text(PAGE.replace("| tiny |\n|---|---|\n|", "| tiny/a |\n|---|---|\n|"))
    monkeypatch.setattr(read_published, "__defaults__", (file,))
    text = page_of(make_run(tmp_path / "run", groups="/([ab])/", trained_with={"dataset": ["tiny"]})).text
    assert "AUC of videos" in text and "tiny/a" in text and "Another" in text


def test_a_test_prints_them_and_tells_what_it_was_trained_on(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_dataset(tmp_path)
    assert training.main(arguments(tmp_path, "--name", "run")) == 0
    said = capsys.readouterr().out
    results = json.loads((tmp_path / "output/run/results.json").read_text())
    assert results["trained_with"]["dataset"] == ["tiny"] and "Another" not in json.dumps(results)
    assert re.search(
        r"quoted, not measured here: AUC of videos, trained on tiny\. Another\nmethod +tiny\n-+\nOne +0\.9", said
    )
    assert "Someone" not in said
