"""Checkpoints of this project and of the authors, in both directions."""

import csv
import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

import training
from datasets.images import FaceImages
from datasets.labels import read_split
from models.backbones import WithoutRandomInit, build_network
from models.checkpoints import infer_settings, load_checkpoint, load_network, load_trained, save_checkpoint
from models.official_names import to_official
from tests import reference_parameters as parameters
from tests.helpers import ROOT, arguments
from train_state import TrainState
from utils.devices import seed_everything, smallest_share
from utils.errors import InputError
from utils.files import sha256
from utils.training_arguments import TrainingArguments
from utils.world import World

NETWORKS = json.loads((ROOT / "tests/fidelity_reference.json").read_text())["networks"]


def official(file: Path, name: str, prefix: str = "", epoch: int = 3) -> dict[str, torch.Tensor]:
    """Write a checkpoint like the authors' code and return its tensors."""
    shapes = NETWORKS[name]["checkpoint_shapes"]
    state = {key: parameters.parameter(key, shape) for key, shape in shapes.items()}
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()}, "epoch": epoch}, file)
    return state


@pytest.mark.parametrize("name", ["resnet-3", "mobilenet-2"])
def test_checkpoint_has_the_authors_keys_and_shapes(name: str, tmp_path: Path) -> None:
    model, num_LIBs = NETWORKS[name]["model"], NETWORKS[name]["num_LIBs"]
    with WithoutRandomInit():
        network = build_network(model, num_LIBs, 32)
    save_checkpoint(tmp_path / "ours.pth", network, model, 7, args={}, channels="RGB")
    saved = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert saved["epoch"] == 7
    assert {k: list(v.shape) for k, v in saved["state_dict"].items()} == NETWORKS[name]["checkpoint_shapes"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prefix"), [("resnet-3", "module."), ("mobilenet-2", "")])
def test_authors_checkpoint_survives_a_round_trip(name: str, prefix: str, tmp_path: Path) -> None:
    theirs = official(tmp_path / "theirs.pth", name, prefix)
    checkpoint = load_checkpoint(tmp_path / "theirs.pth")
    assert checkpoint["args"] == {"model": NETWORKS[name]["model"], "num_LIBs": NETWORKS[name]["num_LIBs"]}
    assert checkpoint["channels"] == "BGR"
    with WithoutRandomInit():
        network = build_network(NETWORKS[name]["model"], NETWORKS[name]["num_LIBs"], 32)
    load_network(network, checkpoint)
    out = to_official(network.state_dict(), NETWORKS[name]["model"])
    assert set(out) == set(theirs)
    assert all(torch.equal(out[key], theirs[key]) for key in theirs if ".fc." not in key)


def test_infer_settings() -> None:
    with WithoutRandomInit():
        state = build_network("resnet", 3, 32).state_dict()
    assert infer_settings(state) == {"model": "resnet", "num_LIBs": 3}
    assert infer_settings({f"module.{k}": v for k, v in state.items()}) == {"model": "resnet", "num_LIBs": 3}


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("mobilenet", 1, 32)
    file = tmp_path / "model_last.pth"
    save_checkpoint(file, network, "mobilenet", 1)
    before = file.read_bytes()

    def broken(content: object, part: BinaryIO) -> None:
        part.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(InputError, match="No space left"):
        save_checkpoint(file, network, "mobilenet", 2)
    assert file.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["model_last.pth"]


def test_file_content_does_not_depend_on_the_file_name(tmp_path: Path) -> None:
    network = build_network("test_resnet", 1, 32)
    for name in ("one.pth", "other.pth"):
        save_checkpoint(tmp_path / name, network, "test_resnet", 1, args={}, channels="RGB")
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "other.pth").read_bytes()


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    network = build_network("test_resnet", 1, 32)
    file = tmp_path / "model_last.pth"
    save_checkpoint(file, network, "test_resnet", 1, args={}, channels="RGB")
    assert load_checkpoint(file)["epoch"] == 1
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("familiar", {"quantiles": {"side": float("nan")}, "crop_side": None, "distance": 1.0}),
        ("familiar", {"quantiles": [1.0], "crop_side": None, "distance": 1.0}),
        ("familiar_features", [1.0]),
        ("familiar_features", torch.ones(3)),
        ("familiar_features", torch.ones(3, 5)),  # of another network
        ("familiar_features", torch.full((3, 96), torch.nan)),
        ("familiar_features", torch.ones(0, 96)),
        ("familiar_features", torch.zeros(()).expand(3, 96)),  # takes no space in the file
        ("calibration", {"video_score": "mean"} | dict.fromkeys(("frame", "video"), {"threshold": float("nan")})),
        ("familiar", {"quantiles": {}, "crop_side": None, "distance": 10**400}),
        ("args", {"size": 10**6}),
        ("args", {"num_LIBs": 10**6}),
        ("faces", {"every": 0}),
        ("faces", {"margin": 1e9}),
        ("faces", {"crop_size": 10**6}),
        ("step", -1),
        ("history", {}),
        ("halvings", "1"),
        ("val_losses", [None]),
    ],
)
def test_invalid_entries_are_named(tmp_path: Path, entry: str, value: Any) -> None:
    network, file = build_network("test_resnet", 1, 32), tmp_path / "model.pth"
    assert network.linear[1].in_features == 96
    save_checkpoint(file, network, "test_resnet", 1, **{"args": {}, "channels": "RGB", entry: value})
    with pytest.raises(InputError, match=f"'{entry}'"):
        load_checkpoint(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_compressed_file_is_refused(method: int, tmp_path: Path) -> None:
    """A small one could take any amount of memory."""
    torch.save({"state_dict": {"a": torch.zeros(100_000)}}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(tmp_path / "b.pth", "w", method) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match="b.pth"):
        load_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": []},
        {"optimizer": {"state": {}, "param_groups": [1]}},
        {"history": [{}]},
        {"record": {"losses": [{"total": 1.0}], "counts": [1, 2], "labels": torch.ones(3), "scores": torch.ones(3)}},
    ],
)
def test_a_training_does_not_continue_from_damaged_entries(change: dict[str, Any], tmp_path: Path) -> None:
    network, file = build_network("test_resnet", 1, 32), tmp_path / "model_last.pth"
    settings = {"model": "test_resnet", "num_LIBs": 1, "size": 32, "lil_loss": False, "precision": "fp32"}
    args = TrainingArguments(**settings, resume_model=file)
    save_checkpoint(file, network, "test_resnet", 1, args={}, channels="RGB", **change)
    with pytest.raises(InputError, match="saved"):
        TrainState(args, load_checkpoint(file), 2, World("cpu"))


def test_a_checkpoint_for_scoring_has_equal_weights_and_no_optimizer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("test_resnet", 2, 32).eval()
    file, images = tmp_path / "model.pth", torch.randn(2, 3, 32, 32)
    settings = {"model": "test_resnet", "num_LIBs": 2, "size": 32}
    continuing = {"optimizer": {"moments": torch.ones(9)}, "step": 3}
    save_checkpoint(file, network, "test_resnet", 1, continuing=continuing, args=settings, channels="RGB")
    assert load_checkpoint(file)["step"] == 3
    assert not {"optimizer", "step"} & set(load_checkpoint(file, scoring=True))
    state = torch.get_rng_state()
    loaded, checkpoint = load_trained(file)
    assert torch.equal(torch.get_rng_state(), state)  # no random weights were drawn
    assert checkpoint["sha256"] == sha256(file) and not loaded.training
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    save_checkpoint(file, build_network("test_resnet", 2, 32), "test_resnet", 2)  # replaces the mapped file
    with torch.no_grad():
        assert torch.equal(loaded(images).fused, network(images).fused)


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    network = build_network("test_resnet", 1, 32)
    settings = {"model": "test_resnet", "num_LIBs": 1, "size": 32}
    save_checkpoint(tmp_path / "m.pth", network.half(), "test_resnet", 1, args=settings, channels="RGB")
    assert {x.dtype for x in load_trained(tmp_path / "m.pth")[0].parameters()} == {torch.float32}


@pytest.mark.slow
def test_authors_checkpoint_is_tested_as_bgr(tiny: Path) -> None:
    """The command's scores equal the network's scores of BGR images."""
    official(tiny / "theirs.pth", "mobilenet-2", "module.")
    more = ["--model", "mobilenet", "--test", "True", "--resume_model", str(tiny / "theirs.pth"), "--name", "theirs"]
    assert training.main(arguments(tiny, *more)) == 0
    with (tiny / "output/theirs/predictions.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]

    network = build_network("mobilenet", 2, 32).eval()
    load_network(network, load_checkpoint(tiny / "theirs.pth"))
    faces = FaceImages(read_split("tiny", "test", tiny / "labels", tiny / "faces"), 32)
    images = torch.stack([faces[i][0] for i in range(len(faces))])
    with torch.inference_mode():
        bgr, rgb = (
            network(batch).fused.double().softmax(1)[:, 1].tolist()
            for batch in (normalised(images.flip(1)), normalised(images))
        )
    assert scores == pytest.approx(bgr, rel=1e-5)
    assert scores != pytest.approx(rgb, rel=1e-5)


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    return (images / 255 - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.mark.slow
def test_authors_checkpoint_can_be_resumed(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    official(tiny / "theirs.pth", "mobilenet-2", epoch=3)
    more = ["--model", "mobilenet", "--resume_model", str(tiny / "theirs.pth"), "--epoch", "4", "--name", "on"]
    assert training.main(arguments(tiny, *more)) == 0
    ours = load_checkpoint(tiny / "output/on/model_last.pth")
    assert ours["epoch"] == 4
    assert ours["channels"] == "BGR"  # as before
    assert "epoch 4/4" in capsys.readouterr().out


def test_random_numbers_depend_on_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> list[float]:
        seed_everything(seed, epoch)
        return torch.rand(3).tolist()

    assert draw(0, 1) == draw(0, 1)
    assert len({tuple(draw(*pair)) for pair in ((0, 1), (0, 2), (1, 1), (1, 0))}) == 4


@pytest.mark.parametrize(
    ("images", "gpus", "smallest"), [(8, 1, 8), (1, 1, 1), (0, 2, 0), (9, 2, 4), (3, 2, 1), (10, 4, 1), (9, 4, 3)]
)
def test_smallest_share_equals_data_parallel(images: int, gpus: int, smallest: int) -> None:
    assert smallest_share(images, gpus) == smallest
    assert min(map(len, torch.arange(images).chunk(gpus))) == smallest  # DataParallel scatters like chunk
