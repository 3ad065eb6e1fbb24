"""The documentation: generated pages are up to date, links work, and the layout is as drawn."""

import ast
import re
import runpy
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from docs.generate import COMMANDS, main
from tests.helpers import ROOT
from utils.parsing import Parser
from utils.protocols import PROTOCOLS, Protocol

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
# Packages and files of the root folder; each imports only from those before it. Tests and benchmarks may import all.
ORDER = (
    "utils", "losses", "models", "faces", "datasets", "corpora", "evaluation", "engine", "train_state", "run_folder",
    "run_with_submitit", "scoring", "demo", "analysis", "preprocessing", "inference", "training", "fuzz", "docs",
)  # fmt: skip
EXCEPTIONS = {"engine": "train_state", "run_with_submitit": "training"}  # for a type, and in the job


def test_generated_pages_are_up_to_date(capsys: pytest.CaptureFixture) -> None:
    assert main(check=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--chekc", 2)])
def test_generator_reads_its_flags(
    flag: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate", flag])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "docs/generate.py"), run_name="__main__")
    assert stop.value.code == code and "--check" in "".join(capsys.readouterr())


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert all(f"({page.name})" in index for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_are_accepted(page: Path) -> None:
    """Every flag of a command that a page shows is a flag of that command."""
    for line in re.sub(r"\\\n\s*", " ", page.read_text()).splitlines():
        for program, arguments in re.findall(
            r"python (training\.py|preprocessing\.py|inference\.py|-m [\w.]+)([^`;#]*)", line
        ):
            if program in COMMANDS:
                flags = Parser(program, None, COMMANDS[program])._option_string_actions
                unknown = [
                    flag for flag in re.findall(r"(?<!\S)--\w+", arguments.split(" -- ")[0]) if flag not in flags
                ]
                assert not unknown, f"{page.name}: {program} has no {unknown}"


@pytest.mark.parametrize("name", ORDER)
def test_imports_lead_to_the_layers_below(name: str) -> None:
    """import-linter checks packages only, not engine.py and the other files of the root folder."""
    files = [file for file in (ROOT / f"{name}.py", *(ROOT / name).rglob("*.py")) if file.is_file()]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    modules = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or name for node in nodes if isinstance(node, ast.ImportFrom)]
    tops = {module.partition(".")[0] for module in modules}
    own = {top for top in tops if (ROOT / top).is_dir() or (ROOT / f"{top}.py").is_file()}
    assert own <= {*ORDER[: ORDER.index(name) + 1], EXCEPTIONS.get(name)}


def test_fidelity_names_existing_tests() -> None:
    """Every difference from the authors' release names the tests that cover it."""
    page = (ROOT / "docs/fidelity.md").read_text()
    file, named = "", 0
    for module, test in re.findall(r"(test_\w+\.py)?(?:::(test_\w+))?", page):
        file = module or file
        if module:
            assert (ROOT / "tests" / module).is_file(), module
        if test:
            named += 1
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"
    assert named > 30


def test_the_first_table_of_protocols_equals_the_code() -> None:
    lines = (ROOT / "docs/protocols.md").read_text().partition("\n|")[2].partition("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines)
    assert header == ["--protocol", *(f"--{field.name}" for field in fields(Protocol))]
    written = {name: [cell.replace("`", "") for cell in cells] for name, *cells in rows}
    assert written == {
        name: [", ".join(value) if isinstance(value, list) else str(value) for value in asdict(protocol).values()]
        for name, protocol in PROTOCOLS.items()
    }


def test_the_training_core_is_short() -> None:
    text = (ROOT / "training.py").read_text()
    assert len(text.splitlines()) <= 350
    functions = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    run = functions["run_training"]
    assert run.end_lineno is not None and run.end_lineno - run.lineno + 1 <= 50
    engine = ast.parse((ROOT / "engine.py").read_text())
    (epoch,) = (n for n in ast.walk(engine) if isinstance(n, ast.FunctionDef) and n.name == "train_one_epoch")
    assert len(epoch.args.args) + len(epoch.args.kwonlyargs) <= 6
