"""Draw the synthetic faces: a small dataset of real and fake videos of invented people.

A video is a folder of PNG frames of one drawn person. A fake video is drawn like a real one, and then one of three
forgeries changes part of the face. Both classes pass through one camera model and JPEG compression.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.labels import ABOUT_FILE, CLASSES, SPLITS
from datasets.sources import SOURCES_FILE, Origin, write_sources
from demo.draw_face import Person, Pose, Scene, landmarks, random_person, random_poses, random_scene, render, vary
from utils.errors import InputError
from utils.files import atomic_folder, remove_stale_parts
from utils.process import block_signals
from utils.progress import progress

KINDS = ("swap", "mouth", "lowpass")
MANIFEST = "demo.json"
# Part of the stored settings: increase it when the drawings or the files beside them change, so that old datasets are
# drawn again.
VERSION = 5


@dataclass(frozen=True)
class Video:
    """A video to draw.

    Attributes:
        name: name of its folder.
        split: train, val or test.
        person: number of the person.
        label: 0 real, 1 fake.
        kind: the forgery, one of `KINDS`; None in a real video.
        donor: number of the person whose face replaces the face in a swap; else None.
    """

    name: str
    split: str
    person: int
    label: int
    kind: str | None = None
    donor: int | None = None


@dataclass(frozen=True)
class Frame:
    """A frame before and after the forgery (H x W x 3, RGB, uint8) and the mask of the forgery (H x W, 0 to 1).

    Both images are uncompressed. In a real video they are equal and the mask is 0.
    """

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray


def plan(seed: int, people: Sequence[int], videos_per_person: int) -> list[Video]:
    """List the videos in random order, with as many real as fake videos of each person.

    Args:
        seed: seed of the random numbers.
        people: number of people in train, val and test.
        videos_per_person: even number; half of the videos are fake.
    """
    rng = np.random.default_rng([seed, 0])
    drafts: list[tuple[str, int, int, str | None, int | None]] = []
    first = 0
    for split, count in zip(SPLITS, people, strict=True):
        faked = [person for person in range(first, first + count) for _ in range(videos_per_person // 2)]
        kinds = rng.permutation([KINDS[i % len(KINDS)] for i in range(len(faked))])
        for person, kind in zip(faked, kinds, strict=True):
            other = first + (person - first + int(rng.integers(1, count))) % count
            drafts.append((split, person, 0, None, None))
            drafts.append((split, person, 1, str(kind), other if kind == "swap" else None))
        first += count
    order = rng.permutation(len(drafts))
    return [Video(f"{number:04d}", *drafts[i]) for number, i in enumerate(order)]


def draw_video(video: Video, seed: int, size: int, frames: int) -> tuple[list[Frame], int]:
    """Draw the frames of a video, size x size pixels, and return them with its JPEG quality (0 to 100)."""
    person = random_person(np.random.default_rng([seed, 1, video.person]))
    # The forgery has its own generator, so that the label does not change the scene.
    scene_rng, forgery_rng = (np.random.default_rng([seed, stream, int(video.name)]) for stream in (2, 3))
    scene = random_scene(scene_rng, size)
    donor = person if video.donor is None else random_person(np.random.default_rng([seed, 1, video.donor]))
    drawn = []
    for pose in random_poses(scene_rng, frames):
        before = photograph(render(person, scene, pose, size), scene, scene_rng)
        if video.label == 0:
            drawn.append(Frame(before, before, np.zeros((size, size), np.float32)))
        else:
            drawn.append(forge(str(video.kind), before, person, donor, scene, pose, forgery_rng))
    return drawn, scene.quality


def photograph(image: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Apply lens blur and sensor noise to a drawn image (H x W x 3, 0 to 255); return uint8."""
    if scene.blur > 0.2:  # a 3 x 3 kernel with a smaller sigma has no effect
        image = cv2.GaussianBlur(image, (3, 3), scene.blur)
    spread = scene.noise * np.sqrt(0.4 + image / 213)  # photon noise grows with the light
    return np.clip(image + rng.standard_normal(image.shape) * spread, 0, 255).round().astype(np.uint8)


def forge(
    kind: str, before: np.ndarray, person: Person, donor: Person, scene: Scene, pose: Pose, rng: np.random.Generator
) -> Frame:
    """Forge the face in one frame; a soft mask blends the forgery in.

    Args:
        kind: ``swap`` (the donor's face, warped onto the landmarks, with matched colours), ``mouth`` (the lower face,
            drawn with another expression) or ``lowpass`` (the face, downsampled and upsampled).
        before: the photographed frame, H x W x 3, RGB, uint8.
        person: the person in the frame.
        donor: the person whose face replaces it in a swap; else `person`.
        scene: the scene and the camera of the video.
        pose: pose of the frame.
        rng: generator of the forgery.
    """
    size = before.shape[0]
    points = landmarks(person, pose, size)
    region = face_region(points, size) if kind != "mouth" else mouth_region(points, size)
    if kind == "lowpass":
        patch, patch_points = before, points
    else:
        new_pose = vary(pose, rng, 0.08 if kind == "swap" else 0.0)
        patch = photograph(render(donor, scene, new_pose, size), scene, rng)
        patch_points = landmarks(donor, new_pose, size)
    # Face generators have a low resolution: their output has less detail than the frame.
    small = round(size * rng.uniform(0.18, 0.28))
    patch = cv2.resize(patch, (small, small), interpolation=cv2.INTER_AREA).astype(np.float32)
    drift = rng.normal(0, 0.01 * size, 2)  # error of landmark detection
    patch = _warp(patch, (patch_points + 0.5) * small / size - 0.5, points + drift, size)
    if kind == "swap":
        patch = match_colour(patch, before, region)
    mask = region[..., None]
    after = np.clip(before * (1 - mask) + patch * mask, 0, 255).round().astype(np.uint8)
    return Frame(before, after, region)


def face_region(points: np.ndarray, size: int) -> np.ndarray:
    """Return a soft mask (size x size, 0 to 1) from brows to chin, from landmarks (15 x 2 pixels)."""
    return _soft_hull(points[6:], size)


def mouth_region(points: np.ndarray, size: int) -> np.ndarray:
    """Return a soft mask (size x size, 0 to 1) from below the nose to the chin, from landmarks (15 x 2 pixels)."""
    left, right, middle, chin = points[3], points[4], points[5], points[6]
    nose = points[2] * 0.9 + middle * 0.1
    corners = [middle + (left - middle) * 2.6, middle + (right - middle) * 2.6]
    below = [nose + (left - middle) * 1.8, nose + (right - middle) * 1.8, *corners]
    chins = [(corner + chin) / 2 for corner in corners]
    return np.minimum(_soft_hull(np.array([*below, *chins, chin]), size), face_region(points, size))


def _soft_hull(points: np.ndarray, size: int) -> np.ndarray:
    hull = cv2.convexHull(np.round(points * 16).astype(np.int32))
    mask = cv2.fillConvexPoly(np.zeros((size, size), np.uint8), hull, 255, shift=4)
    return cv2.GaussianBlur(mask.astype(np.float32) / 255, (5, 5), 0.8)


def _warp(patch: np.ndarray, source: np.ndarray, target: np.ndarray, size: int) -> np.ndarray:
    """Warp a patch by the affine map that best fits its landmarks (N x 2) to the target landmarks."""
    matrix = np.linalg.lstsq(np.c_[source, np.ones(len(source))], target, rcond=None)[0].T
    return cv2.warpAffine(patch, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def match_colour(patch: np.ndarray, frame: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Match the mean and standard deviation of a patch to the frame (both H x W x 3), inside the region (H x W)."""
    inside = region > 0.5
    mean, spread = patch[inside].mean(0), patch[inside].std(0)
    return (patch - mean) * (frame[inside].std(0) / (spread + 1e-3)) + frame[inside].mean(0)


def _write_video(folder: Path, settings: dict[str, Any], video: Video) -> None:
    drawn, quality = draw_video(video, settings["seed"], settings["size"], settings["frames"])
    target = folder / "videos" / video.name
    target.mkdir(parents=True)
    for number, frame in enumerate(drawn):
        coded = cv2.imencode(".jpg", frame.after[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert decoded is not None
        # cv2.imwrite does not report a full disk.
        (target / f"{number:04d}.png").write_bytes(cv2.imencode(".png", decoded)[1].tobytes())


def make_demo(
    out: Path | str,
    seed: int = 0,
    size: int = 64,
    people: Sequence[int] = (48, 12, 20),
    videos_per_person: int = 4,
    frames: int = 6,
    processes: int = 1,
    quiet: bool = True,
) -> bool:
    """Write the dataset to `out` unless it is already there; the arguments determine every byte.

    Args:
        out: folder for the label files, ``videos/`` and the manifest; replaces a synthetic dataset in it.
        seed: seed of the random numbers.
        size: side of the frames in pixels, at least 32.
        people: number of people in train, val and test, each at least 2; no person is in two splits.
        videos_per_person: even number; half of the videos are fake.
        frames: number of frames per video.
        processes: number of drawing processes; it does not change the result.
        quiet: show no progress bar.

    Returns:
        Whether the dataset was written.

    Raises:
        InputError: a setting is out of range, or `out` contains other files.
    """
    out = Path(out).resolve()
    _check_settings(seed, size, people, videos_per_person, frames, processes)
    root = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    if "," in root.as_posix():
        raise InputError(f"--out {out}: paths in label files cannot contain commas; give another folder.")
    settings = {
        "version": VERSION,
        "seed": seed,
        "size": size,
        "people": list(people),
        "videos_per_person": videos_per_person,
        "frames": frames,
        "root": root.as_posix(),
    }
    remove_stale_parts(out.parent, out.name)
    if _read_settings(out) == settings:
        return False
    videos = plan(seed, people, videos_per_person)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        _draw_all(partial(_write_video, folder, settings), videos, processes, quiet)
        for split in SPLITS:
            for label, word in enumerate(CLASSES):
                lines = [
                    f"{label},{(root / 'videos' / v.name).as_posix()},{frames}\n"
                    for v in videos
                    if (v.split, v.label) == (split, label)
                ]
                (folder / f"{split}_{word}.txt").write_text("".join(lines))
        origins = {}
        for v in videos:  # all videos of a person are of one source, as in Celeb-DF
            path, people_in = (root / "videos" / v.name).as_posix(), {v.person} | ({v.donor} - {None})
            origins[path] = Origin(path, frozenset({f"person {v.person}"}), frozenset(map(str, people_in)))
        write_sources(folder / SOURCES_FILE, origins)
        manifest = {"settings": settings, "videos": [vars(v) for v in videos]}
        (folder / ABOUT_FILE).write_text("drawn faces\n")
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return True


def _check_settings(
    seed: int, size: int, people: Sequence[int], videos_per_person: int, frames: int, processes: int
) -> None:
    rules = (
        (seed >= 0, f"--seed {seed}: give 0 or more."),
        (size >= 32, f"--size {size}: give 32 or more."),
        (len(people) == 3 and min(people) >= 2, "--people: give three integers, each 2 or more."),
        (
            videos_per_person > 0 and videos_per_person % 2 == 0,
            f"--videos_per_person {videos_per_person}: give an even number, 2 or more.",
        ),
        (frames >= 1, f"--frames {frames}: give 1 or more."),
        (processes >= 1, f"{processes} processes: give 1 or more."),
    )
    for is_met, message in rules:
        if not is_met:
            raise InputError(message)


def _read_settings(out: Path) -> dict[str, Any] | None:
    """Return the settings of the dataset in a folder; None if the folder is empty or missing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return json.loads((out / MANIFEST).read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"--out {out}: the folder has other files (no readable {MANIFEST}); give another folder."
        ) from None


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the main process handles Ctrl-C; Windows has no `block_signals`
    cv2.setNumThreads(1)


def _draw_all(write: Callable[[Video], None], videos: list[Video], processes: int, quiet: bool) -> None:
    bar = partial(progress, description="drawing", unit="videos", total=len(videos), disable=quiet)
    if processes == 1:
        for _ in bar(map(write, videos)):
            pass
        return
    # Threads that a caller has started, as PyTorch does, do not survive a fork.
    with block_signals(signal.SIGINT):  # also while the processes import NumPy
        pool = multiprocessing.get_context("spawn").Pool(processes, _start_process)
    with pool:
        for _ in bar(pool.imap_unordered(write, videos, chunksize=2)):
            pass
