"""The benchmarks run, and end with a line of JSON; their speeds are not tested."""

import json
from types import ModuleType

import pytest
import torch

from benchmarks import evaluation, gpu, train_step
from benchmarks.single_changes import create_as_torchvision, start_and_drop, start_and_keep
from models import backbones
from utils.schedule import Schedule

TINY = "--model test_resnet --num_LIBs 2 --size 32 --bs 4 --steps 1 --num_workers 0 --gpu_num cpu".split()


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [train_step, evaluation])
def test_both_ways_are_timed(benchmark: ModuleType, capsys: pytest.CaptureFixture) -> None:
    benchmark.main(TINY)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["baseline"] > 0 and found["ours"] > 0
    assert found["ratio"] == pytest.approx(found["ours"] / found["baseline"], abs=0.02)


@pytest.mark.slow
def test_the_gpu_benchmark_measures_everything(capsys: pytest.CaptureFixture) -> None:
    gpu.main([*TINY, "--bs", "8", "--side", "64"])  # two images for each of four micro-batches
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    parts = {"matrix TFLOP/s", "training", "evaluation", "hours of an FF++ epoch", "input", "memory, bf16"}
    assert parts <= found.keys()
    assert found["training"].keys() >= {"baseline", "ours", "ratio", "TFLOP/s"}
    assert found["input"]["end to end"] > 0


@pytest.mark.parametrize("name", ["cosine", "official"])
def test_the_optimizer_keeps_or_drops_its_state_with_either_schedule(name: str) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([{"params": [weight], "initial_lr": 0.1}])
    weight.grad = torch.ones(1)
    optimizer.step()
    schedule = Schedule(name, 0.1, 2, 1)
    start_and_keep(schedule, optimizer)
    assert optimizer.state[weight]["exp_avg"].item() != 0
    start_and_drop(schedule, optimizer)
    assert not optimizer.state


def test_torchvision_weights_differ_only_in_the_scales_of_the_last_batch_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return backbones.build_network("resnet18", 1, 32).state_dict()

    ours = weights()
    monkeypatch.setattr(backbones.timm, "create_model", create_as_torchvision)
    theirs = weights()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {f"region_model1.layer{layer}.{block}.bn2.weight" for layer in range(1, 5) for block in range(2)}
    assert all((ours[name] == 0).all() and (theirs[name] == 1).all() for name in changed)
