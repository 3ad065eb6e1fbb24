"""Published numbers to stand beside measured ones: what docs/published.md quotes."""

import re
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).parent.parent / "docs" / "published.md"
HEADING = re.compile(r"AUC of (frames|videos), trained on (\S+)")


class Quoted(NamedTuple):
    """A table of published AUCs.

    Attributes:
        unit: frames or videos.
        trained_on: the dataset that the networks were trained on.
        source: whose numbers these are.
        datasets: the tested ones.
        rows: of each method the AUCs on these datasets, 0 to 1, to the digits of the source; empty where it has none.
    """

    unit: str
    trained_on: str
    source: str
    datasets: list[str]
    rows: dict[str, list[str]]


def read_published(file: Path = FILE) -> list[Quoted]:
    """Read the tables of published numbers.

    Args:
        file: Markdown; a section whose heading is "AUC of frames, trained on FF++_c23", or the like, holds a line
            "Source: ..." and a table, its columns the method and the datasets.
    """
    tables = []
    for section in re.split(r"^## ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        if about := HEADING.fullmatch(heading):
            (source,) = (line.removeprefix("Source: ") for line in lines if line.startswith("Source: "))
            header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|")
            tables.append(Quoted(about[1], about[2], source, header[1:], {name: cells for name, *cells in rows}))
    return tables


def quote(tables: list[Quoted], trained_on: list[str] | None, tested: list[str]) -> list[Quoted]:
    """Choose what was published on the same protocol: the same training set, and the datasets that were tested.

    Args:
        tables: every published number.
        trained_on: the datasets of the measured network; None where they are not known.
        tested: the datasets that it was tested on.
    """
    chosen = []
    for table in tables:
        columns = [i for i, dataset in enumerate(table.datasets) if dataset in tested]
        if columns and [table.trained_on] == trained_on:
            rows = {name: [cells[i] for i in columns] for name, cells in table.rows.items()}
            kept = {name: cells for name, cells in rows.items() if any(cells)}
            chosen.append(table._replace(datasets=[table.datasets[i] for i in columns], rows=kept))
    return chosen
