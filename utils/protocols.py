"""Test protocols of the paper and of other projects; docs/protocols.md compares them and names the sources."""

import re
from dataclasses import asdict, dataclass
from typing import Any

from utils.data_roots import base_name
from utils.errors import InputError
from utils.parsing import show_default


@dataclass(frozen=True)
class Protocol:
    """The arguments of training.py that a protocol fixes.

    Attributes:
        dataset: names of the test sets; the name gives the split, such as ``Celeb-DF-v2_all``.
        frames_per_video: number of frames of each video.
        frame_choice: random or even, see `datasets.samplers.choose_frames`.
        video_score: see `evaluation.metrics.combine_frames`.
    """

    dataset: list[str]
    frames_per_video: int
    frame_choice: str
    video_score: str = "mean"


PROTOCOLS = {
    "paper": Protocol(["Celeb-DF-v1_all", "Celeb-DF-v2_all", "DFDC-Preview_all", "DFDC_all"], 30, "random"),
    "deepfakebench": Protocol(
        ["FF++_c23", "FF++_c40", "FF++_c23/FaceShifter", "Celeb-DF-v1", "Celeb-DF-v2", "DFDC-Preview", "DFDC",
         "DeepFakeDetection_all"],
        32,
        "even",
    ),
    "sbi": Protocol(["FF++_raw", "Celeb-DF-v2", "DeepFakeDetection_raw_all", "DFDC", "DFDC-Preview"], 32, "even"),
    "gend": Protocol(["FF++_c23", "Celeb-DF-v2", "DeepFakeDetection_all", "DFDC"], 32, "even"),
}  # fmt: skip


def arguments_of(protocol: str | None) -> dict[str, Any]:
    """Return the arguments that a protocol fixes, by name; nothing without a protocol."""
    return asdict(PROTOCOLS[protocol]) if protocol else {}


def check_protocol(protocol: str | None, given: dict[str, Any]) -> None:
    """Raise InputError if an argument contradicts the protocol; ``dataset`` may name some of its test sets.

    Args:
        protocol: a key of `PROTOCOLS`, or None.
        given: the arguments by name.
    """
    for name, wanted in arguments_of(protocol).items():
        value = given[name]
        if not set(value) <= set(wanted) if name == "dataset" else value != wanted:
            raise InputError(
                f"--{name} {show_default(value) or None} contradicts --protocol {protocol}, which has "
                f"{show_default(wanted) or None}; leave out one of the two flags."
            )


def check_unknown(tested: list[str], trained: list[str]) -> None:
    """Raise InputError if a test set of ``--split all`` holds the training videos of the network.

    A network trained on NAME_all itself may be tested on it: ``--split all`` writes no training set, so this NAME_all
    is a dataset of the user.

    Args:
        tested: names of the test sets.
        trained: names of the training sets.
    """
    known = {_videos_of(name) for name in trained}
    for name in tested:
        if name.endswith("_all") and name not in trained and _videos_of(name) in known:
            raise InputError(
                f"--dataset {name} has every video of {_videos_of(name)}, but the checkpoint was trained on "
                f"{','.join(trained)}; test {base_name(name)} instead."
            )


def _videos_of(dataset: str) -> str:
    """Return the name of a dataset without split, manipulation and compression: FF++_c40_all has the videos of FF++."""
    return re.sub("_(raw|c23|c40)$", "", base_name(dataset).partition("/")[0])
