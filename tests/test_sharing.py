"""Shared models: the folder that scoring.share writes, and a hub on this machine that huggingface_hub talks to."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file

import inference
import training
from analysis import robustness
from models.checkpoints import load_checkpoint, load_trained
from models.shared_model import HUB_NAME
from scoring import share
from tests.helpers import ROOT, arguments, make_dataset
from tests.test_inference import CALIBRATION, checkpoint, read_records
from utils import hub as utils_hub
from utils.files import sha256
from utils.training_arguments import TrainingArguments

FILES = ["README.md", "config.json", "familiar_features.safetensors", "model.safetensors"]
SECRET = "/secret/of/the/machine"
ENTRIES = {
    "args": {
        "model": "tiny_cnn", "num_LIBs": 2, "size": 32, "dataset": ["tiny"], "data_root": SECRET,
        "dataset_root": "secret", "save_path": SECRET, "resume_model": SECRET, "pretrained": f"{SECRET}/start.pth",
        "slurm": {"partition": "secret"}, "lr": 0.1,
    },
    "faces": {"every": 2, "margin": 1.4, "crop_size": 80, "detector": "mtcnn", "weights": None, "videos": SECRET},
    "calibration": CALIBRATION,
    "later": {"tiny": [1, 2.5, None, {"nested": "plain"}]},  # an entry that a later version may add
    "balance": {"weights": torch.ones(3)},
    "familiar": {"quantiles": {}, "crop_side": None, "distance": -1.0},  # every face is unlike these
}  # fmt: skip


def share_model(*argv: Path) -> int:
    return share.main(list(map(str, argv)))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in a run folder."""
    folder = tmp_path_factory.mktemp("source") / "ff"
    folder.mkdir()
    file = checkpoint(folder / "model_best.pth", **ENTRIES)
    width = torch.load(file, weights_only=True)["state_dict"]["linear.1.weight"].shape[1]
    return checkpoint(file, **ENTRIES, familiar_features=torch.eye(width)[:12].half())


@pytest.fixture(scope="module")
def shared(source: Path) -> Path:
    folder = source.parent.parent / "ff-model"
    assert share_model(source, folder) == 0
    return folder


def results(folder: Path, checkpoint_sha256: str, auc: float = 0.8125) -> Path:
    """Write a results.json with one dataset."""
    metrics = dict.fromkeys(("acc", "ap", "eer", "log_loss", "video_auc"), 0.5) | {
        "frames": 12,
        "videos": 4,
        "clusters": 3,
    }
    metrics |= {"auc": auc, "auc_interval": [0.625, 0.9375]}
    content = {
        "checkpoint": SECRET, "checkpoint_sha256": checkpoint_sha256, "data_root": SECRET, "precision": "fp32",
        "video_score": "mean", "datasets": {"tiny": metrics},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def scores(model: Path | str, root: Path) -> list[dict[str, Any]]:
    """Score one image with inference.py; return its record without what differs between runs or models."""
    cv2.imwrite(str(root / "face.png"), np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    argv = ["--model", str(model), "--faces_given", "--gpu_num", "cpu", "--json", str(root / "scores.json")]
    assert inference.main([*argv, "--overwrite", "True", str(root / "face.png")]) == 0
    return comparable(root / "scores.json")


def comparable(file: Path) -> list[dict[str, Any]]:
    """The records in a file, without the date, and without the model except its thresholds."""
    found = read_records(file)
    return [{**record, "run": None, "model": record["model"]["thresholds"]} for record in found]


def refused(model: Path | str, capsys: pytest.CaptureFixture, *says: str) -> None:
    """Assert that inference.py and training.py refuse a model with one sentence."""
    for run, flag, more in (
        (inference.main, "--model", ["--export", os.devnull]),
        (training.main, "--resume_model", ["--test"]),
    ):
        capsys.readouterr()
        assert run([flag, str(model), *more]) == 2
        *_, line = capsys.readouterr().err.splitlines()  # after the progress of a download
        assert all(words in line for words in (flag, *says)), line


# ---------------------------------------------------------------------------------------------------- the folder


def test_folder_has_weights_and_settings(source: Path, shared: Path) -> None:
    assert sorted(os.listdir(shared)) == FILES
    assert [file.name for file in shared.parent.iterdir() if file.name.startswith(".")] == []
    config = json.loads((shared / "config.json").read_text())
    assert config["weights_sha256"] == hashlib.sha256((shared / "model.safetensors").read_bytes()).hexdigest()
    assert config["checkpoint_sha256"] == sha256(source)
    assert config["channels"] == "RGB" and config["epoch"] == 1 and "balance" not in config
    saved = torch.load(source, weights_only=True)["state_dict"]
    weights = load_file(shared / "model.safetensors")
    assert list(sorted(weights)) == sorted(saved)
    assert all(torch.equal(weights[key], saved[key]) for key in saved)
    loaded = load_checkpoint(shared)
    assert loaded["sha256"] == sha256(shared / "config.json")
    assert loaded["calibration"] == CALIBRATION and loaded["later"] == ENTRIES["later"]
    assert loaded["args"] == {
        "model": "tiny_cnn", "num_LIBs": 2, "size": 32, "dataset": ["tiny"], "pretrained": "start.pth", "lr": 0.1,
    }  # fmt: skip
    assert loaded["faces"] == {name: value for name, value in ENTRIES["faces"].items() if name != "videos"}


def test_folder_has_no_path_of_the_machine(source: Path, tmp_path: Path) -> None:
    assert share_model(source, tmp_path / "m", results(tmp_path / "test", sha256(source))) == 0
    for file in ("README.md", "config.json"):
        assert "secret" not in (tmp_path / "m" / file).read_text(), file


def test_shared_model_scores_like_its_checkpoint(source: Path, shared: Path, tmp_path: Path) -> None:
    expected = scores(source, tmp_path)
    assert expected[0]["score"] is not None and "unlike" in "; ".join(expected[0]["notes"])
    assert scores(shared, tmp_path) == expected


def test_authors_names_and_strides(tmp_path: Path) -> None:
    """MobileNetV1 has other names in checkpoints than in the network; a GPU trains with other strides."""
    file = checkpoint(tmp_path / "model.pth", model="mobilenet", num_LIBs=1)
    content = torch.load(file, weights_only=True)
    for key, value in content["state_dict"].items():
        if value.ndim == 4:
            content["state_dict"][key] = value.to(memory_format=torch.channels_last)
    torch.save(content, file)
    assert share_model(file, tmp_path / "m") == 0
    assert set(load_file(tmp_path / "m/model.safetensors")) == set(content["state_dict"])
    ours, theirs = (load_trained(path)[0].state_dict() for path in (tmp_path / "m", file))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_sharing_a_shared_model_again(shared: Path, tmp_path: Path) -> None:
    assert share_model(shared, tmp_path / "again") == 0
    assert sha256(tmp_path / "again/model.safetensors") == sha256(shared / "model.safetensors")
    config = json.loads((tmp_path / "again/config.json").read_text())
    assert config["checkpoint_sha256"] == sha256(shared / "config.json")


# ------------------------------------------------------------------------------------------------- the model card


def test_card_has_the_numbers_of_this_checkpoint_only(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(source.parent, run)
    file, sha = run / source.name, sha256(source)

    def card(name: str, *tests: Path) -> str:
        assert share_model(file, tmp_path / name, *tests) == 0
        return (tmp_path / name / "README.md").read_text()

    numbers = "0.8125 [0.625, 0.938]"
    assert numbers not in card("none")
    results(run, sha256(ROOT / "README.md"))
    assert numbers not in card("other")
    results(run, sha)
    text = card("same")
    assert "threshold of frames | 0.5000; " in text and "false positive rate 0 %" in text
    assert numbers in text and "| tiny |" in text and sha in text and "evidence" in text
    assert numbers not in card("elsewhere", results(tmp_path / "test", sha, auc=0.25))
    assert "0.2500 [" in card("both", run, tmp_path / "test")
    metadata = ModelCard(text).data.to_dict()
    assert metadata["pipeline_tag"] == "image-classification" and "model-index" not in metadata

    results(tmp_path / "test", "0" * 64)
    capsys.readouterr()
    for test in (tmp_path / "test", tmp_path / "missing"):
        assert share_model(file, tmp_path / "refused", test) == 2
        assert str(test) in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("change", [{"datasets": {"tiny": {"auc": 0.5}}}, {"datasets": 3}, {"precision": None}])
def test_results_of_another_version_are_refused(
    source: Path, tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    test = results(tmp_path / "test", sha256(source))
    content = json.loads((test / "results.json").read_text()) | change
    (test / "results.json").write_text(json.dumps({name: value for name, value in content.items() if value}))
    assert share_model(source, tmp_path / "refused", test) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "results.json" in line and "--test" in line
    assert not (tmp_path / "refused").exists()


def test_share_refuses(source: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = sha256(shared / "config.json")
    (tmp_path / "damaged.pth").write_bytes(source.read_bytes()[:-100])
    (tmp_path / "file").touch()
    for file, folder, says in (
        (source, shared, str(shared)),
        (source.parent / "missing.pth", tmp_path / "new", "missing.pth"),
        (source.parent, tmp_path / "new", source.name),
        (tmp_path / "damaged.pth", tmp_path / "new", "damaged.pth"),
        (source, tmp_path / "file/new", "file/new"),
    ):
        capsys.readouterr()
        assert share_model(file, folder) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
    assert sorted(os.listdir(tmp_path)) == ["damaged.pth", "file"]
    assert sha256(shared / "config.json") == before


def test_full_disk_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.shared_model.write_json", full)
    assert share_model(source, tmp_path / "m") == 2
    assert str(tmp_path / "m") in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------ damaged folders


def test_damaged_folders_are_refused(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "a/b/c/m"  # no name on a hub
    shutil.copytree(shared, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    content, settings = bytearray(weights.read_bytes()), json.loads(config.read_text())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(folder, capsys, "model.safetensors", "SHA-256")
    weights.write_bytes(b"{")
    config.write_text(json.dumps(settings | {"weights_sha256": sha256(weights)}))
    refused(folder, capsys, "model.safetensors")
    for text in ("{", "[]", "{}", "null", '{"weights_sha256": 1}'):
        config.write_text(text)
        refused(folder, capsys, str(folder))
    shutil.copytree(shared, folder, dirs_exist_ok=True)
    (folder / "familiar_features.safetensors").write_bytes(b"changed")
    refused(folder, capsys, "familiar_features.safetensors", "SHA-256")
    (folder / "familiar_features.safetensors").unlink()
    refused(folder, capsys, "familiar_features.safetensors")
    weights.unlink()
    refused(folder, capsys, "model.safetensors")
    config.unlink()
    refused(folder, capsys, str(folder), "checkpoints")
    refused(tmp_path / "a/b/c/missing", capsys, "missing")


@pytest.mark.parametrize(
    "change",
    [{"args": {"model": 3}}, {"args": {"size": "32"}}, {"args": {"num_LIBs": None}}, {"channels": "HSV"},
     {"calibration": 0.5}, {"calibration": {"video_score": "mean"}},
     {"calibration": CALIBRATION | {"video_score": "no"}},
     {"calibration": CALIBRATION | {"video": CALIBRATION["video"] | {"real": ["0.5"]}}}, {"faces": []}, {"epoch": -1},
     {"familiar": []}, {"familiar": {"quantiles": {}}}, {"familiar": ENTRIES["familiar"] | {"distance": "far"}},
     {"familiar": ENTRIES["familiar"] | {"crop_side": 0}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_changed_settings_are_refused(
    shared: Path, tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(shared, tmp_path / "m")
    content = json.loads((folder / "config.json").read_text())
    if "args" in change:
        change = {"args": content["args"] | change["args"]}
    (folder / "config.json").write_text(json.dumps(content | change))
    refused(folder, capsys, str(folder), next(iter(change)))


# --------------------------------------------------------------------------------------------- training and studies


@pytest.mark.slow
def test_a_run_is_shared_tested_and_continued(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_dataset(tmp_path)
    assert training.main(arguments(tmp_path, "--name", "run")) == 0
    run, folder = tmp_path / "output/run", tmp_path / "my-model"
    assert share_model(run / "model_best.pth", folder) == 0
    auc = json.loads((run / "results.json").read_text())["datasets"]["tiny"]["auc"]
    assert f"| {auc:.4f}" in (folder / "README.md").read_text()

    assert training.main(arguments(tmp_path, "--test", "--resume_model", str(folder))) == 0
    tested = json.loads((tmp_path / "output/my-model_test/results.json").read_text())
    assert tested["checkpoint_sha256"] == sha256(folder / "config.json")
    assert (tmp_path / "output/my-model_test/predictions.csv").read_text() == (run / "predictions.csv").read_text()

    # No epoch of this run is better, so its best checkpoint has the weights of the folder.
    capsys.readouterr()
    more = ["--resume_model", str(folder), "--name", "more", "--epoch", "2", "--lr", "1e-9"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"val": {**config["val"], "auc": 1.5}, "best": 1.5}))
    assert training.main(arguments(tmp_path, *more)) == 0
    assert "optimizer" in capsys.readouterr().out
    best, last = (load_checkpoint(tmp_path / f"output/more/model_{name}.pth") for name in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (1, 2)
    weights = load_checkpoint(folder)["state_dict"]
    assert all(torch.equal(best["state_dict"][key], weights[key]) for key in weights)


def test_a_study_needs_a_folder(shared: Path, capsys: pytest.CaptureFixture) -> None:
    """The results of a study do not belong beside a folder from elsewhere, or on the hub."""
    for model in (shared, "user/ff-model"):
        assert robustness.main(["--model", str(model)]) == 2
        assert "--save_path" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- the hub


class FakeHub(ThreadingHTTPServer):
    """The requests of `snapshot_download` and `upload_folder`, for one repository, user/ff-model.

    Attributes:
        commits: commit -> the files.
        revisions: branch or tag -> commit.
        requests: the paths that were asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHubHandler)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.revisions: dict[str, str] = {}
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add(self, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.revisions["main"] = commit
        return commit


class FakeHubHandler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0].strip("/")
        api, repository = "api/models/user/ff-model/", "user/ff-model/"
        if not path:
            self.answer({})
        elif not path.startswith((api, repository)):
            self.answer({}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            kind, _, rest = path.removeprefix(api).removeprefix(repository).partition("/")
            revision, _, name = rest.partition("/")
            revision = unquote(revision)
            commit = self.server.revisions.get(revision, revision)
            if commit not in self.server.commits:
                self.answer({}, 404, {"X-Error-Code": "RevisionNotFound"})
                return
            files, headers = self.server.commits[commit], {"X-Repo-Commit": commit}
            if kind == "revision":
                self.answer({"id": "user/ff-model", "sha": commit, "siblings": [{"rfilename": f} for f in files]})
            elif kind == "tree":
                listed = [{"path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()} for f, c in files.items()]
                self.answer([{"type": "file", **file} for file in listed])
            elif kind == "resolve" and name in files:
                self.answer(files[name], headers=headers | {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"'})
            else:
                self.answer({}, 404, headers | {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            self.answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted]}
            )
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
            commit = self.server.add(files)
            self.answer({"commitUrl": f"{self.server.url}/user/ff-model/commit/{commit}", "commitOid": commit})
        else:
            self.answer({"errors": [], "warnings": []})  # of README.md

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with no model, and an empty cache."""
    with FakeHub() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield server
        server.shutdown()
        thread.join()


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_upload_and_download(hub: FakeHub, source: Path, shared: Path, tmp_path: Path) -> None:
    api = HfApi(hub.url, token="none")
    api.upload_folder(repo_id="user/ff-model", folder_path=shared)
    assert hub.commits[hub.revisions["main"]] == content(shared)
    expected = scores(source, tmp_path)
    assert scores("user/ff-model", tmp_path) == expected


def test_revisions(hub: FakeHub, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = hub.add(content(shared))
    hub.revisions["v1"] = first
    calibration = json.loads(json.dumps(CALIBRATION))
    calibration["frame"]["threshold"] = 0.75
    changed = json.loads((shared / "config.json").read_text()) | {"calibration": calibration}
    second = hub.add(content(shared) | {"config.json": json.dumps(changed).encode(), "other.bin": b"not downloaded"})
    for name, threshold, commit in (
        ("user/ff-model", 0.75, second),
        ("user/ff-model@v1", 0.5, first),
        (f"user/ff-model@{first}", 0.5, ""),
    ):
        capsys.readouterr()
        assert scores(name, tmp_path)[0]["model"]["frame"]["threshold"] == threshold, name
        note = capsys.readouterr().err
        assert f"user/ff-model@{commit}" in note if commit else "note" not in note
    assert not any("other.bin" in request for request in hub.requests)


def test_the_cache_serves_without_a_connection(
    hub: FakeHub, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hub.add(content(shared))
    expected = scores("user/ff-model", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        assert scores("user/ff-model", tmp_path) == expected
        refused("user/other", capsys, "user/other", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert scores("user/ff-model", tmp_path) == expected
    refused("user/other", capsys, "user/other", "HF_HUB_OFFLINE")
    assert len(hub.requests) == asked


def test_models_that_the_hub_does_not_have(hub: FakeHub, shared: Path, capsys: pytest.CaptureFixture) -> None:
    hub.add(content(shared))
    refused("user/missing", capsys, "user/missing", hub.url)
    refused("user/ff-model@v9", capsys, "v9", hub.url)
    refused("a..b/--", capsys, "a..b/--")  # not a valid name on a hub
    hub.add({"config.json": b"{}", "README.md": b""})
    refused("user/ff-model", capsys, "model.safetensors")
    hub.add(content(shared) | {"model.safetensors": b"changed"})
    refused("user/ff-model", capsys, "model.safetensors", "SHA-256")


def test_a_hub_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(utils_hub, "TIMEOUT", 0.05)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        refused("user/ff-model", capsys, "user/ff-model", "connection")
    for url in ("", "no-url", "http://"):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        refused("user/ff-model", capsys, "user/ff-model", "connection")


def test_an_existing_path_is_not_looked_up(
    hub: FakeHub, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(shared, tmp_path / "user/ff-model")
    assert scores("user/ff-model", tmp_path)[0]["score"] is not None
    (tmp_path / "user/run").mkdir()
    refused("user/run", capsys, "user/run", "folder")
    refused("user/model_best.pth", capsys, "user/model_best.pth")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "valid"),
    [("user/model", True), ("user/model-1.5_x@v1.0", True), ("user/model@refs/pr/1", True), ("model", False),
     ("output/ff/model_best.pth", False), ("output/model_best.pth", False), ("/user/model", False),
     ("../model", False), ("user/model@", False), ("user/mo del", False)],
)  # fmt: skip
def test_names_on_the_hub(name: str, valid: bool) -> None:
    assert bool(HUB_NAME.fullmatch(name)) == valid


def test_name_of_a_test(hub: FakeHub, shared: Path, tmp_path: Path) -> None:
    commit = hub.add(content(shared))
    hub.revisions["refs/pr/1"] = commit
    for model, run in (
        ("user/ff-model", "ff-model_test"),
        ("user/ff-model@refs/pr/1", "ff-model_test"),
        (str(shared), "ff-model_test"),
        (str(shared.parent / "ff/model_best.pth"), "ff_test"),
    ):
        args, found = training.parse_arguments(["--test", "--resume_model", model])
        assert args.name == run and found is not None and args.resume_model is not None, model
        if model.startswith("user"):
            assert args.resume_model.name == commit  # which results.json keeps
            assert found["sha256"] == sha256(shared / "config.json")


def test_name_of_a_test_of_the_newest_checkpoint(shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared.parent / "ff", tmp_path / TrainingArguments.name)
    args, _ = training.parse_arguments(["--test", "--resume_model", "auto", "--save_path", str(tmp_path)])
    assert args.name == f"{TrainingArguments.name}_test"


@pytest.mark.slow
def test_the_environment_names_the_hub(hub: FakeHub, source: Path, shared: Path, tmp_path: Path) -> None:
    """As a user runs it, with HF_ENDPOINT."""
    expected = scores(source, tmp_path)
    hub.add(content(shared))
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "other")}
    argv = ["--model", "user/ff-model@main", "--faces_given", "--gpu_num", "cpu", "--json", "hub.json"]
    code = "import sys, tests.helpers, inference; sys.exit(inference.main())"  # tests.helpers has the backbone
    command = [sys.executable, "-c", code, *argv, str(tmp_path / "face.png")]
    subprocess.run(command, cwd=tmp_path, env=os.environ | variables | {"PYTHONPATH": str(ROOT)}, check=True)
    assert comparable(tmp_path / "hub.json") == expected
