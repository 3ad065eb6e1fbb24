"""A local web page that scores uploaded images and videos, and shows the evidence."""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from datasets.transforms import normalise, resize
from faces.crops import crop_face
from faces.kinds import VIDEO_ENDINGS, VideoError
from faces.videos import FrameReader
from models.gradcam import heatmaps
from scoring.annotate import overlay_heatmap
from scoring.detector import ForgeryDetector, ScoredFace
from scoring.files import format_frame_count, is_video, load_image, score_file
from utils.errors import InputError, require_package
from utils.images import IMAGE_ENDINGS

if TYPE_CHECKING:
    import gradio

MAX_UPLOAD_MB = 500
MAX_VIDEO_MINUTES = 10
IDLE_SECONDS = 60  # without a new byte, after which an upload counts as abandoned
KEEP_SECONDS = 3600  # until uploads that were not scored, and annotated copies, are deleted
CROP_SHARE = 0.06  # share of a face crop's height and width that `ten_crops` cuts off
BLUE, VERMILION = "#0072B2", "#D55E00"  # real and fake, as in the annotated copies


class PageResult(NamedTuple):
    """The parts of the page that show the result for a file.

    Attributes:
        summary: the verdict and its uncertainty, in Markdown.
        annotated: copy of the image or video with boxes; None without a score.
        curve: plot of a video's scores over time; None for an image.
        faces: pictures (H x W x 3, uint8, RGB) with captions: the face crop with the highest score, and each LIB's
            heatmap over it.
    """

    summary: str
    annotated: Path | None = None
    curve: Figure | None = None
    faces: Sequence[tuple[np.ndarray, str]] = ()


class _FaceRecord:
    """The times (seconds) and scores of each track, and its face with the highest score."""

    def __init__(self) -> None:
        self.scores: dict[int, list[tuple[float, float]]] = {}
        self.highest: dict[int, tuple[int, ScoredFace]] = {}  # with the position of its frame

    def add(self, position: int, time: float, faces: Sequence[ScoredFace]) -> None:
        """Add the faces of a frame."""
        for face in faces:
            self.scores.setdefault(face.track, []).append((time, face.score))
            if face.track not in self.highest or face.score > self.highest[face.track][1].score:
                self.highest[face.track] = position, face


def score_upload(detector: ForgeryDetector, file: Path, folder: Path) -> PageResult:
    """Score an image or a video for the page.

    Args:
        detector: the detector.
        file: image or video.
        folder: folder for the annotated copy.

    Raises:
        InputError: the video is longer than `MAX_VIDEO_MINUTES`.
        VideoError: the video cannot be read.
    """
    video = is_video(file)
    if video:
        reader = FrameReader(file)
        if reader.length() / reader.fps > 60 * MAX_VIDEO_MINUTES:
            raise InputError(f"the video is longer than {MAX_VIDEO_MINUTES} minutes; cut it, or use the command line.")
    record, annotated = _FaceRecord(), folder / ("faces.mp4" if video else "faces.png")
    result = score_file(detector, file, record.add, annotated)
    if result.score is None or result.face is None:
        return PageResult(f"## not scored\n\n{'; '.join(filter(None, (result.cause, result.note)))}")
    position, face = record.highest[result.face]
    crop, curve = _read_crop(detector, file, position, face), None
    sentences = [f"Scores range from 0 (real) to 1 (fake); a score above {detector.threshold:.2f} means fake."]
    found = "One face" if result.faces == 1 else f"{result.faces} faces"
    sentences.append(f"{found} in {format_frame_count(result.frames)}." if video else f"{found}.")
    if result.faces > 1:
        sentences.append(f"Face {result.face} has the highest score.")
    if video:
        times, scores = np.array(record.scores[result.face]).T
        if len(scores) < result.frames:
            sentences.append(f"This face appears in {format_frame_count(len(scores))}.")
        if len(scores) > 1:
            percentiles, subject = ([0, 100], "Its") if len(scores) < 10 else ([10, 90], "The middle 80 % of its")
            low, high = np.percentile(scores, percentiles)
            sentences.append(f"{subject} frame scores range from {low:.2f} to {high:.2f}.")
        if result.note:
            sentences.append(f"{result.note[0].upper()}{result.note[1:]}.")
        curve = _plot_scores(times, scores, detector.threshold)
    elif crop is not None:
        scores, _ = detector.score(ten_crops(crop))
        sentences.append(
            f"The scores of ten crops of this face range from {min(scores):.2f} to {max(scores):.2f} "
            f"({100 * CROP_SHARE:.0f} % tighter crops, half of them mirrored)."
        )
    sentences.append(
        "The score is not proof: the network makes mistakes, most often on data that differ from its training data."
    )
    summary = f"## {result.verdict}, {result.score:.2f}\n\n{' '.join(sentences)}"
    return PageResult(summary, annotated, curve, [] if crop is None else _heatmap_pictures(detector, crop, face.score))


def ten_crops(face: np.ndarray) -> list[np.ndarray]:
    """Crop a face crop (H x W x 3) at four corners and centre, smaller by `CROP_SHARE`; also mirror each crop."""
    height, width = face.shape[:2]
    below, beside = round(CROP_SHARE * height), round(CROP_SHARE * width)
    corners = [(y, x) for y in (0, below) for x in (0, beside)]
    windows = [face[y : y + height - below, x : x + width - beside] for y, x in [*corners, (below // 2, beside // 2)]]
    return [np.ascontiguousarray(crop) for window in windows for crop in (window, window[:, ::-1])]


def _read_crop(detector: ForgeryDetector, file: Path, position: int, face: ScoredFace) -> np.ndarray | None:
    """Return the scored crop of a face, H x W x 3, uint8, RGB; None if the video ends before its frame.

    The video is read a second time up to that frame: keeping the crops of all faces would fill the memory.
    """
    if is_video(file):
        # With this step, the reader converts only the first frame and that frame.
        reader = FrameReader(file, every=max(position, 1))
        found = next((frame for number, frame in reader if number == position), None)
        if found is None:
            return None
        frame = found[..., ::-1].copy()
    else:
        frame = load_image(file).copy()  # PyTorch needs a writable array
    # `crop_box` is a square that already has the margin, so the margin here is 1.
    return frame if detector.faces_given else crop_face(frame, face.crop_box, 1, detector.recipe.crop_size)[0]


def _heatmap_pictures(detector: ForgeryDetector, crop: np.ndarray, score: float) -> list[tuple[np.ndarray, str]]:
    """Return the face crop and each LIB's heatmap over it, with captions."""
    crop = resize(crop, detector.size)
    images = normalise(torch.from_numpy(crop).permute(2, 0, 1)[None].to(detector.device), detector.channels)
    pictures = [(crop, f"score {score:.2f}")]
    try:
        maps, _, _ = heatmaps(detector.network, images)
    except InputError:  # the backbones have no feature maps
        return pictures
    for number, heatmap in enumerate(maps[0].cpu().numpy(), start=1):
        picture = crop[..., ::-1].copy()
        overlay_heatmap(picture, heatmap, np.array([0, 0, detector.size, detector.size]))
        caption = f"block {number}{'' if heatmap.any() else ': no evidence'}"
        pictures.append((picture[..., ::-1], caption))
    return pictures


def build_page(detector: ForgeryDetector, folder: Path) -> "gradio.Blocks":
    """Build the page; it keeps its files in `folder`.

    Raises:
        InputError: Gradio is not installed.
    """
    with require_package("Gradio", by="--serve"):
        import gradio as gr

    def score(upload: str | None) -> object:
        if upload is None or not Path(upload).is_file():  # two people who upload one file at once share it
            gr.Warning("Choose an image or a video first.")
            return gr.skip()
        upload_folder, annotated_folder = (tempfile.mkdtemp(prefix=kind, dir=folder) for kind in ("upload-", "shown-"))
        file = Path(shutil.move(upload, upload_folder))  # Gradio deletes old files in its own folder
        try:
            result = score_upload(detector, file, Path(annotated_folder))
        except (InputError, VideoError) as error:
            result = PageResult(f"## not scored\n\n{error}")
        finally:
            shutil.rmtree(upload_folder)
            timer = Timer(KEEP_SECONDS, shutil.rmtree, (annotated_folder, True))
            timer.daemon = True
            timer.start()
        annotated = result.annotated and str(result.annotated)
        image, video = (annotated, None) if result.curve is None else (None, annotated)
        values = (image, video, result.curve, result.faces)
        return None, result.summary, *(gr.update(value=value or None, visible=bool(value)) for value in values)

    with gr.Blocks(title="Real or fake?", delete_cache=(60, KEEP_SECONDS), analytics_enabled=False) as page:
        gr.Markdown(
            "# Real or fake?\nUpload an image or a video to score its faces. The browser sends the file only to the "
            "machine that serves this page. The page deletes the upload after scoring and the annotated copy "
            f"after about {KEEP_SECONDS // 60} minutes."
        )
        with gr.Row():
            with gr.Column(scale=1):
                endings = [*IMAGE_ENDINGS, *VIDEO_ENDINGS]
                upload = gr.File(label="image or video", file_types=endings, type="filepath", elem_id="upload")
                button = gr.Button("Score", variant="primary", elem_id="score")
                summary = gr.Markdown(elem_id="summary")
            with gr.Column(scale=2):
                # `buttons` leaves out "share", which would send a picture to Hugging Face.
                image = gr.Image(
                    label="detected faces", visible=False, buttons=["download", "fullscreen"], elem_id="image"
                )
                video = gr.Video(label="detected faces", visible=False, buttons=["download"], elem_id="video")
                curve = gr.Plot(label="score over time", show_label=False, visible=False, elem_id="curve")
                faces = gr.Gallery(
                    label="Grad-CAM heatmap of each block for fake",
                    visible=False,
                    columns=5,
                    buttons=["download", "fullscreen"],
                    elem_id="faces",
                )
        button.click(score, upload, [upload, summary, image, video, curve, faces], concurrency_limit=1)
    return page


def serve(detector: ForgeryDetector, host: str, port: int) -> None:
    """Serve the page until SIGINT or SIGTERM.

    An upload is deleted after scoring, its annotated copy `KEEP_SECONDS` later, and all other files when the page
    closes.

    Args:
        detector: the detector.
        host: address to listen on; 127.0.0.1 allows access from this machine only.
        port: port to listen on; 0 means the first free port from 7860.

    Raises:
        InputError: Gradio is not installed, the host is not an address of this machine, or the port is taken.
    """
    try:  # Gradio itself would retry for minutes
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--serve cannot listen on {host}{f', port {port}' if port else ''}: {reason}; "
            "give another --host or --port."
        ) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="real-or-fake-") as name:
        folder = Path(name)
        # Gradio reads these on import, and then sends nothing over the network.
        os.environ |= {"GRADIO_TEMP_DIR": name, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        page = build_page(detector, folder)
        try:
            page.launch(
                server_name=host,
                server_port=port or None,
                max_file_size=MAX_UPLOAD_MB * 2**20,
                share=False,
                show_error=True,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise InputError(f"--serve cannot listen on {host}, port {port or 'from 7860'}: {error}") from error
        print(f"the page is at {page.local_url} (stop it with Ctrl-C)", flush=True)
        try:
            while True:
                time.sleep(IDLE_SECONDS)
                remove_abandoned_uploads(folder)
        except KeyboardInterrupt:
            page.close(verbose=False)


def remove_abandoned_uploads(folder: Path) -> None:
    """Remove the partial files of uploads that were refused or interrupted `IDLE_SECONDS` ago or earlier."""
    for part in folder.glob("tmp*"):
        with suppress(FileNotFoundError):  # Gradio moves a finished upload away
            if part.is_file() and time.time() - part.stat().st_mtime > IDLE_SECONDS:
                part.unlink()


def _plot_scores(seconds: np.ndarray, scores: np.ndarray, threshold: float) -> Figure:
    """Plot N scores over N times in seconds."""
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
