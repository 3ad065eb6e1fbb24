"""Measure the speed of the preprocessing stages and the agreement of the two face detectors.

    python -m benchmarks.preprocessing --videos ROOT --weights FILE

The command prints the Markdown tables of docs/preprocessing.md. The stages run one after the other in one process; the
complete pipeline runs with one decoding process per core. ROOT contains the folders FF++ and DFDC with a few videos
each; the hours for a complete dataset are extrapolated from its number of frames.
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

from faces.detectors import Detector, load_face_detector, shrink
from faces.extraction import Source, StageTimes, extract_faces
from faces.recipe import Recipe
from faces.videos import FrameReader
from utils.devices import core_count
from utils.progress import progress

EVERY = 5  # sample every fifth frame
# Sampled frames. FF++: 509.9k real frames and four times as many fake ones (Celeb-DF paper, table 1). DFDC: 119,154
# training videos of ten seconds (Dolhansky et al., 2020), nearly all at 30 frames per second.
DATASETS = {
    "FF++": {"FF++_c23": 5 * 509_900 // EVERY},
    "DFDC": {"DFDC (training parts)": 119_154 * 300 // EVERY},
}


def time_stages(videos: list[Path], detector: Detector, workers: int) -> tuple[StageTimes, float, int]:
    """Extract the faces of `videos`; return the stage times, the total seconds, and the bytes of the image files."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = [Source(video, Path(scratch) / str(i)) for i, video in enumerate(videos)]
        times, began = StageTimes(), time.perf_counter()
        outcomes = extract_faces(sources, Recipe(every=EVERY), detector, 8, workers, times)
        for _ in progress(outcomes, f"{workers} workers", unit="videos", total=len(sources)):
            pass
        total = time.perf_counter() - began
        return times, total, sum(file.stat().st_size for file in Path(scratch).rglob("*.png"))


def agreement(videos: list[Path], retinaface: Detector, mtcnn: Detector) -> list[tuple[str, int, float, float, float]]:
    """Compare the boxes of the two detectors on every fifth frame.

    Returns:
        One row per video: name, number of frames, share of frames in which RetinaFace and MTCNN find a face, and mean
        overlap (intersection over union) of RetinaFace's highest-scored box with the nearest box of MTCNN.
    """
    rows = []
    for video in progress(videos, "agreement", unit="videos"):
        overlaps, found = [], np.zeros(2)
        frames = 0
        for _, frame in FrameReader(video, EVERY):
            small = shrink(frame)[None]
            first, second = retinaface(small)[0], mtcnn(small)[0]
            frames += 1
            found += (len(first.boxes) > 0, len(second.boxes) > 0)
            if len(first.boxes) and len(second.boxes):
                best = torch.from_numpy(first.boxes[[np.argmax(first.scores)]])
                overlaps.append(float(box_iou(best, torch.from_numpy(second.boxes)).max()))
        rows.append((video.stem, frames, *(found / frames), float(np.mean(overlaps))))
    return rows


def main() -> None:
    """Run the measurements and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="folder that is searched for videos")
    parser.add_argument("--weights", type=Path, required=True, help="RetinaFace checkpoint")
    args = parser.parse_args()
    videos = sorted(args.videos.rglob("*.mp4"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detectors = {
        "retinaface": load_face_detector("retinaface", args.weights, device)[0],
        "mtcnn": load_face_detector("mtcnn", None, device)[0],
    }
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{len(videos)} videos; {core_count()} of {os.cpu_count()} cores, {name}; PyTorch {torch.__version__}\n")
    print("| videos | detector | decode | detect | write | complete | kB per image |")
    print("|---|---|---|---|---|---|---|")
    rates = {}
    for folder in sorted({video.relative_to(args.videos).parts[0] for video in videos}):
        inside = [video for video in videos if folder in video.parts]
        for detector_name, detector in detectors.items():
            stages, _, size = time_stages(inside, detector, 0)
            pipeline, total, _ = time_stages(inside, detector, core_count())
            rates[folder, detector_name] = rate = pipeline.frames / total
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
    table = np.array([row[1:] for row in rows])
    means = np.average(table[:, 1:], axis=0, weights=table[:, 0])
    print(f"| all | {table[:, 0].sum():.0f} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


if __name__ == "__main__":
    main()
