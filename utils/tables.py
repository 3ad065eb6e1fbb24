"""Tables for the terminal, and lines of CSV files."""

import csv
import io
from collections.abc import Sequence
from typing import Any


def format_rows(rows: list[list[str]]) -> str:
    """Format rows of cells as a text table; the first row is the header, the first column is left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def csv_line(row: Sequence[Any]) -> str:
    """Return a row as a line of a CSV file."""
    text = io.StringIO(newline="")
    # Before Python 3.13, csv does not quote a carriage return of its own accord, and then reads two rows.
    quote_all = any("\r" in str(cell) for cell in row)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue()
