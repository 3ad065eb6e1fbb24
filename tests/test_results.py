"""results.json: every number recomputed from predictions.csv."""

import csv
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn import metrics as sk

import training
from analysis.compare import pair_runs
from evaluation.results import table_rows
from tests.helpers import arguments, make_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on one dataset with two manipulations in the FaceForensics++ layout; test on it and on another dataset."""
    root = tmp_path_factory.mktemp("tested")
    make_dataset(root, videos=4)
    make_dataset(root, "other", videos=3, seed=1)
    for name, videos in (("tiny", 4), ("other", 3)):  # swap some frames between the classes, so that no AUC is 1
        for video in range(videos):
            for frame in range(video):
                real, fake = (root / f"faces/{name}/test/{k}/{video:03d}/{frame:04d}.png" for k in ("real", "fake"))
                content = real.read_bytes()
                real.write_bytes(fake.read_bytes())
                fake.write_bytes(content)
    faces, lines = root / "faces/tiny/test/fake", []
    for number, manipulation in enumerate(["Deepfakes", "FaceSwap", "Deepfakes", "FaceSwap"]):
        folder = f"tiny/manipulated_sequences/{manipulation}/c23/{number}"
        (root / "faces" / folder).parent.mkdir(parents=True, exist_ok=True)
        (faces / f"{number:03d}").rename(root / "faces" / folder)
        lines.append(f"1,{folder},3\n")
    (root / "labels/tiny/test_fake.txt").write_text("".join(lines))
    assert training.main(arguments(root, "--name", "run", "--fpr", "0.2", "--video_score", "top2")) == 0
    best = root / "output/run/model_best.pth"
    more = ["--test", "True", "--resume_model", str(best), "--dataset", "tiny,other", "--name", "both"]
    assert training.main(arguments(root, *more, "--video_score", "top2")) == 0
    return root


def predictions(folder: Path, dataset: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the labels, scores and folders of the images of a dataset."""
    with (folder / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    labels, scores = (np.array([kind(row[name]) for row in rows]) for name, kind in (("label", int), ("score", float)))
    return labels, scores, [row["path"].rpartition("/")[0] for row in rows]


def plain_metrics(labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, float]:
    false, true, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    closest = np.abs(false - 1 + true).argmin()
    bins = [(low, (scores >= low) & (scores < low + 1 / 15)) for low in np.arange(15) / 15]
    error = sum(inside.sum() * abs(scores[inside].mean() - labels[inside].mean()) for _, inside in bins if inside.any())
    return {
        "acc": sk.accuracy_score(labels, scores > 0.5),
        "auc": sk.roc_auc_score(labels, scores),
        "ap": sk.average_precision_score(labels, scores),
        "eer": (false[closest] + 1 - true[closest]) / 2,
        "log_loss": sk.log_loss(labels, scores),
        "brier": sk.brier_score_loss(labels, scores),
        "ece": error / len(scores),
        "tpr_at_fpr_0.01": true[false <= 0.01].max(),
        "tpr_at_fpr_0.1": true[false <= 0.1].max(),
        "acc_at_threshold": sk.accuracy_score(labels, scores > threshold),
    }


def plain_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of pairs of a real and a fake image in which the fake scores higher; ties count half."""
    ahead = scores[labels == 1][:, None] - scores[labels == 0]
    return float(np.mean((ahead > 0) + 0.5 * (ahead == 0)))


def plain_interval(labels: np.ndarray, scores: np.ndarray, clusters: list[str]) -> list[float]:
    """Return Obuchowski's interval on the logit scale, from sums over pairs of images."""
    auc = plain_auc(labels, scores)
    ahead = scores[labels == 1][:, None] - scores[labels == 0]
    wins = (ahead > 0) + 0.5 * (ahead == 0) - auc
    deviations = np.zeros(len(labels))
    deviations[labels == 1], deviations[labels == 0] = wins.mean(axis=1), wins.mean(axis=0)
    names, counts = sorted(set(clusters)), []
    sums = np.zeros((2, len(names)))
    for label in (0, 1):
        members = [(n, d) for n, d, y in zip(clusters, deviations, labels, strict=True) if y == label]
        counts.append(len({name for name, _ in members}))
        for name, deviation in members:
            sums[label, names.index(name)] += deviation / len(members)
    variance = sum(n / (n - 1) * np.sum(s**2) for n, s in zip(counts, sums, strict=True))
    variance += 2 * len(names) / (len(names) - 1) * np.sum(sums[0] * sums[1])
    quantile = stats.t.ppf(0.975, min(counts) - 1)
    if 0 < auc < 1 and variance > 0:
        margin = quantile * variance**0.5 / auc / (1 - auc)
        return [float(special.expit(special.logit(auc) + sign * margin)) for sign in (-1, 1)]
    n, z2 = min(counts), quantile**2  # Wilson
    middle, margin = (auc + z2 / 2 / n) / (1 + z2 / n), quantile * (auc * (1 - auc) / n + z2 / 4 / n**2) ** 0.5
    return [max(0, middle - margin / (1 + z2 / n)), min(1, middle + margin / (1 + z2 / n))]


def top2(scores: np.ndarray) -> float:
    return float(np.mean(np.sort(scores)[-2:]))


def plain_dataset(labels: np.ndarray, scores: np.ndarray, folders: list[str], thresholds: list) -> dict:
    names = list(dict.fromkeys(folders))
    videos = np.array([names.index(folder) for folder in folders])
    truth = np.array([labels[videos == video][0] for video in range(len(names))])
    means = np.array([top2(scores[videos == video]) for video in range(len(names))])
    result = {"frames": len(labels), "videos": len(names), "clusters": len(names)}
    result |= plain_metrics(labels, scores, thresholds[0])
    result["auc_interval"] = plain_interval(labels, scores, folders)
    result |= {f"video_{name}": value for name, value in plain_metrics(truth, means, thresholds[1]).items()}
    result["video_auc_interval"] = plain_interval(truth, means, names)
    return result


def assert_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_predictions_reproduce_every_number(tested: Path) -> None:
    folder = tested / "output/both"
    results = json.loads((folder / "results.json").read_text())
    thresholds = [results["thresholds"][level]["threshold"] for level in ("frame", "video")]
    for dataset in ("tiny", "other"):
        found = results["datasets"][dataset]
        groups, verdicts = found.pop("groups", {}), found.pop("verdicts")
        labels, scores, folders = predictions(folder, dataset)
        for level in ("", "video_"):
            low, high = found[f"{level}auc_interval"]
            assert low < found[f"{level}auc"] <= high
        videos = {name: top2(scores[np.array(folders) == name]) for name in folders}
        between = [verdicts["real_below"] <= score <= verdicts["fake_above"] for score in videos.values()]
        assert verdicts["uncertain"] == np.mean(between) and verdicts["error"] == 0.05
        assert_equal(found, plain_dataset(labels, scores, folders, thresholds))
        assert set(groups) == ({"Deepfakes", "FaceSwap"} if dataset == "tiny" else set())
        for name, group in groups.items():
            kept = np.array([label == 0 or name in path for label, path in zip(labels, folders, strict=True)])
            inside = [path for path, keep in zip(folders, kept, strict=True) if keep]
            assert_equal(group, plain_dataset(labels[kept], scores[kept], inside, thresholds))
    datasets = results["datasets"]
    for name, value in results["average"].items():
        assert value == pytest.approx((datasets["tiny"][name] + datasets["other"][name]) / 2, abs=1e-9)
    assert set(results["average"]) == {n for n, v in datasets["other"].items() if not isinstance(v, list | dict)}
    assert results["cluster_unit"] == {"tiny": "video", "other": "video"}
    assert results["run"]["torch"] == torch.__version__ and results["run"]["version"] and results["run"]["hardware"]
    assert [epoch["epoch"] for epoch in results["history"]] == [1]


def test_the_threshold_comes_from_the_validation_set(tested: Path) -> None:
    checkpoint = torch.load(tested / "output/run/model_best.pth", weights_only=True)
    results = json.loads((tested / "output/both/results.json").read_text())
    own = json.loads((tested / "output/run/results.json").read_text())
    calibration = checkpoint["calibration"]
    for level in ("frame", "video"):
        wanted = {name: calibration[level][name] for name in ("threshold", "fpr", "fnr")}
        assert results["thresholds"][level] == own["thresholds"][level] == wanted
        assert wanted["fpr"] <= 0.2
    threshold = calibration["frame"]["threshold"]
    # Test on the validation set to get its scores.
    for kind in ("real", "fake"):
        target = tested / f"labels/tiny/test_{kind}.txt"
        before = target.read_text()
        target.write_text((tested / f"labels/tiny/val_{kind}.txt").read_text())
        if kind == "fake":
            more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--name", "val"]
            assert training.main(arguments(tested, *more)) == 0
            target.write_text(before)
        else:
            real_before = before
    (tested / "labels/tiny/test_real.txt").write_text(real_before)
    labels, scores, _ = predictions(tested / "output/val", "tiny")
    called = scores > threshold
    assert calibration["frame"]["fpr"] == called[labels == 0].mean()
    assert called[labels == 0].mean() <= 0.2
    lower = np.sort(scores[scores < threshold])[-1]
    assert (scores[labels == 0] >= lower).mean() > 0.2 or (scores >= lower).sum() == called.sum()


def test_groups_by_a_regular_expression(tested: Path) -> None:
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--name", "grouped"]
    assert training.main(arguments(tested, *more, "--group_by", "c23/([02])")) == 0
    groups = json.loads((tested / "output/grouped/results.json").read_text())["datasets"]["tiny"]["groups"]
    assert {name: group["videos"] for name, group in groups.items()} == {"0": 5, "2": 5}


def test_the_table_shows_groups_intervals_and_the_average(tested: Path, capsys: pytest.CaptureFixture) -> None:
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--dataset", "tiny,other"]
    assert training.main(arguments(tested, *more, "--name", "table")) == 0
    lines = capsys.readouterr().out.splitlines()
    results = json.loads((tested / "output/table/results.json").read_text())
    (row,) = (line for line in lines if line.startswith("  FaceSwap"))
    group = results["datasets"]["tiny"]["groups"]["FaceSwap"]
    low, high = group["auc_interval"]
    assert f"{group['auc']:.4f} [{low:.3f}, {high:.3f}]" in row
    assert any(line.startswith("average") and f"{results['average']['auc']:.4f}" in line for line in lines)


def test_fingerprints_identify_data_and_checkpoint(tested: Path) -> None:
    results = json.loads((tested / "output/both/results.json").read_text())
    checkpoint = (tested / "output/run/model_best.pth").read_bytes()
    assert results["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--dataset", "other"]
    image = tested / "faces/other/test/real/000/0000.png"
    content = image.read_bytes()
    found = []
    for name, change in (("same", b""), ("changed", b"\0")):
        image.write_bytes(content + change)
        assert training.main(arguments(tested, *more, "--name", name)) == 0
        found.append(json.loads((tested / f"output/{name}/results.json").read_text())["file_list_sha256"]["other"])
    image.write_bytes(content)
    assert found[0] == results["file_list_sha256"]["other"] != found[1]


def test_skipped_images_are_counted(tested: Path) -> None:
    complete = json.loads((tested / "output/both/results.json").read_text())
    assert complete["left_out"] == {"tiny": 0, "other": 0}
    image = tested / "faces/other/test/real/001/0002.png"
    content = image.read_bytes()
    image.write_bytes(content[:50])
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--dataset", "tiny,other"]
    assert training.main(arguments(tested, *more, "--name", "left", "--skip_bad_images", "True")) == 0
    image.write_bytes(content)
    results = json.loads((tested / "output/left/results.json").read_text())
    assert results["left_out"] == {"tiny": 0, "other": 1}
    assert results["file_list_sha256"]["tiny"] == complete["file_list_sha256"]["tiny"]
    assert results["file_list_sha256"]["other"] != complete["file_list_sha256"]["other"]
    page = (tested / "output/left/report.html").read_text()
    assert page.count("1 image that could not be read") == 1


def test_fpr_is_rejected_with_test(tested: Path, capsys: pytest.CaptureFixture) -> None:
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--name", "fpr"]
    assert training.main(arguments(tested, *more, "--fpr", "0.01")) == 2
    assert "--fpr" in capsys.readouterr().err
    assert not (tested / "output/fpr").exists()


def test_a_group_pattern_without_a_match_is_a_warning(tested: Path, capsys: pytest.CaptureFixture) -> None:
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth")]
    for number, pattern in enumerate(("nowhere", "(nowhere)?tiny")):
        assert training.main(arguments(tested, *more, "--name", f"none_{number}", "--group_by", pattern)) == 0
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "--group_by" in line)
        assert line.startswith("warning: ") and pattern in line and "tiny" in line


def test_file_names_that_are_not_utf8(tested: Path) -> None:
    image = tested / "faces/other/test/real/000/0000.png"
    image.rename(os.fsdecode(os.fsencode(image.parent) + b"/caf\xe9.png"))
    make_dataset(tested, "average", videos=2, seed=3)  # a dataset named like the last row
    more = ["--test", "True", "--resume_model", str(tested / "output/run/model_best.pth"), "--name", "names"]
    assert training.main(arguments(tested, *more, "--dataset", "other,average")) == 0
    folder = tested / "output/names"
    assert any(b"caf\xe9.png" in line for line in (folder / "predictions.csv").read_bytes().splitlines())
    assert (folder / "report.html").is_file()
    assert set(pair_runs(folder, folder)) == {"other", "average"}
    table = table_rows(json.loads((folder / "results.json").read_text()))
    rows = [row[:3] for row in table if row[0] == "average"]
    assert rows == [["average", "12", "4"], ["average", "15", "5"]]


@pytest.mark.parametrize(
    "flag, value, words",
    [
        ("--video_score", "median", "mean, max"),
        ("--video_score", "top0", "mean, max"),
        ("--group_by", "(", "'('"),
        ("--group_by", "", "empty"),
        ("--fpr", "1.5", "1.5"),
    ],
)
def test_wrong_evaluation_arguments(flag: str, value: str, words: str, capsys: pytest.CaptureFixture) -> None:
    assert training.main([flag, value]) == 2
    error = capsys.readouterr().err
    assert flag in error and words in error
