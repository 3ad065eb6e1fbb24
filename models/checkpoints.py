"""Checkpoint files: ours, and those of the authors' release.

A checkpoint is a dictionary. ``state_dict`` (the network's tensors, under the authors' key names) and ``epoch``
(how many epochs are done) are in both. Ours holds beside them: ``args`` (the run's arguments), ``channels`` (RGB or
BGR, the order of the images' colours), ``balance`` (the learnt loss weights), ``optimizer``, ``val_losses`` and
``halvings`` (the state of the official schedule), ``val`` (this epoch's metrics on the validation set),
``threshold`` (a score above it means fake: chosen on that set), ``faces`` (how the training's
faces were found and cropped, where preprocessing.py made them) and ``best`` (the best `selection_score` so far).
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backbones import build_network
from models.lib_network import LIBNetwork
from models.official_names import from_official, is_official_mobilenet, to_official
from utils.errors import InputError
from utils.files import atomic_write, sha256
from utils.torch_files import read_torch_file

NETWORK_SETTINGS = ("model", "num_LIBs", "size")  # what a checkpoint decides


def plain_state(network: torch.nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network, on the CPU, whether or not `torch.nn.DataParallel` wraps it."""
    return {key.removeprefix("module."): value.cpu() for key, value in network.state_dict().items()}


def save_checkpoint(file: Path, network: torch.nn.Module, model: str, epoch: int, **rest: Any) -> None:
    """Write a checkpoint, whole or not at all: an interruption leaves the file that was there before.

    Args:
        file: where to.
        network: the network, bare or in `torch.nn.DataParallel`.
        model: the value of ``--model``.
        epoch: how many epochs are done.
        rest: the other entries, of plain Python values and tensors.

    Raises:
        InputError: it cannot be written (a full disk, no permission).
    """
    state = to_official(plain_state(network), model)
    with atomic_write(file) as part:
        try:
            with part.open("wb") as content:  # given a name, PyTorch would write that into the file
                torch.save({"state_dict": state, "epoch": epoch, **_on_cpu(rest)}, content)
        except RuntimeError as error:  # a full disk
            raise OSError(str(error).splitlines()[0]) from error


def _on_cpu(value: Any) -> Any:
    """Move every tensor in nested dictionaries and lists to the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value


def load_checkpoint(file: Path, flag: str = "--resume_model") -> dict[str, Any]:
    """Read a checkpoint of this project or of the authors', onto the CPU.

    Nothing in the file is executed. ``state_dict`` comes back under this network's names; for a checkpoint of
    the authors' ``args`` holds what its tensors tell (`infer_settings`), and ``channels`` is BGR; ``sha256`` is that of
    the file. `flag` is the argument that named the file, for what is said.

    Raises:
        InputError: there is no such file, or it is no checkpoint.
    """
    checkpoint = read_torch_file(file, flag)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{flag}: {file} is no checkpoint of a training: it has no 'state_dict'.")
    if "args" not in checkpoint:
        checkpoint["args"] = infer_settings(checkpoint["state_dict"])
        checkpoint["channels"] = "BGR"
    state, epoch = checkpoint["state_dict"], checkpoint.get("epoch")
    as_it_should = {
        "state_dict": all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()),
        "epoch": isinstance(epoch, int) and epoch >= 0,
        "args": isinstance(checkpoint["args"], dict),
        "channels": checkpoint.get("channels") in ("RGB", "BGR"),
        "val": ("val" in checkpoint) == ("best" in checkpoint),
    }
    if wrong := [name for name, right in as_it_should.items() if not right]:
        raise InputError(f"{flag}: {file} is no checkpoint of a training: its '{wrong[0]}' is missing or wrong.")
    checkpoint["state_dict"] = from_official(state)
    checkpoint["sha256"] = sha256(file)  # now: a training that goes on replaces the file
    return checkpoint


def infer_settings(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the ``model`` and ``num_LIBs`` that the tensors of an authors' checkpoint tell of, where they do."""
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    libs = [int(match[1]) for key in state if (match := re.match(r"region_model(\d+)\.", key))]
    settings: dict[str, Any] = {"num_LIBs": max(libs)} if libs else {}
    if is_official_mobilenet(state):
        settings["model"] = "mobilenet"
    elif "region_model1.layer1.0.conv1.weight" in state:
        settings["model"] = "resnet"
    return settings


def selection_score(val: dict[str, float | None]) -> float:
    """Return what the best epoch has the most of: the AUC on the validation set.

    Where that is not defined (one class alone) it is the log loss, negative.
    """
    return -val["log_loss"] if val["auc"] is None else val["auc"]


def best_so_far(file: Path, checkpoint: dict[str, Any]) -> tuple[Path, float]:
    """Return the file of the best epoch before `checkpoint` was written, and its `selection_score`.

    It is the ``model_best.pth`` beside the checkpoint's `file`, or, where that is gone or of another run, `file`
    itself.
    """
    beside = file.with_name("model_best.pth")
    if beside.is_file() and not beside.samefile(file):
        val = load_checkpoint(beside).get("val")
        if val is not None and selection_score(val) == checkpoint["best"]:
            return beside, checkpoint["best"]
    return file, selection_score(checkpoint["val"])


def load_network(network: LIBNetwork, checkpoint: dict[str, Any], flag: str = "--resume_model") -> None:
    """Load the tensors of `load_checkpoint` into a network; `flag` is the argument that named the file.

    Raises:
        InputError: they are those of another network; the first differences are named, and the network is
            left as it was.
    """
    own, state = network.state_dict(), checkpoint["state_dict"]
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is too much" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)} and not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        raise InputError(
            f"{flag}: the checkpoint is of another network: {'; '.join(problems[:3])} "
            f"({len(problems)} such differences); give the --model and --num_LIBs that it was trained with."
        )
    network.load_state_dict(state)


def load_state(part: torch.nn.Module | torch.optim.Optimizer, state: dict[str, Any], file: Path) -> None:
    """Load the optimiser's or the loss weights' entry of a checkpoint; raise InputError where it does not fit."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--resume_model: {file} does not fit: the state of its {type(part).__name__} is wrong."
        ) from error


def load_trained(file: Path) -> tuple[LIBNetwork, dict[str, Any]]:
    """Load the checkpoint that ``--model`` names, this project's or the authors'.

    Returns:
        The network, on the CPU, in evaluation mode; and the checkpoint, whose ``args`` hold model, num_LIBs and size
        (the side of the network's images in pixels), and whose ``channels`` are RGB or BGR.

    Raises:
        InputError: it is no checkpoint, or one of a network that is not known.
    """
    checkpoint = load_checkpoint(file, "--model")
    # Of the authors' networks the two others are told by their tensors, and all were trained at 224 pixels.
    checkpoint["args"] = {"model": "efficientnet", "num_LIBs": 1, "size": 224} | checkpoint["args"]
    network = build_network(*(checkpoint["args"][name] for name in ("model", "num_LIBs", "size")))
    load_network(network, checkpoint, "--model")
    return network.eval(), checkpoint
