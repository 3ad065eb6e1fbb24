"""Shared models: a folder with the weights and settings of a checkpoint, on the disk or on the Hugging Face hub.

`scoring.share` writes the files of the folder:

- ``model.safetensors``: the ``state_dict`` of the checkpoint, under the authors' keys.
- ``config.json``: every other entry of the checkpoint that is plain JSON data (`models.checkpoints` lists the entries),
  without the settings of the machine that trained; ``weights_sha256`` of model.safetensors; and ``checkpoint_sha256``,
  the ``sha256`` of the checkpoint.
- ``familiar_features.safetensors``: the entry ``familiar_features``, if the checkpoint has it. config.json then has its
  ``features_sha256``.
- ``README.md``: the model card.

The SHA-256 of config.json identifies a shared model, because that file has the SHA-256 of the other two.
"""

import hashlib
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from utils import parsing as parse
from utils.data_roots import parse_data_root
from utils.errors import InputError
from utils.files import atomic_folder, load_json, require_file, sha256, write_json
from utils.hub import hub_reachable
from utils.process import current_rank
from utils.training_arguments import NOT_INHERITED, TrainingArguments

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FEATURES = "familiar_features.safetensors"
HUB_NAME = re.compile(r"(?!.*\.(pth|pt|safetensors|onnx)$)[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
# Arguments that describe the machine of the training, such as its paths; a shared model leaves them out.
PATHS = (parse.path, parse_data_root)
LOCAL = {*NOT_INHERITED, *(item.name for item in fields(TrainingArguments) if item.metadata["parse"] in PATHS)}


def require_model(model: Path, flag: str) -> None:
    """Check a value of ``--model`` or ``--resume_model`` without a connection.

    Args:
        model: a checkpoint file, the folder of a shared model, or a name on the hub: user/model, or
            user/model@revision. An existing path is never a name on the hub.
        flag: the argument, for messages.

    Raises:
        InputError: `model` is none of these.
    """
    if model.is_dir():
        missing = [name for name in (CONFIG, WEIGHTS) if not (model / name).is_file()]
        if len(missing) == 1:
            raise InputError(f"{flag}: the shared model {model} has no {missing[0]}; download it again.")
        if missing:
            require_file(model, flag)  # lists the checkpoints of a run folder
    elif not model.exists() and not HUB_NAME.fullmatch(model.as_posix()):
        raise InputError(
            f"{flag}: there is no file or folder {model}; give a checkpoint, the folder of a shared model, or its name "
            "on the hub, such as user/model."
        )


def find_model(model: Path, flag: str) -> Path:
    """Return the path of a model; download it if it is a name on the hub and not yet in the cache.

    Without a connection, the model comes from the cache.

    Args:
        model: as for `require_model`.
        flag: the argument, for messages.

    Raises:
        InputError: there is no such model, or it cannot be downloaded.
    """
    require_model(model, flag)
    if model.exists():
        return model
    from huggingface_hub import constants, errors, snapshot_download  # slow to import

    name, _, revision = model.as_posix().partition("@")
    reachable = hub_reachable()
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            local_files_only=not reachable,
            allow_patterns=[WEIGHTS, CONFIG, FEATURES, CARD],
        )
    except Exception as error:  # the hub and its HTTP client have no common exception
        hub = constants.ENDPOINT
        if constants.HF_HUB_OFFLINE:
            reason = "the cache has no copy of this model; unset HF_HUB_OFFLINE to download it"
        elif not reachable:
            reason = f"the model cannot be downloaded: {hub} does not answer; check the connection"
        elif isinstance(error, errors.RepositoryNotFoundError):
            reason = f"{hub} has no such model, or it is private; check the name, or log in with: hf auth login"
        elif isinstance(error, errors.RevisionNotFoundError):
            reason = f"{hub} has no revision '{revision}' of such a model; check the revision"
        else:
            reason = f"the download from {hub} failed ({type(error).__name__}); check the name, or try again"
        raise InputError(f"{flag}: there is no file or folder {model}, and {reason}.") from error
    found = Path(folder)
    if missing := [file for file in (CONFIG, WEIGHTS) if not (found / file).is_file()]:
        raise InputError(
            f"{flag}: {model} on {constants.ENDPOINT} has no {missing[0]}, so it is no shared model; give another name."
        )
    if not COMMIT.fullmatch(revision) and current_rank() == 0:
        print(f"note: using {name}@{found.name}; this name will always mean these files", file=sys.stderr)
    return found


def read_shared_model(folder: Path, flag: str) -> dict[str, Any]:
    """Read a shared model as a checkpoint: its tensors, and the entries of config.json.

    Args:
        folder: the folder.
        flag: the argument that named the folder, for messages.

    Raises:
        InputError: a file is missing or damaged, or its SHA-256 differs from config.json.
    """
    require_model(folder, flag)
    config = folder / CONFIG
    try:
        entries = load_json(config)
        expected = entries["weights_sha256"]
        if not isinstance(entries, dict):
            raise TypeError("not a JSON object")
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{flag}: {config} does not describe a model of this project: it is damaged, or has no weights_sha256; "
            "download the model again."
        ) from error
    entries = {**entries, "state_dict": _read_tensors(folder / WEIGHTS, "weights_sha256", expected, flag)}
    if (expected := entries.get("features_sha256")) is not None:
        features = _read_tensors(folder / FEATURES, "features_sha256", expected, flag)
        entries["familiar_features"] = features.get("familiar_features")
    return entries


def _read_tensors(file: Path, key: str, expected: str, flag: str) -> dict[str, Any]:
    """Read the tensors of a safetensors file onto the CPU; `key` is the entry of config.json with its SHA-256."""
    import safetensors.torch  # imports PyTorch

    if not file.is_file():
        raise InputError(f"{flag}: the shared model {file.parent} has no {file.name}; download it again.")
    if sha256(file) != expected:
        raise InputError(
            f"{flag}: {file} is damaged or was changed: its SHA-256 is not {key} of {CONFIG}; download the model again."
        )
    try:
        tensors = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"{flag}: {file} is not a safetensors file; download the model again.") from error
    # The file's own layout is not aligned as PyTorch's is, which changes the rounding of scores.
    return {name: value.clone() for name, value in tensors.items()}


def write_shared_model(folder: Path, checkpoint: dict[str, Any], card: str) -> None:
    """Write the folder of a shared model atomically.

    Args:
        folder: folder to create.
        checkpoint: result of `models.checkpoints.load_checkpoint`, with the ``state_dict`` under the authors' keys.
        card: the model card, Markdown.

    Raises:
        InputError: the folder cannot be written.
    """
    import safetensors.torch  # imports PyTorch

    files = {WEIGHTS: safetensors.torch.save(checkpoint["state_dict"], {"format": "pt"})}
    shas = {"weights_sha256": hashlib.sha256(files[WEIGHTS]).hexdigest(), "checkpoint_sha256": checkpoint["sha256"]}
    if (features := checkpoint.get("familiar_features")) is not None:
        files[FEATURES] = safetensors.torch.save({"familiar_features": features.contiguous()}, {"format": "pt"})
        shas["features_sha256"] = hashlib.sha256(files[FEATURES]).hexdigest()
    with atomic_folder(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)
        (new / CARD).write_text(card, encoding="utf-8")
        # First in the file, and last to replace the SHA-256s of a checkpoint that is itself a shared model.
        write_json(new / CONFIG, shas | shareable_entries(checkpoint) | shas)


def shareable_entries(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a checkpoint that are plain JSON data, without settings and paths of the machine.

    If ``pretrained`` is a file, only its name remains.
    """
    args = {name: value for name, value in checkpoint["args"].items() if name not in LOCAL}
    if isinstance(args.get("pretrained"), str):
        args["pretrained"] = Path(args["pretrained"]).name
    faces = checkpoint.get("faces")
    faces = faces and {name: value for name, value in faces.items() if name != "videos"}  # a path
    entries = {name: value for name, value in checkpoint.items() if name != "sha256" and is_json(value)}
    return entries | {"args": args, "faces": faces}


def is_json(value: Any) -> bool:
    """Return whether `json` can write a value, which excludes tensors."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True
