"""Draw the network of the paper to docs/network.svg: ``python docs/draw_network.py``."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Curve

WIDTH, HEIGHT = 900, 440  # in points
TOP, MIDDLE, BOTTOM = 335, 220, 105  # y of the three rows of heads
INK, MUTED, PAPER = "#1e293b", "#64748b", "#ffffff"
BLUE, PALE_BLUE = "#2563eb", "#dbeafe"  # features
TEAL, PALE_TEAL = "#0f766e", "#ccfbf1"  # fusion and prediction
GREY, PALE_GREY, ORANGE = "#f1f5f9", "#e2e8f0", "#c2410c"  # heads, border, losses
STYLE: Any = {"svg.hashsalt": "network", "svg.fonttype": "path", "font.family": "DejaVu Sans"}  # the font of mathtext
BEZIER = [Curve.MOVETO] + 3 * [Curve.CURVE4]
Point = tuple[float, float]


def write(ax: Axes, at: Point, text: str, size: float = 13, colour: str = MUTED, **options: Any) -> None:
    """Write text, centred on the point `at` unless `options` change that."""
    ax.text(*at, text, size=size, color=colour, **({"ha": "center", "va": "center"} | options))


def box(ax: Axes, at: Point, size: Point, fill: str, edge: str, text: str = "", line: str = "-") -> None:
    """Draw a rounded box with text, centred on the point `at`."""
    corner = (at[0] - size[0] / 2, at[1] - size[1] / 2)
    shape = f"round,pad=0,rounding_size={min(10, *(side / 4 for side in size))}"
    ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, fc=fill, ec=edge, lw=1.4, ls=line))
    write(ax, at, text, 15, INK if edge == MUTED else edge)


def arrow(ax: Axes, start: Point, end: Point) -> None:
    """Draw a curved arrow that is horizontal at both ends."""
    half = (start[0] + end[0]) / 2
    curve = Curve([start, (half, start[1]), (half, end[1]), end], BEZIER)
    ax.add_patch(FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=11, color=MUTED, lw=1.4))


def loss(ax: Axes, x: float, low: float, high: float, name: str, purpose: str) -> None:
    """Draw a double arrow for a loss between two heads, with its name and purpose."""
    ax.add_patch(FancyArrowPatch((x, low), (x, high), arrowstyle="<|-|>", mutation_scale=13, color=ORANGE, lw=1.8))
    write(ax, (x + 16, (low + high) / 2 + 10), name, 13, ORANGE, ha="left", weight="bold")
    write(ax, (x + 16, (low + high) / 2 - 10), purpose, 12.5, ha="left")


def face(ax: Axes, x: float, y: float) -> None:
    """Draw the input image: a face in a frame."""
    box(ax, (x, y), (104, 124), GREY, MUTED)
    halves = [
        [(0, -45), (20, -45), (31, -18), (31, 8)],  # cheek
        [(31, 6), (39, 9), (38, -13), (29, -11)],  # ear
        [(8, 15), (12, 19), (18, 19), (22, 14)],  # brow
    ]
    curves = [[(side * a, b) for a, b in curve] for side in (-1, 1) for curve in halves] + [
        [(-31, 8), (-34, 58), (34, 58), (31, 8)],  # hair
        [(-31, 8), (-22, 30), (8, 20), (14, 34)],  # fringe, left of the parting
        [(14, 34), (18, 26), (28, 24), (31, 8)],  # fringe, right of the parting
        [(1, 4), (2, -4), (8, -10), (-3, -11)],  # nose
        [(-12, -23), (-6, -31), (6, -31), (12, -23)],  # mouth
    ]
    points = [(x + a, y + b) for curve in curves for a, b in curve]
    ax.add_patch(PathPatch(Curve(points, len(curves) * BEZIER), fill=False, ec=INK, lw=1.8, capstyle="round"))
    ax.plot((x - 15, x + 15), (y + 6, y + 6), "o", color=INK, ms=5)  # eyes


def draw() -> Figure:
    """Draw the figure from left to right, on a white card that is readable on dark pages too."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="none")
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.axis("off")
    box(ax, (WIDTH / 2, HEIGHT / 2), (WIDTH - 4, HEIGHT - 4), PAPER, PALE_GREY)
    face(ax, 76, MIDDLE)
    box(ax, (349, MIDDLE), (62, 318), PAPER, BLUE)
    for row, y in {"1": 334, "2": 258, "n": 106}.items():
        arrow(ax, (130, MIDDLE), (174, y))
        box(ax, (221, y), (90, 52), PALE_BLUE, BLUE, f"LIB ${row}$")
        arrow(ax, (268, y), (324, y))
        box(ax, (349, y), (46, 62), PALE_BLUE, BLUE, f"$z_{row}$")
    for x in (221, 349):
        write(ax, (x, 182), "⋮", 24, BLUE)
    for x, y, text in ((76, 138, "face image"), (221, 40, "Local Information\nBlocks"), (349, 40, "their\nfeatures")):
        write(ax, (x, y), text, linespacing=1.3)
    write(ax, (349, 393), "$Z$", 17, BLUE)
    for x, y in ((452, TOP), (585, MIDDLE), (424, BOTTOM)):  # arrows from Z to the heads
        arrow(ax, (382, MIDDLE), (x, y))
    for shift, fill in ((31.5, PALE_BLUE), (10.5, PAPER), (-10.5, PALE_BLUE), (-31.5, PALE_BLUE)):
        box(ax, (467, TOP + shift), (22, 18), fill, BLUE, line=":" if fill == PAPER else "-")
    write(ax, (467, TOP + 58), "$Z$ without $z_i$")
    ax.add_patch(Polygon([(426, 65), (426, 145), (502, 129), (502, 81)], fc=PALE_TEAL, ec=TEAL, lw=1.4))
    write(ax, (464, BOTTOM), "fusion", 15, TEAL)
    box(ax, (543, BOTTOM), (32, 46), PALE_TEAL, TEAL, "$G$")
    for y, given in ((TOP, r"Z \setminus z_i"), (MIDDLE, "Z"), (BOTTOM, "G")):
        box(ax, (642, y), (110, 46), GREY, MUTED, rf"$p(y\,|\,{given})$")
    write(ax, (708, TOP), "one for each $i$", ha="left")
    for start, end, y in ((481, 585, TOP), (504, 526, BOTTOM), (560, 585, BOTTOM), (698, 744, BOTTOM)):
        arrow(ax, (start, y), (end, y))
    box(ax, (808, BOTTOM), (124, 46), TEAL, TEAL)
    write(ax, (808, BOTTOM), "real or fake?", 15, PAPER, weight="bold")
    loss(ax, 642, MIDDLE + 23, TOP - 23, "Local Information Loss (LIL)", "every LIB must add something")
    loss(ax, 642, BOTTOM + 23, MIDDLE - 23, "Global Information Loss (GIL)", "$G$ keeps what $Z$ knows")
    return figure


if __name__ == "__main__":
    with mpl.rc_context(STYLE):
        draw().savefig(Path(__file__).with_name("network.svg"), metadata={"Date": None, "Creator": None})
