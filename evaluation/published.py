"""Published numbers to stand beside measured ones: what docs/published.md quotes."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import InputError

FILE = Path(__file__).parent.parent / "docs" / "published.md"
HEADING = re.compile(r"AUC of (frames|videos), trained on (\S+)")
SAME = 0.1  # of a dataset's test videos: with more that are missing, or too many, it is another test set


class Quoted(NamedTuple):
    """A table of published AUCs.

    Attributes:
        unit: frames or videos.
        trained_on: the dataset that the networks were trained on.
        source: whose numbers these are.
        datasets: the tested ones.
        videos: how many videos the test set of each has; None where it is not known.
        rows: of each method the AUCs on these datasets, 0 to 1, to the digits of the source; empty where it has none.
    """

    unit: str
    trained_on: str
    source: str
    datasets: list[str]
    videos: list[int | None]
    rows: dict[str, list[str]]


def read_published(file: Path = FILE) -> list[Quoted]:
    """Read the tables of published numbers; none where the file is not there.

    Args:
        file: Markdown; a section whose heading is "AUC of frames, trained on FF++_c23", or the like, holds a line
            "Source: ..." and a table, its columns the method and the datasets, its first row their test videos.

    Raises:
        InputError: a section that begins like one of these is not as it should be.
    """
    tables: list[Quoted] = []
    if not file.is_file():
        return tables
    for section in re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, *lines = map(str.strip, section.splitlines())
        if heading.startswith("AUC of"):
            try:
                tables.append(_read_table(heading, lines))
            except ValueError as error:
                raise InputError(f"{file}: the section '{heading}' is not as it should be: {error}.") from error
    return tables


def _read_table(heading: str, lines: list[str]) -> Quoted:
    about = HEADING.fullmatch(heading)
    if about is None:
        raise ValueError("the heading is not 'AUC of frames, trained on DATASET', or of videos")
    sources = [line.removeprefix("Source: ") for line in lines if line.startswith("Source: ")]
    if len(sources) != 1:
        raise ValueError(f"it has {len(sources)} lines that begin with 'Source: '")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    if len(rows) < 4 or rows[2][0] != "*test videos*":
        raise ValueError("it needs a table of a header, a first row '*test videos*', and the methods")
    for name, *cells in (rows[0], *rows[2:]):
        if len(cells) != len(rows[0]) - 1:
            raise ValueError(f"the row '{name}' has {len(cells)} cells, not {len(rows[0]) - 1}")
    (_, *datasets), _, (_, *counts), *methods = rows
    if len({name for name, *_ in methods}) < len(methods):
        raise ValueError("a method stands there twice")
    for cell in (cell for _, *cells in methods for cell in cells if cell):
        if not 0 <= float(cell) <= 1:
            raise ValueError(f"{cell} is no share from 0 to 1")
    videos = [int(count) if count else None for count in counts]
    return Quoted(about[1], about[2], sources[0], datasets, videos, {name: cells for name, *cells in methods})


def quote(tables: list[Quoted], trained_on: list[str] | None, results: dict[str, dict[str, Any]]) -> list[Quoted]:
    """Choose what was published on the same protocol: the same training set, and test sets of the same name and size.

    Args:
        tables: every published number.
        trained_on: the datasets of the measured network; None where they are not known.
        results: the metrics of each dataset that it was tested on, as in results.json.
    """
    tested = {name: metrics["videos"] for name, metrics in results.items()}
    for name, metrics in results.items():
        tested |= {f"{name}/{group}": its["videos"] for group, its in metrics.get("groups", {}).items()}
    chosen = []
    for table in tables:
        columns = [
            i
            for i, (dataset, videos) in enumerate(zip(table.datasets, table.videos, strict=True))
            if dataset in tested and (videos is None or abs(tested[dataset] - videos) <= SAME * videos)
        ]
        if columns and [table.trained_on] == trained_on:
            rows = {name: [cells[i] for i in columns] for name, cells in table.rows.items()}
            kept = {name: cells for name, cells in rows.items() if any(cells)}
            datasets, videos = ([column[i] for i in columns] for column in (table.datasets, table.videos))
            chosen.append(table._replace(datasets=datasets, videos=videos, rows=kept))
    return chosen
