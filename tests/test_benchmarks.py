"""The benchmarks run, and end with a line of JSON; their speeds are not tested."""

import json
from types import ModuleType

import pytest

from benchmarks import evaluation, gpu, train_step

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
