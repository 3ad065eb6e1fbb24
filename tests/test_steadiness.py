"""How steady a score is: variants of a face, and what they do to the verdict."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoring.detector import load_detector
from scoring.files import score_file
from scoring.scores import FileScore
from scoring.steadiness import CROP_SHARE, JPEG_QUALITIES, KEPT, LONGEST, KeptCrops, score_variants, shrink, variants
from tests.test_inference import checkpoint, photo, scored_face, steady_detector, write_image
from tests.test_preprocessing import write_video


def noise(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_variants_show_the_same_face() -> None:
    crop = noise()
    found = variants(crop)
    cuts, mirrored, copies = found[:5], found[5:11], found[11:]
    below, beside = round(CROP_SHARE * 40), round(CROP_SHARE * 60)
    places = ((0, 0), (0, beside), (below, 0), (below, beside), (below // 2, beside // 2))
    for cut, (y, x) in zip(cuts, places, strict=True):
        assert (cut == crop[y : y + 40 - below, x : x + 60 - beside]).all()
    for picture, mirror in zip([crop, *cuts], mirrored, strict=True):
        assert (mirror == picture[:, ::-1]).all()
    changes = [np.abs(copy.astype(int) - crop).mean() for copy in copies]
    assert len(copies) == len(JPEG_QUALITIES) and 0 < changes[0] < changes[1] < changes[2]
    assert all(variant.dtype == np.uint8 and variant.flags.c_contiguous for variant in found)


def test_jpeg_copies_keep_the_colours() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    for copy in variants(red)[-len(JPEG_QUALITIES) :]:
        assert np.abs(copy.astype(int) - red).max() < 8


@pytest.mark.parametrize("side", [1, 2, 5])
def test_tiny_crops_have_variants(side: int) -> None:
    assert all(variant.size for variant in variants(noise(side, side)))


@pytest.mark.parametrize(("height", "width"), [(1, 3000), (3000, 1), (2, 5000)])
def test_a_long_line_keeps_a_pixel_of_its_shorter_side(height: int, width: int) -> None:
    assert sorted(shrink(noise(height, width)).shape[:2]) == [1, LONGEST]


def test_spread_of_an_image_by_hand() -> None:
    """The score of an image is the brightness of its left edge."""
    crop = np.full((40, 40, 3), 100, np.uint8)
    crop[:, 0], crop[:, -1] = 50, 200

    def brightness(crops: list[np.ndarray]) -> np.ndarray:
        return np.array([picture[:, 0].mean() / 250 for picture in crops])

    found = score_variants([crop], 0.2, brightness)
    assert found[0] == 0.2 and found[6] == pytest.approx(0.8)  # as it is, and mirrored
    assert found[1:6] == pytest.approx([0.2, 0.4, 0.2, 0.4, 0.4])
    assert found.max() == pytest.approx(0.8)


def test_spread_of_a_video_is_the_mean_change_over_its_crops() -> None:
    crops = [np.full((20, 20, 3), level, np.uint8) for level in (0, 100)]

    def change(pictures: list[np.ndarray]) -> np.ndarray:
        """Each variant scores 0.1 more than the crop, and for the second crop 0.3 more."""
        first = pictures[0].mean() / 250
        return np.array([first] + [first + (0.3 if pictures[0].any() else 0.1)] * (len(pictures) - 1))

    assert score_variants(crops, 0.5, change) == pytest.approx([0.5] + [0.7] * 14)
    assert score_variants(crops, 0.95, change).max() == 1.0


def test_variants_are_scored_in_one_call_per_crop() -> None:
    calls = []

    def scores(crops: list[np.ndarray]) -> np.ndarray:
        calls.append(len(crops))
        return np.zeros(len(crops))

    score_variants([noise(), noise()], 0.5, scores)
    assert calls == [15, 15]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 100, 1000])
def test_kept_crops_are_few_and_spread_over_the_video(length: int) -> None:
    kept = KeptCrops()
    for i in range(length):
        kept.add(np.full((1, 1, 3), i, np.int64))
        assert len(kept._crops) < 2 * KEPT
    positions = [int(crop.max()) for crop in kept.chosen()]
    assert len(positions) == min(length, KEPT) and positions == sorted(set(positions)) and positions[0] == 0
    assert positions[-1] >= (length - 1) / 2


def decide(score: float, change: float, people: tuple[float, ...] = ()) -> FileScore:
    """Judge an image whose mirror image scores `change` more, with other people beside the face."""
    crop = np.zeros((20, 20, 3), np.uint8)
    crop[:, 0] = 255

    def scores(crops: Any) -> tuple[np.ndarray, None]:
        return np.array([score if picture[0, 0, 0] else score + change for picture in crops]), None

    result = FileScore(Path("a.png"))
    result.add(0.0, [scored_face(score, 0, crop=crop), *(scored_face(x, i + 1) for i, x in enumerate(people))])
    result.decide(steady_detector(score=scores), 0.05)
    return result


def test_verdict_that_flips_within_the_spread_is_uncertain() -> None:
    """The cutoffs are 0.5 and 0.5."""
    for score, change, verdict in (
        (0.6, 0.0, "fake"),
        (0.6, -0.05, "fake"),
        (0.6, -0.2, "uncertain"),
        (0.4, 0.05, "real"),
        (0.4, 0.2, "uncertain"),
    ):
        result = decide(score, change)
        assert result.verdict == verdict, (score, change)
        assert result.spread == pytest.approx((min(score, score + change), max(score, score + change)))
        assert bool(result.notes) == (verdict == "uncertain")


def test_score_of_another_person_limits_the_spread() -> None:
    """Without the person with the highest score, the second one gives the score of the file."""
    alone, pair = decide(0.9, -0.6), decide(0.9, -0.6, people=(0.8,))
    assert alone.spread == pytest.approx((0.3, 0.9)) and alone.verdict == "uncertain"
    assert pair.spread == pytest.approx((0.8, 0.9)) and pair.verdict == "fake"


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_spread_equals_the_scores_of_the_variants(tmp_path: Path, name: str) -> None:
    detector = load_detector(checkpoint(tmp_path / "m.pth"), gpu_num="cpu", faces_given=True)
    crops: list[np.ndarray] = []
    write_image(tmp_path / name, photo(0)) if name == "a.png" else write_video(tmp_path / name, frames=5)
    result = score_file(detector, tmp_path / name, lambda *frame: crops.extend(face.crop for face in frame[2]))
    changes = []
    for crop in crops:
        scores = np.array([detector.score([picture])[0][0] for picture in [crop, *variants(crop)]])
        changes.append(scores - scores[0])
    found = result.score + np.mean(changes, axis=0)
    assert len(crops) == (1 if name == "a.png" else 3)
    assert result.spread == pytest.approx((found.min(), found.max()), abs=1e-6)
    assert found.max() - found.min() > 1e-4
