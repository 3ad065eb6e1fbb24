"""The studies evidence and ablation: their numbers against hand calculations; the commands."""

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import training
from analysis import ablation, evidence, runs
from datasets.images import FaceImages
from datasets.labels import read_split
from datasets.transforms import normalise
from engine import fake_probability
from models.backbones import build_network
from models.checkpoints import load_trained, save_checkpoint
from models.gradcam import heatmaps
from models.lib_network import LIBNetwork
from scoring.detector import load_detector
from tests.helpers import ROOT, arguments, make_dataset, start_fork
from tests.test_analysis import assert_fails, read_study
from utils.training_arguments import RECIPES

# ------------------------------------------------------------------------------------------------------------- overlap


def test_a_fifth_is_hot() -> None:
    maps = torch.arange(30.0).view(5, 6).flip(0)
    assert evidence.hottest(maps).tolist() == [[True] * 6] + [[False] * 6] * 4
    for side in (5, 7, 64):
        for values in (torch.ones(side, side), torch.rand(side, side), 1 + torch.rand(side, side).round(decimals=1)):
            assert evidence.hottest(values).sum() == round(0.2 * side * side)
    # Ties go to the first; maps are independent.
    assert evidence.hottest(torch.ones(2, 5, 5)).flatten(1).nonzero().tolist() == [
        [m, k] for m in (0, 1) for k in range(5)
    ]
    tied = torch.tensor([[0.0, 3, 1, 1, 1]])
    assert evidence.hottest(tied, 0.4).tolist() == [[False, True, True, False, False]]
    # Zeros are never hot.
    assert evidence.hottest(torch.tensor([[0.0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]), 0.4).sum() == 1


def test_enlarging_keeps_ties() -> None:
    large = evidence.enlarge(torch.tensor([[[0.3, 1], [0, 0.7]]]), 64)[0]
    assert large[:16, :16].unique().tolist() == pytest.approx([0.3])
    assert large[48:, 48:].unique().tolist() == pytest.approx([0.7])
    assert large[:16, 16].unique().numel() == 1


def test_iou_by_hand() -> None:
    a = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]).bool()
    b = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0]]).bool()
    assert evidence.pairwise_iou(a, b) == pytest.approx(np.array([[1, 0, 1 / 3], [0, 0, 1 / 3]]))


def test_overlap_equals_a_loop_over_sets() -> None:
    hot = evidence.hottest(torch.rand(6, 3, 10, 10)).flatten(2)
    hot[:, 2] = hot[:, 0]
    flat = np.zeros((6, 3), bool)
    flat[4, 1] = flat[5] = True
    found = evidence.measure_overlap(hot, flat)
    sets = [[set(line.nonzero().flatten().tolist()) for line in image] for image in hot]
    for i in range(3):
        for j in range(3):
            others = []
            for a in range(6):
                for b in range(6):
                    iou = len(sets[a][i] & sets[b][j]) / len(sets[a][i] | sets[b][j])
                    defined = not flat[a, i] and not flat[b, j]
                    if a == b:
                        assert found.same[a, i, j] == pytest.approx(iou if defined else np.nan, nan_ok=True)
                    elif defined:
                        others.append(iou)
            assert found.other[i, j] == pytest.approx(np.mean(others))
    assert (found.same[:5, 0, 2] == 1).all()


def test_overlap_of_random_maps() -> None:
    hot = evidence.hottest(torch.rand(300, 2, 40, 40, generator=torch.Generator().manual_seed(0))).flatten(2)
    overlap = evidence.measure_overlap(hot, np.zeros((300, 2), bool))
    assert evidence.CHANCE == pytest.approx(1 / 9)
    assert overlap.same[:, 0, 1].mean() == pytest.approx(1 / 9, abs=0.002)
    assert overlap.other[0, 1] == pytest.approx(1 / 9, abs=0.002)


# ------------------------------------------------------------------------------------------------------------- planted


class Channel(nn.Module):
    """A block that sees one channel of an image."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward_features(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images[:, self.channel, None], 4)

    def forward_head(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def planted_network(*weights: float) -> LIBNetwork:
    """Build a network whose fake logit minus its real logit is the weighted sum of the channel means."""
    network = LIBNetwork([Channel(i) for i in range(len(weights))], 1).eval()
    network.bottleneck = nn.Identity()
    network.linear = nn.Linear(len(weights), 2, bias=False)
    network.linear.weight.data = torch.tensor([[0.0] * len(weights), list(weights)])
    return network


def test_heatmaps_of_a_planted_network() -> None:
    image = torch.zeros(1, 3, 20, 20)
    image[0, 0, :4, :8] = torch.tensor([2.0] * 4 + [1.0] * 4)
    image[0, 1, 16:, 16:] = 5
    image[0, 2] = 1
    network = planted_network(1, 3, -1)
    (maps,), features, outputs = heatmaps(network, image)
    assert maps.shape == (3, 5, 5)
    wanted = torch.zeros(3, 5, 5)
    wanted[0, 0, 0], wanted[0, 0, 1], wanted[1, 4, 4] = 1, 0.5, 1  # block 3 is evidence for real
    assert maps == pytest.approx(wanted)
    # The features and outputs equal the network's.
    assert torch.cat(features)[:, 0].tolist() == pytest.approx(image[0].mean(dim=(1, 2)).tolist())
    assert torch.equal(outputs.fused, network(image).fused)
    # The study's module concatenates features and maps.
    found = evidence.Evidence(network)(image)
    assert found.shape == (1, 3, 1 + 25)
    assert found[0, :, 0] == pytest.approx(image[0].mean(dim=(1, 2)))
    assert found[0, :, 1:] == pytest.approx(wanted.flatten(1))
    hot = evidence.hottest(maps).flatten(1)
    assert evidence.measure_overlap(hot[None], np.array([[False, False, True]])).same[0, 0, 1] == 0
    assert hot.sum(dim=1).tolist() == [2, 1, 0]


def test_scores_and_heatmaps_share_one_pass(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are the same with and without heatmaps."""
    model = save_network(tmp_path / "run", 2)
    crops = list(np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), dtype=np.uint8))
    alone, heats = load_detector(model, gpu_num="cpu").score(crops)
    assert heats == [None] * 3
    detector = load_detector(model, gpu_num="cpu", evidence=True)
    calls: list[Tensor] = []
    for block in detector.network.backbones():
        block.conv1.register_forward_hook(lambda _, __, out: calls.append(out))
    scores, _ = detector.score(crops)
    assert len(calls) == 2 and scores.tolist() == alone.tolist()
    calls.clear()
    assert evidence.Evidence(detector.network)(torch.rand(3, 3, 96, 96)).shape[:2] == (3, 2)
    assert len(calls) == 2


def test_leave_one_out_by_hand() -> None:
    network = planted_network(2, -1)
    features = torch.tensor([[[1.0], [0]], [[3], [1]], [[2], [-1]]])  # means: 2 and 0
    labels = torch.tensor([1, 0, 1])

    def true_probability(logit: float, label: int) -> float:
        fake = 1 / (1 + np.exp(-logit))
        return fake if label else 1 - fake

    scores, fused, heads = evidence.leave_one_out(network, features, labels)
    for k, ((z1, z2), label) in enumerate(zip(features[:, :, 0].tolist(), labels.tolist(), strict=True)):
        complete = true_probability(2 * z1 - z2, label)
        assert scores[k] == pytest.approx(true_probability(2 * z1 - z2, 1), abs=1e-6)
        assert fused[k] == pytest.approx(
            [complete - true_probability(4 - z2, label), complete - true_probability(2 * z1, label)], abs=1e-6
        )
        both = network.baseline_linear(features[k, :, 0]).softmax(0)[label].item()
        for i, other in enumerate((features[k, 1], features[k, 0])):
            alone = getattr(network, f"local_linear{i + 1}")(other).softmax(0)[label].item()
            assert heads[k, i] == pytest.approx(both - alone, abs=1e-6)


def test_a_constant_block_has_no_drop() -> None:
    network = build_network("test_resnet", 3, 64).eval()
    features = torch.rand(8, 3, network.linear[1].in_features)
    features[:, 1] = torch.rand(features.shape[2])
    _, fused, _ = evidence.leave_one_out(network, features, torch.arange(8) % 2)
    assert fused[:, 1] == pytest.approx(np.zeros(8), abs=1e-6)
    assert np.abs(fused[:, [0, 2]]).max(axis=0).min() > 1e-5


# ------------------------------------------------------------------------------------------------------------- evidence


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset ``tiny``."""
    root = tmp_path_factory.mktemp("evidence")
    make_dataset(root)
    return root


def save_network(folder: Path, num_LIBs: int, **settings: bool) -> Path:
    """Write a checkpoint of a network with random weights."""
    folder.mkdir()
    torch.manual_seed(5)  # with most other seeds, all maps are flat
    network = build_network("test_resnet", num_LIBs, 96)
    args = {"model": "test_resnet", "num_LIBs": num_LIBs, "size": 96, "lil_loss": True, "gil_loss": True, **settings}
    save_checkpoint(folder / "model.pth", network, "test_resnet", 1, args=args, channels="RGB")
    return folder / "model.pth"


def evidence_arguments(data: Path, model: Path, *more: str) -> list[str]:
    where = ["--dataset_root", str(data / "labels"), "--data_root", str(data / "faces"), "--dataset", "tiny"]
    return [*where, "--model", str(model), "--gpu_num", "cpu", "--num_workers", "0", *more]


@pytest.mark.slow
def test_evidence_command(data: Path, tmp_path: Path) -> None:
    model = save_network(tmp_path / "run", 3)
    assert evidence.main(evidence_arguments(data, model, "--test_bs", "5")) == 0
    content = read_study(tmp_path / "run", "evidence")
    numbers = content["numbers"]
    assert (numbers["images"], numbers["num_LIBs"], numbers["size"], numbers["map_size"]) == (12, 3, 96, 3)
    assert [row[0] for row in content["table"][1:]] == [
        "block 1", "block 2", "block 3", "blocks 1 and 2", "blocks 1 and 3", "blocks 2 and 3"
    ]  # fmt: skip

    assert "1 x 1 are always flat" in evidence.describe_method("tiny", numbers | {"map_size": 1})

    # Repeat the study image by image.
    network, checkpoint = load_trained(model)
    size, channels = checkpoint["args"]["size"], checkpoint["channels"]
    faces = FaceImages(read_split("tiny", "test", data / "labels", data / "faces"), size)
    overlaps, features, maps = [], [], []
    for image, _, _ in faces:
        x = normalise(image[None], channels)
        maps.append(heatmaps(network, x)[0][0])
        with torch.no_grad():
            features.append(torch.cat([block(x) for block in network.backbones()]))
            assert numbers["of_images"][len(maps) - 1]["score"] == pytest.approx(fake_probability(network(x)).item())
    labels = torch.from_numpy(faces.labels)
    _, fused, heads = evidence.leave_one_out(network, torch.stack(features), labels)
    for i, block in enumerate(numbers["blocks"]):
        assert block["drop"]["mean"] == pytest.approx(fused[:, i].mean(), abs=1e-5)
        assert block["drop"]["std"] == pytest.approx(fused[:, i].std(ddof=1), abs=1e-5)
        assert block["head_drop"]["mean"] == pytest.approx(heads[:, i].mean(), abs=1e-5)
        assert block["flat_maps"] == sum(1 for m in maps if m[i].min() == m[i].max())
    for pair in numbers["pairs"]:
        i, j = (block - 1 for block in pair["blocks"])
        ious = []
        for m in maps:
            a, b = (evidence.hottest(evidence.enlarge(m, size))[k] for k in (i, j))
            if m[i].any() and m[j].any():
                ious.append(((a & b).sum() / (a | b).sum()).item())
        assert pair["images"] == len(ious) and pair["mean"] == (
            pytest.approx(np.mean(ious), abs=1e-3) if ious else None
        )
        overlaps += ious
    assert overlaps
    of_images = [image["overlap"] for image in numbers["of_images"] if image["overlap"] is not None]
    assert numbers["overlap"]["images"] == len(of_images)
    assert numbers["overlap"]["mean"] == pytest.approx(np.mean(of_images))

    more = ["--max_images", "3", "--save_path", str(tmp_path / "elsewhere")]
    assert evidence.main(evidence_arguments(data, model, *more)) == 0
    assert read_study(tmp_path / "elsewhere", "evidence")["numbers"]["images"] == 3
    one_image = ["--max_images", "1", *more[2:]]  # has no deviation and no other images
    assert evidence.main(evidence_arguments(data, model, *one_image)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 6])
def test_evidence_with_one_and_six_blocks(data: Path, tmp_path: Path, blocks: int) -> None:
    model = save_network(tmp_path / "run", blocks, lil_loss=False)
    assert evidence.main(evidence_arguments(data, model, "--max_images", "4")) == 0
    content = read_study(tmp_path / "run", "evidence")
    numbers = content["numbers"]
    assert len(numbers["blocks"]) == blocks and len(numbers["pairs"]) == blocks * (blocks - 1) // 2
    assert all(block["head_drop"] is None for block in numbers["blocks"])
    assert "head drop is not defined" in content["text"]
    if blocks == 1:
        assert numbers["overlap"] is None and "overlap is not defined" in content["text"]


@pytest.mark.slow
def test_flat_maps_are_left_out_and_counted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(maps: Callable[[int], Tensor]) -> None:
        monkeypatch.setattr(evidence, "heatmaps", lambda network, x: (maps(len(x)), *heatmaps(network, x)[1:]))

    plant(lambda images: torch.zeros(images, 2, 3, 3))
    model = save_network(tmp_path / "run", 2)
    assert evidence.main(evidence_arguments(data, model)) == 0
    content = read_study(tmp_path / "run", "evidence")
    assert [block["flat_maps"] for block in content["numbers"]["blocks"]] == [12, 12]
    assert content["numbers"]["overlap"]["mean"] is None and "24 flat maps" in content["text"]

    points = torch.zeros(2, 12, 12)
    points[0, 2, 2] = points[1, 9, 9] = 1
    plant(lambda images: points.expand(images, 2, 12, 12))
    assert evidence.main(evidence_arguments(data, model)) == 0
    numbers = read_study(tmp_path / "run", "evidence")["numbers"]
    assert [block["flat_maps"] for block in numbers["blocks"]] == [0, 0]
    assert numbers["overlap"] == {"mean": 0, "std": 0, "images": 12}  # one hot pixel each


def test_wrong_arguments_of_evidence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = save_network(tmp_path / "run", 2)

    def fails(*words: str, more: tuple) -> None:
        assert_fails(evidence.main, evidence_arguments(data, model, *map(str, more)), capsys, *words)

    assert_fails(evidence.main, ["--dataset", "tiny"], capsys, "--model")
    fails("--model", "x.pth", more=("--model", tmp_path / "x.pth"))
    fails("'tinny'", more=("--dataset", "tinny"))
    fails("--max_images", "'0'", more=("--max_images", "0"))
    fails("--save_path", "model.pth", more=("--save_path", model))
    network = build_network("test_vit", 2, 160)
    args = {"model": "test_vit", "num_LIBs": 2, "size": 160}
    save_checkpoint(tmp_path / "vit.pth", network, "test_vit", 1, args=args, channels="RGB")
    fails("--model", "heatmaps", more=("--model", tmp_path / "vit.pth"))
    assert [file.name for file in model.parent.iterdir()] == ["model.pth"]


# ------------------------------------------------------------------------------------------------------------- ablation


def ablation_arguments(root: Path, *more: str, epoch: int = 1) -> list[str]:
    """Build a command line for tiny networks, with `more` before ``--``."""
    passed_on = arguments(root, "--epoch", str(epoch))
    for own in ("--save_path", "--dataset"):
        index = passed_on.index(own)
        del passed_on[index : index + 2]
    return ["--dataset", "tiny", "--save_path", str(root / "ablation"), *more, "--", *passed_on]


Started = list[list[str]]


def replace_run(monkeypatch: pytest.MonkeyPatch, run: Callable) -> None:
    """Replace the function that starts a run."""
    monkeypatch.setattr(runs, "call", run)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The command lines of the started runs, which train in this process to save time."""
    commands: Started = []

    def run(command: list[str], _: object) -> int:
        assert command[:2] == [sys.executable, str(ROOT / "training.py")]
        commands.append(command[2:])
        return training.main(command[2:])

    replace_run(monkeypatch, run)
    return commands


def test_grid() -> None:
    base = training.parse_arguments([])[0]
    grid = ablation.make_grid(list(ablation.TABLES), base)
    assert {table: list(rows) for table, rows in grid.items()} == {
        "blocks": [
            "lil_loss_False-num_LIBs_1",
            *(f"num_LIBs_{n}" for n in (2, 3)),
            "default",
            "num_LIBs_5",
            "num_LIBs_6",
        ],
        "losses": ["gil_loss_False-lil_loss_False", "lil_loss_False", "gil_loss_False", "default"],
        "divergence": ["default", "mi_calculator_w"],
        "balance": ["default", "balance_loss_method_hyper"],
        "mixup": ["mixup_False", "default"],
        "backbone": ["default", "model_efficientnet", "model_mobilenet"],
        "recipe": ["default", "channels_BGR", "lr_schedule_official", "recipe_official"],
    }
    args, passed_on = ablation.parse_arguments(["--save_path", "out", "--", "--epoch", "2"])
    for changes in [changes for rows in grid.values() for changes in rows.values()]:
        run = ablation.make_run(args.dataset, args.save_path, passed_on, changes, 3)
        differ = {
            key for key, value in vars(base).items() if run.settings[key] != json.loads(json.dumps(value, default=str))
        }
        of_recipe = set(RECIPES[changes.get("recipe", "default")])
        assert differ - set(changes) - of_recipe == {"name", "seed", "epoch", "save_path"}
        assert all(run.settings[key] == value for key, value in changes.items())
    # Arguments after -- change the default.
    grid = ablation.make_grid(["blocks"], training.parse_arguments(["--num_LIBs", "2"])[0])
    assert list(grid["blocks"])[:3] == ["lil_loss_False-num_LIBs_1", "default", "num_LIBs_3"]


@pytest.mark.slow
def test_ablation_command(tiny: Path, started: Started, capsys: pytest.CaptureFixture) -> None:
    command = ablation_arguments(tiny, "--only", "mixup,balance", "--seeds", "0,5")
    assert ablation.main(command) == 0
    # Two tables of two configurations share the default.
    names = [run[run.index("--name") + 1] for run in started]
    assert len(names) == len(set(names)) == 3 * 2
    assert "default-seed_0" in names and "default-seed_5" in names
    content = read_study(tiny / "ablation", "ablation")
    # A second call trains nothing and writes the same study.
    started.clear()
    assert ablation.main(command) == 0
    assert started == [] and read_study(tiny / "ablation", "ablation") == content

    # The tables come from results.json; random numbers distinguish the runs.
    rng = np.random.default_rng(0)
    for name in names:
        file = tiny / "ablation" / name / "results.json"
        results = json.loads(file.read_text())
        results["datasets"]["tiny"] |= {"auc": rng.random(), "video_auc": rng.random()}
        file.write_text(json.dumps(results))
    assert ablation.main(command) == 0
    content = read_study(tiny / "ablation", "ablation")
    tables = content["numbers"]["tables"]
    assert [len(tables[name]) for name in ("mixup", "balance")] == [2, 2]
    markdown = (tiny / "ablation/study_ablation_tiny_balance_mixup.md").read_text()
    for name, rows in tables.items():
        assert f"## {name.capitalize()}" in markdown
        for row in rows:
            assert row["finished"] == 2
            for metric in ("auc", "video_auc"):
                values = []
                for run in row["runs"]:
                    results = json.loads((tiny / "ablation" / run / "results.json").read_text())
                    values.append(results["datasets"]["tiny"][metric])
                assert row[metric]["mean"] == pytest.approx(sum(values) / 2)
                assert row[metric]["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
                shown = f"{row[metric]['mean']:.4f} ± {row[metric]['std']:.4f}"
                assert [shown in line for line in markdown.splitlines() if row["label"] in line] == [True]
    assert tables["balance"][0]["label"] == "balance_loss_method auto (default)"
    for row in tables["balance"]:
        for run in row["runs"]:
            args = json.loads((tiny / "ablation" / run / "args.json").read_text())
            assert row["label"].startswith(f"balance_loss_method {args['balance_loss_method']}")

    # One more seed for one table.
    assert ablation.main(ablation_arguments(tiny, "--only", "mixup", "--seeds", "0,5,6")) == 0
    assert [run[run.index("--name") + 1] for run in started] == ["mixup_False-seed_6", "default-seed_6"]
    assert {file.name for file in (tiny / "ablation").glob("study_*.md")} == {
        "study_ablation_tiny_mixup.md",
        "study_ablation_tiny_balance_mixup.md",
    }
    assert (tiny / "ablation/study_ablation_tiny_balance_mixup.md").read_text() == markdown
    # An incomplete file is an error.
    file.write_text(file.read_text()[:40])
    assert_fails(ablation.main, command, capsys, str(file))


@pytest.mark.slow
def test_a_killed_ablation_continues(tiny: Path, started: Started) -> None:
    command = ablation_arguments(tiny, "--only", "mixup", "--seeds", "0", epoch=3)
    run, stopped = tiny / "ablation/mixup_False-seed_0", tiny / "stopped"

    def wait_in_epoch_2() -> int:
        replace, saved = os.replace, count(1)

        def stop(source: Path, target: Path) -> None:
            replace(source, target)
            if Path(target).name == "model_last.pth" and next(saved) == 2:
                stopped.touch()
                time.sleep(600)

        os.replace = stop  # type: ignore[assignment]
        return ablation.main(command)

    process = start_fork(wait_in_epoch_2)
    while not stopped.exists() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert stopped.exists()
    assert (run / "model_last.pth").is_file() and not (run / "results.json").exists()
    assert ablation.main(command) == 0
    assert [("--resume_model" in command) for command in started] == [True, False]
    assert (run / "results.json").is_file()
    assert "epoch 3/3" in (run / "train.log").read_text() and (run / "train.log").read_text().count("epoch 1/3") == 1


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_others_continue(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(command: list[str], out: IO[str]) -> int:
        if "--mixup" in command:
            print("it broke", file=out)
            return 2
        return training.main(command[2:])

    replace_run(monkeypatch, broken)
    command = ablation_arguments(tiny, "--only", "mixup", "--seeds", "0")
    log = tiny / "ablation/mixup_False-seed_0.log"
    assert_fails(ablation.main, command, capsys, "1 of 2 runs failed", str(log))
    assert log.read_text() == "it broke\n"
    content = read_study(tiny / "ablation", "ablation")
    assert content["numbers"]["failed"] == [{"name": "mixup_False-seed_0", "log": str(log)}]
    failed, default = content["numbers"]["tables"]["mixup"]
    assert (failed["finished"], failed["auc"]["mean"]) == (0, None)
    assert default["finished"] == 1 and default["auc"]["std"] is None
    assert content["table"][1][-2:] == ["-", "-"]
    assert "left out: mixup_False-seed_0." in content["text"]

    command = ablation_arguments(tiny, "--only", "mixup", "--seeds", "7")
    replace_run(monkeypatch, lambda *_: 2)
    assert_fails(ablation.main, command, capsys, "2 of 2 runs failed")


@pytest.mark.slow
def test_wrong_arguments_of_ablation(tiny: Path, started: Started, capsys: pytest.CaptureFixture) -> None:
    def fails(*words: str, own: tuple = (), passed_on: tuple = ()) -> None:
        assert_fails(ablation.main, [*ablation_arguments(tiny, *own), *passed_on], capsys, *words)

    assert_fails(ablation.main, ["--dataset", "tiny"], capsys, "--save_path")
    fails("'block'", "did you mean 'blocks'", own=("--only", "block"))
    fails("--seeds", "'0,0'", own=("--seeds", "0,0"))
    fails("--seeds", "'x'", own=("--seeds", "x"))
    fails("'tinny'", own=("--dataset", "tinny"))
    fails("--save_path", "test_real.txt", own=("--save_path", str(tiny / "labels/tiny/test_real.txt")))
    fails("--epoch", "analysis.ablation", own=("--epoch", "2"))
    fails("--epok", "did you mean '--epoch'", passed_on=("--epok", "2"))
    fails("--num_LIBs 1", "--lil_loss False", passed_on=("--num_LIBs", "1"))
    one = ("--num_LIBs", "1", "--lil_loss", "False")
    fails("lil_loss_True", "other tables", own=("--only", "losses"), passed_on=one)
    for own in ("--seed", "--name=x", "--resume_model", "--save_path", "--overwrite"):
        fails(own.split("=")[0], passed_on=(own, "1"))
    assert started == [] and not (tiny / "ablation").exists()

    assert ablation.main(ablation_arguments(tiny, "--only", "mixup", "--seeds", "0")) == 0
    started.clear()
    more = ("--lr", "0.01")
    fails("--lr 0.001", "0.01", own=("--only", "mixup", "--seeds", "0"), passed_on=more)
    assert started == []


@pytest.mark.parametrize("main, name", [(evidence.main, "evidence"), (ablation.main, "ablation")])
def test_help(main: Callable[[list[str]], int], name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m analysis.{name} ")
