"""Compare this project with numbers from the authors' own code: logits, loss terms, gradients, training runs.

tests/fidelity_reference64.json comes from the authors' published code in float64, where results hardly depend on the
processor and the tolerances are strict. tests/fidelity_reference.json comes from float32, where only results before the
second training step are comparable. The environment variables FIDELITY_REFERENCE64 and FIDELITY_REFERENCE replace them.
FIDELITY_THREADS sets the number of threads (default: 1).
"""

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from datasets.images import Batch
from datasets.mixup import Mix, mix_terms
from engine import BadImages, Objective, optimizer_step, train_one_epoch
from losses.balance import FixedBalance, LearntBalance
from losses.divergences import kl_divergence
from losses.terms import Logits, loss_terms
from models.backbones import WithoutRandomInit, build_network
from models.checkpoints import load_checkpoint, load_network
from models.official_names import to_official
from tests import reference_parameters as parameters
from train_state import TrainState, make_optimizer
from training import parse_arguments
from utils.training_arguments import TrainingArguments
from utils.world import World

HERE = Path(__file__).parent
THREADS = int(os.environ.get("FIDELITY_THREADS", 1))
REFERENCE = json.loads(Path(os.environ.get("FIDELITY_REFERENCE", HERE / "fidelity_reference.json")).read_text())
OWN_REFERENCE64 = HERE / "fidelity_reference64.json"
REFERENCE64 = json.loads(Path(os.environ.get("FIDELITY_REFERENCE64", OWN_REFERENCE64)).read_text())

SAME_NAMES = "model num_LIBs size lr weight_decay temperature lil_loss gil_loss balance_loss_method".split()  # as flags
SCALES = "scales_in_order_classification_global_local"

Losses = dict[str, float]  # the total and the terms of one step
Weights = dict[str, float]


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """All other tests use one thread, whatever OMP_NUM_THREADS is."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def difference(ours: Any, theirs: Any) -> float:
    """Return the largest absolute difference divided by the largest absolute value of theirs."""
    one, other = torch.as_tensor(ours, dtype=torch.float64), torch.as_tensor(theirs, dtype=torch.float64)
    assert one.shape == other.shape
    return ((one - other).abs().max() / other.abs().max()).item()


def import_network(settings: dict[str, Any], folder: Path) -> nn.Module:
    """Write a checkpoint as the authors' code does (from DataParallel), and load it as a user would."""
    with WithoutRandomInit():
        network = build_network(settings["model"], settings["num_LIBs"], settings["size"])
    blank = to_official(network.state_dict(), settings["model"])
    shapes = {name: list(value.shape) for name, value in blank.items()}
    shapes = settings.get("checkpoint_shapes", shapes)
    state = {f"module.{name}": parameters.parameter(name, shape) for name, shape in shapes.items()}
    file = folder / "official.pth"
    torch.save({"state_dict": state, "epoch": 0}, file)
    load_network(network, load_checkpoint(file))
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.get("dropout", 0.0)
    return network


def read_logits(values: dict[str, Any], dtype: torch.dtype) -> Logits:
    fused, all_features = (torch.tensor(values[name], dtype=dtype) for name in ("p_y_given_z", "p_y_given_f_all"))
    return Logits(fused, all_features, [torch.tensor(head, dtype=dtype) for head in values["p_y_given_f1_fn_list"]])


def heads_of(logits: Logits) -> list[Tensor]:
    return [logits.fused, logits.all, *logits.leave_one_out]


def compare_logits(reference: dict[str, Any], dtype: torch.dtype, folder: Path) -> float:
    """Return the largest relative difference of any head's logits."""
    network = import_network(reference, folder).eval().to(dtype)
    with torch.inference_mode():
        ours = network(parameters.images(reference["batch"], reference["size"]).to(dtype))
    theirs = heads_of(read_logits(reference, torch.float64))
    return max(difference(*pair) for pair in zip(heads_of(ours), theirs, strict=True))


def make_objective(settings: dict[str, Any], dtype: torch.dtype, folder: Path) -> Objective:
    """Make the objective with the settings of a reference."""
    lil, gil = settings.get("lil_loss", True), settings.get("gil_loss", True)
    args = TrainingArguments(lil_loss=lil, gil_loss=gil, temperature=settings.get("temperature", 1.5))
    args.balance_loss_method = settings.get("balance_loss_method", "auto")
    if args.balance_loss_method == "hyper":
        scales = settings[SCALES]
        args.scales = scales_by_name(scales, in_use(lil, gil))
    return Objective(import_network(settings, folder), args, World("cpu")).train().to(dtype)


def in_use(lil: bool, gil: bool) -> list[str]:
    """Return the terms in the order of the authors' code."""
    return ["classification"] + ["global"] * gil + ["local"] * lil


def scales_by_name(scales: list[float], terms: list[str]) -> list[float]:
    """Order scales by name; the authors' code applies them by position among the terms in use."""
    theirs = dict(zip(terms, scales, strict=False))
    return [theirs.get(name, 1.0) for name in ("classification", "local", "global")]


def take_step(objective: Objective, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Losses:
    """Take one training step and return its losses."""
    total, terms, _ = objective(images, labels, None, [len(labels)])
    optimizer_step(optimizer, total, GradScaler(enabled=False))
    return {"total": total.item(), **{name: term.item() for name, term in terms.items()}}


def training_steps(reference: dict[str, Any], dtype: torch.dtype, folder: Path) -> Iterator[tuple[Losses, Weights]]:
    """Train with the settings of `reference`; yield each step's losses and the learnt weights after it."""
    objective = make_objective(reference, dtype, folder)
    settings = re.fullmatch(
        r"Adam, network lr (\S+), loss weights lr 1e-3, betas 0.9 0.999, weight decay (\S+) on both",
        reference["optimizer"],
    )
    assert settings is not None
    optimizer = make_optimizer(objective.network, objective.balance, float(settings[1]), float(settings[2]))
    labels = parameters.labels(reference["batch"])
    for step in range(len(reference["steps"])):
        images = parameters.images(reference["batch"], reference["size"], seed=step).to(dtype)
        losses = take_step(objective, optimizer, images, labels)
        learnt = {name.split(".")[-1]: weight.item() for name, weight in objective.balance.named_parameters()}
        yield losses, learnt


class Steps(list[Batch]):
    """The batches of the reference, in place of a loader; `images` images in an epoch."""

    def __init__(self, batches: list[Batch], images: int) -> None:
        super().__init__(batches)
        self.batch_sampler = SimpleNamespace(images=images)


def recipe_steps(reference: dict[str, Any], folder: Path) -> Iterator[tuple[Losses, list[float]]]:
    """Train with ``--recipe official`` in float64, from the command line on; yield each step's losses and rates."""
    batch, size, steps = reference["batch"], reference["size"], reference["steps_per_epoch"]
    import_network(reference, folder)
    argv = (
        f"--recipe official --resume_model {folder / 'official.pth'} --gpu_num cpu --log_every 1 --bs {batch}".split()
    )
    for name, key in (("epoch", "epochs"), *((key, key) for key in SAME_NAMES)):
        argv += [f"--{name}", str(reference[key])]
    scales = scales_by_name(reference[SCALES], in_use(reference["lil_loss"], reference["gil_loss"]))
    args, checkpoint = parse_arguments([*argv, "--scales", ",".join(map(str, scales))])
    assert (args.channels, args.lr_schedule, args.precision, args.oversample) == ("BGR", "official", "fp32", "paper")
    state = TrainState(args, checkpoint, steps, World("cpu"))
    state.objective.double()
    for module in state.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = reference.get("dropout", 0.0)
    mixes = (Mix(*draw) for draw in zip(reference["lambda"], map(torch.tensor, reference["permutation"]), strict=True))
    taken: list[tuple[Losses, list[float]]] = []

    def after_step(losses: Losses | None) -> None:
        assert losses is not None
        taken.append((losses, [group["lr"] for group in state.optimizer.param_groups]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.draw_mix", lambda *_: next(mixes))
        patch.setattr("engine.normalise", lambda images, channels: {"BGR": images}[channels])  # normalised before
        for epoch in range(reference["epochs"]):
            numbers = range(epoch * steps, (epoch + 1) * steps)
            images = [parameters.images(batch, size, seed=number).double() for number in numbers]
            batches = [Batch(image, parameters.labels(batch), torch.arange(batch), []) for image in images]
            train_one_epoch(state, Steps(batches, batch * steps), BadImages(False), after_step)  # type: ignore[arg-type]
            state.finish_epoch({"log_loss": reference["test_losses"][epoch], "auc": 0.5}, None)
    yield from taken


@cache
def train_once(steps: Callable[..., Iterator[Any]], settings: str, *more: Any) -> list[Any]:
    """Return the results of all training steps; references with the same settings share one training."""
    with tempfile.TemporaryDirectory() as folder:
        return list(steps(json.loads(settings), *more, Path(folder)))


def settings_of(reference: dict[str, Any]) -> str:
    """Return a reference without its expected numbers, as JSON; the steps become nulls, because their number counts."""
    expected = ("learnt_weights_after", "learning_rates_network_and_loss_weights")
    settings = {name: value for name, value in reference.items() if name not in expected}
    return json.dumps({**settings, "steps": [None] * len(reference["steps"])})


# --------------------------------------------------------------------------------------------------------- float64


@pytest.mark.parametrize("name", REFERENCE64["networks"])
def test_logits(name: str, tmp_path: Path) -> None:
    assert compare_logits(REFERENCE64["networks"][name], torch.float64, tmp_path) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(REFERENCE64["training"])))
def test_training(case: int) -> None:
    reference = REFERENCE64["training"][case]
    steps = train_once(training_steps, settings_of(reference), torch.float64)
    assert len(steps) == len(reference["steps"])
    for step, (ours, _) in enumerate(steps):
        assert ours == pytest.approx(reference["steps"][step], rel=1e-8, abs=0), f"step {step}"
    assert steps[-1][1] == pytest.approx(reference.get("learnt_weights_after", {}), rel=1e-8, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(REFERENCE64["recipe"])))
def test_recipe(case: int) -> None:
    reference = REFERENCE64["recipe"][case]
    steps = train_once(recipe_steps, settings_of(reference))
    assert len(steps) == len(reference["steps"])
    for step, (ours, rates) in enumerate(steps):
        assert ours == pytest.approx(reference["steps"][step], rel=1e-6, abs=0), f"step {step}"
        # With fixed weights, this project has one parameter group and the authors' code two.
        theirs = reference["learning_rates_network_and_loss_weights"][step][: len(rates)]
        assert rates == pytest.approx(theirs, rel=1e-12, abs=0), f"step {step}"


@pytest.mark.slow
def test_another_reference(tmp_path: Path) -> None:
    """FIDELITY_REFERENCE64 gives other numbers: the right ones pass, and one wrong number fails.

    It uses two threads and PyTorch's kernels without AVX; the other tests use one thread and this processor's kernels.
    """
    own = json.loads(OWN_REFERENCE64.read_text())
    network, training, recipe = own["networks"]["mobilenet-2"], own["training"][0], own["recipe"][0]
    training["steps"], recipe["steps"], recipe["epochs"] = training["steps"][:1], recipe["steps"][:1], 1
    # Adam's first step moves each weight by its rate, 1e-3; the classification loss alone is above 1.
    training["learnt_weights_after"] = {"classification": 1.001, "global": 0.999, "local": 0.999}
    wrong_network, wrong_training, wrong_recipe = copy.deepcopy((network, training, recipe))
    wrong_network["p_y_given_z"][0][0] *= 1 + 1e-5
    wrong_training["steps"][0]["local"] *= 1 + 1e-5
    wrong_recipe["steps"][0]["local"] *= 1 + 1e-5
    numbers = {
        "networks": {"0": network, "1": wrong_network},
        "training": [training, wrong_training],
        "recipe": [recipe, wrong_recipe],
    }
    file = tmp_path / "reference64.json"
    file.write_text(json.dumps(numbers))
    tests = [f"tests/test_fidelity.py::test_{name}" for name in ("logits", "training", "recipe")]
    output = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-rpf", "-p", "no:cacheprovider", *tests],
        cwd=HERE.parent,
        env={
            **os.environ,
            "FIDELITY_REFERENCE64": str(file),
            "FIDELITY_THREADS": "2",
            "ATEN_CPU_CAPABILITY": "default",
        },
        capture_output=True,
        text=True,
    ).stdout
    outcomes = re.findall(r"^(PASSED|FAILED) \S+::test_(\S+)", output, flags=re.MULTILINE)
    words = ("PASSED", "FAILED")
    expected = [(words[case], f"{name}[{case}]") for case in (0, 1) for name in ("logits", "training", "recipe")]
    assert sorted(outcomes) == sorted(expected), output


# --------------------------------------------------------------------------------------------------------- float32


@pytest.mark.parametrize("name", REFERENCE["networks"])
def test_float32_logits(name: str, tmp_path: Path) -> None:
    assert compare_logits(REFERENCE["networks"][name], torch.float32, tmp_path) < 1e-4


@pytest.mark.parametrize("case", range(len(REFERENCE["training"])))
def test_float32_first_step(case: int, tmp_path: Path) -> None:
    reference = REFERENCE["training"][case]
    ours, _ = next(training_steps(reference, torch.float32, tmp_path))
    assert ours == pytest.approx(reference["steps"][0], rel=1e-4, abs=0)


@pytest.mark.parametrize("case", range(len(REFERENCE["losses"])))
def test_float32_losses(case: int) -> None:
    reference = REFERENCE["losses"][case]
    lil, gil = reference["lil_loss"], reference["gil_loss"]
    outputs = read_logits(reference["logits"], torch.float32)
    outputs.fused.requires_grad_()
    labels = torch.tensor(reference["labels"])

    def terms_for(labels: Tensor) -> dict[str, Tensor]:
        return loss_terms(outputs, labels, lil, gil, reference["temperature"], kl_divergence)

    terms = terms_for(labels)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(reference["terms"], rel=1e-4)

    balance = LearntBalance(list(terms))
    total = balance(terms)
    assert total.item() == pytest.approx(reference["auto_total_at_unit_weights"], rel=1e-4)
    total.backward()
    gradient = [balance.weights[name].grad.item() for name in in_use(lil, gil)]
    assert gradient == pytest.approx(reference["auto_gradient_of_weights"], rel=1e-4)
    assert difference(outputs.fused.grad, reference["auto_gradient_of_p_y_given_z"]) < 1e-4

    seen = set()
    for key, value in reference.items():
        if match := re.fullmatch(r"hyper_total_scales_(.+)_in_order_(.+)", key):
            names = [name for name in match[2].split("_") if name in terms]
            fixed = FixedBalance(scales_by_name(list(map(float, match[1].split("_"))), names))
            assert fixed(terms).item() == pytest.approx(value, rel=1e-4)
            seen.add("hyper")
        if match := re.fullmatch(r"mixup_lambda_(.+)_with_labels_reversed", key):
            mixed = mix_terms(terms, terms_for(labels.flip(0)), float(match[1]))
            assert {k: v.item() for k, v in mixed.items()} == pytest.approx(value, rel=1e-4)
            seen.add("mixup")
    assert seen == {"hyper", "mixup"}
