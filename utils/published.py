"""Published numbers to stand beside measured ones: what docs/published.md quotes."""

import re
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent.parent / "docs" / "published.md"
MOST = 0.9  # of a dataset's test videos: with fewer it is another test set
HEADING = re.compile(r"AUC of (frames|videos), trained on (\S+)")


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
    """Read the tables of published numbers.

    Args:
        file: Markdown; a section whose heading is "AUC of frames, trained on FF++_c23", or the like, holds a line
            "Source: ..." and a table, its columns the method and the datasets, its first row their test videos.
    """
    tables = []
    for section in re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        if about := HEADING.fullmatch(heading):
            (source,) = (line.removeprefix("Source: ") for line in lines if line.startswith("Source: "))
            table = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|")
            (_, *datasets), _, (_, *counts), *rows = table
            videos = [int(count) if count else None for count in counts]
            tables.append(Quoted(about[1], about[2], source, datasets, videos, {name: cells for name, *cells in rows}))
    return tables


def quote(tables: list[Quoted], trained_on: list[str] | None, results: dict[str, dict[str, Any]]) -> list[Quoted]:
    """Choose what was published on the same protocol: the same training set, and the test sets that were tested.

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
            if tested.get(dataset, 0) >= max(1, MOST * (videos or 0))
        ]
        if columns and [table.trained_on] == trained_on:
            rows = {name: [cells[i] for i in columns] for name, cells in table.rows.items()}
            kept = {name: cells for name, cells in rows.items() if any(cells)}
            datasets, videos = ([column[i] for i in columns] for column in (table.datasets, table.videos))
            chosen.append(table._replace(datasets=datasets, videos=videos, rows=kept))
    return chosen
