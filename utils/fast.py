"""Run a network with OpenVINO on the CPU, once it has so many images that the conversion pays."""

import copy
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.world import current_rank

TOLERANCE = {"f32": 1e-3, "bf16": 0.3}  # largest difference from PyTorch, as a share of the largest output

Outputs = Tensor | tuple[Tensor, ...]


class OpenVINOLater(nn.Module):
    """A network on the CPU that runs in PyTorch for the first images, then in OpenVINO, if this is installed.

    The conversion takes seconds, so a photo or a short video must not wait for it. The switch depends on the number of
    images alone, never on a clock, so equal input gives equal output. The weights must not change after the first call.

    Args:
        network: maps images, B x 3 x H x W, float32, to one or several tensors; in evaluation mode.
        pytorch_images: number of images that PyTorch gets; OpenVINO gets the batch that exceeds it, and all later ones.
        precision: number format of OpenVINO: f32, or bf16 where the CPU has instructions for it.
        source: the network to convert, without autocast; None for `network`.
    """

    def __init__(
        self, network: nn.Module, pytorch_images: float, precision: str = "f32", source: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network, self.pytorch_images = network, pytorch_images
        self.precision, self.source = precision, source or network
        self.seen = 0
        self.compiled: Callable[[Tensor], Outputs] | None = None
        self._tried = False

    def forward(self, images: Tensor) -> Outputs:
        """Return what the network returns for a batch."""
        self.seen += len(images)
        if self.seen > self.pytorch_images and not self._tried:
            self._tried = True
            if find_spec("openvino") is None:
                _note("OpenVINO would be faster on this CPU: pip install --no-deps -r requirements-extra.txt")
            else:
                try:
                    self.compiled = convert(self.source, images[:1], self.precision)
                except ArithmeticError as error:
                    _note(f"using PyTorch, because {error}")
                except Exception as error:  # noqa: BLE001  # OpenVINO has no common exception
                    _note(f"using PyTorch, because OpenVINO does not support this network ({type(error).__name__})")
        return self.network(images) if self.compiled is None else self.compiled(images)


def _note(text: str) -> None:
    if current_rank() == 0:
        with tqdm.external_write_mode():
            print(f"note: {text}", file=sys.stderr, flush=True)


@torch.no_grad()
def convert(network: nn.Module, image: Tensor, precision: str = "f32") -> Callable[[Tensor], Outputs]:
    """Convert a network to OpenVINO, which folds batch norms into convolutions, and compile it for this CPU.

    Args:
        network: as for `OpenVINOLater`.
        image: an example, 1 x 3 x H x W.
        precision: f32 or bf16.

    Returns:
        The compiled network, for images of any number and size that the network takes, on as many threads as PyTorch.

    Raises:
        ArithmeticError: an output differs from PyTorch's by more than `TOLERANCE`.
        Exception: OpenVINO does not support the network.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # would send usage data
    import openvino

    # The trace of a function holds the weights as constants, and takes half as long as the trace of a module; but it
    # refuses weights that require gradients. This copy shares the memory of the weights.
    shared = {id(x): nn.Parameter(x.detach(), requires_grad=False) for x in network.parameters()}
    frozen = copy.deepcopy(network, {**shared, **{id(x): x for x in network.buffers()}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = torch.jit.trace(lambda images: frozen(images), image.repeat(2, 1, 1, 1), check_trace=False)
        model = openvino.convert_model(trace, input=[-1, 3, -1, -1])
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # several processes would pin their threads to the same cores
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time
    }
    compiled = _core().compile_model(model, "CPU", options)

    def run(images: Tensor) -> Outputs:
        outputs = compiled(images.contiguous().numpy())
        found = tuple(torch.from_numpy(outputs[i]) for i in range(len(compiled.outputs)))
        return found if len(found) > 1 else found[0]

    images = torch.cat([image, image.flip(3), image.roll(1, 2)])  # another number than in the trace
    for ours, theirs in zip(_listed(run(images)), _listed(network(images)), strict=True):
        difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
        if not difference <= TOLERANCE[precision]:
            raise ArithmeticError(f"OpenVINO's outputs differ from PyTorch's by {difference:.2g} of the largest output")
    return run


@cache  # a signal crashes the process after two cores are deleted, the older one first
def _core() -> Any:
    import openvino

    return openvino.Core()


def _listed(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
