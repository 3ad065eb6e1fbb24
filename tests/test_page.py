"""The local page, in Chromium, with uploads of synthetic faces."""

import json
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
import jsonschema
import numpy as np
import pytest
import torch

import inference
from scoring.detector import ForgeryDetector, load_detector
from scoring.page import build_page, remove_abandoned_uploads, score_upload
from scoring.scores import NO_CALIBRATION, FileScore
from tests.conftest import ROOT
from tests.test_inference import VARYING, checkpoint, scored_face, timed_video
from tests.test_preprocessing import picture, write_video
from tests.test_records import SCHEMA
from utils.errors import InputError

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny untrained network, with feature maps of 2 x 2."""
    return checkpoint(tmp_path_factory.mktemp("model") / "model.pth", size=64, faces=None)


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
    tab.wait_for_selector("#summary h2")
    tab.wait_for_function(f"n => {SHOWN}.length >= n && {SHOWN}.every({LOADED})", arg=pictures)
    shown = tab.evaluate(f"{SHOWN}.map(x => x.closest('[id]').id)")
    assert not tab.is_visible("#curve [data-testid=block-label]")  # would cover the highest tick of the plot
    assert not tab.query_selector("[aria-label='Share' i], [title='Share' i]")  # would send the picture to a hub
    summary = tab.inner_text("#summary")
    tab.close()
    return summary, shown, [url for url in requests if not url.startswith((address, "data:", "blob:"))]


def detector_of(model: Path) -> ForgeryDetector:
    return load_detector(model, faces_given=True, gpu_num="cpu")


def write_face(file: Path) -> Path:
    cv2.imwrite(str(file), picture(0, 0))
    return file


def test_page_without_gradio(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match="^--serve needs Gradio"):
        build_page(load_detector(model, gpu_num="cpu"), tmp_path)


def test_page_shows_the_record_of_the_command_line(model: Path, tmp_path: Path) -> None:
    detector = detector_of(model)
    result = score_upload(detector, write_face(tmp_path / "a.png"), tmp_path, 0.1, model, "my face (1).png")
    record = json.loads(result.record.read_text())
    jsonschema.validate(record, SCHEMA)
    file = tmp_path / "a.png"
    assert inference.main([str(file), *f"--model {model} --faces_given --error 0.1 --gpu_num cpu".split(),
                           "--json", str(tmp_path / "b.json")]) == 0  # fmt: skip
    expected = json.loads((tmp_path / "b.json").read_text())
    assert record.pop("file") == "my face (1).png" and expected.pop("file") == str(file)
    assert record.pop("run").keys() == expected.pop("run").keys()
    assert record == expected
    heading, text = result.summary.split("\n\n")
    assert heading == f"## my face &#40;1&#41;.png: {record['verdict']}, {record['score']:.2f}"
    assert f"{100 * record['false_positive_rate']:.3g} % of the real" in text
    assert f"from {record['spread'][0]:.2f} to {record['spread'][1]:.2f}" in text


def test_record_of_a_file_without_a_score(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    result = score_upload(detector_of(model), tmp_path / "a.png", tmp_path)
    record = json.loads(result.record.read_text())
    jsonschema.validate(record, SCHEMA)
    assert record["cause"] in result.summary and result.annotated is None and not result.faces


def test_page_without_a_calibration(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    detector = detector_of(checkpoint(tmp_path / "m.pth", calibration=None))
    result = score_upload(detector, write_video(tmp_path / "a.mp4", frames=10), tmp_path)
    assert NO_CALIBRATION[4:] in result.summary and "score this high" not in result.summary
    assert re.match(r"## a\.mp4: 0\.\d\d\n", result.summary)
    assert len(result.curve.axes[0].lines) == 1  # no cutoffs


def test_page_names_the_model(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    page = build_page(detector_of(model), tmp_path, Path("output/ff/model_best.pth"))
    texts = " ".join(str(block.value) for block in page.blocks.values() if hasattr(block, "value"))
    assert "output/ff/model_best.pth" in texts and detector_of(model).checkpoint["sha256"][:16] in texts


def test_summary_counts_people_and_frames(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    one = score_upload(detector_of(model), write_video(tmp_path / "a.mp4", frames=1), tmp_path).summary
    nine = score_upload(detector_of(model), write_video(tmp_path / "b.mp4", frames=45), tmp_path).summary
    assert "One person in 1 frame. " in one and "One person in 9 frames. " in nine


def test_page_shows_the_person_with_the_highest_score(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Person 1 appears in 20 of 40 frames; person 2 is a false detection."""
    detector = detector_of(model)
    crops = [np.full((64, 64, 3), 50 * track, np.uint8) for track in range(3)]

    def score(_: object, file: Path, on_frame: Callable, target: Path, error: float) -> FileScore:
        result = FileScore(file, is_video=True)
        for i in range(40):
            faces = [scored_face(0.1 + i / 50, 0, crop=crops[0])]
            faces += [scored_face(0.95 + i / 1000, 1, crop=crops[1])] * (i < 20)
            faces += [scored_face(1.0, 2, crop=crops[2])] * (i == 3)
            result.add(i / 10, faces)
            on_frame(i, i / 10, faces)
        result.decide(detector, error)
        return result

    monkeypatch.setattr("scoring.page.score_file", score)
    result = score_upload(detector, write_video(tmp_path / "a.mp4", frames=40), tmp_path)
    assert "2 people in 40 frames. Person 1 has the highest score." in result.summary
    assert "This person appears in 20 frames." in result.summary and "with 2 people" in result.summary
    (line,) = [line for line in result.curve.axes[0].lines if len(line.get_xdata()) > 2]
    assert len(line.get_xdata()) == 20
    shown, caption = result.faces[0]
    assert (shown == 50).all() and "0.97" in caption


@pytest.mark.slow
def test_missing_upload(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    (function,) = build_page(detector_of(model), tmp_path).fns.values()
    upload = str(write_face(tmp_path / "face.png")), "face.png"
    assert function.fn(upload)[0] is None  # empties the upload box
    for missing in (upload, None):
        assert function.fn(missing) == {"__type__": "update"}  # changes nothing


def test_summary_of_a_truncated_video(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr("faces.videos.MIN_DECODED_SHARE", 2)
    summary = score_upload(detector_of(model), write_video(tmp_path / "a.mp4", frames=10), tmp_path).summary
    assert "in 2 frames" in summary and "The video ends after 10 of 10 frames." in summary


def test_curve_follows_the_timestamps_and_has_the_cutoffs(model: Path, tmp_path: Path) -> None:
    detector = detector_of(model)
    real, fake, scores = score_upload(detector, timed_video(tmp_path / "a.mkv", VARYING), tmp_path).curve.axes[0].lines
    assert scores.get_xdata() == pytest.approx(VARYING[::5], abs=2e-3)
    assert (real.get_ydata()[0], fake.get_ydata()[0]) == pytest.approx(detector.cutoffs())


def test_flat_heatmaps_are_not_shown(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map without evidence for fake is 0 everywhere; a map of one pixel is 1 everywhere."""
    maps = torch.tensor([[[0.0, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]])
    monkeypatch.setattr("scoring.page.heatmaps", lambda *_: (maps[None], [], {}))
    result = score_upload(detector_of(model), write_face(tmp_path / "face.png"), tmp_path)
    (shown, score), (heat, caption) = result.faces
    assert "score" in score and caption == "block 2" and shown.shape == heat.shape == (64, 64, 3)
    assert "flat heatmap, which shows nothing: 1, 3." in result.summary


def test_transformers_have_no_heatmaps(tmp_path: Path) -> None:
    detector = detector_of(checkpoint(tmp_path / "vit.pth", "test_vit", 2, 160))
    assert len(score_upload(detector, write_face(tmp_path / "face.png"), tmp_path).faces) == 1


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
        assert len(upload(browser, opened, tmp_path / "face.png", 2)[1]) >= 2
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
    name = "my <b> *face* (1) 顔.png"
    summary, shown, foreign = upload(browser, page, write_face(tmp_path / name), 2)
    assert re.match(rf"{re.escape(name)}: (real|fake|uncertain), 0\.\d\d", summary) and "One person" in summary
    assert shown[:2] == ["image", "faces"] and set(shown[2:]) <= {"faces"} and not foreign
    assert all("_annotated" in file.stem for file in page[1].rglob("*face*.png"))


@pytest.mark.slow
@pytest.mark.browser
def test_video_upload(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    summary, shown, foreign = upload(browser, page, write_video(tmp_path / "clip.mp4", frames=50), 3)
    assert summary.startswith("clip.mp4: ") and "One person in 10 frames." in summary
    assert shown[:3] == ["video", "curve", "faces"] and set(shown[3:]) <= {"faces"} and not foreign
    assert not list(page[1].rglob("clip.mp4"))


@pytest.mark.slow
@pytest.mark.browser
def test_upload_without_a_face(browser: Any, page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    summary, shown, _ = upload(browser, page, tmp_path / "wall.png")
    assert summary.startswith("wall.png: not scored") and "no face" in summary and not shown


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
