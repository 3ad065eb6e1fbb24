"""Convert checkpoint keys between the authors' MobileNetV1 and timm's.

All checkpoint files use the authors' keys, and the network in memory uses timm's. Only MobileNetV1 needs the
conversion: ResNet-34 has equal keys in both, and the authors' release has no other working backbone.

The authors' MobileNetV1 is a Sequential ``model``. Entry 0 is the stem: convolution (0) and BatchNorm (1). Entries 1
to 13 are the depthwise-separable blocks: depthwise convolution (0), BatchNorm (1), pointwise convolution (3) and
BatchNorm (4). ``fc`` is an ImageNet classifier that their network never calls.
"""

import re

import torch
from torch import Tensor

MOBILENET_STAGES = (1, 2, 2, 6, 2)  # number of blocks in each stage of timm's network, 13 in total

_TIMM_TO_OFFICIAL = {"conv_stem.": "model.0.0.", "bn1.": "model.0.1."}
for _number, (_stage, _block) in enumerate(
    ((s, b) for s, blocks in enumerate(MOBILENET_STAGES) for b in range(blocks)), start=1
):
    for _timm, _official in (("conv_dw", 0), ("bn1", 1), ("conv_pw", 3), ("bn2", 4)):
        _TIMM_TO_OFFICIAL[f"blocks.{_stage}.{_block}.{_timm}."] = f"model.{_number}.{_official}."
_OFFICIAL_TO_TIMM = {official: timm for timm, official in _TIMM_TO_OFFICIAL.items()}

_LIB_KEY = re.compile(r"(region_model\d+\.)(.*\.)?([^.]+)")


def _rename(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        match = _LIB_KEY.fullmatch(key)
        if match and match[2] in names:
            key = match[1] + names[match[2]] + match[3]
        renamed[key] = value
    return renamed


def is_official_mobilenet(state: dict[str, Tensor]) -> bool:
    """Return whether `state` has the authors' keys of MobileNetV1."""
    return "region_model1.model.0.0.weight" in state


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the keys of a checkpoint to the keys of `models.lib_network.LIBNetwork`.

    This removes the prefix ``module.`` of `torch.nn.DataParallel` and the unused ``fc`` of MobileNetV1.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if is_official_mobilenet(state):
        state = {key: value for key, value in state.items() if not re.match(r"region_model\d+\.fc\.", key)}
        state = _rename(state, _OFFICIAL_TO_TIMM)
    return state


def to_official(state: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Convert the keys of `models.lib_network.LIBNetwork` to the keys that the authors' code loads.

    Args:
        state: ``state_dict()`` of the network.
        model: value of ``--model``.

    Returns:
        The tensors under the authors' keys. ``mobilenet`` gets an ``fc`` of zeros for each LIB, because the authors'
        code requires it on loading.
    """
    if model == "mobilenet":
        state = _rename(state, _TIMM_TO_OFFICIAL)
        for key in [key for key in state if key.endswith(".model.13.4.weight")]:
            lib = key.removesuffix("model.13.4.weight")
            state[lib + "fc.weight"] = torch.zeros(1000, 1024)
            state[lib + "fc.bias"] = torch.zeros(1000)
    return state
