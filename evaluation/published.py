"""Published AUCs, quoted from their sources in published.json and shown next to measured ones."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parent / "published.json"
PAPER = "Exposing the Deception (ED)"  # the row of the paper that this project implements
TOLERANCE = 0.1  # relative difference in the number of test videos; more means another test set


class PublishedTable(NamedTuple):
    """A table of published AUCs.

    Attributes:
        protocol: key of `utils.protocols.PROTOCOLS`; None for numbers that only docs/published.md shows.
        unit: frames or videos.
        trained_on: name of the training set, followed by " (assumed)" if no source names it.
        source: citation and URL.
        datasets: test set name -> its number of videos, or None if the source does not give it.
        rows: method -> one AUC per dataset, 0 to 1, with the digits of the source; "" if the source has none.
    """

    protocol: str | None
    unit: str
    trained_on: str
    source: str
    datasets: dict[str, int | None]
    rows: dict[str, list[str]]

    @property
    def training_set(self) -> str:
        """The name of the training set alone."""
        return self.trained_on.removesuffix(" (assumed)")

    @property
    def test_videos(self) -> list[str]:
        """The number of test videos of each dataset, as text."""
        return ["unknown" if videos is None else str(videos) for videos in self.datasets.values()]


@cache  # one warning per process
def read_published() -> list[PublishedTable]:
    """Read published.json; if it is missing or damaged, print a warning and return no tables.

    The numbers are only shown, so a damaged file must not stop a training or a test.
    """
    try:
        tables = [PublishedTable(**content) for content in json.loads(FILE.read_text(encoding="utf-8"))]
        for table in tables:
            check_table(table)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print(f"warning: no published numbers: {FILE} cannot be read ({error}); restore the file", file=sys.stderr)
        return []
    return tables


def check_table(table: PublishedTable) -> None:
    """Raise ValueError, TypeError or AttributeError if a table is malformed."""
    for dataset, videos in table.datasets.items():
        if not isinstance(videos, int | None):
            raise ValueError(f"'{dataset}' needs a number of videos or null")
    for method, cells in table.rows.items():
        if len(cells) != len(table.datasets):
            raise ValueError(f"'{method}' has {len(cells)} cells, not {len(table.datasets)}")
        if not all(isinstance(cell, str) and 0 <= float(cell or 0) <= 1 for cell in cells):
            raise ValueError(f"'{method}' has a cell that is not a quoted AUC from 0 to 1")


def is_same_size(tested: int, published: int) -> bool:
    """Return whether a test has the published number of videos, apart from a few videos without a detected face."""
    return abs(tested - published) <= TOLERANCE * published


def select_tables(
    tables: list[PublishedTable],
    protocol: str | None,
    trained_on: list[str] | None,
    results: dict[str, dict[str, Any]],
) -> list[PublishedTable]:
    """Select the published numbers that are comparable with a test: equal protocol, training set and test sets.

    Args:
        tables: all published tables.
        protocol: the protocol of the test; without one, no number is comparable.
        trained_on: training sets of the tested network; None if unknown.
        results: metrics of each tested dataset, as in results.json.

    Returns:
        The tables, reduced to the columns that match and to the methods with a number in them.
    """
    tested = {name: metrics["videos"] for name, metrics in results.items()}
    for name, metrics in results.items():
        tested |= {f"{name}/{group}": measured["videos"] for group, measured in metrics.get("groups", {}).items()}
    selected = []
    for table in tables:
        columns = {
            dataset: column
            for column, (dataset, videos) in enumerate(table.datasets.items())
            if dataset in tested and (videos is None or is_same_size(tested[dataset], videos))
        }
        if columns and protocol and (protocol, trained_on) == (table.protocol, [table.training_set]):
            datasets = {dataset: table.datasets[dataset] for dataset in columns}
            rows = {method: [cells[i] for i in columns.values()] for method, cells in table.rows.items()}
            rows = {method: cells for method, cells in rows.items() if any(cells)}
            if rows:
                selected.append(table._replace(datasets=datasets, rows=rows))
    return selected


def paper_auc(protocol: str | None, trained_on: str, dataset: str) -> tuple[str, int | None]:
    """Return the frame AUC that the paper published, with the digits of the source, and its number of test videos.

    The AUC is "" if it is not in published.json; the number is None if it is unknown.

    Args:
        protocol: the protocol of the test, or None.
        trained_on: name of the training set.
        dataset: name of the test set.
    """
    for table in read_published():
        if (table.protocol, table.unit, table.training_set) == (protocol, "frames", trained_on) and PAPER in table.rows:
            aucs = dict(zip(table.datasets, table.rows[PAPER], strict=True))
            return aucs.get(dataset, ""), table.datasets.get(dataset)
    return "", None


def published_markdown(tables: list[PublishedTable]) -> str:
    """Return the tables as the generated part of docs/published.md."""
    sections = []
    for table in tables:
        counts = table.test_videos
        rows = {"method": list(table.datasets), "---": ["---"] * len(counts), "*test videos*": counts, **table.rows}
        lines = [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()]
        heading = f"## {table.protocol or 'no protocol'}: AUC of {table.unit}, trained on {table.trained_on}"
        sections.append("\n".join([heading, "", f"Source: {table.source}", "", *lines, ""]))
    return "\n".join(sections)
