"""Checkpoint files of this project and of the authors' release, and how shared models become checkpoints.

A checkpoint is a dictionary. Both kinds have:

- ``state_dict``: the network's tensors, under the authors' keys.
- ``epoch``: number of finished epochs.

Checkpoints of this project also have:

- ``args``: arguments of the run.
- ``channels``: channel order of the training images, RGB or BGR.
- ``balance``: state of the learnt loss weights.
- ``val_losses``, ``halvings``: state of ``--lr_schedule official``.
- ``about``: how the training faces differ from ordinary faces, see `datasets.labels.describe_datasets`.
- ``history``: losses and metrics of each finished epoch.
- ``faces``: how preprocessing.py found and cropped the training faces; None if unknown.

After a finished epoch they have:

- ``val``: metrics of this epoch on the validation set.
- ``best``: the best `selection_score` so far.
- ``calibration``: thresholds from the validation scores, see `evaluation.verdicts.calibrate`.

The best checkpoint of a finished training has:

- ``familiar``, ``familiar_features``: see `scoring.familiarity.remember_training`.

``model_last.pth`` and ``model_previous.pth`` also have the entries that an exact resume needs:

- ``optimizer``: state of the optimizer.
- ``scaler``: state of the loss scale of ``--precision fp16``, else None.
- ``step``: number of finished steps of the current epoch.
- ``record``: losses, labels and scores of these steps.
"""

import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from models.lib_network import LIBNetwork
from models.official_names import from_official, is_official_mobilenet, to_official
from models.shared_model import CONFIG, find_model, read_shared_model
from utils.errors import InputError
from utils.files import atomic_write, copy_file, sha256
from utils.parsing import MAX_MARGIN, MAX_SIZE
from utils.torch_files import read_torch_file

CONTINUING = "archive/continue.pth"  # member of the zip archive
# Limits of an entry: values in one level of nesting, and levels. An entry has several values for each step of an epoch.
MAX_VALUES, MAX_DEPTH = 10**7, 20


def save_checkpoint(
    file: Path,
    network: torch.nn.Module,
    model: str,
    epoch: int,
    *,
    continuing: dict[str, Any] | None = None,
    copies: Sequence[Path] = (),
    **entries: Any,
) -> None:
    """Write a checkpoint atomically: an interruption leaves the previous file intact.

    The file is a PyTorch file with the entries that scoring needs. `continuing`, mostly the optimizer's moments, is one
    more member of its zip archive. So the network is serialised once, and `copies` are a third of the size.

    Args:
        file: file to write.
        network: the bare network.
        model: value of ``--model``.
        epoch: number of finished epochs.
        continuing: entries that only a continued training needs; None for none.
        copies: further files to write, without `continuing`.
        entries: other entries; plain Python values and tensors.

    Raises:
        InputError: a file cannot be written, such as on a full disk.
    """
    content = _on_cpu({"state_dict": to_official(network.state_dict(), model), "epoch": epoch, **entries})
    continuing = _on_cpu(continuing)
    try:
        with ExitStack() as stack:
            # The file replaces its predecessor before the copies do, so `best_so_far` never finds a later best.
            targets = [stack.enter_context(atomic_write(target)) for target in copies]
            part = stack.enter_context(atomic_write(file))
            with part.open("wb") as out:  # torch.save would write a file name into the archive
                _save(content, out)
            for target in targets:
                shutil.copyfile(part, target)
            if continuing is not None:
                with zipfile.ZipFile(part, "a") as archive, archive.open(CONTINUING, "w", force_zip64=True) as member:
                    _save(continuing, member)
    except InputError as error:
        needed = tensor_bytes(content) * (1 + len(copies)) + tensor_bytes(continuing)
        free = shutil.disk_usage(file.parent).free
        if free > needed:
            raise
        raise InputError(
            f"{file} could not be written: it needs {needed:,} bytes, and the disk has {free:,} free; free disk space, "
            "or choose another --save_path."
        ) from error


def extend_checkpoint(file: Path, entries: dict[str, Any]) -> None:
    """Add entries to a checkpoint without an optimizer state, atomically.

    Raises:
        InputError: the file cannot be read or written.
    """
    content = read_torch_file(file, "--resume_model") | _on_cpu(entries)
    with atomic_write(file) as part, part.open("wb") as out:
        _save(content, out)


def _save(content: dict[str, Any], out: IO[bytes]) -> None:
    try:
        torch.save(content, out)
    except RuntimeError as error:  # a full disk
        raise OSError(str(error).splitlines()[0]) from error


def tensor_bytes(value: Any) -> int:
    """Return the number of bytes of the tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.nbytes
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(tensor_bytes, items))


def _on_cpu(value: Any) -> Any:
    """Move the tensors in nested dictionaries and lists to the CPU."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def load_checkpoint(file: Path, flag: str = "--resume_model", scoring: bool = False) -> dict[str, Any]:
    """Load a checkpoint of this project or of the authors onto the CPU; code in the file is not run.

    Args:
        file: checkpoint file, or the folder of a shared model (`models.shared_model`).
        flag: argument that named the file, for messages.
        scoring: whether to leave out the entries that only a continued training needs.

    Returns:
        The entries listed above, with ``state_dict`` under the keys of `LIBNetwork`, and ``sha256`` of the file, or of
        config.json in the folder. For a checkpoint of the authors, ``args`` comes from `infer_settings` and
        ``channels`` is BGR.

    Raises:
        InputError: the file is missing or is not a checkpoint.
    """
    if file.is_dir():
        checkpoint = read_shared_model(file, flag)
    else:
        checkpoint = read_torch_file(file, flag, "" if scoring else CONTINUING)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{flag}: {file} is not a training checkpoint (no entry 'state_dict'); give another file.")
    if "args" not in checkpoint:
        checkpoint["args"] = infer_settings(checkpoint["state_dict"])
        checkpoint["channels"] = "BGR"
    state, epoch, args = checkpoint["state_dict"], checkpoint.get("epoch"), checkpoint["args"]
    plain = {name: _is_plain(value) for name, value in checkpoint.items() if name not in ("state_dict", "optimizer")}
    valid = {
        "state_dict": all(isinstance(k, str) and _is_plain_tensor(v) for k, v in state.items()),
        "epoch": _is_count(epoch),
        "step": _is_count(checkpoint.get("step", 0)),
        "args": isinstance(args, dict) and _fits_network(args, state),
        "channels": checkpoint.get("channels") in ("RGB", "BGR"),
        "val": ("val" in checkpoint) == ("best" in checkpoint) and _are_metrics(checkpoint.get("val")),
        "best": checkpoint.get("best") is None or _is_number(checkpoint["best"]),
        "val_losses": all(map(_is_number, _listed(checkpoint.get("val_losses", [])))),
        "halvings": _is_count(checkpoint.get("halvings", 0)),
        "history": all(isinstance(epoch, dict) for epoch in _listed(checkpoint.get("history", []))),
        "calibration": _is_calibration(checkpoint.get("calibration")),
        "about": all(isinstance(text, str) for text in _listed(checkpoint.get("about", []))),
        "familiar": _is_familiar(checkpoint.get("familiar")),
        "familiar_features": _are_features(checkpoint.get("familiar_features"), state),
        "faces": _is_recipe(checkpoint.get("faces")),
    }
    if invalid := [name for name, is_valid in (*plain.items(), *valid.items()) if not is_valid]:
        raise InputError(
            f"{flag}: {file} is not a training checkpoint (entry '{invalid[0]}' is missing or invalid); give another."
        )
    checkpoint["state_dict"] = from_official(state)
    # before a resumed training replaces the file
    checkpoint["sha256"] = sha256(file / CONFIG if file.is_dir() else file)
    return checkpoint


def _is_plain(value: Any) -> bool:
    """Return whether a value is within `MAX_VALUES` and `MAX_DEPTH`: a small pickle can nest lists endlessly."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for part in level if isinstance(part, dict | list | tuple | set)]
        if sum(map(len, level)) > MAX_VALUES:
            return False
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
    return not level


def _is_calibration(value: Any) -> bool:
    """Return whether a value has the entries of `evaluation.verdicts.calibrate`, or is None."""
    if value is None:
        return True
    try:
        levels = [value[level] for level in ("frame", "video")]
        numbers = [x for level in levels for x in (level["threshold"], level["fpr"], level["fnr"])]
        numbers += [score for level in levels for scores in (level["real"], level["fake"]) for score in scores]
        known = re.fullmatch(r"mean|max|top[1-9]\d{0,8}", value["video_score"])
        in_order = all(sorted(scores) == scores for level in levels for scores in (level["real"], level["fake"]))
        filled = all(level["real"] and level["fake"] for level in levels)
        return bool(known and filled and in_order and all(map(_is_number, numbers)))
    except (TypeError, LookupError):
        return False


def _is_familiar(value: Any) -> bool:
    """Return whether a value has the entries of ``familiar`` in `scoring.familiarity.remember_training`, or is None."""
    if value is None:
        return True
    try:
        crop_side = 1 if value["crop_side"] is None else value["crop_side"]
        numbers = [value["distance"], crop_side, *value["quantiles"].values()]
        return all(map(_is_number, numbers)) and crop_side > 0
    except (TypeError, LookupError, AttributeError):
        return False


def _are_features(value: Any, state: dict[str, Any]) -> bool:
    """Return whether a value is N x d finite numbers, with d as in the last layer of the network, or is None."""
    if value is None:
        return True
    if not _is_plain_tensor(value) or not value.is_floating_point() or not value.is_contiguous():
        return False
    last = getattr(state.get("linear.1.weight", value), "shape", ())  # 2 x d
    return value.ndim == 2 and len(value) > 0 and value.shape[1:] == last[1:] and bool(value.isfinite().all())


def _is_recipe(value: Any) -> bool:
    """Return whether a value has the entries of `faces.recipe.Recipe`, within the limits of its flags, or is None."""
    if not isinstance(value, dict):
        return value is None
    known: dict[str, Any] = {"every": 1, "frames": 1, "margin": 1, "crop_size": 0, "detector": None, "weights": None}
    every, frames, margin, crop_size, *names = ((known | value)[name] for name in known)
    return (
        all(_is_count(count) and count > 0 for count in (every, 1 if frames is None else frames))
        and (_is_number(margin) and 0 < margin <= MAX_MARGIN)
        and (_is_count(crop_size) and crop_size <= MAX_SIZE)
        and all(isinstance(name, str | None) for name in names)
    )


def _fits_network(args: dict[str, Any], state: dict[str, Any]) -> bool:
    """Return whether model, num_LIBs and size are plausible: code that builds the network trusts them."""
    model, num_LIBs, size = args.get("model", ""), args.get("num_LIBs", 1), args.get("size", 2)
    libs = infer_settings(state).get("num_LIBs", 1)
    sizes = _is_count(num_LIBs) and 0 < num_LIBs <= libs and _is_count(size) and 2 <= size <= MAX_SIZE
    return isinstance(model, str) and sizes


def _are_metrics(value: Any) -> bool:
    """Return whether a value has the metrics that select and report an epoch, or is None."""
    if value is None:
        return True
    names = ("acc", "auc", "log_loss")
    return isinstance(value, dict) and all(
        _is_number(value.get(name)) or (name == "auc" and name in value and value[name] is None) for name in names
    )


def _is_plain_tensor(value: Any) -> bool:
    """Return whether a value is a dense tensor of real numbers in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_complex()
    )


def _listed(value: Any) -> list[Any]:
    """Return a list as it is; for any other value, return a list with one invalid item."""
    return value if isinstance(value, list) else [None]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 1e9


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and abs(value) <= sys.float_info.max


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint atomically; the copy of a shared model is a checkpoint file.

    Raises:
        InputError: a file cannot be read or written.
    """
    if not source.is_dir():
        return copy_file(source, target)
    with atomic_write(target) as part, part.open("wb") as out:
        _save(read_shared_model(source, "--resume_model"), out)


def infer_settings(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return ``model`` and ``num_LIBs`` as far as the keys of an authors' checkpoint determine them."""
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    libs = {match[1] for key in state if (match := re.match(r"region_model(\d+)\.", key))}
    settings: dict[str, Any] = {"num_LIBs": len(libs)} if libs else {}
    if is_official_mobilenet(state):
        settings["model"] = "mobilenet"
    elif "region_model1.layer1.0.conv1.weight" in state:
        settings["model"] = "resnet"
    return settings


def selection_score(val: dict[str, float | None]) -> float:
    """Return the score that selects the best epoch; higher is better.

    The score is the AUC on the validation set, or minus the log loss if all labels are of one class.

    Args:
        val: metrics of the epoch on the validation set, the entry ``val`` of a checkpoint.
    """
    if val["auc"] is not None:
        return val["auc"]
    assert val["log_loss"] is not None  # the log loss is always defined
    return -val["log_loss"]


def best_so_far(file: Path | None, checkpoint: dict[str, Any]) -> tuple[Path | None, float | None]:
    """Return the file and the `selection_score` of the run's best epoch up to `checkpoint`.

    The file is ``model_best.pth`` beside `file`, if its score is the entry ``best`` of `checkpoint`. If it is missing,
    damaged or from another run, the file is `file` itself, unless `file` was written within an epoch: no score belongs
    to its weights.

    Args:
        file: the checkpoint that the run continues from, or None.
        checkpoint: its content.

    Returns:
        The file and its score; both None if there is no such file, or no finished epoch.
    """
    if file is None or checkpoint.get("val") is None:
        return None, None
    best_file = file.with_name("model_best.pth")
    if best_file.is_file() and not best_file.samefile(file):
        try:
            val = load_checkpoint(best_file).get("val")
        except InputError as error:
            print(f"note: {error}")
            val = None
        if val is not None and selection_score(val) == checkpoint["best"]:
            return best_file, checkpoint["best"]
    return (None, None) if checkpoint.get("step") else (file, selection_score(checkpoint["val"]))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest intact checkpoint of a run folder and its content, or None if there is none.

    Print a note for each newer checkpoint that is damaged.
    """
    last = [folder / "model_last.pth", folder / "model_previous.pth"]
    others = sorted(folder.glob("model_*.pth"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in [file for file in last if file.is_file()] + [file for file in others if file not in last]:
        try:
            return file, load_checkpoint(file)
        except InputError as error:
            print(f"note: {error}")
    return None


def load_network(
    network: LIBNetwork, checkpoint: dict[str, Any], flag: str = "--resume_model", assign: bool = False
) -> None:
    """Load the ``state_dict`` of a checkpoint into a network.

    Args:
        network: network to change.
        checkpoint: result of `load_checkpoint`.
        flag: argument that named the file, for messages.
        assign: use the tensors of the checkpoint, without a copy.

    Raises:
        InputError: the checkpoint is of another network; `network` is then unchanged.
    """
    expected, state = network.state_dict(), checkpoint["state_dict"]
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is unexpected" for key in state if key not in expected]
    problems += [
        f"{key} has shape {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if problems:
        raise InputError(
            f"{flag}: the checkpoint belongs to another network: {'; '.join(problems[:3])} ({len(problems)} "
            "differences in all); give the --model and --num_LIBs that it was trained with."
        )
    if assign:
        state = {key: value.to(expected[key].dtype) for key, value in state.items()}
    network.load_state_dict(state, assign=assign)


def load_trained(file: Path, flag: str = "--model") -> tuple[LIBNetwork, dict[str, Any]]:
    """Load the trained network of a checkpoint.

    Args:
        file: checkpoint file, folder of a shared model, or its name on the hub.
        flag: argument that named it, for messages.

    Returns:
        The network, on the CPU, in evaluation mode, and the checkpoint without ``state_dict``. Its ``args`` always have
        ``model``, ``num_LIBs`` and ``size``, the side of the network's images in pixels.

    Raises:
        InputError: the file is not a checkpoint, its network is unknown, or the hub has no such model.
    """
    checkpoint = load_checkpoint(find_model(file, flag), flag, scoring=True)
    # The keys of an authors' checkpoint identify resnet and mobilenet; all their networks use 224 pixels.
    checkpoint["args"] = {"model": "efficientnet", "num_LIBs": 1, "size": 224} | checkpoint["args"]
    model, num_LIBs, size = (checkpoint["args"][name] for name in ("model", "num_LIBs", "size"))
    return trained_network(model, num_LIBs, size, checkpoint, flag), checkpoint


def trained_network(
    model: str, num_LIBs: int, size: int, checkpoint: dict[str, Any], flag: str = "--resume_model"
) -> LIBNetwork:
    """Build the network of a checkpoint, and move the weights from the checkpoint into it.

    Args:
        model, num_LIBs, size: as for `models.backbones.build_network`.
        checkpoint: result of `load_checkpoint`; loses its entry ``state_dict``, so that no second copy stays in memory.
        flag: argument that named the file, for messages.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        InputError: the network is unknown, or the checkpoint is of another network.
    """
    from models.backbones import WithoutRandomInit, build_network  # timm takes a second to import

    with WithoutRandomInit():
        network = build_network(model, num_LIBs, size)
    load_network(network, checkpoint, flag, assign=True)
    del checkpoint["state_dict"]
    return network.eval()
