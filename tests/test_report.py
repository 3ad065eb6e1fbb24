"""report.html: its content, no scripts and no requests, and its display in a browser."""

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.study import write_study
from evaluation.metrics import dataset_metrics, group_metrics
from evaluation.report import (
    CURVE_POINTS,
    MISTAKES,
    make_warning,
    read_study,
    summary,
    thin_curve,
    worst_mistakes,
    write_report,
)
from evaluation.results import average
from evaluation.verdicts import calibrate, measure_verdicts
from tests.helpers import scores_of
from utils import command, images
from utils.errors import InputError

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "br", "wbr", "path", "use"}


def make_run(
    folder: Path,
    names: tuple[str, ...] = ("tiny",),
    videos: int = 10,
    frames: int = 4,
    classes: tuple[int, ...] = (0, 1),
    certain: float = 1.0,
    pictures: bool = True,
    groups: str = "",
    **more: Any,
) -> Path:
    """Write the results of a test: random scores, their metrics, and images of one colour each."""
    rng, rows, results = np.random.default_rng(0), [], {}
    folder.mkdir(parents=True)
    labels = np.repeat([classes[video % len(classes)] for video in range(videos)], frames)
    video = np.repeat(np.arange(videos), frames)
    for name in names:
        scores = 1 / (1 + np.exp(-rng.normal(certain * (2 * labels - 1), 1)))
        folders = [f"{name}/{'ab'[v % 4 // 2]}/{v:03d}" for v in range(videos)]
        scored, options = scores_of(labels, scores, [folders[v] for v in video]), {"thresholds": (0.4, 0.4)}
        results[name] = dataset_metrics(scored, **options)
        if groups:
            results[name]["groups"] = group_metrics(scored, groups, **options)
        if set(classes) == {0, 1}:
            results[name]["verdicts"] = measure_verdicts(calibrate(scored, None, "mean"), scored, 0.05)
        for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
            rows.append([name, f"{folders[video[i]]}/{i % frames:04d}.png", label, repr(float(score))])
    if pictures:
        for i, row in enumerate(rows):
            file = folder.parent / "faces" / row[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (200, 180), (i % 256, 80, 160)).save(file)
    with (folder / "predictions.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([["dataset", "path", "label", "score"], *rows])
    content = {
        "checkpoint": "output/run/model_best.pth",
        "checkpoint_sha256": "c" * 64,
        "data_root": str(folder.parent / "faces"),
        "file_list_sha256": dict.fromkeys(names, "d" * 64),
        "thresholds": dict.fromkeys(("frame", "video"), {"threshold": 0.4, "fpr": 0.125, "fnr": 0.25}),
        "cluster_unit": dict.fromkeys(names, "video"),
        "run": {"date": "2026-01-02T03:04:05+00:00", "commit": None, "hardware": "a fast one"},
        "precision": "fp32",
        "history": [
            {
                "epoch": n,
                "losses": {"classification": 1 / n},
                "train": {"auc": None},
                "val": {"auc": 0.5, "log_loss": 0.7},
            }
            for n in (1, 2)
        ],
        "video_score": "mean",
        "group_by": groups or None,
        "trained_with": {"name": "run", "lr": 1e-6, "fpr": None, "gil_loss": True},
        "datasets": results,
        **({"average": average(results)} if len(names) > 1 else {}),
        **more,
    }
    (folder / "results.json").write_text(json.dumps(content))
    return folder


class Page(HTMLParser):
    """The elements and the text of a page; every element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def assert_self_contained(page: Page) -> None:
    """Assert that the page has no scripts, no requests and unique ids."""
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base"}
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for name in ("src", "href", "xlink:href"):
        for value in page.values(name):
            assert value.startswith("data:") or value[1:] in ids, value[:80]
    assert not page.values("srcset") and not [n for _, found in page.elements for n in found if n.startswith("on")]
    for _, attributes in page.elements:
        for reference in re.findall(r"url\(([^)]*)\)", " ".join(value or "" for value in attributes.values())):
            assert reference[1:] in ids
    for name in page.values("aria-labelledby"):
        assert name in ids


def test_the_page_shows_every_number_of_the_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ("one", "two"), groups="/([ab])/")
    page = page_of(folder)
    assert_self_contained(page)
    results = json.loads((folder / "results.json").read_text())
    parts = [*results["datasets"].values(), results["average"]]
    parts += [group for metrics in results["datasets"].values() for group in metrics["groups"].values()]
    assert len(parts) == 7
    for metrics in parts:
        for name, value in metrics.items():
            if name == "verdicts":
                assert f"{value['fake_above']:.4f}" in page.text and f"{100 * value['uncertain']:.3g}" in page.text
            elif name.endswith("_interval"):
                assert f"{value[0]:.3f} to {value[1]:.3f}" in page.text
            elif isinstance(value, float) and name not in ("frames", "videos", "clusters"):
                assert f"{value:.4f}" in page.text, name
    texts = ("c" * 64, "d" * 64, "model_best.pth", "0.4000", "1e-06", "gil_loss", "TPR at 10\u00a0%", "DET curve")
    for text in (*texts, "a fast one", "12.5\u00a0%", "fp32", "2026-01-02"):
        assert text in page.text, text
    scopes = [attributes.get("scope") for tag, attributes in page.elements if tag == "th"]
    assert set(scopes) == {"row", "col"} and scopes.count("row") == 2 * 7
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == 2 * 4 + 2
    assert ("html", {"lang": "en"}) in page.elements
    assert all(attributes["role"] == "img" for tag, attributes in page.elements if tag == "svg")
    assert all(attributes["aria-label"] for tag, attributes in page.elements if tag == "svg")


@pytest.mark.slow
def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ("one", "two"))
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert sorted(file.name for file in folder.iterdir()) == [
        "predictions.csv", "report.html", "results.json"
    ]  # fmt: skip


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    names = (f"{HOSTILE}&amp;\"'", "{{ 7 * 7 }}$x^2$")
    settings = {HOSTILE: f'"><img src="http://a.test/{HOSTILE}">', "bytes": "\udcff"}
    more = {"certain": 0.1, "groups": "(<script)", "pictures": False, "trained_with": settings}
    folder = make_run(tmp_path / HOSTILE.replace("/", "_"), names, **more)
    study = {"title": HOSTILE, "text": f"</p>{HOSTILE}", "table": [[HOSTILE], [HOSTILE]], "plots": []}
    (folder / "study_<b>.json").write_text(json.dumps(study))
    (folder / "study_<i>.json").write_text(json.dumps(study | {"plots": [HOSTILE]}))
    page = page_of(folder)
    assert_self_contained(page)
    assert page.text.count(HOSTILE) > 10
    for text in (*names, "http://a.test/", "\\udcff", "study_<i>.json"):
        assert text in page.text


@pytest.mark.parametrize("label, absent", [(0, "fake"), (1, "real")])
def test_a_single_class(tmp_path: Path, label: int, absent: str) -> None:
    page = page_of(make_run(tmp_path / "run", classes=(label,), thresholds={"frame": None, "video": None}))
    assert_self_contained(page)
    assert "AUC is undefined" in page.text and "only one class" in page.text
    assert "the diagonal is guessing" not in page.text  # no ROC curve
    assert f"{absent} (none)" in page.text
    assert "Calibration" in page.text and "–" in page.text
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == 2 + 2


def test_the_worst_mistakes_are_the_worst(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", certain=0.2, videos=20)
    page = page_of(folder)
    with (folder / "predictions.csv").open(newline="") as lines:
        rows = [(row["path"], int(row["label"]), float(row["score"])) for row in csv.DictReader(lines)]
    wrong = sorted((row for row in rows if (row[2] > 0.5) != row[1]), key=lambda row: -abs(row[2] - row[1]))
    assert len(wrong) > MISTAKES
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    named = [picture["alt"] for picture in pictures]
    assert named == [f"{('real', 'fake')[label]} face, {path}" for path, label, _ in wrong[:MISTAKES]]
    for picture, (path, _, score) in zip(pictures, wrong, strict=False):
        shown = Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2])))
        assert shown.size == (160, 144)
        expected = Image.open(tmp_path / "faces" / path).getpixel((0, 0))
        assert np.abs(np.subtract(shown.getpixel((80, 70)), expected)).max() < 6
        assert f"{score:.3f}" in page.text


def test_broken_results_are_an_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for content in ('{"datasets": ', "[]"):
        (folder / "results.json").write_text(content)
        with pytest.raises(InputError, match="results.json"):
            write_report(folder)


@pytest.mark.slow
def test_no_mistakes_and_missing_images(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "right", certain=20))
    assert "every image is classified correctly" in page.text
    folder = make_run(tmp_path / "missing", certain=0.1, pictures=False)
    shutil.rmtree(tmp_path / "faces")
    page = page_of(folder)
    assert_self_contained(page)
    assert page.text.count("image not found") > 5 and not [tag for tag, _ in page.elements if tag == "img"]


def test_a_score_of_exactly_one_half_means_real(tmp_path: Path) -> None:
    scored = scores_of([0, 1], [0.5, 0.5], "ab")
    assert [mistake["label"] for mistake in worst_mistakes(scored, tmp_path)] == ["fake"]


def test_studies(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    Image.new("RGB", (2000, 500), "red").save(folder / "plot.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    good = {"title": "Second", "text": "One line.\nAnother.", "table": [["a", "b"], ["x", 0.12345], ["y", None]]}
    contents = {
        "b": good | {"plots": ["plot.png"]},
        "a": good | {"title": "First", "table": [], "plots": []},
        "c_no_title": {"text": "", "table": [], "plots": []},
        "c_ragged": good | {"table": [["a", "b"], ["c"]], "plots": []},
        "c_rows": good | {"table": {"a": 1}, "plots": []},
        "c_text": good | {"text": 3, "plots": []},
        "c_plots": good | {"plots": "plot.png"},
        "c_missing": good | {"plots": ["none.png"]},
        "c_outside": good | {"plots": ["../outside.png"]},
        "c_no_image": good | {"plots": ["results.json"]},
        "c_list": [1],
    }
    for name, content in contents.items():
        (folder / f"study_{name}.json").write_text(json.dumps(content))
    (folder / "study_c_no_json.json").write_text("{")
    (folder / "study_c_bytes.json").write_bytes(b"\xff\xfe")
    (folder / "study_c_folder.json").mkdir()
    page = page_of(folder)
    assert_self_contained(page)
    assert page.text.count("This study cannot be shown: ") == 12
    assert page.text.index("First") < page.text.index("Second") < page.text.index("study_c_bytes.json")
    for text in ("0.1235", "One line.\nAnother.", "plots is missing", "../outside.png is not inside run", "none.png"):
        assert text in page.text, text
    assert str(folder) not in page.text.replace(str(folder.parent / "faces"), "")
    (plot,) = (attributes for tag, attributes in page.elements if tag == "img" and "plot.png" in attributes["alt"])
    assert Image.open(io.BytesIO(base64.b64decode(plot["src"].partition(",")[2]))).size == (1600, 400)


@pytest.mark.parametrize("flags", [[], ["--traceback"]])
def test_the_traceback_of_a_damaged_study(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(command, "traceback_flag", flags)
    (tmp_path / "study.json").write_text("{")
    assert read_study(tmp_path / "study.json", None)["problem"]
    assert ("Traceback" in capsys.readouterr().err) is bool(flags)


def test_a_plot_with_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "plot.png")
    (tmp_path / "study.json").write_text('{"title": "", "text": "", "table": [], "plots": ["plot.png"]}')
    assert read_study(tmp_path / "study.json", None)["problem"] is None
    monkeypatch.setattr(images, "_max_megapixels", 0.001)
    assert "megapixels" in read_study(tmp_path / "study.json", None)["problem"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers, notes", [({"checkpoint_sha256": "c" * 64}, 0), ({"checkpoint_sha256": "e"}, 1), ({}, 0)]
)
def test_a_study_of_a_different_checkpoint_is_marked(tmp_path: Path, numbers: dict[str, str], notes: int) -> None:
    folder = make_run(tmp_path / "run")
    numbers = {"checkpoint": "model_best.pth"} | numbers if numbers else {}
    write_study(folder, "one", "data", "One", "", [["a"]], numbers, Figure())
    assert page_of(folder).text.count("a different checkpoint") == notes


@pytest.mark.parametrize(
    "auc, interval, words",
    [
        (0.99, [0.985, 1.0], "almost perfectly: video AUC 0.990 on 1,234 videos, 95"),
        (0.93, [0.9, 0.95], "videos well: "),
        (0.8, [0.7, 0.9], "videos moderately well: "),
        (0.6, [0.55, 0.65], "videos poorly: "),
        (0.9, [0.5, 1.0], "not significantly better than guessing"),
        (0.2, [0.1, 0.3], "worse than guessing"),
        (1.0, None, "only one independent video"),
        (None, None, "undefined"),
    ],
)
def test_the_summary_grades_the_video_auc(auc: float | None, interval: list[float] | None, words: str) -> None:
    sentence = summary({"video_auc": auc, "video_auc_interval": interval, "videos": 1234})
    assert words in sentence


def test_a_small_test_set_or_one_of_a_single_source_is_marked(tmp_path: Path) -> None:
    labels, videos = np.arange(120) % 2, np.arange(120)
    assert make_warning(scores_of(labels, labels / 2, videos), "video") == ""
    assert "60 independent real and 10 independent fake" in make_warning(
        scores_of(labels, labels / 2, videos, np.where(labels, videos % 20, videos)), "source"
    )
    assert "shared source" in make_warning(scores_of(labels, labels / 2, videos, [0] * 120), "source")
    assert "test set is small" in page_of(make_run(tmp_path / "run")).text


def test_a_thin_curve_keeps_its_shape() -> None:
    steps = np.random.default_rng(0).integers(0, 2, 100_000)
    x, y = np.cumsum(steps) / steps.sum(), np.cumsum(1 - steps) / (1 - steps).sum()
    fewer = np.array(thin_curve(x, y))
    assert fewer.shape[1] <= CURVE_POINTS
    assert (fewer[:, 0] == (x[0], y[0])).all() and (fewer[:, -1] == (x[-1], y[-1])).all()
    assert np.abs(np.interp(x, *fewer) - y).max() < 0.003
    assert thin_curve(x[:9], y[:9])[0] is not None and len(thin_curve(x[:9], y[:9])[0]) == 9


@pytest.mark.slow
def test_a_hundred_thousand_frames(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", videos=1000, frames=100, certain=0.8, pictures=False)
    assert write_report(folder).stat().st_size < 130_000  # about 160,000 without thinning


# ------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install -y --no-install-recommends chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("report") / "run", ("one", "a" * 80), certain=0.3, groups="/([ab])/")
    Image.new("RGB", (800, 300), "red").save(folder / "plot.png")
    wide = [["column"] * 30, ["cell"] * 30]
    study = {"title": "Wide " * 30, "text": "b" * 300, "table": wide, "plots": ["plot.png"]}
    (folder / "study_wide.json").write_text(json.dumps(study))
    return write_report(folder)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_everything_and_requests_nothing(browser: Any, report: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    requests, errors = [], []

    def record(route: Any) -> None:
        requests.append(route.request.url)
        route.continue_() if route.request.url == report.as_uri() else route.abort()

    page.route("**/*", record)
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.as_uri(), wait_until="load")
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert errors == []
    widths = page.eval_on_selector_all("img", "all => all.map(image => image.naturalWidth)")
    assert len(widths) > 20 and min(widths) > 0
    drawn = page.eval_on_selector_all("svg, svg path[clip-path], svg text", "all => all.map(e => e.getBBox().height)")
    assert len(drawn) > 100 and page.locator("svg").count() == 10
    boxes = page.eval_on_selector_all(
        "svg", "all => all.map(e => [e.getBBox().width, e.getBoundingClientRect().height])"
    )
    assert min(min(box) for box in boxes) > 100
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    scrolled = page.eval_on_selector_all(".scroll", "all => all.map(e => e.scrollWidth > e.clientWidth)")
    assert scrolled[-1] and (width > 390 or all(scrolled))
    page.click("text=Training arguments")
    assert page.locator("text=gil_loss").is_visible()
    page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_printing(browser: Any, report: Path) -> None:
    """Print dark on white in any colour scheme, with no table wider than the paper."""
    page = browser.new_page(viewport={"width": 690, "height": 1000}, color_scheme="dark")  # A4 without margins
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    widths = page.eval_on_selector_all("section:not(.study) table", "all => all.map(e => e.scrollWidth)")
    assert widths and max(widths) <= 690
    page.close()


@pytest.mark.browser
@pytest.mark.slow
def test_light_and_dark_are_readable(browser: Any, report: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(report.as_uri())
        style = "(e, name) => getComputedStyle(e)[name].match(/[\\d.]+/g).slice(0, 3).map(Number)"
        paper = page.eval_on_selector("body", f"e => ({style})(e, 'backgroundColor')")
        ink = page.eval_on_selector("svg text", f"e => ({style})(e, 'fill')")
        legend = page.eval_on_selector(".fake", f"e => ({style})(e, 'backgroundColor')")
        muted = page.eval_on_selector("figcaption", f"e => ({style})(e, 'color')")
        colours[scheme] = (paper, ink, legend, muted)
        assert contrast(ink, paper) > 7 and contrast(muted, paper) > 4.5 and contrast(legend, paper) > 3
        page.close()
    assert all(light != dark for light, dark in zip(*colours.values(), strict=True))
    assert sum(colours["light"][0]) > sum(colours["dark"][0])


def contrast(one: list[float], other: list[float]) -> float:
    """Return the WCAG contrast ratio, from 1 to 21."""
    linear = [
        [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour] for colour in (one, other)
    ]
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (high + 0.05) / (low + 0.05)
