"""Key names of checkpoints: the authors' MobileNetV1 names its layers otherwise than timm's.

Checkpoint files, the authors' and ours, hold the authors' names; the network in memory has timm's. ResNet-34
has the same names in both, and for every other backbone the authors' release has none: those pass unchanged.

The authors' MobileNetV1 is one Sequential, ``model``: entry 0 is the stem (convolution, normalisation), and
entries 1 to 13 are the depthwise-separable blocks (0 and 1: depthwise convolution and its normalisation;
3 and 4: pointwise). Behind it stands ``fc``, ImageNet's classifier, which the network never calls.
"""

import re

import torch
from torch import Tensor

MOBILENET_STAGES = (1, 2, 2, 6, 2)  # blocks in each of timm's stages, 13 in all

_TIMM_TO_OFFICIAL = {"conv_stem.": "model.0.0.", "bn1.": "model.0.1."}
for _number, (_stage, _block) in enumerate(
    ((s, b) for s, blocks in enumerate(MOBILENET_STAGES) for b in range(blocks)), start=1
):
    for _timm, _official in (("conv_dw", 0), ("bn1", 1), ("conv_pw", 3), ("bn2", 4)):
        _TIMM_TO_OFFICIAL[f"blocks.{_stage}.{_block}.{_timm}."] = f"model.{_number}.{_official}."
_OFFICIAL_TO_TIMM = {official: timm for timm, official in _TIMM_TO_OFFICIAL.items()}

_LIB = re.compile(r"(region_model\d+\.)(.*\.)?([^.]+)")


def _rename(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        match = _LIB.fullmatch(key)
        if match and match[2] in names:
            key = match[1] + names[match[2]] + match[3]
        renamed[key] = value
    return renamed


def is_official_mobilenet(state: dict[str, Tensor]) -> bool:
    """Tell whether `state` holds the authors' names of MobileNetV1."""
    return "region_model1.model.0.0.weight" in state


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint's tensors to this network's names, and drop what the network never uses.

    The ``module.`` that `torch.nn.DataParallel` puts before every name goes too.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if is_official_mobilenet(state):
        state = {key: value for key, value in state.items() if not re.match(r"region_model\d+\.fc\.", key)}
        state = _rename(state, _OFFICIAL_TO_TIMM)
    return state


def to_official(state: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Rename this network's tensors to the names that the authors' code loads.

    Args:
        state: the network's ``state_dict()``.
        model: the value of ``--model``.

    Returns:
        The same tensors under the authors' names. For ``mobilenet`` there is a ``fc`` of zeros beside each
        backbone, which their network never calls but their loading asks for.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if model == "mobilenet":
        state = _rename(state, _TIMM_TO_OFFICIAL)
        for key in [key for key in state if key.endswith(".model.13.4.weight")]:
            lib = key.removesuffix("model.13.4.weight")
            state[lib + "fc.weight"] = torch.zeros(1000, 1024)
            state[lib + "fc.bias"] = torch.zeros(1000)
    return state
