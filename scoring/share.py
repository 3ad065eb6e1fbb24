"""Write a trained network into a folder that other people can use, and that huggingface_hub can upload.

    python -m scoring.share output/ff/model_best.pth ff-model output/ff output/ff_tested
    hf upload USER/ff-model ff-model

The folder has the weights (model.safetensors), the settings and the thresholds (config.json), features of the training
faces (familiar_features.safetensors), and a model card (README.md). The card shows metrics only from tests of this
checkpoint, which it recognises by its SHA-256.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.shared_model import CARD, CONFIG, require_model, write_shared_model
from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.errors import InputError
from utils.files import read_json, report_invalid_entries, sha256


@dataclass(kw_only=True)
class ShareArguments:
    """The arguments of the command; `parse.argument` has the help text of each."""

    checkpoint: Path = parse.positional(parse.path, parse.MODEL_TEXT)
    folder: Path = parse.positional(parse.path, "folder to create")
    tests: list[Path] = parse.positional(
        parse.path, "folders of tests to show in the model card (default: the folder of the checkpoint)", "*"
    )


def parse_arguments(argv: list[str] | None) -> ShareArguments:
    """Parse the command line.

    Raises:
        InputError: an argument is missing or unknown, a file is missing, or the folder exists.
    """
    args = parse.Parser("-m scoring.share", __doc__, ShareArguments).parse(argv)
    require_model(args.checkpoint, "CHECKPOINT")
    if args.folder.exists():
        raise InputError(f"FOLDER {args.folder} already exists; give a new folder, or delete it.")
    for test in args.tests:
        if not (test / "results.json").is_file():
            raise InputError(f"TESTS: {test} has no results.json; give the folder of a test.")
    return args


if __name__ == "__main__":
    check_command_line("scoring.share", lambda: parse_arguments(None))  # before the slow imports

from evaluation.results import table_rows
from evaluation.verdicts import LEVELS
from models.checkpoints import load_trained
from models.official_names import to_official

CARD_TEMPLATE = """---
pipeline_tag: image-classification
tags:
- deepfake-detection
- face-forgery
- pytorch
---

# {name}

This network gives the image of a face a score from 0 (real) to 1 (fake). **A score alone is not evidence.** The network
makes errors, above all on images that differ from its training data.

It is a network of *Exposing the Deception: Uncovering More Forgery Clues for Deepfake Detection* (Ba et al., AAAI 2024,
[arXiv 2403.01786](https://arxiv.org/abs/2403.01786)). Score a file with the reference implementation:

```
python inference.py --model {name} clip.mp4
```

`--model` takes this folder, or its name on the hub: USER/{name}, or USER/{name}@REVISION.

## Training

{settings}

`config.json` has all settings.

## Measured

{measured}
"""


def find_tests(args: ShareArguments, checkpoint_sha256: str) -> dict[str, list[str]]:
    """Return the tests of a checkpoint: text of the model card about a test -> names of its datasets.

    Raises:
        InputError: a folder in ``args.tests`` has the results of another checkpoint, or a results.json lacks an entry.
    """
    tests = {}
    for folder in args.tests or [args.checkpoint.parent]:
        file = folder / "results.json"
        if not file.is_file():
            continue
        results = read_json(file)
        if results.get("checkpoint_sha256") == checkpoint_sha256:
            with report_invalid_entries(
                file, "test the checkpoint again (training.py --test), and give TESTS the new folder"
            ):
                tests[describe_test(results)] = list(results["datasets"])
        elif args.tests:
            raise InputError(f"TESTS: {file} has the results of another checkpoint; give tests of {args.checkpoint}.")
    return tests


def describe_test(results: dict[str, Any]) -> str:
    """Return what the model card says about a test.

    Args:
        results: the content of results.json.

    Raises:
        LookupError, TypeError, AttributeError, ValueError: an entry is missing or invalid.
    """
    return (
        f"Test in {results['precision']}; video score: {results['video_score']} of the frame scores. In brackets: 95 % "
        f"intervals, from the variance between clusters of videos.\n\n{markdown_table(table_rows(results))}"
    )


def model_card(name: str, checkpoint: dict[str, Any], tests: Collection[str]) -> str:
    """Return the model card, Markdown with the metadata of the Hugging Face hub.

    Args:
        name: heading.
        checkpoint: result of `models.checkpoints.load_trained`.
        tests: results of `describe_test` for the tests of this checkpoint.
    """
    args, faces, calibration = checkpoint["args"], checkpoint.get("faces"), checkpoint.get("calibration")
    unknown = "the checkpoint does not say"
    settings = [
        ["setting", "value"],
        ["backbones", f"{args['num_LIBs']} x {args['model']}"],
        ["input", f"{args['size']} x {args['size']} pixels, {checkpoint['channels']}"],
        ["training datasets", ", ".join(args.get("dataset", [])) or unknown],
        ["finished epochs", str(checkpoint["epoch"])],
        ["face detector of the training images", (faces or {}).get("detector") or unknown],
        *([f"threshold of {level}s", describe_threshold(calibration and calibration[level])] for level in LEVELS),
    ]
    source = f"SHA-256 of the tested checkpoint: `{checkpoint['sha256']}` (`checkpoint_sha256` in `{CONFIG}`)."
    return CARD_TEMPLATE.format(
        name=name,
        settings=markdown_table(settings),
        measured="\n\n".join([*tests, source]) if tests else "No measurement: this checkpoint was not tested.",
    )


def describe_threshold(level: dict[str, Any] | None) -> str:
    """Return a threshold of `evaluation.verdicts.calibrate` with its rates, in words; None means no calibration."""
    if level is None:
        return "none: the checkpoint has no calibration, so `inference.py` gives scores without a verdict"
    rates = f"false positive rate {100 * level['fpr']:.3g} %, false negative rate {100 * level['fnr']:.3g} %"
    return f"{level['threshold']:.4f}; on the validation set: {rates}"


def markdown_table(rows: list[list[str]]) -> str:
    """Format rows of cells as a Markdown table; the first row is the header."""
    lines = [f"| {' | '.join(cell.strip().replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def run(args: ShareArguments) -> None:
    """Write the folder, and print how to upload it."""
    network, checkpoint = load_trained(args.checkpoint, "CHECKPOINT")
    state = to_official(network.state_dict(), checkpoint["args"]["model"])
    checkpoint["state_dict"] = {key: value.contiguous() for key, value in state.items()}  # safetensors needs it
    tests, name = find_tests(args, checkpoint["sha256"]), args.folder.absolute().name
    write_shared_model(args.folder, checkpoint, model_card(name, checkpoint, tests))
    datasets = ", ".join(dataset for tested in tests.values() for dataset in tested)
    print(
        f"{args.folder / CONFIG}: SHA-256 {sha256(args.folder / CONFIG)}; tests in the model card: {datasets or 'none'}"
    )
    print(f"add a licence and the terms of the training data to {args.folder / CARD}, then upload:")
    print(f"hf upload USER/{name} {args.folder}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input, 130 for an interruption."""
    return run_command("scoring.share", lambda: run(parse_arguments(argv)), "a machine with more memory")


if __name__ == "__main__":
    sys.exit(main())
