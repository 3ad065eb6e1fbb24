"""Compare the speed of the training augmentation of two checkouts, for docs/performance.md.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.augmentation_speed --before /tmp/before

Both sides augment the same images of the training size in turns, each in a process of its own with one thread, with the
Python that runs this command. The figures are images per second of CPU time, without reading and resizing.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent.parent
IMAGES = """
import sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import cv2
import numpy as np
import datasets.images
from datasets.labels import Video

cv2.setNumThreads(0)
size, count = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
coarse = rng.uniform(20, 230, (64, 12, 12, 3))
images = [cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC) for image in coarse]
images = [(image + rng.normal(0, 1, image.shape)).clip(0, 255).astype(np.uint8) for image in images]
datasets.images.read_image = lambda path: images[int(path.name)]
video = Video("noisy", "folder", 0, Path("folder"), tuple(str(number) for number in range(64)))
faces = datasets.images.FaceImages([video] * -(-count // 64), size, seed=0)
for position in range(64):
    faces[1, position]
start = time.process_time()
for position in range(count):
    faces[1, position]
print(count / (time.process_time() - start))
"""


def images_per_second(checkout: Path, size: int, count: int) -> float:
    """Augment `count` images with the code of a checkout; return the images per second of CPU time."""
    command = [sys.executable, "-c", IMAGES, str(size), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True).stdout)


def main() -> None:
    """Print the speeds of both sides at each size, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224], help="sides of the images in pixels")
    parser.add_argument("--images", type=int, default=2000, help="number of images per turn (default: 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: 3)")
    args = parser.parse_args()
    for size in args.sizes:
        rounds = [
            [images_per_second(checkout, size, args.images) for checkout in (args.before, HERE)]
            for _ in range(args.rounds)
        ]
        before, after = (statistics.median(speeds) for speeds in zip(*rounds, strict=True))
        ratio = statistics.median(after / before for before, after in rounds)
        print(f"{size} px: {before:.0f} and {after:.0f} images/s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
