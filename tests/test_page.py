"""The local page, in a browser, with real uploads."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.backbones import build_network
from tests.conftest import ROOT
from tests.test_preprocessing import picture, write_video
from utils.checkpoints import save_checkpoint

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the page, with a tiny random network behind it, and the folder that it keeps its files in."""
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    about = {"args": {"model": "test_resnet", "num_LIBs": 2, "size": 32}, "channels": "RGB", "threshold": 0.25}
    save_checkpoint(folder / "model.pth", build_network("test_resnet", 2, 32), "test_resnet", 1, **about)
    command = [sys.executable, str(ROOT / "inference.py"), "--model", str(folder / "model.pth"), "--serve"]
    command += ["--detector", "mtcnn", "--gpu_num", "cpu"]
    (folder / "files").mkdir()
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder / "files"), "HOME": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert address, said
        yield address[0], folder / "files"
        process.terminate()


def upload(page: tuple[str, Path], file: Path) -> tuple[str, list[str], list[str]]:
    """Score a file on the page; return what it says, the pictures and videos that it shows, and foreign requests."""
    from playwright.sync_api import sync_playwright

    address, _ = page
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        requests: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(address)
        tab.set_input_files("#upload input[type=file]", file)
        tab.wait_for_selector(f"text={file.name}")
        tab.click("#score")
        tab.wait_for_selector("#sentence h2", timeout=90_000)
        tab.wait_for_timeout(1500)
        shown = tab.eval_on_selector_all(
            "#image img, #video video, #curve img, #faces img",
            "all => all.filter(x => (x.naturalWidth || x.videoWidth) > 0).map(x => x.closest('[id]').id)",
        )
        said = tab.inner_text("#sentence")
        browser.close()
    return said, shown, [url for url in requests if not url.startswith((address, "data:", "blob:"))]


def test_an_image(page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "face.png"), picture(0, 0))
    said, shown, foreign = upload(page, tmp_path / "face.png")
    assert re.match(r"(real|fake), 0\.\d\d", said) and "above 0.25 it is called fake" in said and "One face" in said
    assert len(shown) == 1 + 3 and not foreign  # the image; the face and two blocks' heatmaps
    assert not list(page[1].rglob("face.png"))


def test_a_video(page: tuple[str, Path], tmp_path: Path) -> None:
    said, shown, foreign = upload(page, write_video(tmp_path / "clip.mp4", frames=20))
    assert "4 frames looked at; four of five score from" in said
    assert len(shown) == 1 + 1 + 3 and not foreign
    assert not list(page[1].rglob("clip.mp4"))


def test_a_file_without_a_face(page: tuple[str, Path], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((100, 100, 3), 90, np.uint8))
    said, shown, _ = upload(page, tmp_path / "wall.png")
    assert said.startswith("not scored") and "no face" in said and not shown
