"""The local page, in a browser, with real uploads."""

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
from scoring.page import _crop, _Record, judge, make_page, remove_remains, ten_crops
from tests.conftest import ROOT
from tests.test_inference import VARYING, timed_video
from tests.test_preprocessing import picture, write_video
from utils.errors import InputError

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random network."""
    file = tmp_path_factory.mktemp("model") / "model.pth"
    torch.manual_seed(0)
    about = {"args": {"model": "test_resnet", "num_LIBs": 2, "size": 32}, "channels": "RGB", "threshold": 0.25}
    save_checkpoint(file, build_network("test_resnet", 2, 32), "test_resnet", 1, **about)
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
    """The address of the page, and the folder that it keeps its files in; `limits` is run before it opens."""
    code = f"import sys, inference\nfrom scoring import page\n{limits}\nsys.exit(inference.main())"
    command = [sys.executable, "-c", code, "--model", str(model), "--serve", "--detector", "mtcnn", "--gpu_num", "cpu"]
    (folder / "files").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder / "files"), "HOME": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        try:
            said = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", said)
            assert address, said
            yield address[0], folder / "files"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def page(browser: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page, for uploads of a megabyte and videos of three seconds."""
    with open_page(model, tmp_path_factory.mktemp("page"), "page.MEGABYTES, page.MINUTES = 1, 0.05") as opened:
        yield opened


def new_tab(browser: Any, address: str) -> Any:
    tab = browser.new_page()
    tab.set_default_timeout(90_000)
    tab.goto(address)
    return tab


# The ids of the parts of the page that show a picture or a video, and in the browser's words whether it is there.
SHOWN = """[...document.querySelectorAll("#image img, #video video, #curve img, #faces img")]"""
LOADED = "x => (x.naturalWidth || x.videoWidth) > 0"


def upload(browser: Any, page: tuple[str, Path], file: Path, pictures: int = 0) -> tuple[str, list[str], list[str]]:
    """Score a file on the page; return what it says, which parts show a picture or video, and foreign requests."""
    address, _ = page
    tab = new_tab(browser, "about:blank")
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)
    tab.set_input_files("#upload input[type=file]", file)
    tab.wait_for_selector(f"#upload a[download={file.name!r}]")
    tab.click("#score")
    tab.wait_for_selector("#sentence h2")
    tab.wait_for_function(f"n => {SHOWN}.length >= n && {SHOWN}.every({LOADED})", arg=pictures)
    shown = tab.evaluate(f"{SHOWN}.map(x => x.closest('[id]').id)")
    assert not tab.is_visible("#curve [data-testid=block-label]")  # which would hide the curve's highest tick
    assert not tab.query_selector("[aria-label='Share' i], [title='Share' i]")  # which would send it to a hub
    said = tab.inner_text("#sentence")
    tab.close()
    return said, shown, [url for url in requests if not url.startswith((address, "data:", "blob:"))]


def test_ten_crops() -> None:
    face = np.arange(100 * 50 * 3, dtype=np.float64).reshape(100, 50, 3)
    crops = ten_crops(face)
    assert len(crops) == 10 and {crop.shape for crop in crops} == {(94, 47, 3)}
    starts = [crop[0, 0, 0] for crop in crops[::2]]
    assert starts == [face[y, x, 0] for y, x in ((0, 0), (0, 3), (6, 0), (6, 3), (3, 1))]
    for crop, mirrored in zip(crops[::2], crops[1::2], strict=True):
        assert (mirrored == crop[:, ::-1]).all()


@pytest.mark.parametrize("ending", ["png", "mp4"])
def test_what_the_page_shows_is_what_was_scored(model: Path, tmp_path: Path, ending: str) -> None:
    detector = load_detector(model, face_detector="mtcnn", gpu_num="cpu")
    file = tmp_path / f"file.{ending}"
    if ending == "mp4":
        write_video(file, frames=20)
    else:
        # A face at the border, of which a part of the crop is outside.
        image = picture(0, 0)
        boxes = detector.find_faces(image[None])[0].boxes
        left, top = (round(float(x)) + 4 for x in boxes[0, :2])
        cv2.imwrite(str(file), image[top:, left:])
    record = _Record()
    score_file(detector, file, record.add)
    ((position, face),) = record.worst.values()
    assert ending == "mp4" or face.seen[0] < 0
    scores, _ = detector.score([_crop(detector, file, position, face)])
    assert scores[0] == pytest.approx(face.score, abs=1e-6)


def test_a_video_is_read_again_up_to_the_frame_shown(
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
        assert (_crop(detector, file, position, face)[..., ::-1] == frames[position]).all() and given == read


def test_a_frame_that_cannot_be_read_again_is_not_shown(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")

    class Ended(FrameReader):
        def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
            return iter(())

    monkeypatch.setattr("scoring.page.FrameReader", Ended)
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    shown = judge(detector, write_video(tmp_path / "a.mp4", frames=10), tmp_path)
    assert shown.faces == [] and shown.drawn.is_file() and "One face" in shown.sentence


def test_without_gradio_there_is_no_page(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match="^Gradio is needed by --serve, and not installed: pip install --no-deps -r "):
        make_page(load_detector(model, gpu_num="cpu"), tmp_path)


def test_the_sentence_of_a_short_video(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    one = judge(detector, write_video(tmp_path / "a.mp4", frames=1), tmp_path).sentence
    nine = judge(detector, write_video(tmp_path / "b.mp4", frames=45), tmp_path).sentence
    assert "One face, 1 frame looked at. " in one
    assert re.search(r"One face, 9 frames looked at; its scores are from 0\.\d\d to 0\.\d\d\. ", nine)


def test_the_uncertainty_is_that_of_the_face_judged(
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
        result.judge(0.5)
        return result

    monkeypatch.setattr("scoring.page.score_file", score)
    shown = judge(detector, write_video(tmp_path / "a.mp4", frames=40), tmp_path)
    assert "2 faces, judged by face 1, 40 frames looked at; the face is in 20 of them; " in shown.sentence
    assert "four of five of its scores are from 0.95 to 0.97. " in shown.sentence
    assert len(shown.curve.axes[0].lines[1].get_xdata()) == 20


def test_an_upload_that_is_gone_is_asked_for_again(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    (function,) = make_page(load_detector(model, faces_given=True, gpu_num="cpu"), tmp_path).fns.values()
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    assert function.fn(str(tmp_path / "face.png"))[0] is None  # the box is empty again
    with pytest.warns(UserWarning, match="Choose an image or a video first"):  # outside of a page it is Python's
        assert function.fn(str(tmp_path / "face.png")) == {"__type__": "update"}  # and all stays as it is


def test_a_video_that_breaks_off_is_said_to(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    monkeypatch.setattr("faces.videos.ENDS_EARLY", 2)
    said = judge(detector, write_video(tmp_path / "a.mp4", frames=10), tmp_path).sentence
    assert re.search(r"2 frames looked at; .*\d\. The video breaks off after 10 of 10 frames\. The network's", said)


def test_the_curve_goes_by_the_frames_own_times(model: Path, tmp_path: Path) -> None:
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    curve = judge(detector, timed_video(tmp_path / "a.mkv", VARYING), tmp_path).curve
    assert curve.axes[0].lines[1].get_xdata() == pytest.approx(VARYING[::5], abs=2e-3)


def test_the_face_shown_is_the_one_judged() -> None:
    """A face of two frames among many is taken for a mistake, and so is not shown either."""
    record, result = _Record(), FileScore(Path("a.mp4"))
    for position in range(20):
        faces = [ScoredFace(np.zeros(4), 1, 0.5 + position / 100, 0, np.zeros(4), None)]
        faces += [ScoredFace(np.zeros(4), 1, 0.99, 1, np.zeros(4), None)] * (position == 3)
        record.add(position, 0.0, faces)
        result.add(faces)
    result.judge(0.4)
    position, face = record.worst[result.face]
    assert (position, face.track, face.score) == (19, 0, 0.69)


def test_a_block_that_sees_nothing_says_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load_detector(model, faces_given=True, gpu_num="cpu")
    monkeypatch.setattr("scoring.page.heatmaps", lambda *_: (torch.tensor([[[[0.0, 0]], [[0, 1]]]]), [], {}))
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    _, *captions = (caption for _, caption in judge(detector, tmp_path / "face.png", tmp_path).faces)
    assert captions == ["block 1: nothing", "block 2"]


def test_an_upload_that_ends_meanwhile_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what Gradio leaves only old files go, and the page stays open when one goes by itself."""
    old, new, other = (tmp_path / name for name in ("tmpold", "tmpnew", "shown"))
    for file in (old, new, other):
        file.write_bytes(b"x")
    for file in (old, other):
        os.utime(file, (0, 0))
    remove_remains(tmp_path)
    assert sorted(tmp_path.iterdir()) == [other, new]
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    new.unlink()
    monkeypatch.setattr(Path, "glob", lambda *_: [new])
    remove_remains(tmp_path)


def test_nothing_stays(browser: Any, model: Path, tmp_path: Path) -> None:
    """What is drawn goes after a while, and everything when the server is told to end."""
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    with open_page(model, tmp_path, "page.KEPT = 4\npage.IDLE = 2") as opened:
        assert len(upload(browser, opened, tmp_path / "face.png", 4)[1]) == 4
        (folder,) = opened[1].glob("real-or-fake-*")
        (folder / "tmpremains").write_bytes(b"half of an upload")
        end = time.monotonic() + 60
        while list(folder.glob("shown-*")) + list(folder.glob("tmp*")):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert list(opened[1].glob("real-or-fake-*"))
    assert not list(opened[1].glob("real-or-fake-*"))


def test_an_image(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    said, shown, foreign = upload(browser, page, tmp_path / "face.png", 4)
    assert re.match(r"(real|fake), 0\.\d\d", said) and "above 0.25 it is called fake" in said and "One face" in said
    assert re.search(r"Cut 6 % tighter, and mirrored, it scores from 0\.\d\d to 0\.\d\d", said)
    assert shown == ["image", *["faces"] * 3] and not foreign  # the face and two blocks' heatmaps
    assert not list(page[1].rglob("face.png"))


def test_a_video(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    said, shown, foreign = upload(browser, page, write_video(tmp_path / "clip.mp4", frames=50), 5)
    assert "10 frames looked at; four of five of its scores are from" in said
    assert shown == ["video", "curve", *["faces"] * 3] and not foreign
    assert not list(page[1].rglob("clip.mp4"))


def test_a_file_without_a_face(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    said, shown, _ = upload(browser, page, tmp_path / "wall.png")
    assert said.startswith("not scored") and "no face" in said and not shown


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
            place = "#sentence:has(h2:text('not scored'))"
        tab.wait_for_selector(f"{place} :text('{sentence}')")
        assert not tab.query_selector("#video video")
        tab.close()
    # And by whoever leaves the page aside.
    content = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    content += (tmp_path / "large.png").read_bytes() + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{address}gradio_api/upload", content, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(request)
    assert {*files.rglob("*.png"), *files.rglob("*.mp4")} == before
