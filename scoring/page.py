"""A local web page that scores uploaded images and videos, and shows the evidence."""

import ctypes
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from datasets.transforms import normalise, resize
from evaluation.verdicts import ERROR, Cutoffs
from faces.kinds import VIDEO_ENDINGS, VideoError
from faces.videos import FrameReader
from models.gradcam import heatmaps
from scoring.annotate import overlay_heatmap
from scoring.detector import ForgeryDetector, ScoredFace
from scoring.files import is_video, score_file
from scoring.records import describe_detector, describe_faces, make_record
from scoring.scores import describe_rates, format_frame_count
from utils.errors import InputError, one_line, require_package
from utils.files import read_json, write_json
from utils.images import IMAGE_ENDINGS
from utils.time_limit import time_limit

if TYPE_CHECKING:
    import gradio

MAX_UPLOAD_MB = 500
MAX_VIDEO_MINUTES = 10
MAX_SCORING_MINUTES = 5  # for a file
MAX_WAITING = 10  # files that wait while another is scored, at most 50 minutes
MAX_STORED_GB = 10  # all files of the page together
IDLE_SECONDS = 60  # without a new byte, after which an upload counts as abandoned
KEEP_SECONDS = 3600  # until uploads that were not scored, and annotated copies, are deleted
# The routes of Gradio that a browser needs for the page, without and with a login. All others are closed.
OPEN_ROUTES = {
    "/", "/login", "/login/", "/assets/{path:path}", "/static/{path:path}", "/svelte/{path:path}", "/theme.css",
    "/favicon.ico", "/manifest.json", "/gradio_api/startup-events",
}  # fmt: skip
UPLOAD, PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"
JOIN, ANSWERS, FILE = "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/file={path_or_url:path}"
COLOURS = {"real": "#0072B2", "fake": "#D55E00", "uncertain": "#6E6E6E"}  # as in the annotated copies


class PageResult(NamedTuple):
    """The parts of the page that show the result for a file.

    Attributes:
        summary: the verdict and its uncertainty, in Markdown.
        annotated: copy of the image or video with boxes; None without a score.
        curve: plot of a video's scores over time; None for an image.
        faces: pictures (H x W x 3, uint8, RGB) with captions: the face crop with the highest score, and each LIB's
            heatmap over it, unless it is flat.
        record: JSON file with the record of the file, see `scoring.records`.
    """

    summary: str
    annotated: Path | None = None
    curve: Figure | None = None
    faces: Sequence[tuple[np.ndarray, str]] = ()
    record: Path | None = None


def score_upload(
    detector: ForgeryDetector,
    file: Path,
    folder: Path,
    error: float = ERROR,
    model: Path = Path("model"),
    name: str = "",
) -> PageResult:
    """Score an image or a video for the page.

    Args:
        detector: the detector.
        file: image or video.
        folder: folder for the annotated copy and the record.
        error: see `evaluation.verdicts.choose_cutoffs`.
        model: the value of ``--model``.
        name: name of the uploaded file, to show; the name of `file` if empty.

    Raises:
        InputError: the video is longer than `MAX_VIDEO_MINUTES`, or scoring exceeds the caller's `time_limit`.
        VideoError: the video cannot be read.
    """
    video, name = is_video(file), name or file.name
    if video:
        reader = FrameReader(file)
        if reader.length() / reader.fps > 60 * MAX_VIDEO_MINUTES:
            raise InputError(f"the video is longer than {MAX_VIDEO_MINUTES} minutes; cut it, or use the command line.")
    curves: dict[int, list[tuple[float, float]]] = {}
    highest: dict[int, ScoredFace] = {}
    detections: list[dict[str, Any]] = []

    def keep(position: int, time: float, faces: Sequence[ScoredFace]) -> None:
        detections.extend(describe_faces(position, time, faces))
        for face in faces:
            curves.setdefault(face.track, []).append((time, face.score))
            if face.track not in highest or face.score > highest[face.track].score:
                highest[face.track] = face

    annotated = folder / f"{file.stem[:40]}_annotated{'.mp4' if video else '.png'}"
    result = score_file(detector, file, keep, annotated, error)
    record = folder / f"{file.stem[:40]}.json"
    content = make_record(result, describe_detector(detector, model), detector, detections)
    write_json(record, content | {"file": name})
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in result.notes)
    if result.score is None or result.face is None or result.spread is None:
        return PageResult(_heading(name, "not scored") + f"{result.cause}.{notes}", record=record)
    sentences = ["Scores range from 0 (real) to 1 (fake).", describe_rates(result)]
    count = len(result.people)
    found = "One person" if count == 1 else f"{count} people"
    sentences.append(f"{found} in {format_frame_count(result.frames)}." if video else f"{found}.")
    if count > 1:
        sentences.append(f"Person {result.face} has the highest score.")
    low, high = result.spread
    sentences.append(
        f"Over tighter crops, mirror images and JPEG copies of this face, the score ranges from {low:.2f} to "
        f"{high:.2f}."
    )
    curve = None
    if video:
        times, scores = np.array(curves[result.face]).T
        if len(scores) < result.frames:
            sentences.append(f"This person appears in {format_frame_count(len(scores))}.")
        curve = _plot_scores(times, scores, detector.cutoffs(error))
    sentences.append(
        "The score is not proof: the network makes mistakes, most often on data that differ from its training data."
    )
    face = highest[result.face]
    pictures, flat = _heatmap_pictures(detector, face.crop, face.score)
    if flat:
        sentences.append(f"Blocks with a flat heatmap, which shows nothing: {', '.join(map(str, flat))}.")
    verdict = f"{result.verdict}, " if result.verdict else ""
    summary = _heading(name, f"{verdict}{result.score:.2f}") + " ".join(filter(None, sentences)) + notes
    return PageResult(summary, annotated, curve, pictures, record)


def _heading(name: str, result: str) -> str:
    """Return a heading in Markdown; the name of a file may have characters that Markdown or HTML reads."""
    plain = re.sub(r"[^\w .-]", lambda character: f"&#{ord(character[0])};", one_line(name))
    return f"## {plain}: {result}\n\n"


def _heatmap_pictures(
    detector: ForgeryDetector, crop: np.ndarray, score: float
) -> tuple[list[tuple[np.ndarray, str]], list[int]]:
    """Return the face crop and each LIB's heatmap over it, with captions, and the LIBs whose heatmap is flat.

    A flat heatmap has no evidence for fake, or one value for the complete face.
    """
    crop = resize(crop, detector.size)
    images = normalise(torch.from_numpy(crop).permute(2, 0, 1)[None].to(detector.device), detector.channels)
    pictures = [(crop, f"score {score:.2f}")]
    flat: list[int] = []
    try:
        maps, _, _ = heatmaps(detector.network, images)
    except InputError:  # the backbones have no feature maps
        return pictures, flat
    for number, heatmap in enumerate(maps[0].cpu().numpy(), start=1):
        if np.ptp(heatmap) < 0.01:
            flat.append(number)
            continue
        picture = crop[..., ::-1].copy()
        overlay_heatmap(picture, heatmap, np.array([0, 0, detector.size, detector.size]))
        pictures.append((picture[..., ::-1], f"block {number}"))
    return pictures, flat


def _path_and_name(upload: Any) -> Any:
    """Return the path of an upload and its name: Gradio leaves unusual characters of the name out of the path."""
    return upload and (upload.path, upload.orig_name or "")


def build_page(
    detector: ForgeryDetector, folder: Path, model: Path = Path("model"), error: float = ERROR
) -> "gradio.Blocks":
    """Build the page; it keeps its files in `folder`.

    Args:
        detector: the detector.
        folder: existing folder.
        model: the value of ``--model``, to name the network.
        error: see `evaluation.verdicts.choose_cutoffs`.

    Raises:
        InputError: Gradio is not installed.
    """
    with require_package("Gradio", by="--serve"):
        import gradio as gr
        from gradio.route_utils import GradioUploadFile

    class PrivateUpload(GradioUploadFile):
        """An upload in a folder of its own: Gradio alone would give two uploads of one content the same path."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.sha.update(secrets.token_bytes(32))

    gr.route_utils.GradioUploadFile = PrivateUpload  # type: ignore[misc]

    async def refuse_address(path: str) -> str:
        """Return the path of an upload, which Gradio has checked; Gradio itself would download an address."""
        if path.startswith(("http://", "https://")):
            raise gr.Error("The page takes uploads only; upload the file.")
        return os.path.abspath(path)

    def score(upload: tuple[str, str] | None, request: gr.Request) -> object:
        if upload is None:
            return gr.skip()
        file, name = Path(upload[0]), upload[1]
        shown = Path(tempfile.mkdtemp(prefix=_prefix(request.cookies["visitor"]), dir=folder))
        try:
            if not file.is_file():
                raise InputError("the page deleted the upload before its turn; upload the file again.")
            with time_limit(MAX_SCORING_MINUTES):
                result = score_upload(detector, file, shown, error, model, name)
        except (InputError, VideoError) as problem:
            result = PageResult(_heading(name, "not scored") + str(problem))
        finally:
            file.unlink(missing_ok=True)
            with suppress(OSError):
                file.parent.rmdir()
        pictures = []
        for i, (picture, caption) in enumerate(result.faces):
            Image.fromarray(picture).save(shown / f"{i}.png")
            pictures.append((str(shown / f"{i}.png"), caption))
        annotated = result.annotated and str(result.annotated)
        image, video = (annotated, None) if result.curve is None else (None, annotated)
        record = (str(result.record), read_json(result.record)) if result.record else (None, None)
        values = (image, video, result.curve, pictures, *record)
        return None, result.summary, *(gr.update(value=value or None, visible=bool(value)) for value in values)

    with gr.Blocks(title="Real or fake?", analytics_enabled=False) as page:
        gr.Markdown(
            "# Real or fake?\nUpload an image or a video to score its faces: up to "
            f"{MAX_UPLOAD_MB} MB and {MAX_VIDEO_MINUTES:g} minutes. The browser sends the file only to the machine "
            "that serves this page. The page deletes the upload after scoring, and the annotated copy and the record "
            f"after about {KEEP_SECONDS // 60} minutes.\n\n"
            f"Model: {model}, SHA-256 {detector.checkpoint['sha256'][:16]}..."
        )
        with gr.Row():
            with gr.Column(scale=1):
                endings = [*IMAGE_ENDINGS, *VIDEO_ENDINGS]
                upload = gr.File(label="image or video", file_types=endings, type="filepath", elem_id="upload")
                summary = gr.Markdown(elem_id="summary")
                record = gr.File(label="record", visible=False, elem_id="record")
                shown_record = gr.JSON(label="record", visible=False, max_height=400, elem_id="shown_record")
                upload.preprocess = _path_and_name  # type: ignore[assignment, method-assign]
                upload.async_move_resource_to_block_cache = refuse_address  # type: ignore[assignment, method-assign]
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
        outputs = [upload, summary, image, video, curve, faces, record, shown_record]
        upload.upload(score, upload, outputs, concurrency_limit=1, api_visibility="private")
    page.queue(max_size=MAX_WAITING, api_open=False)
    return page


def _prefix(visitor: str) -> str:
    """Return the beginning of the names of a visitor's folders, from which nobody can compute the cookie."""
    return f"shown-{hashlib.sha256(visitor.encode()).hexdigest()[:32]}-"


def check_requests(folder: Path) -> Callable[..., Awaitable[None]]:
    """Return a FastAPI dependency that keeps visitors apart, for every request.

    Each visitor has a random cookie. It gives access to the visitor's own files and to the answers for the visitor's
    own browser tabs. Other visitors get no access, even if they know the addresses. If the page has a password, only
    the login is open without it.

    Args:
        folder: folder of the page.

    Returns:
        A function of a request and its response; it raises HTTPException for a request that it refuses.
    """
    from fastapi import HTTPException, Request, Response
    from gradio.utils import LRUCache

    owners: LRUCache[str, str] = LRUCache(10_000)  # visitor of each session, which is a browser tab

    async def check(request: Request, response: Response) -> None:
        app, route, visitor = request.app, request.scope["route"].path, request.cookies.get("visitor", "")
        if route in OPEN_ROUTES:
            return
        logins = (request.cookies.get(f"access-token{kind}-{app.cookie_id}") for kind in ("", "-unsecure"))
        if app.auth and not any(login in app.tokens for login in logins):
            raise HTTPException(401, "Log in first.")
        if route == UPLOAD:
            # With Transfer-Encoding, the length is unknown, and a Content-Length beside it is ignored.
            unknown = "transfer-encoding" in request.headers
            size = 2**63 if unknown else int(request.headers.get("content-length", 2**63))
            if size > (MAX_UPLOAD_MB + 1) * 2**20:  # Gradio limits each file of an upload, but not their number
                raise HTTPException(413, f"An upload may have at most {MAX_UPLOAD_MB} MB; upload a smaller file.")
            if _stored_bytes(folder) + size > MAX_STORED_GB * 2**30:
                raise HTTPException(503, "The page has no space left; try again in an hour.")
            if not visitor:
                response.set_cookie("visitor", secrets.token_hex(16), httponly=True, samesite="strict")
        elif route == JOIN:
            body = await request.json()
            session = str(body.get("session_hash")) if isinstance(body, dict) else ""
            if not visitor or owners.setdefault(session, visitor) != visitor:
                raise HTTPException(403, "Allow the cookie of this page, and reload the page.")
            if len(app.get_blocks()._queue) >= MAX_WAITING:  # before Gradio says it in other words
                raise HTTPException(429, f"{MAX_WAITING} files are waiting already; try again in a few minutes.")
        elif route == ANSWERS:
            if owners.get(request.query_params.get("session_hash")) != visitor:
                raise HTTPException(403, "These answers are for another visitor; reload the page.")
        elif route == FILE:
            path = os.path.abspath(request.path_params["path_or_url"])
            if not visitor or not path.startswith(os.path.join(folder, _prefix(visitor))):
                raise HTTPException(403, "This file belongs to another visitor.")
        elif route != PROGRESS:
            raise HTTPException(404, "The page does not use this address.")

    return check


def _stored_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # unlike Path.rglob, passes over folders that are deleted meanwhile
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def launch(
    detector: ForgeryDetector,
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    model: Path = Path("model"),
    error: float = ERROR,
    password: bytes | None = None,
) -> "gradio.Blocks":
    """Serve the page from threads of this process; return it.

    Args:
        detector: the detector.
        folder: existing folder for the files of the page.
        host: address to listen on; 127.0.0.1 allows access from this machine only.
        port: port to listen on; 0 means the first free port from 7860.
        model: the value of ``--model``.
        error: see `evaluation.verdicts.choose_cutoffs`.
        password: what visitors must enter; None needs no login.

    Raises:
        InputError: Gradio is not installed, the host is not an address of this machine, or the port is taken.
    """
    try:  # Gradio itself would retry for minutes
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(
            f"--serve cannot listen on {host}{f', port {port}' if port else ''}: {reason}; "
            "give another --host or --port."
        ) from problem
    # Gradio reads these on import, and then sends nothing over the network and keeps no statistics of all uploads.
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    os.environ |= {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(2**62)}
    page = build_page(detector, folder, model, error)
    from fastapi import Depends

    def log_in(_: str, given: str) -> bool:
        return password is not None and secrets.compare_digest(given.encode(), password)

    try:
        page.launch(
            server_name=host,
            server_port=port or None,
            auth=None if password is None else log_in,
            auth_message="Enter any user name, and the password of this page.",
            max_file_size=MAX_UPLOAD_MB * 2**20,
            app_kwargs={"dependencies": [Depends(check_requests(folder))], "openapi_url": None},
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            share=False,
            show_error=True,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as problem:
        raise InputError(
            f"--serve cannot listen on {host}, port {port or 'from 7860'}: {problem}; give another --port."
        ) from problem
    return page


def serve(
    detector: ForgeryDetector, host: str, port: int, model: Path, error: float, password: bytes | None = None
) -> None:
    """Serve the page until SIGINT or SIGTERM; see `launch`.

    An upload is deleted after scoring, its annotated copy `KEEP_SECONDS` later, and all other files when the page
    closes.

    Raises:
        InputError: see `launch`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _limit_arenas()
    with tempfile.TemporaryDirectory(prefix="real-or-fake-") as name:
        folder = Path(name).resolve()
        page = launch(detector, folder, host, port, model, error, password)
        print(f"the page is at {page.local_url} (stop it with Ctrl-C)", flush=True)
        try:
            while True:
                time.sleep(min(IDLE_SECONDS, KEEP_SECONDS))
                remove_old_files(folder)
        except KeyboardInterrupt:
            page.close(verbose=False)


def _limit_arenas() -> None:
    """Let glibc's malloc use two arenas, not eight per core: a thread cannot reuse memory that is free in another.

    Without this, the memory of the page grows with the number of uploads.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-8, 2)  # M_ARENA_MAX in malloc.h


def remove_old_files(folder: Path) -> None:
    """Remove partial uploads after `IDLE_SECONDS` without a new byte, and other files after `KEEP_SECONDS`."""
    for entry in folder.iterdir():
        with suppress(OSError):  # Gradio moves a finished upload away
            age = time.time() - entry.stat().st_mtime
            if entry.is_dir() and age > KEEP_SECONDS:
                shutil.rmtree(entry)
            elif entry.is_file() and age > IDLE_SECONDS:
                os.truncate(entry, 0)  # a stalled upload would keep the space of its open file
                entry.unlink()


def _plot_scores(seconds: np.ndarray, scores: np.ndarray, cutoffs: Cutoffs | None) -> Figure:
    """Plot N scores over N times in seconds, in the colours of the verdicts on single frames."""
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axis = figure.subplots()
    for cutoff, label in zip(cutoffs or (), ("cutoffs", None), strict=False):
        axis.axhline(cutoff, color="0.6", linewidth=1, label=label)
    axis.plot(seconds, scores, color="0.3", linewidth=1)
    verdicts = np.array(["uncertain" if cutoffs is None else cutoffs.verdict(score) for score in scores])
    for name, colour in COLOURS.items():
        if (chosen := verdicts == name).any():
            label = "score" if cutoffs is None else name
            axis.scatter(seconds[chosen], scores[chosen], s=10, color=colour, label=label)
    axis.set(xlabel="time (s)", ylabel="score", ylim=(-0.02, 1.02))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure
