"""The benchmarks run, and end with a line of JSON; their speeds are not tested."""

import json
import re
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import training
from benchmarks import (
    agreement,
    evaluation,
    gpu,
    input_pipeline,
    results,
    scorers,
    single_changes,
    train_step,
    turns,
    video,
)
from benchmarks.single_changes import create_as_torchvision, start_and_drop, start_and_keep
from evaluation.predictions import make_scores, write_predictions
from models import backbones
from tests.helpers import ROOT, arguments
from tests.test_engine import HostReads
from tests.test_inference import checkpoint
from utils.schedule import Schedule
from utils.training_arguments import TrainingArguments
from utils.world import World

TINY = "--model test_resnet --num_LIBs 2 --size 32 --bs 4 --steps 1 --num_workers 0 --gpu_num cpu".split()


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [train_step, evaluation, input_pipeline])
def test_both_ways_are_timed(benchmark: ModuleType, capsys: pytest.CaptureFixture) -> None:
    benchmark.main(TINY)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["baseline"] > 0 and found["ours"] > 0
    assert found["ratio"] == pytest.approx(found["ours"] / found["baseline"], rel=0.01, abs=0.02)


@pytest.mark.slow
def test_the_gpu_benchmark_measures_everything(capsys: pytest.CaptureFixture) -> None:
    gpu.main([*TINY, "--bs", "8", "--side", "64"])  # two images for each of four micro-batches
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    parts = {"matrix TFLOP/s", "training", "evaluation", "hours of an FF++ epoch", "input"}
    parts |= {
        f"memory, {name}" for name in ("authors' way", "fp32", "bf16", "fp16", "checkpoint_blocks", "accumulate 4")
    }
    assert parts <= found.keys()
    assert found["training"].keys() >= {"baseline", "ours", "ratio", "TFLOP/s"}
    assert found["input"]["end to end"] > 0
    hours = (264_598 + 4 * 73_649) / found["training"]["ours"] / 3600
    assert found["hours of an FF++ epoch"] == pytest.approx(hours, rel=0.01)


def test_the_baseline_of_training_is_eager_float32_with_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    networks, build = [], backbones.build_network
    monkeypatch.setattr(train_step, "build_network", lambda *given: networks.append(build(*given)) or networks[-1])
    args = TrainingArguments(model="test_resnet", num_LIBs=2, size=32, bs=4, pretrained=False)
    step = train_step.authors_step(args, World("cpu"), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    inputs: list[torch.Tensor] = []
    for backbone in networks[0].backbones():
        backbone.register_forward_pre_hook(lambda _, given: inputs.append(*given))
    before = networks[0].linear[1].weight.detach().clone()
    with HostReads() as reads:
        step()
    assert reads.count >= 5  # three terms, the total and the correct images, without the draw of mixup
    assert len(inputs) == 2 and all(x.is_contiguous() and x.dtype == torch.float32 for x in inputs)
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in networks[0].parameters())
    assert networks[0].precision == torch.float32 and not torch.equal(networks[0].linear[1].weight, before)


def test_the_baseline_of_evaluation_is_eager_float32_with_channels_first() -> None:
    network = backbones.build_network("test_resnet", 2, 32).eval()
    images, inputs, heads = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), [], []
    step = evaluation.authors_step(network, images, torch.device("cpu"))
    network.region_model1.register_forward_pre_hook(lambda _, given: inputs.append(*given))
    network.local_linear1.register_forward_hook(lambda *_: heads.append(1))
    with HostReads() as reads:
        step()
    assert reads.count == 5 and heads == [1]  # the losses of four heads, and the correct images
    assert inputs[0].is_contiguous() and inputs[0].dtype == torch.float32
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in network.parameters())


def test_turns_alternate_and_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, now = "", 0.0

    def way(name: str, seconds: float) -> None:
        nonlocal calls, now
        calls, now = calls + name, now + seconds

    monkeypatch.setattr(turns.time, "perf_counter", lambda: now)
    ways = [partial(way, "a", 2), partial(way, "b", 1)]
    assert turns.in_turns(ways, images=8, turns=3, repeats=1, seconds=100) == [4, 8]
    assert calls == "ab" * 4
    calls, now = "", 0.0
    turns.in_turns(ways, images=8, turns=9, repeats=1, seconds=10)
    assert calls == "ab" * 3 and now <= 10


@pytest.mark.slow
def test_ways_of_scoring_are_timed(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("openvino")
    scorers.main(TINY)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["images/s"]) == 5 and min(found["images/s"].values()) > 0
    assert found["seconds to prepare"].keys() == found["images/s"].keys()


def test_openvino_pays_from_the_break_even_on() -> None:
    assert scorers.break_even(10, 20, 4) == 80  # 8 s each
    assert scorers.break_even(20, 10, 4) is None


@pytest.mark.slow
def test_agreement_has_the_auc_of_the_test(tiny: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("openvino")
    assert training.main(arguments(tiny, "--name", "run")) == 0
    where = ["--dataset_root", str(tiny / "labels"), "--data_root", str(tiny / "faces")]
    agreement.main([str(tiny / "output/run/model_best.pth"), "--dataset", "tiny", *where])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    results = json.loads((tiny / "output/run/results.json").read_text())
    assert found["PyTorch fp32"] == {"auc": results["datasets"]["tiny"]["auc"], "largest difference": 0}
    assert found["OpenVINO fp32"]["largest difference"] < 1e-4
    assert 0 < found["PyTorch bf16"]["largest difference"] < 0.1


@pytest.mark.slow
def test_the_stages_of_a_video_sum_to_the_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    first, *others = (Image.fromarray(np.full((40, 40, 3), 60 * i, np.uint8)) for i in range(4))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    model = checkpoint(tmp_path / "model.pth", "test_resnet")
    video.main(["--model", str(model), str(tmp_path / "a.gif"), *"--faces_given True --every 1 --gpu_num cpu".split()])
    out = capfd.readouterr().out
    assert "4 frames" in out
    found = json.loads(out.splitlines()[-1])
    for values in zip(*found["seconds"].values(), strict=True):
        assert sum(values[:-1]) == pytest.approx(values[-1], abs=1e-6)
    assert all(found["seconds"][name][0] > 0 for name in ("imports", "checkpoint", "score", "spread", "rest"))
    assert 0 < found["MiB"][0] <= found["MiB"][1]


def test_a_stage_within_a_stage_counts_to_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "SPENT", {"score": [0.0, 0.0], "spread": [0.0, 0.0]})
    with video.stage("spread"), video.stage("score"):
        pass
    assert video.SPENT["score"] == [0, 0] and video.SPENT["spread"][0] > 0


@pytest.mark.parametrize("name", ["cosine", "official"])
def test_the_optimizer_keeps_or_drops_its_state_with_either_schedule(name: str) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([{"params": [weight], "initial_lr": 0.1}])
    weight.grad = torch.ones(1)
    optimizer.step()
    schedule = Schedule(name, 2, 1, {})
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


def test_the_named_changes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Schedule.start_epoch, backbones.timm.create_model
    monkeypatch.setattr(Schedule, "start_epoch", before[0])  # restored after the test
    monkeypatch.setattr(backbones.timm, "create_model", before[1])
    made: list[Any] = []

    def train(argv: list[str]) -> int:
        made.extend((argv, Schedule.start_epoch, backbones.timm.create_model))
        return 0

    monkeypatch.setattr(training, "main", train)
    for names in ("", "torchvision_init,other"):
        assert single_changes.main([names]) == 2
    assert not made and (Schedule.start_epoch, backbones.timm.create_model) == before
    assert single_changes.main(["torchvision_init,keep_state", "--seed", "1"]) == 0
    assert made == [["--seed", "1"], start_and_keep, create_as_torchvision]


def test_the_table_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def write(name: str, shift: float, images: int = 40) -> None:
        paths = [f"faces/{number // 4}/{number % 4}.png" for number in range(images)]
        labels = np.arange(images) // 4 % 2
        scores = np.random.default_rng(int(name[-1])).normal(labels * shift, 1)
        videos = [Path(path).parent.name for path in paths]
        (tmp_path / name).mkdir()
        scored = make_scores(paths, labels, 1 / (1 + np.exp(-scores)), videos, videos)
        write_predictions(tmp_path / name / "predictions.csv", {"set": scored})

    for seed in range(3):
        write(f"default-seed_{seed}", 1)
        write(f"better-seed_{seed}", 9)
    (tmp_path / "default_test").mkdir()  # not a run of a study
    monkeypatch.setattr("sys.argv", ["results", str(tmp_path)])
    results.main()
    header, _, better, default = (re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines())
    assert [better[0], default[0]] == ["better", "default"] and len(header) == 5
    assert better[1:3] == ["1.000, 1.000, 1.000", "1.000"]
    assert float(default[2]) == pytest.approx(np.mean([float(auc) for auc in default[1].split(", ")]), abs=1.1e-3)
    change, low, high = map(float, re.findall(r"[-+]\d\.\d+", better[3]))
    assert change == pytest.approx(1 - float(default[2]), abs=6e-4) and 0 < low < change < high
    assert float(better[4]) < 0.05 and not any(default[3:])  # no difference from itself
    write("smaller-seed_0", 1, images=36)
    with pytest.raises(SystemExit, match="other images"):
        results.main()
