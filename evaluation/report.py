"""report.html: the results of a test on one self-contained page, without network access or JavaScript."""

import base64
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image
from scipy.special import ndtri

from evaluation.metrics import calibration_bins, score_videos
from evaluation.predictions import Scores, read_predictions
from evaluation.published import read_published, select_tables
from utils.command import show_traceback
from utils.errors import InputError, printable
from utils.files import atomic_write, load_json, read_json
from utils.images import BROKEN_IMAGE, open_image, read_image

NO_COLUMN = ("groups", "verdicts", "clusters")  # shown elsewhere
CURVE_POINTS = 1000  # more would only make the file larger
MISTAKES = 20  # images per dataset
FACE_SIZE, PLOT_SIZE = 160, 1600  # longest side of an embedded picture, in pixels
DASH, NBSP = "–", "\u00a0"  # undefined value; space between a number and its %
AUC_WORDS = (  # minimum video AUC, words
    (0.98, "almost perfectly"),
    (0.9, "well"),
    (0.75, "moderately well"),
    (0.0, "poorly"),
)
COLUMNS = {  # key in results.json -> header and explanation
    "frames": ("frames", "number of scored images"),
    "videos": ("videos", "number of videos with scored images, and number of clusters; a cluster is an independent "
               "group of videos, and the intervals use the variance between clusters"),
    "acc": ("ACC", "accuracy at a threshold of 0.5"),
    "auc": ("AUC", "area under the ROC curve: the probability that a fake scores higher than a real one; 0.5 is "
            f"guessing, 1 is perfect. The range below the value is its 95{NBSP}% interval"),
    "ap": ("AP", "average precision, with fake as the positive class"),
    "eer": ("EER", "equal error rate: the mean of false positive rate and false negative rate at the threshold where "
            "they are closest; lower is better"),
    "log_loss": ("log loss", "in nats; lower is better. A constant score of 0.5 gives 0.69"),
    "brier": ("Brier", "Brier score: mean squared error of the score; lower is better"),
    "ece": ("ECE", "expected calibration error: mean difference between score and share of fakes; lower is better"),
    "tpr_at_fpr_0.01": (f"TPR at 1{NBSP}%", "true positive rate (share of fakes found) at a false positive rate of at "
                        f"most 1{NBSP}%"),
    "tpr_at_fpr_0.1": (f"TPR at 10{NBSP}%", f"true positive rate at a false positive rate of at most 10{NBSP}%"),
    "acc_at_threshold": ("ACC at threshold", "accuracy at the threshold that training stored in the checkpoint, one "
                         "for frames and one for videos: the equal error rate point of the validation set, or a false "
                         "positive rate set with --fpr"),
}  # fmt: skip

# Placeholder colours that Matplotlib draws in; `inline_svg` replaces them by the page's light and dark colours.
INK, REAL, FAKE, ACCENT = "#010203", "#010204", "#010205", "#010206"
COLOURS = {INK: "currentColor", REAL: "var(--real)", FAKE: "var(--fake)", ACCENT: "var(--accent)"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with Matplotlib, so the layout does not depend on the machine
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
EMPTY: dict[str, Any] = {  # entries that results.json of an earlier version lacks
    **{name: {} for name in ("trained_with", "left_out", "cluster_unit", "file_list_sha256", "run")},
    "thresholds": {"frame": None, "video": None},
    "history": [],
    **dict.fromkeys(("protocol", "frames_per_video", "frame_choice", "seed")),
}
SMALL = 30  # clusters of a class, below which the report calls a test set small
DET_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)


def write_report(folder: Path) -> Path:
    """Write report.html from the results.json, predictions.csv and study_*.json of a run folder.

    The page depends only on these files and on the images of the worst mistakes, which are read from the data root in
    results.json. A missing image leaves a placeholder.

    Args:
        folder: the run folder.

    Returns:
        The path of the report.

    Raises:
        InputError: results.json or predictions.csv cannot be read, or report.html cannot be written.
    """
    results = EMPTY | read_json(folder / "results.json")
    predictions = read_predictions(folder / "predictions.csv")
    datasets, roots = [], results["data_root"]
    for number, (name, metrics) in enumerate(results["datasets"].items(), 1):
        scored = predictions[name]
        datasets.append(
            {
                "name": name,
                "summary": summary(metrics),
                "warning": make_warning(scored, results["cluster_unit"].get(name, "video")),
                "verdicts": metrics.get("verdicts"),
                "plots": dataset_plots(scored, results["video_score"], results["thresholds"], f"{number}"),
                "mistakes": worst_mistakes(scored, Path(roots if isinstance(roots, str) else roots[name])),
                "sha256": results["file_list_sha256"].get(name),
                "left_out": results["left_out"].get(name),
            }
        )
    published = read_published()
    page = read_template().render(
        title=folder.resolve().name,
        results=results,
        datasets=datasets,
        tables=metric_tables(results),
        curves=training_curves(results["history"]),
        published=select_tables(
            published, results["protocol"], results["trained_with"].get("dataset"), results["datasets"]
        ),
        published_missing=not published,
        columns=[
            column for key, column in COLUMNS.items() if any(key in metrics for metrics in results["datasets"].values())
        ],
        studies=[read_study(file, results["checkpoint_sha256"]) for file in sorted(folder.glob("study_*.json"))],
    )
    with atomic_write(folder / "report.html") as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")  # paths may not be valid UTF-8
    return folder / "report.html"


@cache
def read_template() -> Template:
    """Compile report.html.j2."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # a name may turn the text around
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["value"] = format_value
    environment.filters["percent"] = lambda share: DASH if share is None else f"{100 * share:.3g}{NBSP}%"
    return environment.get_template("report.html.j2")


def format_value(value: Any) -> str:
    """Format a table value: floats with four decimals (small ones with three significant digits), None as a dash."""
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"
    return DASH if value is None else str(value)


def summary(metrics: dict[str, Any]) -> str:
    """Summarise the metrics of a dataset in a clause that follows "On <dataset>,"."""
    auc, interval = metrics["video_auc"], metrics["video_auc_interval"]
    if auc is None:
        return "the AUC is undefined, because the test set has only one class."
    value = f"video AUC {auc:.3f} on {metrics['videos']:,} videos"
    if interval is None:
        return f"a class has only one independent video, so the result does not generalise to other videos ({value})."
    low, high = interval
    if high < 0.5:
        verdict = "fake videos score lower than real videos, which is worse than guessing"
    elif low <= 0.5:
        verdict = "the network is not significantly better than guessing"
    else:
        word = next(word for minimum, word in AUC_WORDS if auc >= minimum)
        verdict = f"the network separates fake from real videos {word}"
    return f"{verdict}: {value}, 95{NBSP}% interval {low:.3f} to {high:.3f}."


def make_warning(scored: Scores, unit: str) -> str:
    """Return a warning about a test set that is small or of one source, in sentences; "" for other test sets.

    Args:
        scored: the frame scores of the dataset.
        unit: what connects videos, see `datasets.sources.Groups`.
    """
    if len(scored.cluster_names) == 1:
        return f"All videos are connected by a shared {unit}: the numbers hold for this {unit} alone."
    real, fake = (len(np.unique(scored.clusters[scored.labels == label])) for label in (0, 1))
    if min(real, fake) >= SMALL:
        return ""
    shared = "" if unit == "video" else f", counting videos that share a {unit} once"
    return (
        f"The test set is small: {real} independent real and {fake} independent fake videos{shared}. With fewer "
        f"than {SMALL} per class, other videos may give very different numbers."
    )


def metric_tables(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Arrange the metrics in two tables, one for frames and one for videos.

    Args:
        results: the content of results.json.

    Returns:
        For each table its ``title``, ``header`` and ``rows``. A row is a name, a kind (dataset, group or average), and
        for each column the value and its interval ("" if it has none), both as text.
    """
    parts: list[tuple[str, str, dict[str, Any]]] = []
    for dataset, metrics in results["datasets"].items():
        parts.append((dataset, "dataset", metrics))
        parts += [(name, "group", group) for name, group in metrics.get("groups", {}).items()]
    if "average" in results:
        parts.append(("average", "average", results["average"]))

    def cell(metrics: dict[str, Any], name: str) -> tuple[str, str]:
        value, interval = metrics.get(name), metrics.get(f"{name}_interval")
        if name in ("frames", "videos") and value is not None:  # an average may have a fraction
            clusters = metrics.get("clusters", value) if name == "videos" else value
            return f"{value:,.1f}".removesuffix(".0"), f"{clusters:g} clusters" if clusters != value else ""
        return format_value(value), f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""

    names = list(dict.fromkeys(name for _, _, metrics in parts for name in metrics))
    names = [name for name in names if name not in NO_COLUMN and not name.endswith("_interval")]
    video_names = [name for name in names if name.startswith("video_") or name == "videos"]
    tables = []
    for title, prefix, columns in (
        ("Frames", "", [name for name in names if name not in video_names]),
        ("Videos", "video_", video_names),
    ):
        keys = [name.removeprefix(prefix) for name in columns]
        header = [COLUMNS[key][0] if key in COLUMNS else key.replace("_", " ") for key in keys]
        rows = [(name, kind, [cell(metrics, column) for column in columns]) for name, kind, metrics in parts]
        tables.append({"title": title, "header": header, "rows": rows})
    return tables


# -------------------------------------------------------------------------------------------------------- curves


def dataset_plots(scored: Scores, video_score: str, thresholds: dict[str, Any], salt: str) -> list[dict[str, Any]]:
    """Draw the plots of one dataset.

    Args:
        scored: the frame scores.
        video_score: mean, max or topK, see `evaluation.metrics.combine_frames`.
        thresholds: the thresholds to mark, of ``frame`` and ``video``; either may be None.
        salt: a string unique to the dataset, so that no two plots of a page share an SVG id.

    Returns:
        ROC and DET curves (if both classes are present), score histograms and calibration, each with a ``title``, an
        ``svg`` and a ``caption``.
    """
    videos = score_videos(scored, video_score)
    units = {"frames": (scored.labels, scored.scores), "videos": (videos.labels, videos.scores)}
    marks = {f"{level}s": values and values["threshold"] for level, values in thresholds.items()}
    both_classes = len(np.unique(videos.labels)) == 2
    plots = []
    for title, draw, needs_both, caption in PLOTS:
        if needs_both and not both_classes:
            continue
        with style.context(STYLE | {"svg.hashsalt": f"{salt} {title}"}):
            figure = Figure(figsize=(4.4, 3.9))
            figure.subplots_adjust(left=0.15, right=0.97, bottom=0.12, top=0.95, hspace=0.25)
            draw(figure, units, marks)
            svg = inline_svg(figure, f"{title} of frames and videos")
        plots.append({"title": title, "svg": svg, "caption": caption})
    return plots


Units = dict[str, tuple[np.ndarray, np.ndarray]]  # frames and videos -> labels and scores
Thresholds = dict[str, float | None]  # frames and videos -> threshold
LINE_STYLES: dict[str, dict[str, Any]] = {
    "frames": {"color": INK, "lw": 1.2, "ls": (0, (4, 2))},
    "videos": {"color": ACCENT, "lw": 1.8, "ls": "-"},
}
GUESSING: dict[str, Any] = {"color": INK, "alpha": 0.35, "lw": 0.8, "ls": ":"}


def draw_roc(figure: Figure, units: Units, thresholds: Thresholds) -> None:
    """Draw the ROC curves."""
    from sklearn.metrics import roc_curve  # slow to import

    axes = square_axes(figure, "false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], **GUESSING)
    for unit, (labels, scores) in units.items():
        fpr, tpr, _ = roc_curve(labels, scores)
        axes.plot(*thin_curve(fpr, tpr), label=unit, **LINE_STYLES[unit])
    axes.legend(loc="lower right")


def draw_det(figure: Figure, units: Units, thresholds: Thresholds) -> None:
    """Draw the DET curves (Martin et al., Eurospeech 1997): both error rates on normal deviate scales."""
    from sklearn.metrics import roc_curve

    axes = square_axes(figure, "false positive rate", "false negative rate")
    for unit, (labels, scores) in units.items():
        fpr, tpr, _ = roc_curve(labels, scores)
        x, y = (ndtri(rate.clip(DET_TICKS[0], 1 - DET_TICKS[0])) for rate in (fpr, 1 - tpr))
        axes.plot(*thin_curve(x, y), label=unit, **LINE_STYLES[unit])
    ends = ndtri([0.0008, 0.9])
    ticks, names = ndtri(DET_TICKS), [PERCENT(rate) for rate in DET_TICKS]
    axes.set(xlim=ends, ylim=ends)
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.legend(loc="upper right")


def draw_histograms(figure: Figure, units: Units, thresholds: Thresholds) -> None:
    """Draw histograms of the frame scores and, below, of the video scores."""
    subplots = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(top=0.88)  # room for the legend
    edges = np.linspace(0, 1, 41)
    for axes, (unit, (labels, scores)) in zip(subplots, units.items(), strict=True):
        for label, name, colour in ((0, "real", REAL), (1, "fake", FAKE)):
            counts = np.histogram(scores[labels == label], edges)[0]
            shares = counts / max(counts.sum(), 1)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3, lw=0)
            axes.stairs(shares, edges, color=colour, lw=1.2, label=name if counts.sum() else f"{name} (none)")
        if (threshold := thresholds[unit]) is not None:
            axes.axvline(threshold, color=INK, lw=1, ls=(0, (4, 2)), label="threshold")
        axes.set_title(unit, loc="left", fontsize=9)
        axes.set(xlim=(-0.01, 1.01), ylim=(0, None))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.locator_params(axis="y", nbins=4)
    subplots[0].legend(loc="upper center", ncols=3, fontsize=8, bbox_to_anchor=(0.55, 1.24))
    subplots[1].set_xlabel("score: 0 real, 1 fake")


def draw_calibration(figure: Figure, units: Units, thresholds: Thresholds) -> None:
    """Draw the share of fakes against the mean score in each bin of the calibration error."""
    axes = square_axes(figure, "mean score", "share of fakes")
    axes.plot([0, 1], [0, 1], **GUESSING)
    for unit, (labels, scores) in units.items():
        bins = np.array(calibration_bins(labels, scores))
        count, score, fakes = bins[:, bins[0] > 0]
        line = LINE_STYLES[unit]
        axes.plot(score / count, fakes / count, label=unit, color=line["color"], ls=line["ls"], lw=1)
        axes.scatter(score / count, fakes / count, s=8 + 200 * count / len(scores), color=line["color"], lw=0)
    axes.legend(loc="upper left")


PLOTS = (  # title, function, whether it needs both classes, caption
    (
        "ROC curve",
        draw_roc,
        True,
        "True positive rate (share of fakes found) against false positive rate (share of real ones called fake), over "
        "all thresholds. Closer to the upper left corner is better. The diagonal is guessing.",
    ),
    (
        "DET curve",
        draw_det,
        True,
        "False negative rate against false positive rate. The scales stretch small rates. Closer to the lower left "
        f"corner is better. Rates below 0.1{NBSP}% are drawn at 0.1{NBSP}%.",
    ),
    (
        "Scores",
        draw_histograms,
        False,
        f"Score distribution of each class; the bars of a class add up to 100{NBSP}%. Less overlap is better.",
    ),
    (
        "Calibration",
        draw_calibration,
        False,
        f"Share of fakes at each score. On the diagonal, 80{NBSP}% of the images that score 0.8 are fake. Below it, "
        "the scores are too high; above it, too low. A larger dot stands for more images or videos.",
    ),
)


def training_curves(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw the losses and the AUCs of each epoch.

    Args:
        history: the entry ``history`` of a checkpoint.

    Returns:
        Plots as `dataset_plots` returns them; none for an empty history.
    """
    plots = []
    for title, y, lines, caption in CURVES if history else ():
        with style.context(STYLE | {"svg.hashsalt": f"training {title}"}):
            figure = Figure(figsize=(4.4, 3.0))
            figure.subplots_adjust(left=0.15, right=0.97, bottom=0.16, top=0.95)
            axes = figure.subplots()
            axes.set(xlabel="epoch", ylabel=y)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            for (part, name), line_style in zip(lines, LINE_STYLES.values(), strict=True):
                values = [np.nan if epoch[part][name] is None else epoch[part][name] for epoch in history]
                label = "validation" if part == "val" else "training"
                axes.plot([epoch["epoch"] for epoch in history], values, marker=".", label=label, **line_style)
            axes.legend(loc="best")
            plots.append({"title": title, "svg": inline_svg(figure, f"{title} of each epoch"), "caption": caption})
    return plots


CURVES = (  # title, y axis, lines, caption
    (
        "Loss",
        "loss",
        (("losses", "classification"), ("val", "log_loss")),
        "Classification loss on the augmented, blended training images, and log loss on the validation images.",
    ),
    (
        "AUC",
        "frame AUC",
        (("train", "auc"), ("val", "auc")),
        "A training AUC that rises while the validation AUC falls means that the network overfits the training images.",
    ),
)


def square_axes(figure: Figure, x: str, y: str) -> Axes:
    """Make square axes from 0 to 100 %."""
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal", "box")
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(color=INK, alpha=0.12, lw=0.6)
    return axes


def thin_curve(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thin a curve to at most `CURVE_POINTS` points, evenly spaced along its length; keep both ends."""
    if len(x) <= CURVE_POINTS:
        return x, y
    length = np.r_[0, np.cumsum(np.hypot(np.diff(x), np.diff(y)))]
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS)))
    return x[kept], y[kept]


def inline_svg(figure: Figure, label: str) -> Markup:
    """Return a figure as SVG to embed in a page, with the page's colours and font and without duplicate ids.

    Args:
        figure: drawn in `STYLE` with its own ``svg.hashsalt``.
        label: text for screen readers.
    """
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = svg.getvalue()
    view_box = re.findall(r'viewBox="[^"]*"', text)[0]
    text = text[text.index(">", text.index("<svg")) + 1 :]  # drop prolog, size and namespaces
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1: equal in every figure
    for placeholder, colour in COLOURS.items():
        text = text.replace(placeholder, colour)
    return Markup('<svg role="img" aria-label="{}" {}>').format(label, Markup(view_box)) + Markup(text)


# ------------------------------------------------------------------------------------------- pictures and studies


def worst_mistakes(scored: Scores, data_root: Path) -> list[dict[str, Any]]:
    """Return the `MISTAKES` images furthest on the wrong side of 0.5, worst first.

    Args:
        scored: the frame scores of a dataset.
        data_root: folder that relative image paths start from.

    Returns:
        ``path``, ``label``, ``score`` and ``picture`` of each: a data: URI, or None if the image cannot be read.
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
    """Return a picture, shrunk to at most `size` pixels per side, as a data: URI of `kind` JPEG or PNG."""
    picture = picture.copy()
    picture.thumbnail((size, size))
    content = io.BytesIO()
    picture.save(content, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def read_study(file: Path, tested: str | None) -> dict[str, Any]:
    """Read a study_*.json file for the report.

    Args:
        file: JSON with ``title``, ``text``, ``table`` (rows of equal length, the first is the header; may be empty) and
            ``plots`` (image paths relative to the folder of the file). ``numbers`` may hold a ``checkpoint_sha256``.
        tested: SHA-256 of the tested checkpoint; None if unknown.

    Returns:
        ``title``, ``text``, ``table``, ``plots`` (names and data: URIs), ``problem`` (None) and ``same_checkpoint``
        (False if the study used a different checkpoint). If the file cannot be read: its name as ``title``, and the
        ``problem``.
    """
    try:
        content = load_json(file)
        title, text, table, plots = (content[key] for key in ("title", "text", "table", "plots"))
        if not (isinstance(title, str) and isinstance(text, str)):
            raise ValueError("title and text must be strings")
        if not (isinstance(table, list) and all(isinstance(row, list) and len(row) == len(table[0]) for row in table)):
            raise ValueError("table must be a list of rows of equal length")
        if not (isinstance(plots, list) and all(isinstance(plot, str) for plot in plots)):
            raise ValueError("plots must be a list of file names")
        same = tested is None or content.get("numbers", {}).get("checkpoint_sha256", tested) == tested
        pictures = [(plot, data_uri(read_plot(file.parent, plot), PLOT_SIZE, "PNG")) for plot in plots]
    except (InputError, *BROKEN_IMAGE) as error:  # damaged JSON raises some of these too; the report continues
        show_traceback(error)
        missing = isinstance(error, KeyError | TypeError)
        problem = "title, text, table or plots is missing" if missing else str(error).replace(f"{file.parent}/", "")
        return {"title": file.name, "problem": problem}
    return {"title": title, "text": text, "table": table, "plots": pictures, "problem": None, "same_checkpoint": same}


def read_plot(folder: Path, name: str) -> Image.Image:
    """Read the image of a study.

    Raises:
        ValueError: the path leads out of the folder; a report must not embed other files.
    """
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name} is not inside {folder.name}")
    with open_image(folder / name) as picture:
        return picture.convert("RGBA")
