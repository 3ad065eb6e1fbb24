"""Notes on faces that are unlike the training faces."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import training
from benchmarks import familiar_features
from models.checkpoints import load_trained
from scoring.familiarity import distances, face_side, measure_detail, measure_face, unlike_training
from tests.helpers import arguments, make_dataset


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on faces with boxes of 50 to 59 pixels."""
    root = tmp_path_factory.mktemp("trained")
    make_dataset(root, videos=3)
    for number, folder in enumerate(sorted(root.glob("faces/tiny/train/*/*"))):
        track = [{"image": file.name, "box": [0, 0, 50 + number, 90]} for file in sorted(folder.glob("*.png"))]
        (folder / "faces.json").write_text(json.dumps({"faces": [track]}))
    (root / "labels/tiny/about.txt").write_text("drawn\nfaces\n")
    assert training.main(arguments(root, "--name", "run")) == 0
    return root


def notes_of(root: Path, crop: np.ndarray, side: float | None = 55, **parts: object) -> str:
    network, checkpoint = load_trained(root / "output/run/model_best.pth")
    return "; ".join(unlike_training(network, checkpoint | parts, [crop], side))


def training_face(root: Path) -> np.ndarray:
    return cv2.imread(str(root / "faces/tiny/train/real/000/0000.png"))[..., ::-1].copy()


def test_a_checkpoint_knows_its_training_faces(trained: Path) -> None:
    _, checkpoint = load_trained(trained / "output/run/model_best.pth")
    familiar, features = checkpoint["familiar"], checkpoint["familiar_features"]
    assert checkpoint["about"] == ["drawn faces"]
    assert set(familiar["quantiles"]) == {"brightness", "sharpness", "detail", "side"}
    sides = np.repeat(np.arange(50, 56), 3)
    assert familiar["quantiles"]["side"] == pytest.approx(np.quantile(sides, 0.05))
    assert features.shape[0] == 18 and features.dtype == torch.float16
    assert np.median(distances(features, features)) < familiar["distance"]
    last = torch.load(trained / "output/run/model_last.pth", weights_only=True)
    assert "familiar" not in last  # only the best checkpoint of a finished training


def test_each_change_of_a_training_face_has_its_note(trained: Path) -> None:
    face = training_face(trained)
    far = {"familiar": {"quantiles": {}, "crop_side": None, "distance": -1.0}}
    assert "darker" not in notes_of(trained, face) and "smaller" not in notes_of(trained, face)
    assert "darker" in notes_of(trained, face // 4)
    assert "more blurred" in notes_of(trained, cv2.GaussianBlur(face, (0, 0), 3))
    encoded = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    compressed = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    assert "compression" in notes_of(trained, compressed) and "compression" not in notes_of(trained, face)
    assert "compression" not in notes_of(trained, cv2.resize(compressed, None, fx=3, fy=3))  # another size of crops
    assert "smaller" in notes_of(trained, face, side=20) and "smaller" not in notes_of(trained, face, side=None)
    assert notes_of(trained, face, **far) == "the network sees the face as unlike its training faces"
    assert notes_of(trained, face, **far, familiar_features=None) == ""
    assert notes_of(trained, face // 4, familiar=None) == ""


def test_distances_by_hand() -> None:
    axes = torch.eye(12)
    found = distances(axes[:1], axes)  # itself, then eleven at sqrt(2); the tenth counts
    assert found == pytest.approx([2**0.5])
    assert distances(axes[:1], axes[:1]) == pytest.approx([0.0])
    assert distances(-axes[:1], axes[:1].repeat(10, 1)) == pytest.approx([2.0])


def test_measures_by_hand() -> None:
    flat = np.full((16, 16, 3), 100, np.uint8)
    assert measure_face(flat) == {"brightness": 100, "sharpness": 0}
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert measure_face(noise)["sharpness"] > 1000 and measure_detail(noise) > 1.5 * measure_detail(noise // 8)


def test_face_sides_come_from_faces_json(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert face_side(tmp_path / "one/0.png") is None
    boxes = [[{"image": "0.png", "box": [10, 10, 40, 60]}], [{"image": "0.png", "box": [0, 0, 99, 9]}]]
    (tmp_path / "faces.json").write_text(json.dumps({"faces": boxes}))
    (tmp_path / "1").mkdir()
    assert face_side(tmp_path / "1/0.png") == 9  # the second person of a video
    (tmp_path / "other").mkdir()
    (tmp_path / "other/faces.json").write_text("[1, 2]")
    assert face_side(tmp_path / "other/0.png") is None


def test_other_features_are_compared(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (trained / "faces/dataset").symlink_to(trained / "labels")
    monkeypatch.chdir(trained / "faces")
    model = str(trained / "output/run/model_best.pth")
    monkeypatch.setattr("sys.argv", ["familiar_features", "--model", model, "--train", "tiny", "--test", "tiny"])
    familiar_features.main()
    *_, fused, divided, blocks = capsys.readouterr().out.splitlines()
    for row, name in ((fused, "fused feature "), (divided, "fused feature divided"), (blocks, "features of all")):
        assert row.startswith(name) and 0 <= float(row.split()[-1].rstrip("%")) <= 100
