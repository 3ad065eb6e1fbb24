"""Random input for every target of the fuzzer: each case must end in an answer or in one sentence."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz.target import SCRATCH, Target, find_targets, mutations

TARGETS = find_targets()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_valid_input_is_answered(target: Target, tmp_path: Path) -> None:
    assert target.check(target.seeds()[0], tmp_path)


CONTINUING = TARGETS["continued_training"].seeds()[0] + b"\n"
NESTED = b'{"a":' * 3000
FACE = (
    b'{"bytes": 5, "frames": 10, "looked_at": 2, "faces": [[{"image": "0.png", "box": [%s, 0, 9, 9], "enlarged": %s}]]}'
)


@pytest.mark.parametrize(
    ("name", "content", "answered"),
    [
        ("videos_csv", b"path,label\na\0.mp4,real\nb/c.mp4,fake\n", False),
        ("dataset_json", b'{"m/1111_2222_A.mp4": {"label": "fake", "set": "test", "target_id": "\\ud800"}}', False),
        (
            "deepfakebench_list",
            b'{"d": {"x": {"train": {"v": {"label": "real", "frames": ["real/v/\\u0000/1"]}}}}}',
            False,
        ),
        (
            "deepfakebench_list",
            b'{"d": {"x": {"train": {"v": {"label": "real", "frames": ["real/v/0.png", "f/\\u0000/1"]}}}}}',
            False,
        ),
        ("predictions_csv", b"label,score,dataset,path\n1,0.5,d\n", False),
        ("results_json", b"{}", False),
        ("results_json", b'{"datasets": {}}', False),
        ("results_json", NESTED, False),
        ("records_jsonl", NESTED + b"\n", False),
        ("recipe_json", b"[]", False),
        ("recipe_json", b"\xff", False),
        ("recipe_json", NESTED, False),
        ("faces_json", b"\xff", True),
        ("faces_json", NESTED, True),
        ("faces_json", b'{"bytes": 5, "cause": 1}', True),
        ("faces_json", FACE % (b"0", b'"2"'), True),
        ("faces_json", FACE % (b"9" * 400, b"1"), True),
        ("report_json", b"{}", True),
        ("report_json", b"\xff", False),
        ("args_json", NESTED, False),
        ("demo_json", NESTED, False),
        ("embedding_arguments", b"--group_by\n" + b"(" * 3000, False),
        ("embedding_arguments", b"--group_by\na{99999999999}", False),
        ("check_arguments", b"d\n--num_workers\n\x1b[2J", False),
        ("continued_training", CONTINUING + b"args/epoch 0", True),
        ("continued_training", CONTINUING + b'args/epoch "x"', True),
    ],
)
def test_defects_that_random_input_found(name: str, content: bytes, answered: bool, tmp_path: Path) -> None:
    assert TARGETS[name].check(content, tmp_path) == answered


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_random_input(target: Target) -> None:
    @settings(
        max_examples=200,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(target.seeds()))
    def check(content: bytes) -> None:
        with TemporaryDirectory(dir=SCRATCH) as folder:
            target.check(content, Path(folder))

    check()
