"""A trained network, from its checkpoint alone."""

from pathlib import Path
from typing import Any

from models.backbones import build_network
from models.lib_network import LIBNetwork
from utils.checkpoints import load_checkpoint, load_network


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
