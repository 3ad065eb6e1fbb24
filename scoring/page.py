"""A local page: drop an image or a video, see the verdict and what speaks for it."""

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
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from datasets.augmentation import normalise, resize
from datasets.labels import IMAGE_ENDINGS
from faces.crops import crop_face
from faces.videos import VIDEO_ENDINGS, FrameReader, VideoError
from models.gradcam import heatmaps
from scoring.annotate import lay_heat
from scoring.detector import ForgeryDetector, ScoredFace
from scoring.files import is_video, load_image, score_file
from utils.errors import InputError, require_package

MEGABYTES = 500  # of an upload
MINUTES = 10  # of a video
IDLE = 60  # seconds without another byte, after which an upload is taken to have ended
KEPT = 3600  # seconds for which an upload may wait, and what is drawn can be looked at
TIGHTER = 0.06  # share of a face's sides that is cut off to see how much its score varies
BLUE, VERMILION = "#0072B2", "#D55E00"  # real and fake, as in the drawn boxes


class Shown(NamedTuple):
    """What the page shows of a file.

    Attributes:
        sentence: the verdict and its uncertainty, in Markdown.
        drawn: the image or video with boxes; None where there is no score.
        curve: a video's scores over time; None for an image.
        faces: the most suspicious face, and where each block looks in it: pictures with captions.
    """

    sentence: str
    drawn: Path | None
    curve: Figure | None
    faces: list[tuple[np.ndarray, str]]


class _Record:
    """Keeps of each person in a file the times and scores of their face, and the most suspicious one with the position
    of its frame."""

    def __init__(self) -> None:
        self.scores: dict[int, list[tuple[float, float]]] = {}
        self.worst: dict[int, tuple[int, ScoredFace]] = {}

    def add(self, position: int, time: float, faces: Sequence[ScoredFace]) -> None:
        """Take the faces of a frame."""
        for face in faces:
            self.scores.setdefault(face.track, []).append((time, face.score))
            if face.track not in self.worst or face.score > self.worst[face.track][1].score:
                self.worst[face.track] = position, face


def judge(detector: ForgeryDetector, file: Path, folder: Path) -> Shown:
    """Score a file, and draw what is to be seen of it.

    Args:
        detector: the network.
        file: an image or a video.
        folder: where the drawn file goes.

    Raises:
        InputError: a video of more than `MINUTES`.
    """
    if is_video(file):
        try:
            reader = FrameReader(file)
        except VideoError as error:
            return Shown(f"## not scored\n\n{error}", None, None, [])
        if reader.length() / reader.fps > 60 * MINUTES:
            raise InputError(f"the video is longer than {MINUTES} minutes; cut it, or use the command line.")
    record, drawn = _Record(), folder / ("faces.mp4" if is_video(file) else "faces.png")
    result = score_file(detector, file, record.add, drawn)
    if result.score is None:
        return Shown(f"## not scored\n\n{'; '.join(filter(None, (result.cause, result.note)))}", None, None, [])
    people = "one face" if result.faces == 1 else f"{result.faces} faces, judged by face {result.face}"
    sentence = f"## {result.verdict}, {result.score:.2f}\n\nfrom 0 (real) to 1 (fake); above "
    sentence += f"{detector.threshold:.2f} it is called fake. {people.capitalize()}"
    position, face = record.worst[result.face]
    curve, worst = None, _crop(detector, file, position, face)
    if is_video(file):
        sentence += f", {result.frames} frame{'s' * (result.frames != 1)} looked at"
        times, scores = np.array(record.scores[result.face]).T
        sentence += f"; the face is in {len(scores)} of them" if len(scores) < result.frames else ""
        if len(scores) > 1:
            ends, share = ([0, 100], "") if len(scores) < 10 else ([10, 90], "four of five of ")
            low, high = np.percentile(scores, ends)
            sentence += f"; {share}its scores are from {low:.2f} to {high:.2f}"
        sentence += "."
        sentence += f" {result.note.capitalize()}." if result.note else ""
        curve = _curve(times, scores, detector.threshold)
    else:
        around, which = detector.score(ten_crops(worst))[0], "it" if result.faces == 1 else "the judged one"
        sentence += f". Cut {100 * TIGHTER:.0f} % tighter, and mirrored, {which} scores from {min(around):.2f} to "
        sentence += f"{max(around):.2f}."
    sentence += " The network's score is no proof: it errs, most on material unlike its training data."
    return Shown(sentence, drawn, curve, [] if worst is None else _looks(detector, worst, face.score))


def ten_crops(face: np.ndarray) -> list[np.ndarray]:
    """Cut a face (H x W x 3) tighter, by `TIGHTER`, at its four corners and its centre, as it is and mirrored."""
    height, width = face.shape[:2]
    below, beside = round(TIGHTER * height), round(TIGHTER * width)
    corners = [(y, x) for y in (0, below) for x in (0, beside)]
    windows = [face[y : y + height - below, x : x + width - beside] for y, x in [*corners, (below // 2, beside // 2)]]
    return [np.ascontiguousarray(cut) for window in windows for cut in (window, window[:, ::-1])]


def _crop(detector: ForgeryDetector, file: Path, position: int, face: ScoredFace) -> np.ndarray | None:
    """Return what the network was shown of a face of a file, H x W x 3, uint8, RGB.

    A video is read once more up to that frame, because faces that carried their pictures would fill the memory of
    whoever keeps them. None where it ends before.
    """
    if is_video(file):
        # The frames between the first and that one are not converted.
        again = FrameReader(file, every=max(position, 1))
        found = next((frame for at, frame in again if at == position), None)
        if found is None:
            return None
        frame = found[..., ::-1].copy()
    else:
        frame = load_image(file).copy()  # which PyTorch wants to be writable
    # What was seen is a square already: a margin of 1.
    return frame if detector.faces_given else crop_face(frame, face.seen, 1, detector.recipe.crop_size)[0]


def _looks(detector: ForgeryDetector, face: np.ndarray, score: float) -> list[tuple[np.ndarray, str]]:
    """Show a face, and where each block sees the forgery in it."""
    face = resize(face, detector.size)
    images = normalise(torch.from_numpy(face).permute(2, 0, 1)[None].to(detector.device), detector.channels)
    pictures = [(face, f"scored {score:.2f}")]
    try:
        maps, _, _ = heatmaps(detector.network, images)
    except InputError:  # a transformer has none
        return pictures
    for number, heat in enumerate(maps[0].cpu().numpy(), start=1):
        picture = face[..., ::-1].copy()
        lay_heat(picture, heat, np.array([0, 0, detector.size, detector.size]))
        caption = f"block {number}{'' if heat.any() else ': nothing'}"
        pictures.append((picture[..., ::-1], caption))
    return pictures


def make_page(detector: ForgeryDetector, folder: Path) -> Any:
    """Make the page, a gradio.Blocks, which keeps its files in `folder`.

    Raises:
        InputError: Gradio is not installed.
    """
    with require_package("Gradio", by="--serve"):
        import gradio as gr

    def answer(upload: str | None) -> Any:
        if upload is None or not Path(upload).is_file():  # who uploads the same file at the same time shares it
            gr.Warning("Choose an image or a video first.")
            return gr.skip()
        uploaded, drawings = (tempfile.mkdtemp(prefix=kind, dir=folder) for kind in ("upload-", "shown-"))
        file = Path(shutil.move(upload, uploaded))  # from where Gradio removes what is old
        try:
            shown = judge(detector, file, Path(drawings))
        except (InputError, VideoError) as error:
            shown = Shown(f"## not scored\n\n{error}", None, None, [])
        finally:
            shutil.rmtree(uploaded)
            timer = Timer(KEPT, shutil.rmtree, (drawings, True))  # as Gradio removes its copies of them
            timer.daemon = True
            timer.start()
        image, video = (str(shown.drawn) if shown.drawn and is_video(shown.drawn) == kind else None for kind in (0, 1))
        values = (image, video, shown.curve, shown.faces)
        return None, shown.sentence, *(gr.update(value=value or None, visible=bool(value)) for value in values)

    with gr.Blocks(title="Real or fake?", delete_cache=(60, KEPT), analytics_enabled=False) as page:
        gr.Markdown(
            "# Real or fake?\nDrop an image or a video. It goes to the machine that serves this page and nowhere else, "
            f"and is deleted there once it is scored; what is drawn of it, after about {KEPT // 60} minutes."
        )
        with gr.Row():
            with gr.Column(scale=1):
                endings = [*IMAGE_ENDINGS, *VIDEO_ENDINGS]
                upload = gr.File(label="image or video", file_types=endings, type="filepath", elem_id="upload")
                button = gr.Button("Score", variant="primary", elem_id="score")
                sentence = gr.Markdown(elem_id="sentence")
            with gr.Column(scale=2):
                still = ["download", "fullscreen"]  # and not "share", which would send a picture to Hugging Face
                image = gr.Image(label="faces found", visible=False, buttons=still, elem_id="image")
                video = gr.Video(label="faces found", visible=False, buttons=["download"], elem_id="video")
                curve = gr.Plot(label="score over time", show_label=False, visible=False, elem_id="curve")
                faces = gr.Gallery(
                    label="what each block looks at", visible=False, columns=5, buttons=still, elem_id="faces"
                )
        button.click(answer, upload, [upload, sentence, image, video, curve, faces], concurrency_limit=1)
    return page


def serve(detector: ForgeryDetector, host: str, port: int) -> None:
    """Open the page until it is interrupted or terminated.

    Uploads go when they are scored, what is drawn of them `KEPT` seconds later, and everything else with the page.

    Args:
        detector: the network.
        host: 127.0.0.1 for this machine alone.
        port: 0 for the first free one from 7860 on.

    Raises:
        InputError: Gradio is not installed, the host is not this machine, or the port is taken.
    """
    try:  # once: Gradio would try for minutes
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--serve cannot open {f'port {port} of ' if port else ''}{host}: {reason}; give another --host or --port."
        ) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="real-or-fake-") as name:
        folder = Path(name)
        # Read when Gradio is imported. Nothing is sent anywhere.
        os.environ |= {"GRADIO_TEMP_DIR": name, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        page = make_page(detector, folder)
        try:
            page.launch(
                server_name=host,
                server_port=port or None,
                max_file_size=MEGABYTES * 2**20,
                share=False,
                show_error=True,
                quiet=True,
                prevent_thread_lock=True,
            )
        except OSError as error:
            raise InputError(f"--serve: {host} port {port or 'from 7860 on'}: {error}") from error
        print(f"the page is at {page.local_url} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(IDLE)
                remove_remains(folder)
        except KeyboardInterrupt:
            page.close(verbose=False)


def remove_remains(folder: Path) -> None:
    """Remove what Gradio leaves of uploads that were refused or broken off: files that nobody has written to lately."""
    for part in folder.glob("tmp*"):
        with suppress(FileNotFoundError):  # an upload that has just come to its end is moved away
            if part.is_file() and time.time() - part.stat().st_mtime > IDLE:
                part.unlink()


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
