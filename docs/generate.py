"""Write the generated parts of the documentation: docs/arguments.md and the tables of docs/published.md.

    python -m docs.generate

The arguments come from the commands, and the tables from evaluation/published.json.
"""

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from analysis.ablation import AblationArguments
from analysis.compare import CompareArguments
from analysis.embedding import EmbeddingArguments
from analysis.evidence import EvidenceArguments
from analysis.reproduce import ReproduceArguments
from analysis.robustness import RobustnessArguments
from corpora.lists import ListArguments
from corpora.realorfake import RealOrFakeArguments
from datasets.check import CheckArguments
from datasets.pack import PackArguments
from demo.__main__ import DemoArguments
from evaluation.published import published_markdown, read_published
from inference import InferenceArguments
from preprocessing import PreprocessingArguments
from scoring.share import ShareArguments
from utils.parsing import default_of, show_default
from utils.training_arguments import TrainingArguments

ROOT = Path(__file__).parent.parent
COMMANDS: dict[str, Any] = {
    "training.py": TrainingArguments,
    "preprocessing.py": PreprocessingArguments,
    "inference.py": InferenceArguments,
    "-m scoring.share": ShareArguments,
    "-m corpora.realorfake": RealOrFakeArguments,
    "-m corpora.lists": ListArguments,
    "-m datasets.check": CheckArguments,
    "-m datasets.pack": PackArguments,
    "-m demo": DemoArguments,
    "-m analysis.compare": CompareArguments,
    "-m analysis.robustness": RobustnessArguments,
    "-m analysis.embedding": EmbeddingArguments,
    "-m analysis.evidence": EvidenceArguments,
    "-m analysis.ablation": AblationArguments,
    "-m analysis.reproduce": ReproduceArguments,
}
INTRODUCTION = """# Arguments

This page lists every argument of every command, as `--help` shows it. `python -m docs.generate` writes this page.

- A boolean argument takes `True` or `False`; without a value it is `True`.
- `--traceback`, on every command, prints the Python traceback of an error before its one-sentence message.
"""


def argument_table(arguments: Any) -> str:
    """Return the arguments of one command as a Markdown table, with a row for each group."""
    rows, group = ["| argument | default | meaning |", "|---|---|---|"], ""
    for item in fields(arguments):
        metadata = item.metadata
        if metadata["group"] != group:
            group = metadata["group"]
            rows.append(f"| **{group}** | | |")
        name = item.name.upper() if metadata.get("positional") else f"`--{item.name}`"
        shown = show_default(default_of(item))
        text = metadata["text"].replace("|", "\\|")
        rows.append(f"| {name} | {shown and f'`{shown}`'} | {text} |")
    return "\n".join(rows)


def arguments_page() -> str:
    """Return the text of docs/arguments.md."""
    sections = [f"## python {command}\n\n{argument_table(kind)}\n" for command, kind in COMMANDS.items()]
    return "\n".join([INTRODUCTION, *sections])


def published_page(page: str) -> str:
    """Return docs/published.md with its generated tables replaced."""
    tables = published_markdown(read_published())
    return re.sub(
        r"(<!-- generated[^>]*-->\n).*(<!-- end -->)", lambda part: part[1] + tables + part[2], page, flags=re.DOTALL
    )


def main(check: bool) -> int:
    """Write the pages, or report outdated pages; return the exit code."""
    published = ROOT / "docs" / "published.md"
    pages = {
        ROOT / "docs" / "arguments.md": arguments_page(),
        published: published_page(published.read_text(encoding="utf-8")),
    }
    stale = [file for file, text in pages.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    for file in stale:
        print(f"{'out of date: run python -m docs.generate for' if check else 'wrote'} {file.relative_to(ROOT)}")
        if not check:
            file.write_text(pages[file], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        "python -m docs.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with code 1 if a page is out of date")
    sys.exit(main(parser.parse_args().check))
