"""Time the bootstrap of both AUCs, and a plain loop over scikit-learn's AUC.

    python -m benchmarks.bootstrap

The data are random scores of 100,000 frames in 2,000 videos. Both versions compute the first draws and must agree.
"""

import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from evaluation.intervals import RESAMPLES, bootstrap_auc, draw_videos

VIDEOS, FRAMES, DRAWS = 2000, 50, 20


def plain_loop(labels: np.ndarray, scores: np.ndarray, videos: np.ndarray, resamples: int) -> np.ndarray:
    """Compute the AUC of each draw from its frames, like `evaluation.intervals.bootstrap_auc`."""
    drawn = [np.repeat(np.arange(len(labels)), count[videos]) for count in draw_videos(VIDEOS, resamples)]
    return np.array([roc_auc_score(labels[frames], scores[frames]) for frames in drawn])


def main() -> None:
    """Print how much faster the bootstrap is than the loop, and its time in seconds."""
    rng = np.random.default_rng(0)
    videos = np.repeat(np.arange(VIDEOS), FRAMES)
    labels = videos % 2
    scores = 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 2)))
    seconds: dict[Callable[..., np.ndarray], list[float]] = {bootstrap_auc: [], plain_loop: []}
    found = {}
    for _ in range(3):
        for bootstrap, taken in seconds.items():
            start = time.perf_counter()
            found[bootstrap] = bootstrap(labels, scores, videos, DRAWS)
            taken.append(time.perf_counter() - start)
    np.testing.assert_allclose(found[bootstrap_auc], found[plain_loop], atol=1e-12)
    ratio = min(seconds[plain_loop]) / min(seconds[bootstrap_auc])
    start = time.perf_counter()
    for y, s, v in ((labels, scores, videos), (labels[::FRAMES], scores[::FRAMES], np.arange(VIDEOS))):
        bootstrap_auc(y, s, v)
    print(f"{DRAWS} draws of {len(labels):,} frames: {ratio:.1f} times as fast as the plain loop")
    print(f"{RESAMPLES:,} draws for frames and as many for videos: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
