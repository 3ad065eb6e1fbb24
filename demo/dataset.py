"""Draw a small dataset of invented faces, real and forged.

Each "video" is a folder of PNG frames of one drawn person. A forged video is drawn in the same way and then loses part
of its face to one of three forgeries. Both kinds go through the same camera and the same JPEG compression.
"""

import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.labels import CLASSES, SPLITS
from demo.draw_face import Person, Pose, Take, landmarks, random_person, random_poses, random_take, render, vary
from utils.errors import InputError

KINDS = ("swap", "mouth", "lowpass")
MANIFEST = "demo.json"
# Part of the recorded settings: raise it whenever the drawings change, so that an old folder is drawn afresh.
VERSION = 3


@dataclass(frozen=True)
class Video:
    """One video to draw; `kind` and `donor` (a person) are None where they do not apply."""

    name: str
    split: str
    person: int
    label: int
    kind: str | None = None
    donor: int | None = None


@dataclass(frozen=True)
class Frame:
    """A frame before and after forging (H x W x 3, RGB, uint8) and the forgery's mask (H x W, 0-1).

    Neither has been through JPEG yet.  In a real video both images are equal and the mask is 0.
    """

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray


def plan(seed: int, people: Sequence[int], videos_per_person: int) -> list[Video]:
    """List the videos: as many real as forged ones of each person, in an order that tells nothing.

    Args:
        seed: Seed of everything random.
        people: Number of people in train, val and test.
        videos_per_person: Even; half of them are forged.
    """
    rng = np.random.default_rng([seed, 0])
    drafts, first = [], 0
    for split, count in zip(SPLITS, people, strict=True):
        forged = [person for person in range(first, first + count) for _ in range(videos_per_person // 2)]
        kinds = rng.permutation([KINDS[i % len(KINDS)] for i in range(len(forged))])
        for person, kind in zip(forged, kinds, strict=True):
            other = first + (person - first + int(rng.integers(1, count))) % count
            drafts.append((split, person, 0, None, None))
            drafts.append((split, person, 1, str(kind), other if kind == "swap" else None))
        first += count
    order = rng.permutation(len(drafts))
    return [Video(f"{number:04d}", *drafts[i]) for number, i in enumerate(order)]


def draw_video(video: Video, seed: int, size: int, frames: int) -> tuple[list[Frame], int]:
    """Draw the frames of a video (size x size pixels), and choose its JPEG quality (0-100)."""
    person = random_person(np.random.default_rng([seed, 1, video.person]))
    # Forging draws from a generator of its own, so that a forged video's scene is drawn just as a real one's.
    scene, forging = (np.random.default_rng([seed, stream, int(video.name)]) for stream in (2, 3))
    take = random_take(scene, size)
    donor = person if video.donor is None else random_person(np.random.default_rng([seed, 1, video.donor]))
    drawn = []
    for pose in random_poses(scene, frames):
        before = photograph(render(person, take, pose, size), take, scene)
        if video.label == 0:
            drawn.append(Frame(before, before, np.zeros((size, size), np.float32)))
        else:
            drawn.append(forge(str(video.kind), before, person, donor, take, pose, forging))
    return drawn, take.quality


def photograph(image: np.ndarray, take: Take, rng: np.random.Generator) -> np.ndarray:
    """Pass a drawn image (H x W x 3, 0-255) through the take's camera: a lens blur, then noise; uint8."""
    if take.blur > 0.2:  # a smaller sigma changes nothing at this kernel size
        image = cv2.GaussianBlur(image, (3, 3), take.blur)
    spread = take.noise * np.sqrt(0.4 + image / 213)  # photon noise grows with the light
    return np.clip(image + rng.standard_normal(image.shape) * spread, 0, 255).round().astype(np.uint8)


def forge(
    kind: str, before: np.ndarray, person: Person, donor: Person, take: Take, pose: Pose, rng: np.random.Generator
) -> Frame:
    """Forge one frame inside the face.

    swap: the donor's face, warped onto the landmarks and matched in colour; mouth: the lower face rendered
    again with another expression; lowpass: the face itself, sampled down and up.  A soft mask blends each in.

    Args:
        kind: One of KINDS.
        before: H x W x 3, RGB, uint8: the frame as the camera took it, of `person` in `take` and `pose`.
    """
    size = before.shape[0]
    points = landmarks(person, pose, size)
    region = face_region(points, size) if kind != "mouth" else mouth_region(points, size)
    if kind == "lowpass":
        patch, here = before, points
    else:
        there = vary(pose, rng, 0.08 if kind == "swap" else 0.0)
        patch = photograph(render(donor, take, there, size), take, rng)
        here = landmarks(donor, there, size)
    # A generator works on small faces: its output carries less detail than the frame that it is put into.
    small = round(size * rng.uniform(0.18, 0.28))
    patch = cv2.resize(patch, (small, small), interpolation=cv2.INTER_AREA).astype(np.float32)
    drift = rng.normal(0, 0.01 * size, 2)  # landmarks are never found exactly
    patch = _warp(patch, (here + 0.5) * small / size - 0.5, points + drift, size)
    if kind == "swap":
        patch = match_colour(patch, before, region)
    mask = region[..., None]
    after = np.clip(before * (1 - mask) + patch * mask, 0, 255).round().astype(np.uint8)
    return Frame(before, after, region)


def face_region(points: np.ndarray, size: int) -> np.ndarray:
    """Soft mask (size x size, 0-1) of a face from brows to chin, from its landmarks (15 x 2, pixels)."""
    return _soft_hull(points[6:], size)


def mouth_region(points: np.ndarray, size: int) -> np.ndarray:
    """Soft mask (size x size, 0-1) of a face from below the nose to the chin, from its landmarks."""
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
    """Move a patch by the affine map that takes its landmarks (N x 2) nearest to the target's."""
    matrix = np.linalg.lstsq(np.c_[source, np.ones(len(source))], target, rcond=None)[0].T
    return cv2.warpAffine(patch, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def match_colour(patch: np.ndarray, frame: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Give a patch (H x W x 3) the mean and spread that each channel of the frame has inside the region."""
    inside = region > 0.5
    mean, spread = patch[inside].mean(0), patch[inside].std(0)
    return (patch - mean) * (frame[inside].std(0) / (spread + 1e-3)) + frame[inside].mean(0)


def _write_video(folder: Path, settings: dict, video: Video) -> None:
    drawn, quality = draw_video(video, settings["seed"], settings["size"], settings["frames"])
    target = folder / "videos" / video.name
    target.mkdir(parents=True)
    for number, frame in enumerate(drawn):
        coded = cv2.imencode(".jpg", frame.after[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        cv2.imwrite(str(target / f"{number:04d}.png"), cv2.imdecode(coded, cv2.IMREAD_COLOR))


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
    """Write the data set under `out`, unless it is there already.

    Args:
        out: Folder for the label files, `videos/` and the manifest; an older demo data set in it is replaced.
        seed: Seed of everything random; the same arguments give the same bytes.
        size: Side of the square frames in pixels, at least 32.
        people: Number of people in train, val and test, each at least 2; nobody is in two of them.
        videos_per_person: Even; half real, half forged.
        frames: Frames of a video.
        processes: Number of processes that draw; it does not change the result.
        quiet: Show no progress bar.

    Returns:
        Whether anything was written.

    Raises:
        InputError: For settings out of range, or when `out` holds something else than a demo data set.
    """
    out = Path(out).resolve()
    _check(seed, size, people, videos_per_person, frames, processes)
    root = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    settings = {
        "version": VERSION,
        "seed": seed,
        "size": size,
        "people": list(people),
        "videos_per_person": videos_per_person,
        "frames": frames,
        "root": root.as_posix(),
    }
    if _settings_in(out) == settings:
        return False
    videos = plan(seed, people, videos_per_person)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        _draw_all(partial(_write_video, folder, settings), videos, processes, quiet)
        for split in SPLITS:
            for label, word in enumerate(CLASSES):
                lines = [
                    f"{label},{(root / 'videos' / v.name).as_posix()},{frames}\n"
                    for v in videos
                    if (v.split, v.label) == (split, label)
                ]
                (folder / f"{split}_{word}.txt").write_text("".join(lines))
        manifest = {"settings": settings, "videos": [vars(v) for v in videos]}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if out.exists():
            os.replace(out, Path(scratch) / "old")
        os.replace(folder, out)
    return True


def _check(seed: int, size: int, people: Sequence[int], videos_per_person: int, frames: int, processes: int) -> None:
    rules = (
        (seed >= 0, "the seed must be 0 or more."),
        (size >= 32, "the size must be 32 pixels or more."),
        (len(people) == 3 and min(people) >= 2, "people must be three numbers of 2 or more."),
        (videos_per_person > 0 and videos_per_person % 2 == 0, "videos per person must be 2, 4, 6, ..."),
        (frames >= 1, "a video must have at least 1 frame."),
        (processes >= 1, "there must be at least 1 process."),
    )
    for kept, sentence in rules:
        if not kept:
            raise InputError(sentence)


def _settings_in(out: Path) -> dict | None:
    """The settings of the demo data set in a folder; None where there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return json.loads((out / MANIFEST).read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{out} is left alone: it is no demo data set (no readable {MANIFEST}).") from None


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's alone
    cv2.setNumThreads(1)


def _draw_all(write: Callable[[Video], None], videos: list[Video], processes: int, quiet: bool) -> None:
    bar = partial(tqdm, total=len(videos), desc="drawing", unit="video", disable=quiet)
    if processes == 1:
        for _ in bar(map(write, videos)):
            pass
        return
    # Spawned, not forked: a caller may have started threads (PyTorch does), which do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(processes, _start_process) as pool:
        for _ in bar(pool.imap_unordered(write, videos, chunksize=2)):
            pass
