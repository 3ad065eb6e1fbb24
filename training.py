"""Train, resume and test the LIB network.

    python training.py --name ff --dataset FF++_c23
    python training.py --resume_model output/ff/model_last.pth
    python training.py --test --resume_model output/ff/model_best.pth --dataset FF++_c23,Celeb-DF-v2 --name tested

A run writes all its files to output/<name>/.
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.images import FaceImages, collate, make_loader
from datasets.labels import CLASSES, Video, read_datasets, read_split
from engine import BadImages, evaluate, train_one_epoch
from evaluation.metrics import binary_metrics, choose_threshold
from evaluation.published import read_published, select_tables
from evaluation.results import format_table, write_results
from faces.recipe import common_recipe
from losses.balance import FixedBalance, LearntBalance
from losses.divergences import DIVERGENCES
from losses.terms import loss_terms
from models.backbones import build_network, check_model_name
from models.checkpoints import (
    NETWORK_SETTINGS,
    best_so_far,
    load_checkpoint,
    load_network,
    load_state,
    save_checkpoint,
    selection_score,
)
from utils import parsing as parse
from utils.command import run_command
from utils.devices import seed_everything, select_devices, smallest_share, worker_count
from utils.errors import InputError
from utils.files import copy_file
from utils.logs import TrainingLog
from utils.run_folder import TEST_FILES, TRAINING_FILES, check_output_folder, start_output_folder
from utils.schedule import cosine_factor, official_factor, official_halving
from utils.tables import format_rows
from utils.training_arguments import NOT_INHERITED, TrainingArguments, check_training_arguments

LOSS_WEIGHTS_LR = 1e-3  # independent of --lr
FIXED_SETTINGS = (*NETWORK_SETTINGS, "lil_loss", "gil_loss", "balance_loss_method", "lr_schedule")  # when resuming


# ---------------------------------------------------------------------------------------------------- arguments


def parse_arguments(argv: list[str] | None = None) -> tuple[TrainingArguments, dict[str, Any] | None]:
    """Parse the command line, and read the checkpoint of ``--resume_model``.

    With ``--test`` the network's settings come from the checkpoint. A resumed training takes every argument that is
    not on the command line from the checkpoint.

    Returns:
        The arguments, and the checkpoint or None.

    Raises:
        InputError: an argument is wrong, or contradicts the checkpoint.
    """
    parser = parse.Parser("training.py", __doc__, TrainingArguments)
    args = parser.parse(argv)
    checkpoint = None
    if args.resume_model is not None:
        checkpoint = load_checkpoint(args.resume_model)
        saved = {key: value for key, value in checkpoint["args"].items() if key in vars(args)}
        inherited = NETWORK_SETTINGS if args.test else set(saved) - set(NOT_INHERITED)
        args = parser.parse(argv, {key: saved[key] for key in inherited if key in saved})
        changed = [key for key in saved if key in inherited and str(getattr(args, key)) != str(saved[key])]
        for key in sorted(changed, key=lambda key: key not in FIXED_SETTINGS):
            origin = f"{args.resume_model}, which was trained with --{key} {saved[key]}"
            if key in FIXED_SETTINGS:
                raise InputError(f"--{key} {getattr(args, key)} contradicts {origin}; leave --{key} out.")
            print(f"note: continuing with --{key} {getattr(args, key)} from {origin}")
    check_training_arguments(args)
    check_model_name(args.model)
    return args, checkpoint


# ---------------------------------------------------------------------------------------------------------- test


def test(
    network: nn.Module,
    test_sets: dict[str, list[Video]],
    args: TrainingArguments,
    device: torch.device,
    checkpoint_file: Path | None,
    checkpoint: dict[str, Any],
) -> None:
    """Score every test set, write results.json, predictions.csv and report.html, and print the table.

    Args:
        network: on `device`.
        test_sets: the test videos of each dataset.
        args: the command's arguments.
        device: device of the images.
        checkpoint_file: the tested checkpoint; None if it is not kept.
        checkpoint: its content.
    """
    bad_images = BadImages(args.skip_bad_images)
    channels = checkpoint["channels"]
    tested = {}
    for dataset, videos in test_sets.items():
        faces = FaceImages(videos, args.size)
        loader = make_loader(faces, args.test_bs, args.num_workers, device)
        title = f"test {dataset}"
        scored = evaluate(network, loader, device, channels=channels, bad_images=bad_images, title=title)
        tested[dataset] = faces, *scored
    bad_images.report()
    folder = args.save_path / args.name
    results = write_results(folder, tested, args, checkpoint_file, checkpoint)
    print(f"\n{format_table(results)}")
    for table in select_tables(read_published(), checkpoint["args"].get("dataset"), results["datasets"]):
        print(f"\npublished, not measured here: AUC of {table.unit}, trained on {table.trained_on}. {table.source}")
        print(format_rows([["method", *table.datasets], *([name, *cells] for name, cells in table.rows.items())]))
    print(f"\nreport: {folder / 'report.html'}, scores: {folder / 'predictions.csv'}")


def run_test(args: TrainingArguments, checkpoint: dict[str, Any]) -> None:
    """Evaluate a checkpoint (``--test``)."""
    devices = select_devices(args.gpu_num)
    folder = args.save_path / args.name
    same_run = check_output_folder(folder, args.resume_model, args.overwrite, test=True)
    test_sets = {d: read_split(d, "test", args.dataset_root, args.data_root) for d in args.dataset}
    bare_network = build_network(args.model, args.num_LIBs, args.size)
    load_network(bare_network, checkpoint)
    args.num_workers = worker_count(args.num_workers)
    if not same_run:
        start_output_folder(folder, (*TRAINING_FILES, *TEST_FILES), parse.plain_arguments(args))
    test(move_to_devices(bare_network, devices), test_sets, args, devices[0], args.resume_model, checkpoint)


def move_to_devices(network: nn.Module, devices: list[torch.device]) -> nn.Module:
    """Move a network to the first device; wrap it in DataParallel if there are several."""
    network.to(devices[0])
    return nn.DataParallel(network, devices) if len(devices) > 1 else network


# ------------------------------------------------------------------------------------------------------ training


def make_optimizer(network: nn.Module, balance: nn.Module, lr: float, weight_decay: float) -> torch.optim.Adam:
    """Make Adam for the network and for the loss weights if they are learnt.

    Args:
        network: trained with `lr`.
        balance: trained with `LOSS_WEIGHTS_LR` if it has parameters.
        lr: initial learning rate of the network.
        weight_decay: applied to both.
    """
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "lr": lr, "initial_lr": lr}]
    if weights := list(balance.parameters()):
        groups.append({"params": weights, "lr": LOSS_WEIGHTS_LR, "initial_lr": LOSS_WEIGHTS_LR})
    return torch.optim.Adam(groups, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)


def run_training(args: TrainingArguments, checkpoint: dict[str, Any] | None) -> None:
    """Train, validate after each epoch, and test the best checkpoint once at the end."""
    # Check all input before writing anything.
    devices = select_devices(args.gpu_num)
    device = devices[0]
    folder = args.save_path / args.name
    same_run = check_output_folder(folder, args.resume_model, args.overwrite)
    train_videos, val_videos, test_sets = read_datasets(
        args.dataset, args.dataset_root, args.data_root, args.oversample
    )

    seed_everything(args.seed, 0)
    pretrained = args.pretrained if checkpoint is None else False
    bare_network = build_network(args.model, args.num_LIBs, args.size, pretrained)
    terms = ["classification"] + ["local"] * args.lil_loss + ["global"] * args.gil_loss
    balance = LearntBalance(terms) if args.balance_loss_method == "auto" else FixedBalance(args.scales)
    criterion = partial(
        loss_terms,
        lil=args.lil_loss,
        gil=args.gil_loss,
        temperature=args.temperature,
        divergence=DIVERGENCES[args.mi_calculator],
    )
    epochs_done, channels = 0, "RGB"
    best: float | None = None
    best_file: Path | None = None
    val_losses: list[float] = []
    halvings = 0
    if checkpoint is not None and args.resume_model is not None:
        load_network(bare_network, checkpoint)
        epochs_done, channels = checkpoint["epoch"], checkpoint["channels"]
        if "best" in checkpoint:
            best_file, best = best_so_far(args.resume_model, checkpoint)
        # The authors' checkpoints have no balance and no schedule.
        load_state(balance, checkpoint.get("balance", balance.state_dict()), args.resume_model)
        val_losses, halvings = checkpoint.get("val_losses", []), checkpoint.get("halvings", 0)
        last = folder / "model_last.pth"
        in_place = same_run and not args.overwrite and last.is_file() and not last.samefile(args.resume_model)
        if in_place and load_checkpoint(last)["epoch"] > epochs_done:
            raise InputError(
                f"{folder} holds later epochs than {args.resume_model}, which would be lost; resume {last}, or give "
                "another --name, or --overwrite."
            )
        if epochs_done > args.epoch or (epochs_done == args.epoch and "best" not in checkpoint):
            raise InputError(
                f"--epoch {args.epoch} is the total number of epochs, and {args.resume_model} has already finished "
                f"{epochs_done}; give a larger number."
            )
    network = move_to_devices(bare_network, devices)
    balance.to(device)
    optimizer = make_optimizer(network, balance, args.lr, args.weight_decay)
    if checkpoint is not None and args.resume_model is not None and "optimizer" in checkpoint:
        # Restore Adam's moments; keep the learning rates and weight decay of this command.
        current = [{key: group[key] for key in ("initial_lr", "weight_decay")} for group in optimizer.param_groups]
        load_state(optimizer, checkpoint["optimizer"], args.resume_model)
        for group, settings in zip(optimizer.param_groups, current, strict=True):
            group.update(settings)

    args.num_workers = worker_count(args.num_workers)
    train_faces = FaceImages(train_videos, args.size, args.seed)
    loader = make_loader(train_faces, args.bs, args.num_workers, device, shuffle=True)
    val_faces = FaceImages(val_videos, args.size)
    val_loader = make_loader(val_faces, args.test_bs, args.num_workers, device)
    if smallest_share(min(args.bs, len(train_faces)), len(devices)) < 2:
        raise InputError(
            f"--bs {args.bs} with {len(train_faces)} training images and {len(devices)} devices gives a device a "
            f"single image, but BatchNorm needs two; give --bs {2 * len(devices)} or more, or fewer GPUs."
        )
    last_batch = len(train_faces) % args.bs or args.bs
    if smallest_share(last_batch, len(devices)) < 2:
        print(
            f"note: every epoch skips its last batch of {last_batch}: a device would get a single image, but "
            "BatchNorm needs two"
        )

    # Write to the run folder only from here on.
    start_output_folder(folder, () if same_run else (*TRAINING_FILES, *TEST_FILES), parse.plain_arguments(args))
    with tempfile.TemporaryDirectory() as scratch, closing(TrainingLog(folder, epochs_done, len(loader))) as log:
        checkpoint_folder = folder if args.save_model else Path(scratch)  # the test needs the best weights
        if epochs_done == 0:
            train_faces.epoch = 1
            shown = collate([train_faces[i] for i in np.linspace(0, len(train_faces) - 1, 16, dtype=int)])
            log.images(shown.images, [CLASSES[label] for label in shown.labels])
        bad_images = BadImages(args.skip_bad_images)
        real, fake = np.bincount(train_faces.labels, minlength=2)
        print(
            f"{folder}: training on {len(devices)} x {device.type}, {real} real and {fake} fake images per epoch, "
            f"{len(val_faces)} validation images",
            flush=True,
        )

        if epochs_done == args.epoch:
            print(f"note: all {args.epoch} epochs are finished; testing the best checkpoint again")
        for epoch in range(epochs_done + 1, args.epoch + 1):
            seed_everything(args.seed, epoch)
            loader.generator.manual_seed(torch.initial_seed())
            train_faces.epoch = epoch
            first_step = (epoch - 1) * len(loader)
            if args.lr_schedule == "official":
                val_losses, halvings = official_halving(val_losses, halvings)
                # A new Adam in every epoch, without the moments of the old one, as in the authors' code.
                optimizer = make_optimizer(network, balance, args.lr * 0.5**halvings, args.weight_decay)
                lr_factor: Callable[[int], float] = official_factor
            else:
                lr_factor = partial(cosine_factor, first_step=first_step, total_steps=args.epoch * len(loader))

            mean_losses, labels, scores, speed = train_one_epoch(
                network, criterion, balance, optimizer, lr_factor, loader, device,
                alpha=args.alpha if args.mixup else None, channels=channels, gpus=len(devices),
                bad_images=bad_images, epoch=epoch,
                on_step=partial(log.step, first_step=first_step, balance=balance, optimizer=optimizer),
            )  # fmt: skip
            train_metrics = binary_metrics(labels, scores)
            positions, scores = evaluate(
                network, val_loader, device, channels=channels, bad_images=bad_images, title=f"validation {epoch}"
            )
            val_metrics = binary_metrics(val_faces.labels[positions], scores)

            assert val_metrics["log_loss"] is not None  # defined for a single class too
            val_losses = [*val_losses, val_metrics["log_loss"]]
            # Replace earlier files only now that there is an epoch to save.
            if best_file is not None and best_file != checkpoint_folder / "model_best.pth":
                copy_file(best_file, checkpoint_folder / "model_best.pth")
            best_file, last_file = checkpoint_folder / "model_best.pth", checkpoint_folder / "model_last.pth"
            is_best = best is None or selection_score(val_metrics) > best
            best = selection_score(val_metrics) if is_best else best
            save_checkpoint(
                last_file, network, args.model, epoch,
                args=parse.plain_arguments(args), channels=channels, val=val_metrics, best=best,
                balance=balance.state_dict(),
                threshold=choose_threshold(val_faces.labels[positions], scores, args.fpr),
                faces=common_recipe(args.dataset, args.data_root),
                optimizer=optimizer.state_dict(), val_losses=val_losses, halvings=halvings,
            )  # fmt: skip
            if is_best:
                copy_file(last_file, best_file)
            if epoch % 10 == 0:
                copy_file(last_file, checkpoint_folder / f"model_{epoch}.pth")
            lr = optimizer.param_groups[0]["lr"]
            log.epoch(epoch, args.epoch, mean_losses, lr, speed, train_metrics, val_metrics, is_best)
            bad_images.report()

        # Read the test sets once, with the best checkpoint.
        assert best_file is not None
        best_checkpoint = load_checkpoint(best_file)
        load_network(bare_network, best_checkpoint)
        saved = best_file if best_file.parent != Path(scratch) else None
        test(network, test_sets, args, device, saved, best_checkpoint)
        print(f"curves: tensorboard --logdir {folder}")


# ------------------------------------------------------------------------------------------------------- command


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input, 130 for an interruption."""
    args: TrainingArguments | None = None

    def work() -> None:
        nonlocal args
        args, checkpoint = parse_arguments(argv)
        if args.test and checkpoint is not None:
            run_test(args, checkpoint)
        else:
            run_training(args, checkpoint)

    def how_to_continue() -> str:
        if args is None or args.test:
            return ""
        last = args.save_path / args.name / "model_last.pth"
        return f"; continue with --resume_model {last}" if last.is_file() else ""

    return run_command("training.py", work, "a smaller --bs, --test_bs, --size or --num_LIBs", how_to_continue)


if __name__ == "__main__":
    sys.exit(main())
