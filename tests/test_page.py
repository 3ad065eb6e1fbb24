"""The local page, in Chromium, with uploads of synthetic faces."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from faces.videos import FrameReader
from models.backbones import build_network
from models.checkpoints import save_checkpoint
from scoring.detector import ScoredFace, load_detector
from scoring.files import FileScore, score_file
from scoring.page import _FaceRecord, _read_crop, build_page, remove_abandoned_uploads, score_upload, ten_crops
from tests.conftest import ROOT
from tests.test_inference import VARYING, timed_video
from tests.test_preprocessing import picture, write_video
from utils.errors import InputError

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny untrained network."""
    file = tmp_path_factory.mktemp("model") / "model.pth"
    torch.manual_seed(0)
    entries = {"args": {"model": "test_resnet", "num_LIBs": 2, "size": 32}, "channels": "RGB", "threshold": 0.25}
    save_checkpoint(file, build_network("test_resnet", 2, 32), "test_resnet", 1, **entries)
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(model: Path, folder: Path, limits: str) -> Iterator[tuple[str, Path]]:
    """Serve the page in another process, which first runs `limits`; yield its address and its folder for files."""
    code = f"import sys, inference\nfrom scoring import page\n{limits}\nsys.exit(inference.main())"
    command = [sys.executable, "-c", code, "--model", str(model), "--serve", "--detector", "mtcnn", "--gpu_num", "cpu"]
    (folder / "files").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder / "files"), "HOME": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        try:
            printed = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", printed)
            assert address, printed
            yield address[0], folder / "files"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def page(browser: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page, limited to uploads of 1 MB and videos of 3 s."""
    limits = "page.MAX_UPLOAD_MB, page.MAX_VIDEO_MINUTES = 1, 0.05"
    with open_page(model, tmp_path_factory.mktemp("page"), limits) as opened:
        yield opened


def new_tab(browser: Any, address: str) -> Any:
    tab = browser.new_page()
    tab.set_default_timeout(300_000)  # ms
    tab.goto(address)
    return tab


# JavaScript: the pictures and videos on the page, and whether one of them is loaded.
SHOWN = """[...document.querySelectorAll("#image img, #video video, #curve img, #faces img")]"""
LOADED = "x => (x.naturalWidth || x.videoWidth) > 0"


def upload(browser: Any, page: tuple[str, Path], file: Path, pictures: int = 0) -> tuple[str, list[str], list[str]]:
    """Score a file on the page; return the summary, the ids of the parts with pictures, and requests to other hosts."""
    address, _ = page
    tab = new_tab(browser, "about:blank")
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)
    tab.set_input_files("#upload input[type=file]", file)
    tab.wait_for_selector(f"#upload a[download={file.name!r}]")
    tab.click("#score")
    tab.wait_for_selector("#summary h2")
    tab.wait_for_function(f"n => {SHOWN}.length >= n && {SHOWN}.every({LOADED})", arg=pictures)
    shown = tab.evaluate(f"{SHOWN}.map(x => x.closest('[id]').id)")
    assert not tab.is_visible("#curve [data-testid=block-label]")  # would cover the highest tick of the plot
    assert not tab.query_selector("[aria-label='Share' i], [title='Share' i]")  # would send the picture to a hub
    summary = tab.inner_text("#summary")
    tab.close()
    return summary, shown, [url for url in requests if not url.startswith((address, "data:", "blob:"))]


def test_ten_crops() -> None:
    face = np.arange(100 * 50 * 3, dtype=np.float64).reshape(100, 50, 3)
    crops = ten_crops(face)
    assert len(crops) == 10 and {crop.shape for crop in crops} == {(94, 47, 3)}
    starts = [crop[0, 0, 0] for crop in crops[::2]]
    assert starts == [face[y, x, 0] for y, x in ((0, 0), (0, 3), (6, 0), (6, 3), (3, 1))]
    for crop, mirrored in zip(crops[::2], crops[1::2], strict=True):
        assert (mirrored == crop[:, ::-1]).all()


@pytest.mark.parametrize("ending", ["png", "mp4"])
def test_shown_crop_is_the_scored_crop(model: Path, tmp_path: Path, ending: str) -> None:
    detector = load_detector(model, detector="mtcnn", gpu_num="cpu")
    file = tmp_path / f"file.{ending}"
    if ending == "mp4":
        write_video(file, frames=20)
    else:
        # A face at the border: its crop extends beyond the image.
        image = picture(0, 0)
        boxes = detector.find_faces(image[None])[0].boxes
        left, top = (round(float(x)) + 4 for x in boxes[0, :2])
        cv2.imwrite(str(file), image[top:, left:])
    record = _FaceRecord()
    score_file(detector, file, record.add)
    ((position, face),) = record.highest.values()
    assert ending == "mp4" or face.crop_box[0] < 0
    scores, _ = detector.score([_read_crop(detector, file, position, face)])
    assert scores[0] == pytest.approx(face.score, abs=1e-6)


def test_video_is_read_again_only_up_to_the_shown_frame(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    file = write_video(tmp_path / "a.mp4", frames=20)
    given = []

    class Reader(FrameReader):
        def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
            for position, frame in super().__iter__():
                given.append(position)
                yield position, frame

    monkeypatch.setattr("scoring.page.FrameReader", Reader)
    face = ScoredFace(np.zeros(4), 1, 0.5, 0, np.zeros(4), None)
    frames = dict(FrameReader(file, every=1))
    for position, read in ((0, [0]), (1, [0, 1]), (10, [0, 10]), (19, [0, 19])):
        given.clear()
        assert (_read_crop(detector, file, position, face)[..., ::-1] == frames[position]).all() and given == read


def test_frame_that_cannot_be_read_again_is_not_shown(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")

    class Ended(FrameReader):
        def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
            return iter(())

    monkeypatch.setattr("scoring.page.FrameReader", Ended)
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    result = score_upload(detector, write_video(tmp_path / "a.mp4", frames=10), tmp_path)
    assert result.faces == [] and result.annotated.is_file() and "One face" in result.summary


def test_page_without_gradio(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match="^--serve needs Gradio"):
        build_page(load_detector(model, gpu_num="cpu"), tmp_path)


def test_summary_of_a_short_video(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    one = score_upload(detector, write_video(tmp_path / "a.mp4", frames=1), tmp_path).summary
    nine = score_upload(detector, write_video(tmp_path / "b.mp4", frames=45), tmp_path).summary
    assert "One face in 1 frame. " in one and "frame scores" not in one
    assert re.search(r"One face in 9 frames\. Its frame scores range from 0\.\d\d to 0\.\d\d\. ", nine)


def test_summary_describes_the_face_with_the_highest_score(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = load_detector(model, faces_given=True, gpu_num="cpu")

    def score(detector: object, file: Path, on_frame: Callable, target: Path) -> FileScore:
        result = FileScore(file)
        for i in range(40):
            faces = [ScoredFace(np.zeros(4), 1, 0.1 + i / 50, 0, np.zeros(4), None)]
            faces += [ScoredFace(np.zeros(4), 1, 0.95 + i / 1000, 1, np.zeros(4), None)] * (i < 20)
            result.add(faces)
            on_frame(i, i / 10, faces)
        result.decide(0.5)
        return result

    monkeypatch.setattr("scoring.page.score_file", score)
    result = score_upload(detector, write_video(tmp_path / "a.mp4", frames=40), tmp_path)
    assert "2 faces in 40 frames. Face 1 has the highest score. This face appears in 20 frames. " in result.summary
    assert "80 % of its frame scores range from 0.95 to 0.97. " in result.summary
    assert len(result.curve.axes[0].lines[1].get_xdata()) == 20


@pytest.mark.slow
def test_missing_upload(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    (function,) = build_page(load_detector(model, faces_given=True, gpu_num="cpu"), tmp_path).fns.values()
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    assert function.fn(str(tmp_path / "face.png"))[0] is None  # empties the upload box
    with pytest.warns(UserWarning, match="Choose an image or a video"):
        assert function.fn(str(tmp_path / "face.png")) == {"__type__": "update"}  # changes nothing


def test_summary_of_a_truncated_video(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    monkeypatch.setattr("faces.videos.MIN_DECODED_SHARE", 2)
    summary = score_upload(detector, write_video(tmp_path / "a.mp4", frames=10), tmp_path).summary
    assert re.search(r"in 2 frames\. .*\d\. The video .* 10 of 10 frames\. ", summary)


def test_curve_follows_the_timestamps(model: Path, tmp_path: Path) -> None:
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    curve = score_upload(detector, timed_video(tmp_path / "a.mkv", VARYING), tmp_path).curve
    assert curve.axes[0].lines[1].get_xdata() == pytest.approx(VARYING[::5], abs=2e-3)


def test_shown_face_is_not_an_ignored_track() -> None:
    record, result = _FaceRecord(), FileScore(Path("a.mp4"))
    for position in range(20):
        faces = [ScoredFace(np.zeros(4), 1, 0.5 + position / 100, 0, np.zeros(4), None)]
        faces += [ScoredFace(np.zeros(4), 1, 0.99, 1, np.zeros(4), None)] * (position == 3)
        record.add(position, 0.0, faces)
        result.add(faces)
    result.decide(0.4)
    position, face = record.highest[result.face]
    assert (position, face.track, face.score) == (19, 0, 0.69)


def test_caption_of_an_empty_heatmap(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    monkeypatch.setattr("scoring.page.heatmaps", lambda *_: (torch.tensor([[[[0.0, 0]], [[0, 1]]]]), [], {}))
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    _, *captions = (caption for _, caption in score_upload(detector, tmp_path / "face.png", tmp_path).faces)
    assert captions == ["block 1: no evidence", "block 2"]


def test_only_abandoned_uploads_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that disappears meanwhile is not an error."""
    old, new, other = (tmp_path / name for name in ("tmpold", "tmpnew", "shown"))
    for file in (old, new, other):
        file.write_bytes(b"x")
    for file in (old, other):
        os.utime(file, (0, 0))
    remove_abandoned_uploads(tmp_path)
    assert sorted(tmp_path.iterdir()) == [other, new]
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    new.unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: [new])
    remove_abandoned_uploads(tmp_path)


@pytest.mark.slow
@pytest.mark.browser
def test_files_are_deleted(browser: Any, model: Path, tmp_path: Path) -> None:
    """Annotated copies and partial uploads are deleted after a while, and all files when the server stops."""
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    with open_page(model, tmp_path, "page.KEEP_SECONDS = 15\npage.IDLE_SECONDS = 10") as opened:
        assert len(upload(browser, opened, tmp_path / "face.png", 4)[1]) == 4
        (folder,) = opened[1].glob("real-or-fake-*")
        (folder / "tmpremains").write_bytes(b"half of an upload")
        end = time.monotonic() + 300
        while list(folder.glob("shown-*")) + list(folder.glob("tmp*")):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert list(opened[1].glob("real-or-fake-*"))
    assert not list(opened[1].glob("real-or-fake-*"))


@pytest.mark.slow
@pytest.mark.browser
def test_image_upload(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    summary, shown, foreign = upload(browser, page, tmp_path / "face.png", 4)
    assert re.match(r"(real|fake), 0\.\d\d", summary) and "above 0.25 means fake" in summary and "One face" in summary
    assert re.search(r"from 0\.\d\d to 0\.\d\d \(6 % ", summary)
    assert shown == ["image", *["faces"] * 3] and not foreign  # the face crop and the heatmaps of two blocks
    assert not list(page[1].rglob("face.png"))


@pytest.mark.slow
@pytest.mark.browser
def test_video_upload(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    summary, shown, foreign = upload(browser, page, write_video(tmp_path / "clip.mp4", frames=50), 5)
    assert re.search(r"One face in 10 frames\. .*80 % of its frame scores", summary)
    assert shown == ["video", "curve", *["faces"] * 3] and not foreign
    assert not list(page[1].rglob("clip.mp4"))


@pytest.mark.slow
@pytest.mark.browser
def test_upload_without_a_face(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    summary, shown, _ = upload(browser, page, tmp_path / "wall.png")
    assert summary.startswith("not scored") and "no face" in summary and not shown


@pytest.mark.slow
@pytest.mark.browser
def test_uploads_are_limited_in_size_and_length(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    address, files = page
    before = {*files.rglob("*.png"), *files.rglob("*.mp4")}
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 2**19))
    video = write_video(tmp_path / "long.mp4", frames=80)  # 3.2 s
    for file, sentence in ((tmp_path / "large.png", "exceed the maximum"), (video, "longer than 0.05 minutes")):
        tab = new_tab(browser, address)
        tab.set_input_files("#upload input[type=file]", file)
        place = ".toast-body"
        if file == video:
            tab.wait_for_selector("#upload a[download='long.mp4']")
            tab.click("#score")
            place = "#summary:has(h2:text('not scored'))"
        tab.wait_for_selector(f"{place} :text('{sentence}')")
        assert not tab.query_selector("#video video")
        tab.close()
    # The limit also holds for requests that bypass the page.
    content = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    content += (tmp_path / "large.png").read_bytes() + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{address}gradio_api/upload", content, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)
    assert {*files.rglob("*.png"), *files.rglob("*.mp4")} == before
