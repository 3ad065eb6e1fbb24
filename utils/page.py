"""A local page: drop an image or a video, see the verdict and what speaks for it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # the page is drawn in threads
import cv2
import numpy as np
from matplotlib.figure import Figure

from datasets.labels import IMAGE_ENDINGS
from faces.videos import VIDEO_ENDINGS
from utils.errors import InputError

MEGABYTES = 500  # of an upload
MINUTES = 10  # of a video
BLUE, VERMILION = "#0072B2", "#D55E00"  # real and fake, as in the drawn boxes


def make_page(judge: Callable[[Path, Path], dict[str, Any]]) -> Any:
    """Make the page.

    Args:
        judge: scores a file, and writes what is to be shown into a folder; returns ``sentence`` (Markdown),
            ``image`` or ``video`` (a file, or None), ``curve`` (times in seconds, scores, threshold; or None) and
            ``faces`` (pictures, H x W x 3, RGB, each with its caption).

    Returns:
        The gradio.Blocks.

    Raises:
        InputError: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent anywhere
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError("--serve needs Gradio: pip install --no-deps -r requirements-extra.txt") from error

    def answer(upload: str | None) -> tuple[Any, ...]:
        if upload is None:
            raise gr.Error("Choose an image or a video first.")
        shown = Path(tempfile.mkdtemp(prefix="shown-", dir=os.environ["GRADIO_TEMP_DIR"]))
        try:
            found = judge(Path(upload), shown)
        except InputError as error:
            raise gr.Error(str(error)) from error
        finally:
            Path(upload).unlink(missing_ok=True)
        return (
            found["sentence"],
            gr.update(value=found["image"], visible=found["image"] is not None),
            gr.update(value=found["video"], visible=found["video"] is not None),
            gr.update(value=_curve(*found["curve"]) if found["curve"] else None, visible=found["curve"] is not None),
            gr.update(value=found["faces"], visible=bool(found["faces"])),
        )

    with gr.Blocks(title="Real or fake?", delete_cache=(60, 600), analytics_enabled=False) as page:
        gr.Markdown("# Real or fake?\nDrop an image or a video. It stays on this machine and is deleted after scoring.")
        with gr.Row():
            with gr.Column(scale=1):
                endings = [*IMAGE_ENDINGS, *VIDEO_ENDINGS]
                upload = gr.File(label="image or video", file_types=endings, type="filepath", elem_id="upload")
                button = gr.Button("Score", variant="primary", elem_id="score")
                sentence = gr.Markdown(elem_id="sentence")
            with gr.Column(scale=2):
                image = gr.Image(label="faces found", visible=False, elem_id="image")
                video = gr.Video(label="faces found", visible=False, elem_id="video")
                curve = gr.Plot(label="score over time", visible=False, elem_id="curve")
                faces = gr.Gallery(label="what each block looks at", visible=False, columns=5, elem_id="faces")
        button.click(answer, upload, [sentence, image, video, curve, faces], concurrency_limit=1)
    return page


def serve(judge: Callable[[Path, Path], dict[str, Any]], host: str, port: int) -> None:
    """Open the page until it is interrupted; uploads and everything shown go with it.

    Args:
        judge: see `make_page`.
        host: 127.0.0.1 for this machine alone.
        port: 0 for any free one.
    """
    with tempfile.TemporaryDirectory(prefix="real-or-fake-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = make_page(judge)
        page.launch(
            server_name=host,
            server_port=port or None,
            max_file_size=MEGABYTES * 2**20,
            share=False,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"the page is at {page.local_url} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def _curve(seconds: np.ndarray, scores: np.ndarray, threshold: float) -> Figure:
    """Plot a video's scores over time, B scores at B times in seconds."""
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axis = figure.subplots()
    axis.axhline(threshold, color="0.6", linewidth=1, label="threshold")
    axis.plot(seconds, scores, color="0.3", linewidth=1)
    fake = scores > threshold
    axis.scatter(seconds[~fake], scores[~fake], s=10, color=BLUE, label="real")
    axis.scatter(seconds[fake], scores[fake], s=10, color=VERMILION, label="fake")
    axis.set(xlabel="time (s)", ylabel="score", ylim=(-0.02, 1.02))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def overlay(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heatmap (h x w, 0 to 1) over a face (H x W x 3, RGB, uint8)."""
    height, width = face.shape[:2]
    whole = cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    colour = cv2.applyColorMap((whole * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = 0.6 * whole[..., None]
    return (face * (1 - weight) + colour * weight).astype(np.uint8)
