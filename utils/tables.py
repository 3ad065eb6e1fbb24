"""Tables for the terminal, and lines of CSV files."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

# A spreadsheet runs a cell that begins so (OWASP, "CSV Injection"), unless an apostrophe is in front.
FORMULA = re.compile("'*[=+@\t\r\n\uff1d\uff0b\uff0d\uff20-]")


def format_rows(rows: list[list[str]]) -> str:
    """Format rows of cells as a text table; the first row is the header, the first column is left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def safe_cell(cell: Any) -> Any:
    """Put an apostrophe in front of a text that a spreadsheet would run as a formula; `TableReader` removes it."""
    return f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell


class TableReader(csv.DictReader):
    """Read the rows of a CSV file that this project has written; the cells are the texts before `safe_cell`."""

    def __next__(self) -> dict[str | Any, str | Any]:
        """Return the next row."""
        return {
            name: cell[1:] if isinstance(cell, str) and cell[:1] == "'" and FORMULA.match(cell, 1) else cell
            for name, cell in super().__next__().items()
        }


def csv_line(row: Sequence[Any]) -> str:
    """Return a row as a line of a CSV file, with `safe_cell`."""
    row = [safe_cell(cell) for cell in row]
    text = io.StringIO(newline="")
    # Before Python 3.13, csv does not quote a carriage return of its own accord, and then reads two rows.
    quote_all = any("\r" in str(cell) for cell in row)
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerow(row)
    return text.getvalue()
