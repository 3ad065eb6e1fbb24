"""The backbones that serve as Local Information Blocks, from timm, and their weights."""

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import timm
import torch
from torch import Tensor, nn

from models.lib_network import LIBNetwork
from utils.errors import InputError, did_you_mean

# The paper's three, by the names of --model; any other name is timm's own.
BACKBONES = {
    "resnet": "resnet34.tv_in1k",
    "efficientnet": "efficientnet_b4",
    "mobilenet": "mobilenetv1_100",
}


def check_model_name(model: str) -> None:
    """Raise InputError, with the nearest valid name, where neither this project nor timm knows `model`."""
    if model in BACKBONES:
        return
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        names = [*BACKBONES, *timm.list_models()]
        raise InputError(
            f"--model: unknown model '{model}'{did_you_mean(model, names)} Give resnet, efficientnet, "
            "mobilenet or a name from timm.list_models()."
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(architecture)]
    if "." in model and tag not in tags:
        raise InputError(
            f"--model: timm knows no weights '{tag}' of '{architecture}'{did_you_mean(tag, tags)} Give one of "
            f"{', '.join(tags) or 'none: it has no weights'}."
        )


def _create(model: str, size: int, pretrained: bool = False) -> nn.Module:
    """Make one backbone without its classifier: B x 3 x size x size to B x d."""
    options: dict[str, Any] = {"num_classes": 0, "pretrained": pretrained}
    name = BACKBONES.get(model, model)
    if model == "mobilenet":
        options["act_layer"] = nn.ReLU  # as in the authors' MobileNetV1; timm's own has ReLU6
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = size
    return timm.create_model(name, **options)


def _hub_reachable() -> bool:
    try:
        urllib.request.urlopen(huggingface_hub.constants.ENDPOINT, timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True


def imagenet_weights(model: str, size: int) -> dict[str, Tensor]:
    """Fetch timm's ImageNet weights of one backbone, or take them from the cache.

    Raises:
        InputError: there are none, or they are neither in the cache nor to be fetched; at once, where
            huggingface_hub by itself would retry for half a minute.
    """
    choices = "give --pretrained False, or --pretrained FILE with a weights file of this backbone"
    name = BACKBONES.get(model, model)
    if not timm.is_model_pretrained(name):
        raise InputError(f"--pretrained True: timm has no weights for '{name}'; {choices}.")
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if not _hub_reachable():
            huggingface_hub.constants.HF_HUB_OFFLINE = True  # look in the cache alone
        return _create(model, size, pretrained=True).state_dict()
    except Exception as error:
        raise InputError(
            f"--pretrained True: the weights of '{name}' could not be fetched from "
            f"{huggingface_hub.constants.ENDPOINT} ({type(error).__name__}) and are not in the cache; {choices}."
        ) from error
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline


def weights_from_file(file: Path, backbone: nn.Module, model: str) -> dict[str, Tensor]:
    """Read one backbone's weights from a file of timm's or torchvision's (.pth, .pt or .safetensors).

    The classifier in it is left out; everything else must fit.

    Raises:
        InputError: no such file, not a weights file, or weights of another network.
    """
    if not file.is_file():
        raise InputError(f"--pretrained: there is no file {file}; give True, False or a weights file.")
    try:
        weights = timm.models.load_state_dict(str(file), use_ema=False, weights_only=True)
        if not all(isinstance(value, Tensor) for value in weights.values()):
            raise TypeError("not all of its entries are tensors")
    except Exception as error:
        raise InputError(f"--pretrained: {file} is not a weights file ({type(error).__name__}).") from error
    own = backbone.state_dict()
    # Files from before PyTorch 0.4.1 have no counters, which nothing here reads.
    weights = {**{key: value for key, value in own.items() if key.endswith("num_batches_tracked")}, **weights}
    missing = [key for key in own if key not in weights]
    others = [key for key in own if key in weights and weights[key].shape != own[key].shape]
    if missing or others:
        raise InputError(
            f"--pretrained: {file} holds weights of another network than '{model}': "
            f"{len(missing)} of its {len(own)} tensors are missing, {len(others)} have another shape "
            f"(first: {(missing + others)[0]})."
        )
    return {key: weights[key] for key in own}


def build_network(model: str, num_LIBs: int, size: int, pretrained: bool | Path = False) -> LIBNetwork:
    """Make the network of the paper.

    Args:
        model: ``resnet`` (ResNet-34, d = 512), ``mobilenet`` (MobileNetV1, d = 1024), ``efficientnet``
            (EfficientNet-B4, d = 1792) or any timm name.
        num_LIBs: how many backbones, >= 1.
        size: images are size x size pixels.
        pretrained: True for timm's ImageNet weights, False for random ones, or a weights file; each LIB
            starts from the same ones.

    Returns:
        The network, on the CPU, in training mode.

    Raises:
        InputError: an unknown name, a size that the backbone cannot take, or weights that cannot be had.
    """
    check_model_name(model)
    try:
        backbones = [_create(model, size) for _ in range(num_LIBs)]
        with torch.inference_mode():  # the width that timm declares is not always that of the pooled features
            features = backbones[0].eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"--model {model} cannot take images of --size {size}: {reason}.") from error
    if features.ndim != 2:
        raise InputError(f"--model {model} gives no feature vector but {tuple(features.shape)}; choose another.")
    weights = imagenet_weights(model, size) if pretrained is True else None
    if isinstance(pretrained, Path):
        weights = weights_from_file(pretrained, backbones[0], model)
    if weights is not None:
        for backbone in backbones:
            backbone.load_state_dict(weights)
    return LIBNetwork(backbones, features.shape[1]).train()
