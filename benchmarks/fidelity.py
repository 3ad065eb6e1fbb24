"""Measure the largest differences from the authors' numbers, for docs/fidelity.md.

    python -m benchmarks.fidelity [--threads 2]

It uses the references and functions of tests/test_fidelity.py, and prints the differences that those tests bound.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from tests.test_fidelity import (
    REFERENCE,
    REFERENCE64,
    Losses,
    compare_logits,
    difference,
    recipe_steps,
    training_steps,
)


def largest_difference(ours: Losses, theirs: Losses) -> float:
    """Return the largest relative difference of any loss term."""
    return max(difference(ours[name], theirs[name]) for name in theirs)


def main() -> None:
    """Print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="number of PyTorch threads (default: 2)")
    torch.set_num_threads(parser.parse_args().threads)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    folder = Path(tempfile.mkdtemp())
    for name, dtype, references in (("float64", torch.float64, REFERENCE64), ("float32", torch.float32, REFERENCE)):
        logits = [compare_logits(reference, dtype, folder) for reference in references["networks"].values()]
        print(f"{name} logits: {max(logits):.1e}", flush=True)
    for reference in REFERENCE["training"]:
        first, _ = next(training_steps(reference, torch.float32, folder))
        print(f"float32 first training step: {largest_difference(first, reference['steps'][0]):.1e}", flush=True)
    for reference in REFERENCE64["training"]:
        steps = list(training_steps(reference, torch.float64, folder))
        differences = [
            largest_difference(ours, theirs) for (ours, _), theirs in zip(steps, reference["steps"], strict=True)
        ]
        print(f"float64 training steps: {max(differences):.1e}", flush=True)
        print(
            f"float64 learnt weights: {largest_difference(steps[-1][1], reference['learnt_weights_after']):.1e}",
            flush=True,
        )
    for reference in REFERENCE64["recipe"]:
        recipe = zip(recipe_steps(reference, folder), reference["steps"], strict=True)
        differences = [largest_difference(ours, theirs) for (ours, _), theirs in recipe]
        print(f"float64 recipe, {reference['model']}: {max(differences):.1e}", flush=True)


if __name__ == "__main__":
    main()
