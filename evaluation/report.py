"""report.html: what a test left, on one page that needs no network and no JavaScript."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image
from scipy.special import ndtri

from datasets.images import read_image
from evaluation.metrics import calibration_bins, score_videos
from evaluation.predictions import Scores, read_predictions
from evaluation.published import quote, read_published
from utils.errors import InputError
from utils.files import atomic_write, read_json

CURVE_POINTS = 1000  # more are not seen, and would fill the file
MISTAKES = 20
FACE_SIZE, PLOT_SIZE = 160, 1600  # pixels, at most, of a picture in the page
DASH, NBSP = "–", "\u00a0"  # for what is not defined; between a number and its %
VERDICTS = (  # the lowest video AUC that each word is for
    (0.98, "almost perfectly"),
    (0.9, "well"),
    (0.75, "moderately well"),
    (0.0, "poorly"),
)
NAMES = {  # of the metrics in results.json: the column's head, and what it means
    "frames": ("frames", "images that were scored"),
    "videos": ("videos", "videos that they are of"),
    "acc": ("ACC", "share of right answers, where a score above 0.5 means fake"),
    "auc": ("AUC", "how often a fake scores higher than a real one: 0.5 is guessing, 1 is perfect; under it its "
            f"95{NBSP}% interval, by bootstrap over videos"),
    "ap": ("AP", "average precision, fake the positive class"),
    "eer": ("EER", "equal error rate: the mean of both errors where as many real ones are called fake as fakes real, "
            "as nearly as the scores allow; lower is better"),
    "log_loss": ("log loss", "in nats; lower is better, and 0.69 is what always answering 0.5 costs"),
    "brier": ("Brier", "mean squared error of the score; lower is better"),
    "ece": ("ECE", "expected calibration error: how far scores are from shares of fakes; lower is better"),
    "tpr_at_fpr_0.01": (f"TPR at 1{NBSP}%", f"share of fakes found where 1{NBSP}% of the real ones are called fake"),
    "tpr_at_fpr_0.1": (f"TPR at 10{NBSP}%", f"the same at 10{NBSP}%"),
    "acc_at_threshold": ("ACC at threshold", "share of right answers at the threshold that was chosen on the frames "
                         "of the validation set"),
}  # fmt: skip

# Matplotlib draws in these colours; the page puts its own in their place, which follow light and dark.
INK, REAL, FAKE, ACCENT = "#010203", "#010204", "#010205", "#010206"
COLOURS = {INK: "currentColor", REAL: "var(--real)", FAKE: "var(--fake)", ACCENT: "var(--accent)"}
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same layout on every machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}{NBSP}%")
DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)


def write_report(folder: Path) -> Path:
    """Write ``report.html`` from results.json, predictions.csv and any study_*.json of a folder.

    The same files give the same bytes. Of the images only those of the worst mistakes are read, from where
    results.json says that they are; a missing one leaves its place empty.

    Args:
        folder: a run's.

    Returns:
        The file.

    Raises:
        InputError: results.json or predictions.csv cannot be read, or the report not be written.
    """
    results = {"trained_with": {}, "left_out": {}} | read_json(folder / "results.json")
    predictions = read_predictions(folder / "predictions.csv")
    datasets = []
    for number, (name, metrics) in enumerate(results["datasets"].items(), 1):
        scored = predictions[name]
        datasets.append(
            {
                "name": name,
                "summary": summary(metrics),
                "plots": dataset_plots(scored, results["video_score"], results["threshold"], f"{number}"),
                "mistakes": worst_mistakes(scored, Path(results["data_root"])),
                "sha256": results["data_sha256"].get(name),
                "left_out": results["left_out"].get(name),
            }
        )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    page = environment.get_template("report.html.j2").render(
        title=folder.resolve().name,
        results=results,
        datasets=datasets,
        tables=metric_tables(results),
        published=quote(read_published(), results["trained_with"].get("dataset"), results["datasets"]),
        meanings=[NAMES[name] for name in NAMES if any(name in metrics for metrics in results["datasets"].values())],
        studies=[read_study(file, results["checkpoint_sha256"]) for file in sorted(folder.glob("study_*.json"))],
    )
    with atomic_write(folder / "report.html") as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")  # a path may hold bytes that are no text
    return folder / "report.html"


def plain(value: Any) -> str:
    """Return a value as it stands in a table: four decimals, more where they would be 0, and a dash for None."""
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
    return DASH if value is None else str(value)


def summary(metrics: dict[str, Any]) -> str:
    """Say in one sentence how well videos are told apart, from the metrics of a dataset."""
    auc, interval = metrics["video_auc"], metrics["video_auc_interval"]
    if auc is None:
        return "there is one class alone and nothing to tell apart: the AUC is not defined."
    value = f"the AUC of the {metrics['videos']:,} videos is {auc:.3f}"
    if interval is None:
        return f"nothing can be said of other videos, since one class has fewer than two ({value})."
    low, high = interval
    if high < 0.5:
        verdict = "fake videos score lower than real ones, worse than by guessing"
    elif low <= 0.5:
        verdict = "nothing shows that fake videos are told from real ones better than by guessing"
    else:
        word = next(word for lowest, word in VERDICTS if auc >= lowest)
        verdict = f"fake videos are told from real ones {word}"
    doubt = " (in every draw the same, which says little where there are few videos)" if low == high else ""
    return f"{verdict}: {value}, with a 95{NBSP}% interval from {low:.3f} to {high:.3f}{doubt}."


def metric_tables(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Arrange every metric of results.json.

    Args:
        results: its content.

    Returns:
        Two tables, of frames and of videos, each with a ``title``, a ``header`` and ``rows``: the name, its kind
        (dataset, group or average), and a text and an interval (or none) for every column.
    """
    parts: list[tuple[str, str, dict[str, Any]]] = []
    for dataset, metrics in results["datasets"].items():
        parts.append((dataset, "dataset", metrics))
        parts += [(name, "group", group) for name, group in metrics.get("groups", {}).items()]
    if "average" in results:
        parts.append(("average", "average", results["average"]))

    def cell(metrics: dict[str, Any], name: str) -> tuple[str, str]:
        value, interval = metrics.get(name), metrics.get(f"{name}_interval")
        if name in ("frames", "videos") and value is not None:  # an average need not be whole
            value = f"{value:,.1f}".removesuffix(".0")
        return plain(value), f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""

    every = list(dict.fromkeys(name for _, _, metrics in parts for name in metrics))
    of_videos = [name for name in every if name.startswith("video_") or name == "videos"]
    tables = []
    for title, prefix, names in (
        ("Frames", "", [name for name in every if name not in of_videos]),
        ("Videos", "video_", of_videos),
    ):
        columns = [name for name in names if name != "groups" and not name.endswith("_interval")]
        keys = [name.removeprefix(prefix) for name in columns]
        header = [NAMES[key][0] if key in NAMES else key.replace("_", " ") for key in keys]
        rows = [(name, kind, [cell(metrics, column) for column in columns]) for name, kind, metrics in parts]
        tables.append({"title": title, "header": header, "rows": rows})
    return tables


# -------------------------------------------------------------------------------------------------------- curves


def dataset_plots(scored: Scores, video_score: str, threshold: float | None, salt: str) -> list[dict[str, Any]]:
    """Draw a dataset's scores.

    Args:
        scored: its frames.
        video_score: how its videos are scored, see `evaluation.metrics.score_videos`.
        threshold: the one to mark, or None.
        salt: differs between the datasets of a page, so that no two drawings share an id.

    Returns:
        The ROC and DET curves (where there are both classes), histograms, and calibration, each with a ``title``, an
        ``svg`` and a ``caption``.
    """
    videos = scored.videos
    first = np.unique(videos, return_index=True)[1]
    kinds = {
        "frames": (scored.labels, scored.scores),
        "videos": (scored.labels[first], score_videos(scored.scores, videos, video_score)),
    }
    both = len(np.unique(scored.labels)) == 2
    plots = []
    for title, draw, needs_both, caption in PLOTS:
        if needs_both and not both:
            continue
        with mpl.rc_context(STYLE | {"svg.hashsalt": f"{salt} {title}"}):
            figure = Figure(figsize=(4.4, 3.9), layout="constrained")
            draw(figure, kinds, threshold)
            svg = inline_svg(figure, f"{title} of frames and of videos")
        plots.append({"title": title, "svg": svg, "caption": caption})
    return plots


Kinds = dict[str, tuple[np.ndarray, np.ndarray]]  # frames and videos: labels and scores
LINES = {
    "frames": {"color": INK, "lw": 1.2, "ls": (0, (4, 2))},
    "videos": {"color": ACCENT, "lw": 1.8, "ls": "-"},
}
GUESSING = {"color": INK, "alpha": 0.35, "lw": 0.8, "ls": ":"}


def draw_roc(figure: Figure, kinds: Kinds, threshold: float | None) -> None:
    """Draw the ROC curves."""
    from sklearn.metrics import roc_curve  # a second to import

    axes = square_axes(figure, "real ones called fake", "fakes found")
    axes.plot([0, 1], [0, 1], **GUESSING)
    for kind, (labels, scores) in kinds.items():
        false, true, _ = roc_curve(labels, scores)
        axes.plot(*thinned(false, true), label=kind, **LINES[kind])
    axes.legend(loc="lower right")


def draw_det(figure: Figure, kinds: Kinds, threshold: float | None) -> None:
    """Draw the DET curves (Martin et al., Eurospeech 1997): the ROC's errors on normal deviate scales."""
    from sklearn.metrics import roc_curve

    axes = square_axes(figure, "real ones called fake", "fakes missed")
    for kind, (labels, scores) in kinds.items():
        false, true, _ = roc_curve(labels, scores)
        x, y = (ndtri(rate.clip(DET_TICKS[0], 1 - DET_TICKS[0])) for rate in (false, 1 - true))
        axes.plot(*thinned(x, y), label=kind, **LINES[kind])
    ends = ndtri([0.0008, 0.9])
    ticks, names = ndtri(DET_TICKS), [PERCENT(rate) for rate in DET_TICKS]
    axes.set(xlim=ends, ylim=ends)
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.legend(loc="upper right")


def draw_histograms(figure: Figure, kinds: Kinds, threshold: float | None) -> None:
    """Draw the scores of frames above those of videos."""
    every = figure.subplots(2, 1, sharex=True)
    edges = np.linspace(0, 1, 41)
    for axes, (kind, (labels, scores)) in zip(every, kinds.items(), strict=True):
        for label, name, colour in ((0, "real", REAL), (1, "fake", FAKE)):
            counts = np.histogram(scores[labels == label], edges)[0]
            shares = counts / max(counts.sum(), 1)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3, lw=0)
            axes.stairs(shares, edges, color=colour, lw=1.2, label=name if counts.sum() else f"{name} (none)")
        if threshold is not None:
            axes.axvline(threshold, color=INK, lw=1, ls=(0, (4, 2)), label=f"threshold {threshold:.2f}")
        axes.set_title(kind, loc="left", fontsize=9)
        axes.set(xlim=(-0.01, 1.01), ylim=(0, None))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.locator_params(axis="y", nbins=4)
    every[0].legend(loc="upper center", ncols=3, fontsize=8, bbox_to_anchor=(0.55, 1.24))
    every[1].set_xlabel("score: 0 real, 1 fake")


def draw_calibration(figure: Figure, kinds: Kinds, threshold: float | None) -> None:
    """Draw the share of fakes at each score, in the bins of the calibration error."""
    axes = square_axes(figure, "mean score", "share of fakes")
    axes.plot([0, 1], [0, 1], **GUESSING)
    for kind, (labels, scores) in kinds.items():
        bins = np.array(calibration_bins(labels, scores))
        count, score, fakes = bins[:, bins[0] > 0]
        line = LINES[kind]
        axes.plot(score / count, fakes / count, label=kind, color=line["color"], ls=line["ls"], lw=1)
        axes.scatter(score / count, fakes / count, s=8 + 200 * count / len(scores), color=line["color"], lw=0)
    axes.legend(loc="upper left")


PLOTS = (  # title, what draws it, whether it needs both classes, and what to see
    (
        "ROC curve",
        draw_roc,
        True,
        "Fakes found against real ones called fake, over all thresholds. The nearer to the upper left corner, the "
        "better; the diagonal is guessing.",
    ),
    (
        "DET curve",
        draw_det,
        True,
        "The two kinds of error, on axes that spread small rates. The nearer to the lower left corner, the better; "
        f"rates below 0.1{NBSP}% are drawn at 0.1{NBSP}%.",
    ),
    (
        "Scores",
        draw_histograms,
        False,
        f"Each class by itself: its bars add up to 100{NBSP}%. The further apart real and fake, the better; where they "
        "overlap are the mistakes.",
    ),
    (
        "Calibration",
        draw_calibration,
        False,
        f"Of the images scored about 0.8, are 80{NBSP}% fake? On the diagonal, yes; below it scores are too high, "
        "above it too low. Larger dots hold more images or videos.",
    ),
)


def square_axes(figure: Figure, x: str, y: str) -> Axes:
    """Make axes from 0 to 100 %, both to one scale."""
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal", "box")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    return axes


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep no more than `CURVE_POINTS` points of a curve, in even steps along it, its ends among them."""
    if len(x) <= CURVE_POINTS:
        return x, y
    way = np.r_[0, np.cumsum(np.hypot(np.diff(x), np.diff(y)))]
    kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS)))
    return x[kept], y[kept]


def inline_svg(figure: Figure, label: str) -> Markup:
    """Draw a figure as SVG to stand inside a page: in the page's colours and font, without an id that is not unique.

    Args:
        figure: drawn in `STYLE`, with an ``svg.hashsalt`` of its own.
        label: what a screen reader says in its place.
    """
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = drawn.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)[0]
    text = text[text.index(">", text.index("<svg")) + 1 :]  # without prolog, size and namespaces
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # would hold for the whole page
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1: the same in every drawing
    for drawn_in, shown_in in COLOURS.items():
        text = text.replace(drawn_in, shown_in)
    return Markup('<svg role="img" aria-label="{}" {}>').format(label, Markup(view)) + Markup(text)


# ------------------------------------------------------------------------------------------- pictures and studies


def worst_mistakes(scored: Scores, data_root: Path) -> list[dict[str, Any]]:
    """Return the `MISTAKES` images that are furthest on the wrong side of 0.5, the worst first.

    Args:
        scored: a dataset's frames.
        data_root: what their paths start from.

    Returns:
        For each its ``path``, ``label``, ``score`` and ``picture``, a data: URI, or None where it cannot be read.
    """
    wrong = np.flatnonzero((scored.scores > 0.5) != scored.labels)
    worst = wrong[np.argsort(-np.abs(scored.scores - scored.labels)[wrong], kind="stable")][:MISTAKES]
    mistakes = []
    for i in worst:
        try:
            picture = data_uri(Image.fromarray(read_image(data_root / scored.paths[i])), FACE_SIZE, "JPEG")
        except InputError:
            picture = None
        label = ("real", "fake")[scored.labels[i]]
        mistakes.append({"path": scored.paths[i], "label": label, "score": scored.scores[i], "picture": picture})
    return mistakes


def data_uri(picture: Image.Image, size: int, kind: str) -> str:
    """Return a picture, of no more than `size` pixels a side, as a data: URI; `kind` is JPEG or PNG."""
    picture = picture.copy()
    picture.thumbnail((size, size))
    content = io.BytesIO()
    picture.save(content, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def read_study(file: Path, tested: str | None) -> dict[str, Any]:
    """Read a study that lies beside the results.

    Args:
        file: JSON with ``title`` and ``text``, a ``table`` (rows of as many cells each, the first the header; it may be
            empty) and ``plots`` (images, relative to the file's folder); its ``numbers`` may tell of the checkpoint.
        tested: the SHA-256 of the checkpoint that the results are of, where it is known.

    Returns:
        Its ``title``, ``text``, ``table``, ``plots`` (names and data: URIs), ``problem``, None, and whether it is of
        the same checkpoint, as far as both tell; or, where it cannot be read, its name as ``title``, and what the
        ``problem`` is.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        title, text, table, plots = (content[key] for key in ("title", "text", "table", "plots"))
        if not (isinstance(title, str) and isinstance(text, str)):
            raise ValueError("title and text are not both text")
        if not (isinstance(table, list) and all(isinstance(row, list) and len(row) == len(table[0]) for row in table)):
            raise ValueError("its table is not a list of rows of as many cells each")
        if not (isinstance(plots, list) and all(isinstance(plot, str) for plot in plots)):
            raise ValueError("plots is not a list of file names")
        same = tested is None or content.get("numbers", {}).get("checkpoint_sha256", tested) == tested
        pictures = [(plot, data_uri(read_plot(file.parent, plot), PLOT_SIZE, "PNG")) for plot in plots]
    except Exception as error:  # whatever it is, the rest of the report is worth having
        missing = isinstance(error, KeyError | TypeError)
        problem = "title, text, table or plots is missing" if missing else str(error).replace(f"{file.parent}/", "")
        return {"title": file.name, "problem": problem}
    return {"title": title, "text": text, "table": table, "plots": pictures, "problem": None, "same_checkpoint": same}


def read_plot(folder: Path, name: str) -> Image.Image:
    """Read an image of a study, which has to be inside the folder: a report shows no file from elsewhere."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is not inside {folder.name}")
    with Image.open(folder / name) as picture:
        return picture.convert("RGBA")
