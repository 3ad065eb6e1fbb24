"""Train, resume and test the LIB network.

    python training.py --name ff --dataset FF++_c23
    python training.py --resume_model output/ff/model_last.pth
    python training.py --test --resume_model output/ff/model_best.pth --dataset FF++_c23,Celeb-DF-v2 --name tested

A run writes all its files to output/<name>/.
"""

from utils.process import exit_on_interrupt  # isort: skip

exit_on_interrupt(__name__, "training.py")  # before the slow imports

import os
import shlex
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from datasets.labels import CLASSES, Video, find_label_folder, read_datasets, read_split
from models.shared_model import find_model, require_model
from utils import parsing as parse
from utils.command import check_command_line, run_command
from utils.errors import InputError
from utils.process import Stopped, launcher
from utils.protocols import check_unknown
from utils.tables import format_rows
from utils.training_arguments import (
    NOT_INHERITED,
    TrainingArguments,
    check_training_arguments,
    parse_training_arguments,
)


def check_arguments(argv: list[str] | None = None) -> None:
    """Raise InputError if the command line is wrong; check only what does not need the content of a checkpoint."""
    args = parse_training_arguments(argv, __doc__)
    if args.resume_model is None:
        check_training_arguments(args)
    elif args.resume_model != Path("auto"):
        require_model(args.resume_model, "--resume_model")
    if args.submit == "local" and (args.test or args.resume_model is None):  # else the checkpoint names the dataset
        for dataset in args.dataset:
            find_label_folder(dataset, args.dataset_root)


if __name__ == "__main__":
    check_command_line("training.py", check_arguments)  # before the slow imports

import numpy as np
from torch import nn

from datasets.images import FaceImages, make_loader
from datasets.samplers import TrainingBatches, check_batch_size, choose_frames
from engine import BadImages, evaluate, train_one_epoch
from evaluation.metrics import binary_metrics
from evaluation.predictions import collect_scores
from evaluation.published import read_published, select_tables
from evaluation.report import write_report
from evaluation.results import table_rows, write_results
from evaluation.verdicts import calibrate
from models.backbones import check_model_name
from models.checkpoints import extend_checkpoint, load_checkpoint, load_network, newest_checkpoint, trained_network
from models.fast import fast_scorer
from run_folder import RunFolder
from run_with_submitit import submit_training
from scoring.familiarity import remember_training
from train_state import TrainState, check_resume
from utils.data_roots import root_of
from utils.devices import PRECISIONS, choose_precision, worker_count
from utils.schedule import cosine_factor
from utils.threads import compute_threads
from utils.world import World

Checkpoint = dict[str, Any]  # result of `load_checkpoint`

INPUT_SETTINGS = ("model", "num_LIBs", "size", "channels")  # what a test takes from the checkpoint
FIXED_SETTINGS = (*INPUT_SETTINGS, "recipe", "lil_loss", "gil_loss", "balance_loss_method", "lr_schedule")  # resuming


# ---------------------------------------------------------------------------------------------------- arguments


def parse_arguments(argv: list[str] | None = None) -> tuple[TrainingArguments, Checkpoint | None]:
    """Parse the command line, and read the checkpoint of ``--resume_model``.

    With ``--test`` the network's settings come from the checkpoint. A resumed training takes every argument that is
    not on the command line from the checkpoint, except those in `NOT_INHERITED`.

    Returns:
        The arguments, and the checkpoint or None.

    Raises:
        InputError: an argument is wrong, or contradicts the checkpoint.
    """
    args = parse_training_arguments(argv, __doc__)
    given, checkpoint = args.resume_model, None
    if args.resume_model == Path("auto"):
        args.resume_model, checkpoint = newest_checkpoint(args.save_path / args.name) or (None, None)
    elif args.resume_model is not None:
        args.resume_model = find_model(args.resume_model, "--resume_model")
        checkpoint = load_resumed(args.resume_model, args.test)
    if checkpoint is not None:
        saved = {key: value for key, value in checkpoint["args"].items() if key in vars(args)}
        saved["channels"] = checkpoint["channels"]
        inherited = set(INPUT_SETTINGS) if args.test else set(saved) - set(NOT_INHERITED)
        file, run = args.resume_model, Path(str(saved.get("save_path")), str(saved.get("name")))
        # The checkpoint of a stranger must not choose where this command writes.
        if file is not None and run.resolve() != file.parent.resolve():
            inherited.discard("save_path")
        args = parse_training_arguments(argv, __doc__, {key: saved[key] for key in inherited if key in saved})
        args.resume_model = file
        changed = [key for key in saved if key in inherited and str(getattr(args, key)) != str(saved[key])]
        for key in sorted(changed, key=lambda key: key not in FIXED_SETTINGS):
            now, before = (parse.show_default(value) or value for value in (getattr(args, key), saved[key]))
            origin = f"{args.resume_model}, which was trained with --{key} {before}"
            if key in FIXED_SETTINGS:
                raise InputError(f"--{key} {now} contradicts {origin}; leave --{key} out.")
            print(f"note: continuing with --{key} {now} from {origin}")
        old = saved.get("epoch")  # a stranger's checkpoint may hold anything
        if not args.test and "epoch" in changed and args.lr_schedule == "cosine" and isinstance(old, int) and old > 0:
            before, now = (
                args.lr * cosine_factor(min(checkpoint["epoch"], epochs), epochs) for epochs in (old, args.epoch)
            )
            print(
                f"note: the learning rate jumps from {before:.1e} to {now:.1e}, because the cosine now covers "
                f"{args.epoch} epochs; the result differs from one training of {args.epoch} epochs"
            )
    check_training_arguments(args)
    if args.test and checkpoint is not None:
        check_unknown(args.dataset, checkpoint["args"].get("dataset") or [])
    check_model_name(args.model)
    if args.test and args.name == TrainingArguments.name and given is not None and args.resume_model is not None:
        # A shared model has a name of its own: its folder, or its name on the hub without the revision.
        own = Path(str(given).partition("@")[0]) if args.resume_model.is_dir() else args.resume_model.absolute().parent
        args.name = f"{own.absolute().name}_test"
    return args, checkpoint


def load_resumed(file: Path, test: bool) -> Checkpoint:
    """Load the checkpoint of ``--resume_model``; if it is damaged, name an intact one of the same run."""
    try:
        return load_checkpoint(file, scoring=test)
    except InputError as error:
        other = newest_checkpoint(file.parent) if file.is_file() and file.name.startswith("model_") else None
        if other is None:
            raise
        raise InputError(f"{error} {other[0]} is intact: give it to --resume_model.") from error


# ---------------------------------------------------------------------------------------------------------- test


def test(
    network: nn.Module, test_sets: dict[str, list[Video]], folder: RunFolder, file: Path | None, checkpoint: Checkpoint
) -> None:
    """Score every test set, write results.json, predictions.csv and report.html, and print the table.

    Args:
        network: on the device of the folder's `World`.
        test_sets: the test videos of each dataset.
        folder: the open run folder, with the command's arguments.
        file: the tested checkpoint; None if it is not kept.
        checkpoint: its content.
    """
    args, world = folder.args, folder.world
    bad_images = BadImages(args.skip_bad_images)
    tested = {}
    for dataset, videos in test_sets.items():
        frames = choose_frames(videos, args.frames_per_video, args.frame_choice, args.seed)
        faces = FaceImages(videos, args.size, frames=frames)
        loader = make_loader(faces, args.test_bs, args.num_workers, world)
        title, channels = f"test {dataset}", checkpoint["channels"]
        scorer = fast_scorer(network, len(faces))
        scored = evaluate(scorer, loader, world, channels=channels, bad_images=bad_images, title=title)
        tested[dataset] = faces, *scored
    bad_images.report(world)
    if not world.leads:
        return
    results = write_results(folder.path, tested, args, file, checkpoint, world.device)
    folder.replace_old_run()  # not earlier: a full disk must leave its results
    write_report(folder.path)
    if folder.log is not None:
        folder.log.test(parse.plain_arguments(args), results["datasets"])
    print(f"\n{format_rows(table_rows(results))}")
    for table in select_tables(read_published(), args.protocol, checkpoint["args"].get("dataset"), results["datasets"]):
        print(
            f"\npublished, not measured here: AUC of {table.unit}, trained on {table.trained_on}, "
            f"protocol {table.protocol}. {table.source}"
        )
        rows = {"method": [*table.datasets], "test videos": table.test_videos, **table.rows}
        print(format_rows([[name, *cells] for name, cells in rows.items()]))
    print(f"\nreport: {folder.path / 'report.html'}, scores: {folder.path / 'predictions.csv'}")


def run_test(args: TrainingArguments, checkpoint: Checkpoint, world: World) -> None:
    """Evaluate a checkpoint (``--test``)."""
    with closing(RunFolder(args, world)) as folder:
        test_sets = {
            dataset: read_split(dataset, "test", args.dataset_root, root_of(dataset, args.data_root), args.size)
            for dataset in args.dataset
        }
        network = trained_network(args.model, args.num_LIBs, args.size, checkpoint)
        network.precision = PRECISIONS[args.precision]
        folder.open()
        test(world.wrap_network(network), test_sets, folder, args.resume_model, checkpoint)


# ------------------------------------------------------------------------------------------------------ training


def run_training(args: TrainingArguments, checkpoint: Checkpoint | None, world: World) -> None:
    """Train, validate after each epoch, and test the best checkpoint once at the end."""
    with closing(RunFolder(args, world)) as folder:
        # Check all input before writing anything.
        train_videos, val_videos, test_sets = read_datasets(
            args.dataset, args.dataset_root, args.data_root, args.oversample, args.size
        )
        train_faces, val_faces = FaceImages(train_videos, args.size, args.seed), FaceImages(val_videos, args.size)
        check_batch_size(args.bs, args.accumulate, len(train_faces), world)
        batches = TrainingBatches(len(train_faces), args.bs, args.seed, world)
        loader = make_loader(train_faces, args.bs, args.num_workers, world, batches)
        val_loader = make_loader(val_faces, args.test_bs, args.num_workers, world)
        state = TrainState(args, checkpoint, len(batches), world)
        if checkpoint is not None:
            check_resume(args, checkpoint, folder.last if folder.same_run and not args.overwrite else None)

        folder.open(state)
        bad_images = BadImages(args.skip_bad_images)
        describe(state, train_faces, val_faces, folder)
        network, start = state.objective.network, (state.epoch, state.step)
        try:
            while state.epoch < args.epoch:
                train_one_epoch(state, loader, bad_images, partial(folder.after_step, state))
                world.copy_from_rank_0(state.network)
                title = f"validation {state.epoch + 1}"
                scorer = fast_scorer(network, len(val_faces))
                positions, scores = evaluate(
                    scorer, val_loader, world, channels=state.channels, bad_images=bad_images, title=title
                )
                scored, _ = collect_scores(val_faces, positions, scores, args.dataset_root)
                calibration = calibrate(scored, args.fpr, args.video_score)
                is_best = state.finish_epoch(binary_metrics(scored.labels, scores), calibration)
                folder.log_epoch(state)
                folder.save(state, is_best)
                bad_images.report(world)
        except Stopped:
            if (state.epoch, state.step) != start:  # a run without a step must not replace an old one
                folder.save(state)
            raise

        # Read the test sets once, with the best checkpoint.
        folder.complete_best(state)
        best = load_best(state, folder, FaceImages(train_videos, args.size), val_faces)
        saved = state.best_file if args.save_model else None
        test(network, test_sets, folder, saved, best)
        print(f"curves: tensorboard --logdir {folder.path}")


def load_best(state: TrainState, folder: RunFolder, train_faces: FaceImages, val_faces: FaceImages) -> Checkpoint:
    """Load the best checkpoint on rank 0, and its weights on all processes.

    If it has no entry ``familiar`` yet, measure the training faces and add the entries of `remember_training` to it.
    """
    world = state.world
    best: Checkpoint = {"channels": state.channels}
    if world.leads and state.best_file is not None:
        best = load_checkpoint(state.best_file)
        load_network(state.network, best)
    world.copy_from_rank_0(state.network)
    own = state.best_file is not None and folder.best.is_file() and folder.best.samefile(state.best_file)
    if world.gather_objects(own and state.args.save_model and "familiar" not in best)[0]:
        batch_size = state.args.test_bs
        remembered = remember_training(state.network, train_faces, val_faces, state.channels, batch_size, world)
        if world.leads:
            extend_checkpoint(folder.best, remembered)
            best = load_checkpoint(folder.best)
    return best


def describe(state: TrainState, train_faces: FaceImages, val_faces: FaceImages, folder: RunFolder) -> None:
    """Print the devices and the numbers of images; for a new run, add training images to TensorBoard."""
    if folder.log is not None and state.epoch == state.step == 0:
        shown = train_faces.__getitems__([(1, int(i)) for i in np.linspace(0, len(train_faces) - 1, 16)])
        if len(shown.labels):
            folder.log.images(shown.images, [CLASSES[label] for label in shown.labels])
    real, fake = np.bincount(train_faces.labels, minlength=2)
    world, images = state.world, f"{real} real and {fake} fake images per epoch, {len(val_faces)} validation images"
    devices = f"{world.size * len(world.devices)} x {world.device.type} in {state.args.precision}"
    print(f"{folder.path}: training on {devices}, {images}", flush=True)
    if state.epoch == state.args.epoch:
        print(f"note: all {state.epoch} epochs are finished; testing the best checkpoint again")
    elif state.step == state.schedule.steps:
        print(f"continuing with the validation of epoch {state.epoch + 1}", flush=True)
    elif state.epoch or state.step:
        print(f"continuing in epoch {state.epoch + 1} at step {state.step + 1} of {state.schedule.steps}", flush=True)


# ------------------------------------------------------------------------------------------------------- command


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for an error that the user can fix, 128 + N for signal N."""
    args: TrainingArguments | None = None

    def work() -> None:
        nonlocal args
        compute_threads(os.getpid())  # before the checkpoint is read
        args, checkpoint = parse_arguments(argv)
        if args.submit == "slurm":
            RunFolder(args, World("cpu"))  # refuse here what the job would refuse
            return submit_training(args, sys.argv[1:] if argv is None else argv)
        with World(args.gpu_num, catch_signals=True) as world:
            args.num_workers = worker_count(args.num_workers, world.local_size)
            args.precision = choose_precision(args.precision, world.device, args.model)
            if args.test and checkpoint is not None:
                run_test(args, checkpoint, world)
            else:
                run_training(args, checkpoint, world)

    def how_to_continue() -> str:
        if args is None or args.test:
            return ""
        last = args.save_path / args.name / "model_last.pth"
        names = ("gpu_num", "sync_bn", "checkpoint_blocks")
        own = "".join(f" --{name} {value}" for name in names if (value := getattr(args, name)))
        command = f"{launcher()} training.py --resume_model {shlex.quote(str(last))}{own}"
        return f"; continue with: {command}" if last.is_file() else ""

    return run_command("training.py", work, "a smaller --bs, --test_bs, --size or --num_LIBs", how_to_continue)


if __name__ == "__main__":
    sys.exit(main())
