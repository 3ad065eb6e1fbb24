"""How fast the stages of preprocessing are, and how well its two detectors agree.

    python -m benchmarks.preprocessing --videos ROOT --weights FILE

Prints Markdown tables for docs/preprocessing.md. The stages are timed one after the other in one process; the whole
with as many decoding processes as there are cores. ROOT holds the folders FF++ and DFDC with a few videos of each; what
their speed makes for the whole dataset is reckoned from the number of its frames.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import box_iou
from tqdm import tqdm

from faces.detectors import Detector, load_face_detector, shrink
from faces.extraction import Seconds, Source, extract_faces
from faces.recipe import Recipe
from faces.videos import FrameReader
from utils.devices import core_count

EVERY = 5
# Sampled frames. FF++: 509.9k frames of real videos and four times as many fake ones (Celeb-DF paper, table 1). DFDC:
# 119,154 training clips of ten seconds (Dolhansky et al., 2020), nearly all of 30 frames a second.
DATASETS = {
    "FF++": {"FF++_c23": 5 * 509_900 // EVERY},
    "DFDC": {"DFDC (training parts)": 119_154 * 300 // EVERY},
}


def time_stages(videos: list[Path], detector: Detector, workers: int) -> tuple[Seconds, float, int]:
    """Extract the faces of `videos`; return the time of each stage, the whole time (s), and the bytes written."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = [Source(video, Path(scratch) / str(i)) for i, video in enumerate(videos)]
        seconds, began = Seconds(), time.perf_counter()
        outcomes = extract_faces(sources, Recipe(every=EVERY), detector, 8, workers, seconds)
        for _ in tqdm(outcomes, f"{workers} workers", total=len(sources), unit=" videos"):
            pass
        whole = time.perf_counter() - began
        return seconds, whole, sum(file.stat().st_size for file in Path(scratch).rglob("*.png"))


def agreement(videos: list[Path], retinaface: Detector, mtcnn: Detector) -> list[tuple[str, int, float, float, float]]:
    """Compare each video's boxes; return its frames, the share with a face in each detector, and the mean overlap.

    The overlap (intersection over union) is that of RetinaFace's surest box with MTCNN's box nearest to it.
    """
    rows = []
    for video in tqdm(videos, "agreement", unit=" videos"):
        overlaps, found = [], np.zeros(2)
        frames = 0
        for _, frame in FrameReader(video, EVERY):
            small = shrink(frame)[None]
            first, second = retinaface(small)[0], mtcnn(small)[0]
            frames += 1
            found += (len(first.boxes) > 0, len(second.boxes) > 0)
            if len(first.boxes) and len(second.boxes):
                surest = torch.from_numpy(first.boxes[[np.argmax(first.scores)]])
                overlaps.append(float(box_iou(surest, torch.from_numpy(second.boxes)).max()))
        rows.append((video.stem, frames, *(found / frames), float(np.mean(overlaps))))
    return rows


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="videos are looked for in and below it")
    parser.add_argument("--weights", type=Path, required=True, help="a RetinaFace checkpoint")
    args = parser.parse_args()
    videos = sorted(args.videos.rglob("*.mp4"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detectors = {
        "retinaface": load_face_detector("retinaface", args.weights, device)[0],
        "mtcnn": load_face_detector("mtcnn", None, device)[0],
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{len(videos)} videos; {core_count()} of {os.cpu_count()} cores, {name}; PyTorch {torch.__version__}\n")
    print("| videos | detector | decode | detect | write | all, with workers | kB an image |")
    print("|---|---|---|---|---|---|---|")
    rates = {}
    for folder in sorted({video.relative_to(args.videos).parts[0] for video in videos}):
        inside = [video for video in videos if folder in video.parts]
        for detector_name, detector in detectors.items():
            stages, _, size = time_stages(inside, detector, 0)
            seconds, whole, _ = time_stages(inside, detector, core_count())
            rates[folder, detector_name] = rate = seconds.frames / whole
            speeds = " | ".join(f"{speed:.0f}" for speed in stages.speeds().values())
            print(f"| {folder} | {detector_name} | {speeds} | {rate:.0f} | {size / stages.images / 1000:.0f} |")
    print("\n| dataset | sampled frames | detector | one machine | 32 machines |\n|---|---|---|---|---|")
    for (folder, detector_name), rate in rates.items():
        for dataset, frames in DATASETS.get(folder, {}).items():
            hours = frames / rate / 3600
            print(f"| {dataset} | {frames:,} | {detector_name} | {hours:.1f} h | {hours / 32:.1f} h |")
    print("\n| video | frames | retinaface finds | mtcnn finds | mean overlap |\n|---|---|---|---|---|")
    rows = agreement(videos, *detectors.values())
    for video, frames, first, second, overlap in rows:
        print(f"| {video} | {frames} | {first:.3f} | {second:.3f} | {overlap:.3f} |")
    weights = np.array([row[1] for row in rows])
    first, second, overlap = (np.average([row[i] for row in rows], weights=weights) for i in (2, 3, 4))
    print(f"| all | {weights.sum()} | {first:.3f} | {second:.3f} | {overlap:.3f} |")


if __name__ == "__main__":
    main()
