"""The largest differences from the authors' numbers, for docs/fidelity.md.

    python -m benchmarks.fidelity [--threads 2]

What tests/test_fidelity.py checks against bounds, measured: the same reference, importer and inputs.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from losses.balance import LearntBalance
from losses.divergences import kl_divergence
from losses.terms import loss_terms
from tests import reference_parameters as parameters
from tests.test_fidelity import REFERENCE, import_network, training_steps


def difference(ours: object, theirs: object) -> float:
    """Return the largest absolute difference over the largest absolute value of theirs."""
    one, other = torch.as_tensor(ours, dtype=torch.float64), torch.as_tensor(theirs, dtype=torch.float64)
    return ((one - other).abs().max() / other.abs().max()).item()


def main() -> None:
    """Print a line each for logits, losses and training steps."""
    folder = Path(tempfile.mkdtemp())
    worst = 0.0
    for reference in REFERENCE["networks"].values():
        network = import_network(reference, reference["checkpoint_shapes"], folder).eval()
        with torch.inference_mode():
            outputs = network(parameters.images(reference["batch"], reference["size"]))
        heads = [outputs["p_y_given_z"], outputs["p_y_given_f_all"], *outputs["p_y_given_f1_fn_list"]]
        theirs = [reference["p_y_given_z"], reference["p_y_given_f_all"], *reference["p_y_given_f1_fn_list"]]
        worst = max([worst, *map(difference, heads, theirs)])
    print(f"logits: {worst:.1e}")

    worst = 0.0
    for reference in REFERENCE["losses"]:
        logits = {key: torch.tensor(value) for key, value in reference["logits"].items()}
        labels, switches = torch.tensor(reference["labels"]), (reference["lil_loss"], reference["gil_loss"])
        terms = loss_terms(logits, labels, *switches, reference["temperature"], kl_divergence)
        ours = {**terms, "total": LearntBalance(list(terms))(terms)}
        theirs = {**reference["terms"], "total": reference["auto_total_at_unit_weights"]}
        worst = max([worst, *(difference(ours[name].item(), theirs[name]) for name in ours)])
    print(f"losses: {worst:.1e}")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch, in the training steps (default: 2)")
    torch.set_num_threads(parser.parse_args().threads)
    for reference in REFERENCE["training"]:
        differences = [
            max(difference(losses[name], expected[name]) for name in expected)
            for losses, expected in zip(training_steps(reference, folder), reference["steps"], strict=True)
        ]
        print(f"steps: {max(differences):.1e} (each: {', '.join(f'{d:.0e}' for d in differences)})")


if __name__ == "__main__":
    main()
