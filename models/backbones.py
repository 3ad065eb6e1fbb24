"""timm backbones for the Local Information Blocks (LIBs), and their weights."""

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.lib_network import LIBNetwork
from utils.errors import InputError, did_you_mean
from utils.hub import hub_reachable
from utils.imports import without_compiler
from utils.torch_files import check_archive

with without_compiler():
    import timm

# --model name to timm name; --model also takes any other timm name.
BACKBONES = {
    "resnet": "resnet34.tv_in1k",
    "efficientnet": "efficientnet_b4",
    "mobilenet": "mobilenetv1_100",
}


class WithoutRandomInit(TorchFunctionMode):
    """Leave random weights uninitialised inside a ``with`` block.

    Their initialisation takes seconds, and a checkpoint replaces them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Skip a random initialisation; call every other function."""
        if getattr(func, "__name__", "") in ("uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def check_model_name(model: str) -> None:
    """Raise InputError with the nearest valid name if `model` is unknown."""
    if model in BACKBONES:
        return
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        names = [*BACKBONES, *timm.list_models()]
        raise InputError(
            f"--model: unknown model '{model}'{did_you_mean(model, names)} Choose resnet, efficientnet, "
            "mobilenet or a name from timm.list_models()."
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(architecture)]
    if "." in model and tag not in tags:
        raise InputError(
            f"--model: timm has no weights '{tag}' for '{architecture}'{did_you_mean(tag, tags)} "
            f"Available weights: {', '.join(tags) or 'none'}."
        )


def _create_backbone(model: str, size: int, pretrained: bool = False) -> nn.Module:
    """Create a backbone without its classifier: B x 3 x size x size to B x d."""
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    name = BACKBONES.get(model, model)
    if model == "mobilenet":
        options["act_layer"] = nn.ReLU  # as in the authors' MobileNetV1; timm's has ReLU6
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = size
    return timm.create_model(name, **options)


def imagenet_weights(model: str, size: int) -> dict[str, Tensor]:
    """Return timm's ImageNet weights of a backbone, from the local cache or the Hugging Face hub.

    Args:
        model: value of ``--model``.
        size: side of the images in pixels.

    Raises:
        InputError: timm has no weights for the backbone, or they are not in the cache and the download fails.
    """
    choices = "give --pretrained False, or --pretrained FILE with weights of this backbone"
    name = BACKBONES.get(model, model)
    if not timm.is_model_pretrained(name):
        raise InputError(f"--pretrained True: timm has no weights for '{name}'; {choices}.")
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if not hub_reachable():
            huggingface_hub.constants.HF_HUB_OFFLINE = True  # use only the cache
        return _create_backbone(model, size, pretrained=True).state_dict()
    except Exception as error:  # the hub, its HTTP client and the file readers have no common exception
        raise InputError(
            f"--pretrained True: the weights of '{name}' are not in the cache, and the download from "
            f"{huggingface_hub.constants.ENDPOINT} failed ({type(error).__name__}); {choices}."
        ) from error
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline


def weights_from_file(file: Path, backbone: nn.Module, model: str) -> dict[str, Tensor]:
    """Read the weights of one backbone from a timm or torchvision file (.pth, .pt or .safetensors).

    Args:
        file: weights file; its classifier is ignored, and all other tensors must fit.
        backbone: network that the weights must fit.
        model: value of ``--model``.

    Returns:
        The ``state_dict`` of the backbone.

    Raises:
        InputError: the file is missing, is not a weights file, or has the weights of another network.
    """
    try:
        check_archive(file)
        weights = timm.models.load_state_dict(str(file), use_ema=False, weights_only=True)
        if not all(isinstance(value, Tensor) for value in weights.values()):
            raise TypeError("some entries are not tensors")
    except Exception as error:  # a damaged file can raise almost anything
        raise InputError(
            f"--pretrained: {file} is not a weights file ({type(error).__name__}); give another file, True or False."
        ) from error
    expected = backbone.state_dict()
    # Files written before PyTorch 0.4.1 lack these counters, and BatchNorm with a momentum does not use them.
    weights = {**{key: value for key, value in expected.items() if key.endswith("num_batches_tracked")}, **weights}
    missing = [key for key in expected if key not in weights]
    mismatched = [key for key in expected if key in weights and weights[key].shape != expected[key].shape]
    if missing or mismatched:
        raise InputError(
            f"--pretrained: {file} has the weights of another network, not of '{model}': {len(missing)} of "
            f"{len(expected)} tensors are missing and {len(mismatched)} have another shape "
            f"(first: {(missing + mismatched)[0]}); give weights of '{model}', True or False."
        )
    return {key: weights[key] for key in expected}


def build_network(model: str, num_LIBs: int, size: int, pretrained: bool | Path = False) -> LIBNetwork:
    """Build the network of the paper.

    Args:
        model: ``resnet`` (ResNet-34, d = 512), ``mobilenet`` (MobileNetV1, d = 1024), ``efficientnet``
            (EfficientNet-B4, d = 1792) or any timm name.
        num_LIBs: number n of backbones, at least 1.
        size: side of the images in pixels.
        pretrained: True for timm's ImageNet weights, False for random weights, or a weights file. All LIBs start
            from the same pretrained weights.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        InputError: the name is unknown, the backbone cannot take the image size, or the weights cannot be loaded.
    """
    check_model_name(model)
    try:
        backbones = [_create_backbone(model, size) for _ in range(num_LIBs)]
        with torch.inference_mode():  # timm's num_features is not always d
            features = backbones[0].eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"--model {model} does not work with --size {size} ({reason}); change one of them.") from error
    if features.ndim != 2:
        raise InputError(
            f"--model {model} returns features of shape {tuple(features.shape)}, not B x d; choose another model."
        )
    weights = imagenet_weights(model, size) if pretrained is True else None
    if isinstance(pretrained, Path):
        weights = weights_from_file(pretrained, backbones[0], model)
    if weights is not None:
        for backbone in backbones:
            backbone.load_state_dict(weights)
    return LIBNetwork(backbones, features.shape[1]).train()
