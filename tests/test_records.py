"""Records of scored files: their content, their schema, and how a batch continues."""

import csv
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import inference
from faces.detectors import Detections
from scoring import detector as scoring_detector
from scoring.records import COLUMNS, FORMAT, open_records, settings_of
from tests.helpers import ROOT, start_fork
from tests.test_inference import CALIBRATION, FACES, checkpoint, photo, read_records, refused, score, tree, write_image
from tests.test_preprocessing import FACE, fixed_detector, write_video

SCHEMA = json.loads((ROOT / "docs/record.schema.json").read_text())
WEIGHTS = "5" * 64
ARGS = {"model": "tiny_cnn", "num_LIBs": 2, "size": 32, "dataset": ["FF++_c23"], "lr": 1e-4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "model_best.pth", args=ARGS)


@pytest.fixture(autouse=True)
def fixed_face_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the face detector by one that knows where the synthetic face is, and finds none in dark frames."""

    def detect(frames: np.ndarray) -> list[Detections]:
        found = fixed_detector(frames)
        nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        return [faces if frame.any() else nothing for faces, frame in zip(found, frames, strict=True)]

    description = {"detector": "retinaface", "weights": WEIGHTS}
    monkeypatch.setattr(scoring_detector, "load_face_detector", lambda *_: (detect, description))


def write_inputs(folder: Path) -> Path:
    """Write an image, an image without a face, a broken image, a broken video and a video."""
    write_image(folder / "a, face.png", photo(0))
    write_image(folder / "b wall.png", np.zeros((140, 200, 3), np.uint8))
    (folder / "c cut.png").write_bytes((folder / "a, face.png").read_bytes()[:3000])
    (folder / "d broken.mp4").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(2000))
    write_video(folder / "e.mp4", frames=12)
    return folder


# ---------------------------------------------------------------------------------------------------------- content


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas of objects in a schema."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from objects(part)


def test_schema_requires_and_describes_every_property() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = list(objects(SCHEMA))
    assert len(found) >= 9
    for schema in found:
        assert schema["additionalProperties"] is False and schema["required"] == list(schema["properties"])
        assert all(part["description"] for part in schema["properties"].values())


@pytest.mark.parametrize("calibration", [CALIBRATION, None], ids=["calibrated", "not calibrated"])
@pytest.mark.parametrize("faces_given", [False, True], ids=["found", "given"])
def test_every_record_follows_the_schema(tmp_path: Path, calibration: Any, faces_given: bool) -> None:
    file = checkpoint(tmp_path / "m.pth", calibration=calibration, faces=FACES if calibration else None, args=ARGS)
    more = ["--json", tmp_path / "a.json", "--faces_given", faces_given]
    assert score("--model", file, write_inputs(tmp_path / "in"), *more) == 3
    records = read_records(tmp_path / "a.json")
    assert len(records) == 5
    for record in records:
        jsonschema.validate(record, SCHEMA, jsonschema.Draft202012Validator)
        assert record["crops"]["default"] == (calibration is None)
        assert (record["score"] is None) == (record["cause"] != "") == (record["spread"] is None)
        assert (record["verdict"] is None) == (record["false_positive_rate"] is None)
        assert (record["verdict"] is None) == (record["score"] is None or calibration is None)
        if record["score"] is not None and calibration is None:
            assert any("no calibration" in note for note in record["notes"])


def test_record_of_a_video(model: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "a.mp4", frames=12)
    assert score("--model", model, clip, "--json", tmp_path / "new/a.json", "--error", 0.1, "--frames", 4) == 0
    (record,) = read_records(tmp_path / "new/a.json")
    assert record["file"] == str(clip) and record["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert record["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record["model"]["checkpoint"] == str(model) and record["model"]["trained_with"] == ARGS
    for level in ("frame", "video"):
        wanted = {name: CALIBRATION[level][name] for name in ("threshold", "fpr", "fnr")}
        assert record["model"]["thresholds"][level] == wanted
    assert record["face_detector"] == {"detector": "retinaface", "weights": WEIGHTS}
    crops = {"every": 2, "frames": 4, "margin": 1.4, "crop_size": 80, "faces_given": False, "default": False}
    assert record["crops"] == crops
    age = datetime.now(timezone.utc) - datetime.fromisoformat(record["run"]["date"])
    assert timedelta(seconds=-2) < age < timedelta(hours=1)
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and record["run"]["version"] == version[1]

    scores = [face["score"] for face in record["detections"]]
    (person,) = record["people"]
    assert [face["frame"] for face in record["detections"]] == [0, 4, 7, 11] and record["frames"] == 4
    assert record["score"] == person["score"] == pytest.approx(np.mean(scores))
    assert person["frame_scores"] == pytest.approx(np.percentile(scores, [10, 90]).tolist())
    assert (person["frames"], person["first"], person["last"]) == (4, 0, 0.44)
    assert (person["smallest_face"], record["highest"]) == (FACE, 0)
    assert record["spread"][0] <= record["score"] <= record["spread"][1]
    assert record["cutoffs"]["error"] == 0.1
    as_high = sum(other >= record["score"] for other in CALIBRATION["video"]["real"])
    assert record["false_positive_rate"] == pytest.approx((1 + as_high) / 40)


def test_csv_has_one_row_per_file(model: Path, tmp_path: Path) -> None:
    outputs = ["--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"]
    assert score("--model", model, write_inputs(tmp_path / "in"), *outputs) == 3
    with (tmp_path / "a.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    records = read_records(tmp_path / "a.json")
    assert [row["file"] for row in rows] == [record["file"] for record in records] and len(rows) == 5
    for row, record in zip(rows, records, strict=True):
        assert list(row) == list(COLUMNS)
        for name in ("verdict", "score", "false_positive_rate", "false_negative_rate", "frames", "cause", "sha256"):
            assert row[name] == ("" if record[name] is None else str(record[name])), name
        low_high = [row["spread_low"], row["spread_high"]]
        assert low_high == (["", ""] if record["spread"] is None else list(map(str, record["spread"])))
        assert int(row["people"]) == len(record["people"])
        assert row["checkpoint_sha256"] == record["model"]["sha256"] and row["date"] == record["run"]["date"]
    assert [bool(row["cause"]) for row in rows] == [False, True, True, True, False]


# ------------------------------------------------------------------------------------------------- continued batches


def record(file: str, sha: str = "0" * 64, **more: Any) -> dict[str, Any]:
    """A record with what both outputs read and write."""
    plain = {"format": FORMAT, **dict.fromkeys(COLUMNS)} | {
        "spread": None,
        "people": [],
        "notes": [],
        "run": {"date": "now"},
        "score": 0.5,
    }
    crops = {"faces_given": True, "every": 5, "frames": None}
    model = {"sha256": "c", "precision": "fp32"}
    return (
        plain
        | {"file": file, "sha256": sha, "model": model, "crops": crops, "cutoffs": None, "face_detector": None}
        | more
    )


def settings() -> dict[str, Any]:
    return settings_of(record("a.png"))


NAMES = ["a.png", 'b "quoted".png', "c,\nline.png", "d\r\nline.png", os.fsdecode(b"caf\xe9.png"), "größer 顔.png"]


def test_a_line_cut_at_any_byte_is_written_again(tmp_path: Path) -> None:
    """After each cut, exactly the files of complete lines are known, and the outputs end up as without the cut."""
    files = tmp_path / "a.json", tmp_path / "a.csv"
    records = [record(name) for name in NAMES]

    def batch() -> list[str]:
        with open_records(*files, "c", settings, overwrite=False) as (write, known):
            for made in records:
                if made["file"] not in known:
                    write(made)
        return list(known)

    assert batch() == []
    whole = [file.read_bytes() for file in files]
    assert batch() == NAMES and [file.read_bytes() for file in files] == whole
    for file, content, other in zip(files, whole, reversed(files), strict=True):
        ends = [0]  # of the records
        with open_records(*(part if part == file else None for part in files), "c", settings, overwrite=True) as (
            write,
            _,
        ):
            for made in records:
                write(made)
                ends.append(file.stat().st_size)
        assert file.read_bytes() == content
        for cut in {*range(0, len(content), 9), *ends[:-1], *(end - 1 for end in ends[1:])}:
            file.write_bytes(content[:cut])
            assert batch() == NAMES[: sum(end <= cut for end in ends[1:])], (file, cut)
            assert [file.read_bytes(), other.read_bytes()] == [content, whole[files.index(other)]], (file, cut)


def test_outputs_that_stopped_at_different_files(tmp_path: Path) -> None:
    """A kill between the two writes leaves a record in one output only; the next command completes the other."""
    files = tmp_path / "a.json", tmp_path / "a.csv"
    with open_records(files[0], None, "c", settings, overwrite=False) as (write, _):
        write(record("a.png"))
    with open_records(*files, "c", settings, overwrite=False) as (write, known):
        assert known == {}
        write(record("a.png"))
        write(record("b.png"))
    assert [found["file"] for found in read_records(files[0])] == ["a.png", "b.png"]
    assert [row.split(",")[0] for row in files[1].read_text().splitlines()] == ["file", "a.png", "b.png"]


@pytest.mark.slow
def test_the_same_command_continues_after_a_kill(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(names):
        write_image(tmp_path / "in" / name, photo(i % 2))
    argv = ["--model", str(model), str(tmp_path / "in"), "--faces_given", "--gpu_num", "cpu"]
    argv += ["--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]

    def score_file(detector: object, file: Path, *more: object) -> object:
        if file.name == "3.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(detector, file, *more)

    real = inference.score_file
    with monkeypatch.context() as patch:
        patch.setattr(inference, "score_file", score_file)
        killed = start_fork(inference.main, argv)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    before = (tmp_path / "a.json").read_bytes()
    assert [Path(found["file"]).name for found in read_records(tmp_path / "a.json")] == names[:3]
    (tmp_path / "a.json").write_bytes(before + before[:100])  # as if it had been killed while it wrote
    with (tmp_path / "a.csv").open("a") as table:
        table.write('"half of a n')
    assert inference.main(argv) == 0
    assert (tmp_path / "a.json").read_bytes().startswith(before)
    assert [Path(found["file"]).name for found in read_records(tmp_path / "a.json")] == names
    with (tmp_path / "a.csv").open(newline="") as table:
        assert [Path(row["file"]).name for row in csv.DictReader(table)] == names


def test_a_finished_batch_scores_only_what_is_new(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scored = tmp_path / "in", []
    write_image(folder / "a.png", photo(0))
    write_image(folder / "b.png", np.zeros((140, 200, 3), np.uint8))
    real = inference.score_file

    def keep(detector: Any, file: Path, *more: Any) -> Any:
        scored.append(file.name)
        return real(detector, file, *more)

    monkeypatch.setattr(inference, "score_file", keep)
    argv = ["--model", model, folder, "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"]
    assert score(*argv) == 3 and scored == ["a.png", "b.png"]
    scored.clear()
    capsys.readouterr()
    assert score(*argv) == 3 and scored == []  # the exit code is of the complete batch
    assert "2 of 2" in capsys.readouterr().out
    write_image(folder / "a.png", photo(1))  # another content under a known name
    write_image(folder / "c.png", photo(1))
    assert score(*argv) == 3 and scored == ["a.png", "c.png"]
    found = read_records(tmp_path / "a.json")
    assert [Path(made["file"]).name for made in found] == ["a.png", "b.png", "a.png", "c.png"]
    scored.clear()
    assert score(*argv) == 3 and scored == []
    assert score(*argv, "--overwrite", True) == 3 and scored == ["a.png", "b.png", "c.png"]
    assert len(read_records(tmp_path / "a.json")) == 3 and len((tmp_path / "a.csv").read_text().splitlines()) == 4


def test_a_batch_continues_with_equal_settings_only(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_image(tmp_path / "a.png", photo(0))
    outputs = tmp_path / "a.json", tmp_path / "a.csv"
    argv: list[Any] = ["--model", model, image]
    in_json, in_csv = [*argv, "--json", outputs[0]], [*argv, "--csv", outputs[1]]
    assert score(*in_json, *in_csv[-2:]) == 0
    before = [out.read_bytes() for out in outputs]
    values = {"error": 0.1, "every": 3, "frames": 8, "faces_given": True, "precision": "bf16"}
    for name, value in values.items():
        refused(capsys, *in_json, f"--{name}", value, says=f"--{name} ")
    refused(capsys, *in_csv, "--error", 0.1, says="--error ")
    for name, other in (("detector_weights", ("retinaface", "6" * 64)), ("detector", ("mtcnn", None))):
        description = dict(zip(("detector", "weights"), other, strict=True))
        with monkeypatch.context() as patch:
            patch.setattr(scoring_detector, "load_face_detector", lambda *_, d=description: (fixed_detector, d))
            refused(capsys, *in_json, says=f"--{name} ")
            refused(capsys, *in_csv, says=f"--{name} ")
    assert [out.read_bytes() for out in outputs] == before
    assert score(*in_json, "--every", 2) == 0  # as in the checkpoint


def test_other_files_are_not_replaced(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    image = write_image(tmp_path / "a.png", photo(0))
    other = checkpoint(tmp_path / "other.pth", args=ARGS | {"lr": 1})
    mine = {
        "list.json": "[]\n",
        "text.json": "text\n",
        "table.csv": "file,score\na.png,0.5\n",
        "record.json": json.dumps(record("a.png")) + "\n",  # of the checkpoint "c"
        "line.json": '{"results": [1]}',  # no line break at the end
        "line.csv": "file,score",
        "quote.csv": 'a 5" disk\na.png,0.5\n',
    }
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
        flag = "--csv" if name.endswith("csv") else "--json"
        refused(capsys, "--model", model, image, flag, tmp_path / name, says=f"--overwrite to replace {tmp_path}")
        assert (tmp_path / name).read_text() == text
    network = tmp_path / "model.onnx"
    network.write_text("mine")
    refused(capsys, "--model", model, "--export", network, says="--overwrite")
    assert network.read_text() == "mine"

    out = ["--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv"]
    assert score("--model", model, image, *out) == 0
    before = [(tmp_path / name).read_bytes() for name in ("a.json", "a.csv")]
    refused(capsys, "--model", other, image, *out, says="another checkpoint")
    refused(capsys, "--model", other, image, *out[2:], says="another checkpoint")
    assert [(tmp_path / name).read_bytes() for name in ("a.json", "a.csv")] == before
    assert score("--model", other, image, *out, "--overwrite", True) == 0
    assert read_records(tmp_path / "a.json")[0]["model"]["checkpoint"] == str(other)
    assert "list.json" in tree(tmp_path)
