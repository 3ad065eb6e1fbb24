"""The local page, in Chromium, with uploads of synthetic faces."""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import jsonschema
import numpy as np
import pytest
import torch

import inference
from faces.videos import FrameReader
from scoring.detector import ForgeryDetector, load_detector
from scoring.page import OPEN_ROUTES, build_page, launch, remove_old_files, score_upload
from scoring.scores import NO_CALIBRATION, FileScore
from tests.helpers import ROOT
from tests.test_inference import VARYING, checkpoint, scored_face, timed_video
from tests.test_preprocessing import picture, write_video
from tests.test_records import SCHEMA
from utils.errors import InputError
from utils.time_limit import time_limit

CHROMIUM = shutil.which("chromium")
PASSWORD = "correct horse battery staple"


class Visitor:
    """Talk to the page as a browser does, with its own cookies."""

    def __init__(self, address: str, password: str = "") -> None:
        self.address, self.session = address, secrets.token_hex(6)
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
        ).open
        if password:
            form = urllib.parse.urlencode({"username": "anybody", "password": password})
            self.login = self.request("login", form.encode(), "application/x-www-form-urlencoded")[0]

    def request(
        self, path: str, data: bytes | None = None, kind: str = "application/json", headers: Mapping[str, str] = {}
    ) -> tuple[int, str]:
        """Return the status and the text of the answer."""
        request = urllib.request.Request(self.address + path, data, {"Content-Type": kind, **headers})
        try:
            with self._open(request, timeout=300) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def upload(self, name: str, content: bytes) -> tuple[int, str]:
        """Return the status, and the path on the server or the error."""
        quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").encode()
        head = b'--x-x\r\nContent-Disposition: form-data; name="files"; filename="' + quoted + b'"\r\n\r\n'
        status, text = self.request(
            "gradio_api/upload", head + content + b"\r\n--x-x--\r\n", "multipart/form-data; boundary=x-x"
        )
        return status, json.loads(text)[0] if status == 200 else text

    def join(self, path: str, name: str = "a.png", session: str = "") -> tuple[int, str]:
        data = [{"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}]
        body = {"data": data, "fn_index": 0, "session_hash": session or self.session}
        return self.request("gradio_api/queue/join", json.dumps(body).encode())

    def answer(self, session: str = "") -> list[Any]:
        """Wait for the next answer; return the values of the parts of the page."""
        _, text = self.request(f"gradio_api/queue/data?session_hash={session or self.session}")
        messages = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        (output,) = [message["output"] for message in messages if message["msg"] == "process_completed"]
        return output["data"]

    def score(self, name: str, content: bytes) -> tuple[str, dict[str, Any] | None, list[Any]]:
        """Return the summary or the refusal, the record, and all parts of the page."""
        status, path = self.upload(name, content)
        if status == 200:
            status, text = self.join(path, name)
        if status != 200:
            return path, None, []
        parts = self.answer()
        return parts[1], parts[-1]["value"], parts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny untrained network, with feature maps of 8 x 8."""
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


class Served(NamedTuple):
    """The page in a process of its own."""

    address: str
    files: Path  # its folder for temporary files
    process: subprocess.Popen


@pytest.fixture(scope="module")
def page(browser: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page, limited to uploads of 1 MB and videos of 3 s.

    It deletes partial uploads after 10 s, and, after SIGUSR1, annotated copies that are older than 1 s.
    """
    code = """
import signal, sys
import inference, tests.helpers  # has the backbone
from scoring import page
page.MAX_UPLOAD_MB, page.MAX_VIDEO_MINUTES, page.IDLE_SECONDS = 1, 0.05, 10
signal.signal(signal.SIGUSR1, lambda *_: setattr(page, "KEEP_SECONDS", 1))
sys.exit(inference.main())
"""
    command = [sys.executable, "-c", code, "--model", str(model), "--serve", "--detector", "mtcnn", "--gpu_num", "cpu"]
    folder = tmp_path_factory.mktemp("page")
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "HOME": str(tmp_path_factory.mktemp("home"))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        try:
            printed = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", printed)
            assert address, printed
            yield Served(address[0], folder, process)
        finally:
            process.terminate()


def new_tab(browser: Any, address: str) -> Any:
    tab = browser.new_page()
    tab.set_default_timeout(300_000)  # ms
    tab.goto(address)
    return tab


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """The page with a password and for given faces, limited to uploads of 1 MB, in a thread; and its folder."""
    pytest.importorskip("gradio")
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TEMP_DIR", "ANALYTICS_ENABLED", "ANALYTICS_MAX_EVENTS", "ANALYTICS_CACHE_FREQUENCY"):
            patch.setenv(f"GRADIO_{name}", "1")  # so that the end of the block restores them
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("scoring.page.MAX_UPLOAD_MB", 1)
        detector = load_detector(model, faces_given=True, gpu_num="cpu")
        opened = launch(detector, folder, model=model, password=PASSWORD.encode())
        yield opened, folder
        opened.close(verbose=False)


# JavaScript: the pictures and videos on the page, and whether one of them is loaded.
SHOWN = """[...document.querySelectorAll("#image img, #video video, #curve img, #faces img")]"""
LOADED = "x => (x.naturalWidth || x.videoWidth) > 0"


def upload(browser: Any, page: Served, file: Path, pictures: int = 0) -> tuple[str, list[str], list[str]]:
    """Score a file on the page; return the summary, the ids of the parts with pictures, and requests to other hosts."""
    tab = new_tab(browser, "about:blank")
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.address)
    tab.set_input_files("#upload input[type=file]", file)
    tab.wait_for_selector("#summary h2")
    tab.wait_for_function(f"n => {SHOWN}.length >= n && {SHOWN}.every({LOADED})", arg=pictures)
    shown = tab.evaluate(f"{SHOWN}.map(x => x.closest('[id]').id)")
    assert not tab.is_visible("#curve [data-testid=block-label]")  # would cover the highest tick of the plot
    assert not tab.query_selector("[aria-label='Share' i], [title='Share' i]")  # would send the picture to a hub
    summary = tab.inner_text("#summary")
    tab.close()
    return summary, shown, [url for url in requests if not url.startswith((page.address, "data:", "blob:"))]


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


def test_addresses_are_not_downloaded(model: Path, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio")
    page = build_page(detector_of(model), tmp_path)
    (block,) = (block for block in page.blocks.values() if block.elem_id == "upload")
    file = {"path": "http://192.0.2.1/a.png", "meta": {"_type": "gradio.FileData"}}
    for data in (file, [[file]]):
        with pytest.raises(gradio.Error, match="uploads only"):
            asyncio.run(gradio.processing_utils.async_move_files_to_cache(data, block, check_in_upload_folder=True))


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
    upload, visitor = (str(write_face(tmp_path / "face.png")), "face.png"), SimpleNamespace(cookies={"visitor": "x"})
    assert function.fn(upload, visitor)[0] is None  # empties the upload box
    assert function.fn(None, visitor) == {"__type__": "update"}  # changes nothing
    text = function.fn(upload, visitor)[1]
    assert "deleted the upload" in text and str(tmp_path) not in text


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


def test_only_old_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that disappears meanwhile is not an error."""
    half, new_half, shown, new_shown = (tmp_path / name for name in ("tmp1", "tmp2", "shown-1", "shown-2"))
    for folder in (shown, new_shown):
        folder.mkdir()
        (folder / "a.png").write_bytes(b"x")
    for file in (half, new_half):
        file.write_bytes(b"x")
    os.utime(half, (time.time() - 90,) * 2)
    os.utime(new_shown, (time.time() - 90,) * 2)
    os.utime(shown, (time.time() - 4000,) * 2)
    with half.open("rb") as stalled:
        remove_old_files(tmp_path)
        assert stalled.read() == b""  # the open file takes no space
    assert sorted(tmp_path.iterdir()) == [new_shown, new_half]
    monkeypatch.setattr(Path, "iterdir", lambda _: iter([half]))
    remove_old_files(tmp_path)


# ------------------------------------------------------------------------------------------- over HTTP, many visitors


@pytest.mark.slow
def test_nothing_is_reachable_without_the_password(served: tuple[Any, Path], model: Path) -> None:
    page, folder = served
    (folder / "secret.txt").write_text("secret")
    stranger, guesser = Visitor(page.local_url), Visitor(page.local_url, "correct horse")
    assert guesser.login == 400
    paths = page.app.openapi()["paths"]
    assert {"/config", "/gradio_api/upload", "/gradio_api/queue/data", "/gradio_api/info"} < set(paths)
    closed = {*paths, f"/gradio_api/file={folder / 'secret.txt'}", f"/gradio_api/file/{folder / 'secret.txt'}"}
    for path in sorted(closed - {route.replace(":path", "") for route in OPEN_ROUTES}):
        url = re.sub("{.*?}", "x", path)[1:]
        for data in [None] * ("get" in paths.get(path, ["get"])) + [b"{}"] * ("post" in paths.get(path, [])):
            assert stranger.request(url, data)[0] == guesser.request(url, data)[0] == 401, url
    assert {"/openapi.json", "/docs", "/nothing"}.isdisjoint(paths)
    assert {stranger.request(url)[0] for url in ("openapi.json", "docs", "nothing")} == {404}
    status, text = stranger.request("")
    assert status == 200 and "auth_required" in text and model.name not in text and "image or video" not in text
    friend = Visitor(page.local_url, PASSWORD)
    assert friend.login == 200 and model.name in friend.request("")[1]
    (folder / "secret.txt").unlink()


@pytest.mark.slow
def test_visitors_cannot_reach_each_other(served: tuple[Any, Path], tmp_path: Path) -> None:
    """Even with the address of a file or the number of a session, another visitor gets nothing."""
    page, folder = served
    owner, other, no_cookie = (Visitor(page.local_url, PASSWORD) for _ in range(3))
    face = write_face(tmp_path / "face.png").read_bytes()
    (_, path), (_, same) = owner.upload("face.png", face), other.upload("face.png", face)
    assert Path(path).parent != Path(same).parent and len(Path(path).parent.name) == 64
    for visitor in (owner, other):
        assert visitor.request(f"gradio_api/file={path}")[0] == 403  # nobody needs it
    assert no_cookie.join(path)[0] == 403
    assert owner.join(path)[0] == 200
    assert other.join(same, session=owner.session)[0] == 403
    for visitor in (other, no_cookie):
        assert visitor.request(f"gradio_api/queue/data?session_hash={owner.session}")[0] == 403
    parts = json.dumps(owner.answer())
    urls = {url.removeprefix(page.local_url) for url in re.findall(r'"url": "([^"]+)"', parts)}
    assert {"face_annotated.png", "0.png", "face.json"} <= {Path(url).name for url in urls}
    assert other.join(same)[0] == 200
    own = str(Path(json.dumps(other.answer()).split('"path": "')[1].split('"')[0]).parent)
    for url in urls:
        assert owner.request(url)[0] == 200
        assert no_cookie.request(url)[0] == 403 and Visitor(page.local_url).request(url)[0] == 401
        name = Path(url).parent.name
        around = url.replace(f"/{name}/", f"/{Path(own).name}/../{name}/").replace("/../", "/%2e%2e/")
        for address in (url, around, url.replace("file=", "file/"), url.replace("/served", "//served")):
            assert other.request(address)[0] in (403, 404), address
    for url in ("proxy=http://x/", "info", "deep_link?session_hash=x", "stream/x/x/1/playlist.m3u8", "call/score/x"):
        assert other.request(f"gradio_api/{url}")[0] == 404
    for url in ("run/score", "api/score", "call/score", "component_server", "cancel", "reset", "vibe-edit"):
        assert other.request(f"gradio_api/{url}", b"{}")[0] == 404
    assert other.request(f"gradio_api/file={page.app.cwd}/pyproject.toml")[0] == 403


def mixed_uploads(folder: Path, too_long: bool = False) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the contents of good files and of bad ones, by name."""
    good = {}
    for i in range(4):
        cv2.imwrite(str(folder / f"face{i}.png"), picture(i, 3 * i))
        good[f"face{i}.png"] = (folder / f"face{i}.png").read_bytes()
    good["../../<b>*[x](y)* 顔;'&.png"] = good["face0.png"]
    good["clip.mp4"] = write_video(folder / "clip.mp4", frames=10).read_bytes()
    good["image.jpg"] = good["face1.png"]  # the content decides
    bad = {
        "text.txt": b"text", "text.png": b"text", "empty.png": b"", "empty.mp4": b"", "..": b"text",
        "cut.png": good["face2.png"][:900], "cut.mp4": good["clip.mp4"][:2000], "zeros.mp4": bytes(5000),
        "a.svg": b"<svg onload='alert(1)'/>", "x" * 300 + ".png": b"text", "large.png": bytes(2**20 + 1),
    }  # fmt: skip
    if too_long:
        bad["long.mp4"] = write_video(folder / "long.mp4", frames=80).read_bytes()  # 3.2 s
    return good, bad


def command_line_scores(model: Path, files: dict[str, bytes], folder: Path) -> dict[str, float]:
    """Return the scores that inference.py gives for the contents of files."""
    paths = {name: folder / f"{number}{Path(name).suffix}" for number, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name])
    records = folder / "records.jsonl"
    flags = f"--model {model} --faces_given --gpu_num cpu --json {records}".split()
    assert inference.main([*map(str, paths.values()), *flags]) == 0
    scores = {record["file"]: record["score"] for record in map(json.loads, records.read_text().splitlines())}
    return {name: scores[str(path)] for name, path in paths.items()}


def is_one_sentence(refusal: str) -> bool:
    return len(re.findall(r"[.!?](?:\s|$)", refusal.strip() + " ")) <= 1 and 10 < len(refusal) < 200


@pytest.mark.slow
def test_mixed_uploads_at_once(
    served: tuple[Any, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 uploads from 8 visitors at once: the scores of the command line, or a sentence; and no file stays behind."""
    page, folder = served
    good, bad = mixed_uploads(tmp_path)
    expected = command_line_scores(model, good, tmp_path)
    files = [*(good | bad).items(), *[("face0.png", good["face0.png"])] * 6]
    visitors = [Visitor(page.local_url, PASSWORD) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        turns = [
            pool.submit(lambda visitor, own: [(name, *visitor.score(name, content)) for name, content in own], *turn)
            for turn in zip(visitors, [files[i::8] for i in range(8)], strict=True)
        ]
    answers = [answer for turn in turns for answer in turn.result()]
    assert len(answers) == len(files) == 24
    for name, text, record, _ in answers:
        if name in good:
            assert record["file"] == name and record["score"] == pytest.approx(expected[name], abs=1e-6), name
            assert "<" not in text and "*[" not in text
        else:
            assert record is None or record["score"] is None, name
            assert is_one_sentence(text.split("not scored")[-1]), (name, text)
    left = {path for path in folder.rglob("*") if path.is_file() and not path.parent.name.startswith("shown-")}
    assert all(path.name.startswith("tmp") for path in left)  # refused by Gradio
    for seconds in ("IDLE_SECONDS", "KEEP_SECONDS"):
        monkeypatch.setattr(f"scoring.page.{seconds}", 0)
    remove_old_files(folder)
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_limits_of_time_queue_and_space(
    served: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, folder = served
    visitor, face = Visitor(page.local_url, PASSWORD), write_face(tmp_path / "a.png").read_bytes()
    visitor.score("a.png", face)
    with monkeypatch.context() as patch:
        patch.setattr("scoring.page.MAX_SCORING_MINUTES", 0)
        for name, content in (("a.png", face), ("a.mp4", write_video(tmp_path / "a.mp4", frames=10).read_bytes())):
            text, record, _ = visitor.score(name, content)
            assert record is None and "takes longer than 0 minutes" in text
    with monkeypatch.context() as patch:
        patch.setattr("scoring.page.MAX_WAITING", 0)
        status, text = visitor.join(visitor.upload("a.png", face)[1])
        assert status == 429 and is_one_sentence(text)
    with monkeypatch.context() as patch:
        patch.setattr("scoring.page.MAX_STORED_GB", 0)
        status, text = visitor.upload("a.png", face)
        assert status == 503 and is_one_sentence(text)
    assert visitor.upload("a.png", bytes(2**20 + 1))[0] == 413
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(2**20)
    several = part + b"\r\n" + part + b"\r\n--x--\r\n"  # none of them larger than 1 MB
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(several), several)
    both = {"Transfer-Encoding": "chunked", "Content-Length": "9"}  # the server ignores the length
    for body, headers in ((several, {}), (chunked, both)):
        try:
            assert visitor.request("gradio_api/upload", body, "multipart/form-data; boundary=x", headers)[0] == 413
        except OSError:  # closed before everything was sent
            pass
    assert visitor.score("a.png", face)[1]["score"] is not None
    assert not list(folder.rglob("tmp*/")) and page._queue.max_size


def test_time_limit_ends_loops_over_frames(tmp_path: Path) -> None:
    reader = FrameReader(write_video(tmp_path / "a.mp4", frames=10))
    with time_limit(0), pytest.raises(InputError, match="longer than 0 minutes"):
        next(iter(reader))
    with time_limit(1):
        assert len(list(FrameReader(tmp_path / "a.mp4"))) == 2
    reader = FrameReader(tmp_path / "a.mp4")
    reader.declared_frames = 0
    with time_limit(0), pytest.raises(InputError):
        reader.length()
    assert reader.length() == 10


# ---------------------------------------------------------------------------------------------------------- in Chromium


@pytest.mark.slow
@pytest.mark.browser
def test_image_upload(browser: Any, page: Served, tmp_path: Path) -> None:
    name = "my <b> *face* (1) 顔.png"
    summary, shown, foreign = upload(browser, page, write_face(tmp_path / name), 2)
    assert re.match(rf"{re.escape(name)}: (real|fake|uncertain), 0\.\d\d", summary) and "One person" in summary
    assert shown[:2] == ["image", "faces"] and set(shown[2:]) <= {"faces"} and not foreign
    assert all("_annotated" in file.stem for file in page.files.rglob("*face*.png"))


@pytest.mark.slow
@pytest.mark.browser
def test_video_upload(browser: Any, page: Served, tmp_path: Path) -> None:
    summary, shown, foreign = upload(browser, page, write_video(tmp_path / "clip.mp4", frames=50), 3)
    assert summary.startswith("clip.mp4: ") and "One person in 10 frames." in summary
    assert shown[:3] == ["video", "curve", "faces"] and set(shown[3:]) <= {"faces"} and not foreign
    assert not list(page.files.rglob("clip.mp4"))


@pytest.mark.slow
@pytest.mark.browser
def test_upload_without_a_face(browser: Any, page: Served, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    summary, shown, _ = upload(browser, page, tmp_path / "wall.png")
    assert summary.startswith("wall.png: not scored") and "no face" in summary and not shown


@pytest.mark.slow
@pytest.mark.browser
def test_uploads_are_limited_in_size_and_length(browser: Any, page: Served, tmp_path: Path) -> None:
    address, files, _ = page
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


@pytest.mark.slow
@pytest.mark.browser
def test_files_are_deleted(browser: Any, page: Served, tmp_path: Path) -> None:
    """Annotated copies and partial uploads are deleted after a while, and all files when the server stops.

    The last test, because it stops the server.
    """
    assert len(upload(browser, page, write_face(tmp_path / "face.png"), 2)[1]) >= 2
    (folder,) = page.files.glob("real-or-fake-*")
    (folder / "tmpremains").write_bytes(b"half of an upload")
    assert list(folder.glob("shown-*"))
    page.process.send_signal(signal.SIGUSR1)
    end = time.monotonic() + 300
    while list(folder.glob("shown-*")) + list(folder.glob("tmp*")):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert page.process.poll() is None and folder.exists()
    page.process.terminate()
    page.process.wait(300)
    assert not list(page.files.glob("real-or-fake-*"))
