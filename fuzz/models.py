"""Targets for what comes from others with a network: checkpoints, shared models, detector weights, packs."""

import io
import json
import os
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.packs import CHECKSUMS, IMAGES, INDEX, NAMES, VERSION, Entry, Pack, checksum_of, pack_folder
from evaluation.verdicts import LEVELS
from faces.detectors import load_retinaface
from faces.retinaface import MobileNet025, RetinaFace
from fuzz.target import Target, answers
from models.backbones import build_network
from models.checkpoints import CONTINUING, load_checkpoint
from models.official_names import to_official
from models.shared_model import CONFIG, FEATURES, WEIGHTS
from scoring.detector import load_detector
from scoring.familiarity import unlike_training
from train_state import TrainState, check_resume
from training import parse_arguments
from utils.files import sha256
from utils.training_arguments import TrainingArguments
from utils.world import World

MODEL, SIZE = "test_resnet", 32
SEPARATOR = b"\n--fuzz--\n"  # between the files that one input holds
PICKLE = b"pickle:"  # an input with this start is put into a zip archive with right checksums
FACE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def _saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


@cache
def small_state() -> dict[str, Tensor]:
    """Return the state dict of a network of one LIB, with zeros that take no space in a file."""
    return small(to_official(build_network(MODEL, 1, SIZE).state_dict(), MODEL))


def small(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return zeros of the same shapes, which share one number for each dtype."""
    zeros = {dtype: torch.zeros((), dtype=dtype) for dtype in {value.dtype for value in state.values()}}
    return {key: zeros[value.dtype].expand(value.shape) for key, value in state.items()}


def entries() -> dict[str, Any]:
    """Return the entries of a finished training's best checkpoint, but for the tensors of the network."""
    level = {"threshold": 0.5, "fpr": 0.0, "fnr": 0.1, "real": [0.1, 0.2, 0.3], "fake": [0.7, 0.8]}
    metrics = {"acc": 0.5, "auc": 0.6, "log_loss": 0.7}
    epoch = {"epoch": 1, "epochs": 2, "losses": {"total": 1.0, "local": 0.5}, "lr": 1e-4, "speed": 9.0, "skipped": None}
    return {
        "epoch": 1,
        "args": {"model": MODEL, "num_LIBs": 1, "size": SIZE, "lr": 1e-4, "dataset": ["tiny"], "lil_loss": False},
        "channels": "RGB",
        "val": metrics,
        "best": 0.6,
        "calibration": {"video_score": "mean", "wanted_fpr": None, **dict.fromkeys(LEVELS, level)},
        "about": ["drawn faces"],
        "history": [epoch | {"train": metrics, "val": metrics, "best": True}],
        "faces": {"every": 2, "frames": None, "margin": 1.3, "crop_size": 80, "detector": "mtcnn", "weights": None},
        "val_losses": [0.7],
        "halvings": 0,
        "familiar": {"quantiles": {"brightness": 20.0, "detail": 0.1}, "crop_side": 40.0, "distance": 0.5},
        "familiar_features": {"tensor": [[0.0] * 96] * 3},
    }


def continuing() -> dict[str, Any]:
    """Return the entries of a checkpoint in the middle of an epoch, with an optimizer's state of some weights."""
    moments = {"step": {"tensor": 3.0}, "exp_avg": {"zeros": [2]}, "exp_avg_sq": {"zeros": [2]}}
    group = {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False}
    record = {"losses": [{"total": 1.0}], "counts": [2], "labels": {"tensor": [0, 1]}, "scores": {"tensor": [0.1, 0.2]}}
    shapes = [list(x.shape) for x in build_network(MODEL, 1, SIZE).parameters()]
    finished = entries()
    order = {name: getattr(TrainingArguments, name) for name in ("bs", "seed", "oversample")}
    return finished | {
        "args": finished["args"] | order,
        "step": 1,
        "optimizer": {
            "param_groups": [group | {"params": list(range(len(shapes)))}],
            "state": {"0": moments | {"exp_avg": {"zeros": shapes[0]}, "exp_avg_sq": {"zeros": shapes[0]}}},
        },
        "scaler": None,
        "record": record,
        "balance": {},
    }


def to_lines(value: dict[str, Any], above: str = "") -> bytes:
    """Return a line for each entry of nested dictionaries, ``args/size 32``, so that damage changes one entry."""
    lines = [
        to_lines(item, f"{above}{key}/") if isinstance(item, dict) else f"{above}{key} {json.dumps(item)}\n".encode()
        for key, item in value.items()
    ]
    return b"".join(lines)


def from_lines(content: bytes) -> dict[str, Any]:
    """Return the nested dictionaries of lines; a value that is not JSON becomes a string."""
    found: dict[str, Any] = {}
    for line in content.decode("utf-8", "replace").split("\n"):
        path, _, text = line.partition(" ")
        *parents, name = path.split("/")
        target = found
        for parent in parents:
            if not isinstance(target.setdefault(parent, {}), dict):
                target[parent] = {}
            target = target[parent]
        try:
            target[name] = json.loads(text)
        except (ValueError, RecursionError):
            target[name] = text
    return found


def from_json(value: Any) -> Any:
    """Turn what JSON can hold into what a checkpoint holds: {"tensor": numbers}, {"zeros": shape}, numbers as keys."""
    if isinstance(value, dict):
        try:
            if value.keys() == {"tensor"}:
                return torch.tensor(value["tensor"])
            if value.keys() == {"zeros"}:
                return torch.zeros(()).expand(value["zeros"])
        except (TypeError, ValueError, RuntimeError):
            return None
        return {int(key) if key.isdecimal() and len(key) < 9 else key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def write_entries(content: bytes, file: Path) -> None:
    """Write a checkpoint with the entries of lines."""
    torch.save({"state_dict": small_state(), **from_json(from_lines(content))}, file)


def _score(file: Path) -> None:
    """Score a face as inference.py does."""
    detector = load_detector(file, "cpu", faces_given=True)
    ((face,),) = detector([FACE])
    assert 0 <= face.score <= 1
    detector.cutoffs()
    assert all(isinstance(note, str) for note in unlike_training(detector.network, detector.checkpoint, [FACE], None))


def _continue(file: Path) -> None:
    """Continue a training as training.py does, up to its first step."""
    argv = ["--resume_model", str(file), "--gpu_num", "cpu", "--save_path", str(file.parent), "--name", "run"]
    args, checkpoint = parse_arguments([*argv, "--dataset", "tiny", "--epoch", "2", "--balance_loss_method", "hyper"])
    assert checkpoint is not None
    check_resume(args, checkpoint, None)
    args.precision = "fp32"
    world = World("cpu")
    state = TrainState(args, checkpoint, 3, world)
    state.schedule.start_epoch(state.optimizer)
    state.schedule.set_rates(state.optimizer, 1, 0)
    for weight in state.network.parameters():
        weight.grad = torch.zeros_like(weight)
    state.optimizer.step()


def check_entries(content: bytes, folder: Path) -> bool:
    """Score a face with a checkpoint of these entries."""
    write_entries(content, folder / "model.pth")
    return answers(lambda: _score(folder / "model.pth"))


def check_continuing(content: bytes, folder: Path) -> bool:
    """Continue a training from a checkpoint of these entries."""
    write_entries(content, folder / "model.pth")
    return answers(lambda: _continue(folder / "model.pth"))


# -------------------------------------------------------------------------------------------------------------- files


def file_seeds() -> list[bytes]:
    """Return PyTorch files: of today, of old versions, with a second part, and their pickles alone."""
    content = {"state_dict": {"linear.1.weight": torch.ones(2, 3)}, "epoch": 1, "args": {"size": 32}, "channels": "RGB"}
    content["familiar_features"] = torch.ones(4, 3).half()
    today = _saved(content)
    file = io.BytesIO(today)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(CONTINUING, _saved({"step": 3, "optimizer": {"state": {0: torch.ones(1)}}}))
    with zipfile.ZipFile(io.BytesIO(today)) as archive:
        pickled = archive.read("archive/data.pkl")
    return [today, file.getvalue(), _saved(content, _use_new_zipfile_serialization=False), PICKLE + pickled]


def write_file(content: bytes, file: Path) -> None:
    """Write a PyTorch file; an input that starts with `PICKLE` becomes an archive with two storages."""
    if not content.startswith(PICKLE):
        file.write_bytes(content)
        return
    members = {"data.pkl": content.removeprefix(PICKLE), "byteorder": b"little", "version": b"3\n"}
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in {**members, "data/0": bytes(24), "data/1": bytes(24)}.items():
            archive.writestr(f"archive/{name}", member)


def check_file(content: bytes, folder: Path) -> bool:
    """Read a PyTorch file as a checkpoint, for scoring and for training."""
    file = folder / "model.pth"
    write_file(content, file)
    continued = answers(lambda: load_checkpoint(file))
    return answers(lambda: load_checkpoint(file, scoring=True)) or continued


def shared_seeds() -> list[bytes]:
    """Return config.json, model.safetensors and familiar_features.safetensors, with placeholders for the SHA-256."""
    import safetensors.torch

    config = {**entries(), "weights_sha256": "WEIGHTS", "features_sha256": "FEATURES"}
    del config["familiar_features"]
    features = safetensors.torch.save({"familiar_features": torch.zeros(3, 96, dtype=torch.float16)})
    weights = safetensors.torch.save({"linear.1.weight": torch.zeros(2, 96), "n": torch.tensor(3)})
    return [SEPARATOR.join([json.dumps(config).encode(), weights, features])]


def check_shared(content: bytes, folder: Path) -> bool:
    """Read the folder of a shared model, whose SHA-256 are right."""
    config, weights, features, *_ = [*content.split(SEPARATOR), b"", b""]
    (folder / WEIGHTS).write_bytes(weights)
    (folder / FEATURES).write_bytes(features)
    for name, file in (("WEIGHTS", WEIGHTS), ("FEATURES", FEATURES)):
        config = config.replace(name.encode(), sha256(folder / file).encode())
    (folder / CONFIG).write_bytes(config)
    return answers(lambda: load_checkpoint(folder))


def detector_seeds() -> list[bytes]:
    """Return a checkpoint of RetinaFace, and its pickle alone; its tensors share one number."""
    complete = _saved(small(RetinaFace(MobileNet025()).state_dict()))
    with zipfile.ZipFile(io.BytesIO(complete)) as archive:
        return [complete, PICKLE + archive.read("archive/data.pkl")]


def check_detector(content: bytes, folder: Path) -> bool:
    """Read the weights of a face detector."""
    file = folder / "detector.pth"
    write_file(content, file)
    return answers(lambda: load_retinaface(file))


def pack_seeds() -> list[bytes]:
    """Return the index, without its checksums, the file names, the checksums of the images, and the images."""
    images = FACE.reshape(-1)[:96].reshape(2, 4, 4, 3)
    checksums = np.array([zlib.crc32(np.ascontiguousarray(image).data) for image in images], np.uint32)
    names = np.array([b"0000.png", b"0001.png"])
    stamp = (0, [4, 0], "fingerprint", checksum_of(names.view(np.uint8), checksums))
    index = [[VERSION, 4], Entry("a/fake", 0, 2, 0, 8, [], *stamp), Entry("a/real", 0, 2, 0, 8, [1], *stamp)]
    lines = "\n".join(map(json.dumps, index)).encode() + b"\n"
    return [SEPARATOR.join([lines, names.tobytes(), checksums.tobytes(), images.tobytes()])]


def check_pack(content: bytes, folder: Path) -> bool:
    """Open a pack whose index has the right checksums, and read its images."""
    pack, source = pack_folder(folder, 4), folder / "source"
    for made in (pack, source):
        made.mkdir()
    (source / "0000.png").write_bytes(b"four")
    os.utime(source / "0000.png", ns=(0, 0))
    os.utime(source, ns=(0, 0))
    index, *rest = content.split(SEPARATOR)
    header, *lines = index.split(b"\n")
    checked = [b"%d %s" % (zlib.crc32(line), line) for line in lines if line]
    (pack / INDEX).write_bytes(b"\n".join([header, *checked, b""]))
    for name, part in zip((NAMES, CHECKSUMS, IMAGES), rest, strict=False):
        (pack / name).write_bytes(part)

    def read() -> None:
        opened = Pack(pack)
        for path in list(opened.entries):
            if (entry := opened.find(path, str(source))) is not None:
                assert all(isinstance(name, str) for name in opened.names(entry))
                for row in range(entry.row, entry.row + entry.images):
                    image = opened.read(row)
                    assert image is None or image.shape == (opened.size, opened.size, 3)

    return answers(read)


TARGETS = {
    "checkpoint_files": Target(file_seeds, check_file),
    "checkpoint_entries": Target(lambda: [to_lines(entries())], check_entries),
    "continued_training": Target(lambda: [to_lines(continuing())], check_continuing),
    "shared_models": Target(shared_seeds, check_shared),
    "detector_weights": Target(detector_seeds, check_detector),
    "packs": Target(pack_seeds, check_pack),
}
