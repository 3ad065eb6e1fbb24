"""Kinds of files: images, animations, videos, and what a folder scan skips."""

import os
import resource
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from faces import kinds
from faces.kinds import VideoError, file_kind, skip_reason
from faces.videos import FrameReader
from scoring import detector as scoring_detector
from tests.test_inference import FACES, checkpoint, orientation, photo, read_records, score, write_image
from tests.test_preprocessing import HEIGHT, WIDTH, fixed_detector, picture, write_video
from utils import images
from utils.errors import InputError
from utils.images import MAX_MEGAPIXELS, open_image, read_image, set_max_megapixels
from utils.memory import AllocationLimit

FRAMES, DELAYS = 7, [40, 40, 80, 40, 40, 40, 120]  # milliseconds


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "model_best.pth")


@pytest.fixture(autouse=True)
def fixed_face_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the face detector by one that knows where the synthetic face is."""
    monkeypatch.setattr(scoring_detector, "load_face_detector", lambda *_: (fixed_detector, {"weights": None}))


def grey(level: int) -> Image.Image:
    return Image.fromarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8))


def write_animation(file: Path, **options: Any) -> Path:
    """An animation of `FRAMES` frames, of grey 0, 20, 40 and so on."""
    if file.suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    file.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [grey(20 * i) for i in range(FRAMES)]
    first.save(file, save_all=True, append_images=others, duration=DELAYS, **options)
    return file


def write_heic(file: Path, image: np.ndarray, **options: Any) -> Path:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return write_image(file, image, **options)


def write_stream(file: Path, codec: str, frames: int = 12, size: int = 1, **options: str) -> Path:
    """A video with PyAV; skip the test where FFmpeg lacks the encoder."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    with av.open(str(file), "w", **options) as container:
        stream = container.add_stream(codec, rate=25, width=size * WIDTH, height=size * HEIGHT, pix_fmt="yuv420p")
        for number in range(frames):
            pixels = picture(number, 0).repeat(size, axis=0).repeat(size, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    return file


def results(folder: Path, *arguments: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """Score, and return the exit code and the entries of the JSON file by file name."""
    code = score(*arguments, "--json", folder / "results.json", "--overwrite", True)
    return code, {Path(x["file"]).name: x for x in read_records(folder / "results.json")}


# ----------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("ending", ["tif", "tiff", "avif", "heic", "heif", "gif"])
def test_still_images(ending: str, model: Path, tmp_path: Path) -> None:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    write = write_heic if ending.startswith("hei") else write_image
    file = write(tmp_path / f"a.{ending}", photo(0))
    file.with_name("unnamed").write_bytes(file.read_bytes())
    assert file_kind(file) == file_kind(tmp_path / "unnamed") == "image"
    code, found = results(tmp_path, "--model", model, tmp_path)
    assert code == 0 and len(found) == 2
    assert found[file.name]["score"] == found["unnamed"]["score"] is not None
    assert found[file.name]["frames"] == len(found[file.name]["people"]) == 1


@pytest.mark.parametrize("write", [write_image, write_heic], ids=["jpeg", "heic"])
def test_rotated_photo(write: Any, tmp_path: Path) -> None:
    file = write(tmp_path / ("a.heic" if write is write_heic else "a.jpg"), photo(0), exif=orientation(6).tobytes())
    upright = np.rot90(photo(0), -1)
    assert read_image(file, exif_rotation=True).shape == upright.shape
    ((_, frame),) = FrameReader(file)
    assert frame.shape == upright.shape
    assert abs(frame[..., ::-1].astype(int) - upright).mean() < 10


def test_pages_of_a_tiff_are_no_animation(tmp_path: Path) -> None:
    grey(0).save(tmp_path / "a.tiff", save_all=True, append_images=[grey(200)])
    assert file_kind(tmp_path / "a.tiff") == "image"
    assert read_image(tmp_path / "a.tiff").max() == 0


def test_heic_without_pillow_heif(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypheic" + bytes(100))
    (tmp_path / "unnamed").write_bytes((tmp_path / "a.heic").read_bytes())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    code, found = results(tmp_path, "--model", model, tmp_path)
    assert code == 3 and len(found) == 2
    assert all("pillow-heif" in x["cause"] and "requirements-extra.txt" in x["cause"] for x in found.values())


@pytest.mark.parametrize(("height", "passes"), [(12_240, True), (20_000, False)], ids=["200", "326"])
def test_the_default_limit(height: int, passes: bool, tmp_path: Path) -> None:
    """Photos of 200 megapixels pass. The file has the header of a large image only."""
    Image.new("1", (16_320, 8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    header = content[12:20] + height.to_bytes(4, "big") + content[24:29]
    (tmp_path / "a.png").write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if passes:
            open_image(tmp_path / "a.png").close()
            return
        with pytest.raises(InputError, match=f"{MAX_MEGAPIXELS} megapixels"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "P", "1", "LA"])
def test_a_large_image_is_converted_in_strips(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(photo(0)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(257 * np.asarray(picture).astype(np.uint16))
    picture.save(tmp_path / "a.tif")
    expected = read_image(tmp_path / "a.tif")
    monkeypatch.setattr(images, "STRIP", 5 * WIDTH)
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected) and expected.std() > 1


def test_a_damaged_tiff_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    grey(100).save(tmp_path / "a.tif", compression="tiff_adobe_deflate")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content.replace(b"\x78\x9c", b"\x78\x00"))  # the header of zlib
    with pytest.raises(InputError):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def test_threads_that_read_tiffs_keep_standard_error(tmp_path: Path) -> None:
    grey(100).save(tmp_path / "a.tif")
    before = os.fstat(2)
    with ThreadPoolExecutor(4) as pool:
        assert len({image.tobytes() for image in pool.map(read_image, [tmp_path / "a.tif"] * 200)}) == 1
    assert os.path.samestat(os.fstat(2), before)


@pytest.mark.parametrize("ending", ["gif", "avif"])
def test_damage_that_pillow_meets_with_its_own_errors(ending: str, tmp_path: Path) -> None:
    content = write_animation(tmp_path / f"a.{ending}").read_bytes()
    for start in range(0, len(content), 7):
        (tmp_path / "b").write_bytes(content[:start] + b"\0\0" + content[start + 2 :])
        file_kind(tmp_path / "b")
        with suppress(InputError):
            assert read_image(tmp_path / "b").ndim == 3


def test_the_limit_can_be_set(model: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", photo(0))
    megapixels = WIDTH * HEIGHT / 1e6
    try:
        code, found = results(tmp_path, "--model", model, tmp_path, "--max_megapixels", 0.99 * megapixels)
        assert code == 3 and "--max_megapixels" in found["a.png"]["cause"]
        code, found = results(tmp_path, "--model", model, tmp_path / "a.png", "--max_megapixels", 1.01 * megapixels)
        assert code == 0 and found["a.png"]["score"] is not None
    finally:
        set_max_megapixels(MAX_MEGAPIXELS)


# ------------------------------------------------------------------------------------------------------- animations


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "avif"])
def test_animations_are_videos(
    ending: str,
    model: Path,
    tmp_path: Path,
) -> None:
    file = write_animation(tmp_path / f"a.{ending}")
    assert file_kind(file) == "animation"
    reader = FrameReader(file, every=3)
    frames = dict(reader)
    assert reader.declared_frames == reader.frames_read == FRAMES and not reader.ends_early()
    assert sorted(frames) == [0, 3, 6]
    assert all(abs(int(frames[i].mean()) - 20 * i) <= 2 for i in frames)
    assert list(reader.times) == pytest.approx(np.cumsum([0, *DELAYS[:-1]]) / 1000)
    assert [position for position, _ in FrameReader(file, count=3)] == [0, 3, 6]
    code, found = results(tmp_path, "--model", model, file)
    assert code == 0 and found[file.name]["frames"] == 4  # one in two


def test_animation_that_ends_early(tmp_path: Path) -> None:
    file = write_animation(tmp_path / "a.gif")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    reader = FrameReader(file, every=1)
    assert 1 < len(list(reader)) < FRAMES
    (tmp_path / "b.webp").write_bytes(write_animation(tmp_path / "a.webp").read_bytes()[:300])
    with pytest.raises(VideoError, match="unreadable"):
        list(FrameReader(tmp_path / "b.webp"))


def test_annotated_copy_of_an_animation(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    file = write_animation(tmp_path / "a.webp")
    assert score("--model", model, file, "--annotate", tmp_path / "out") == 0
    reader = FrameReader(tmp_path / "out/a_annotated.mp4", every=1)
    assert len(list(reader)) == FRAMES
    assert list(reader.times) == pytest.approx(np.cumsum([0, *DELAYS[:-1]]) / 1000, abs=2e-3)


# ----------------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [
        ("ts", "libx264", {}),
        ("mts", "libx264", {"format": "mpegts"}),
        ("m2ts", "libx264", {"format": "mpegts"}),
        ("3gp", "mpeg4", {}),
        ("wmv", "wmv2", {}),
    ],
)
def test_videos_of_cameras_and_phones(
    ending: str,
    codec: str,
    options: dict[str, str],
    model: Path,
    tmp_path: Path,
) -> None:
    file = write_stream(tmp_path / f"a.{ending}", codec, **options)
    file.with_name("unnamed").write_bytes(file.read_bytes())
    assert file_kind(file) == file_kind(tmp_path / "unnamed") == "video"
    code, found = results(tmp_path, "--model", model, tmp_path)
    assert code == 0 and len(found) == 2
    assert all(x["frames"] == 6 and not any("ends" in note for note in x["notes"]) for x in found.values())
    assert [position for position, _ in FrameReader(file, count=3)] == [0, 6, 11]


def test_a_video_that_declares_millions_of_frames(tmp_path: Path) -> None:
    """FFmpeg would make an index of 89 million frames, 3 GB."""
    content = bytearray(write_video(tmp_path / "a.mp4").read_bytes())
    declared = struct.pack(">I", 89_000_000)
    for box, position in ((b"stts", 12), (b"stsz", 12), (b"stsc", 16)):
        start = content.index(box) + position
        content[start : start + 4] = declared
    start = content.index(b"stsz") + 8  # one size for all
    content[start : start + 4] = struct.pack(">I", 1)
    (tmp_path / "a.mp4").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError):
        list(FrameReader(tmp_path / "a.mp4"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000  # KB


@pytest.mark.parametrize("ending", ["avi", "gif"])
def test_frames_that_are_too_large(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_animation(tmp_path / "a.gif") if ending == "gif" else write_video(tmp_path / f"a.{ending}")
    assert list(FrameReader(file))
    monkeypatch.setattr(kinds, "MAX_FRAME_MEGAPIXELS", 0.9 * WIDTH * HEIGHT / 1e6)
    with pytest.raises(VideoError, match="megapixels"):
        list(FrameReader(file))


def test_a_video_that_changes_its_size(tmp_path: Path) -> None:
    parts = [write_stream(tmp_path / f"{i}.ts", "libx264", size=size).read_bytes() for i, size in enumerate((1, 2))]
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    frames = [frame for _, frame in FrameReader(tmp_path / "a.ts", every=1)]
    assert len(frames) == 24 and {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}


def test_allocations_beyond_the_limit_fail() -> None:
    def allocate(size: int) -> None:
        # Not from the memory that malloc keeps for reuse.
        mmap(-1, size, flags=MAP_PRIVATE | MAP_ANONYMOUS).close()

    with AllocationLimit(1 << 26):
        allocate(1 << 24)
        with pytest.raises(OSError, match="allocate memory"):
            allocate(1 << 28)
    allocate(1 << 28)


# ---------------------------------------------------------------------------------------------------- folder scans


def test_a_scan_counts_what_it_skips(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    a = tmp_path / "in"
    write_image(a / "a.png", photo(0)).with_name("photo").write_bytes((a / "a.png").read_bytes())
    os.rename(write_video(a / "b.mp4"), a / "clip")
    for name in ("1.txt", "2.TXT", "sub/3.pdf", ".hidden.png", "code.ts", "README"):
        (a / name).parent.mkdir(exist_ok=True)
        (a / name).write_text("export default 1")
    assert score("--model", model, a / "a.png", "--annotate", a) == 0
    capsys.readouterr()
    code, found = results(tmp_path, "--model", model, a)
    assert code == 0 and set(found) == {"a.png", "photo", "clip"}
    note = capsys.readouterr().err.splitlines()[0]
    counts = dict(part.split(" ", 1)[::-1] for part in note.rpartition(": ")[2].split(", "))
    assert counts == {".txt": "2", ".pdf": "1", "hidden": "1", "annotated": "1", ".ts": "1", "no ending": "1"}


def test_a_scan_without_files_says_what_it_skipped(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("text")
    assert score("--model", model, tmp_path / "in") == 2
    assert "1 .txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "skipped"),
    [
        ("broken.jpg", b"text", ""),  # reported, not skipped
        ("broken.mp4", b"text", ""),
        ("broken.ts", b"G\0\0", ""),
        ("module.ts", b"text", ".ts"),
        ("list.csv", b"\0", ".csv"),
        ("noise", b"\0\1\2\3" * 99, "no ending"),
        (".a.png", b"\0", "hidden"),
    ],
)
def test_kinds_that_a_scan_skips(name: str, content: bytes, skipped: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert skip_reason(tmp_path / name) == skipped


# --------------------------------------------------------------------------------------------------- sampled frames


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], [0, 2, 4, 6, 8, 10]),  # as in the training data
        (["--every", 4], [0, 4, 8]),
        (["--frames", 3], [0, 6, 11]),
        (["--frames", 99], list(range(12))),
    ],
)
@pytest.mark.parametrize("trained_on_frames", [None, 5])
def test_frames_that_are_scored(
    flags: list[Any], expected: list[int], trained_on_frames: int | None, tmp_path: Path
) -> None:
    file = checkpoint(tmp_path / "model.pth", faces=FACES | {"frames": trained_on_frames})
    write_video(tmp_path / "a.mp4", frames=12)
    code, found = results(tmp_path, "--model", file, tmp_path / "a.mp4", *flags)
    if trained_on_frames and not flags:
        expected = [0, 3, 6, 8, 11]
    assert code == 0 and [face["frame"] for face in found["a.mp4"]["detections"]] == expected


def test_every_contradicts_frames(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_video(tmp_path / "a.mp4")
    assert score("--model", model, tmp_path / "a.mp4", "--every", 2, "--frames", 2) == 2
    assert "--every" in capsys.readouterr().err
