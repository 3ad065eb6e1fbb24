"""The folder of a run, ``output/<name>/``: checks, lock, checkpoints and logs."""

import os
import shutil
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from models.checkpoints import copy_checkpoint, save_checkpoint
from train_state import TrainState, format_epoch
from utils import parsing as parse
from utils.errors import InputError
from utils.files import atomic_write, remove_stale_parts, write_json
from utils.logs import TrainingLog
from utils.training_arguments import TrainingArguments
from utils.world import World

TRAINING_FILES = ("model_*.pth", "train.log", "events.out.tfevents.*")
TEST_FILES = ("results.json", "predictions.csv", "report.html", "study_*.json", "study_*.png", "study_embedding_*")


class RunFolder:
    """The folder of a training or a test. Rank 0 alone writes there, and locks it against other commands.

    Args:
        args: ``save_path``, ``name``, ``resume_model``, ``overwrite``, ``test``, ``save_model`` and
            ``save_every_minutes`` say what may be written.
        world: the processes.

    Attributes:
        path: the folder.
        same_run: whether the folder holds the run of ``args.resume_model``.
        last: the checkpoint to continue from.
        best: the checkpoint of the best epoch.
        log: TensorBoard's files; None in a test, and on the other ranks.

    Raises:
        InputError: the folder holds another run, or results that a test would replace, without ``args.overwrite``.
    """

    def __init__(self, args: TrainingArguments, world: World) -> None:
        self.args, self.world = args, world
        self.path = args.save_path / args.name
        self.same_run = self._check()
        self._stack = ExitStack()
        # The test needs the best weights even without --save_model.
        checkpoints = self.path if args.save_model else Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.last, self.best = checkpoints / "model_last.pth", checkpoints / "model_best.pth"
        self._newest = modified(self.last)
        self._replaced: dict[Path, int] = {}
        self.log: TrainingLog | None = None
        self._saved_at = time.monotonic()

    def _check(self) -> bool:
        """Return whether the folder holds the run of ``--resume_model``.

        A folder holds a run if it holds a checkpoint or results. The remains of a run that failed before its first
        checkpoint do not count.
        """
        if self.args.resume_model is not None and self.args.resume_model.resolve().parent == self.path.resolve():
            if self.args.test and not self.args.overwrite and (self.path / "results.json").is_file():
                raise InputError(
                    f"{self.path} already holds results; give another --name, or --overwrite to replace them."
                )
            return True
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file, not an output folder; give another --name or --save_path.")
        held = [file.name for pattern in ("model_*.pth", *TEST_FILES) for file in sorted(self.path.glob(pattern))]
        if held and not self.args.overwrite:
            raise InputError(
                f"{self.path} holds another run ({held[0]}); give another --name, or --overwrite to replace it."
            )
        return False

    def open(self, state: TrainState | None = None) -> None:
        """Lock the folder and start the logs.

        The run that ``--overwrite`` replaces is kept until the first checkpoint, or until the results of a test.

        Args:
            state: the training; None for a test.

        Raises:
            InputError: the folder cannot be written, or another command is writing there.
        """
        if not self.world.leads:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._stack.enter_context(FileLock(self.path / ".lock", timeout=0))
            self.same_run = self._check()  # again: another run may have ended here since
            if self.same_run and modified(self.last) != self._newest:
                raise InputError(f"another command has just continued {self.path}; run the same command again.")
            remove_stale_parts(self.path)
            if not self.same_run:
                old = [file for pattern in (*TRAINING_FILES, *TEST_FILES) for file in self.path.glob(pattern)]
                self._replaced = {file: file.stat().st_ino for file in old}
            if not self._replaced and not (self.same_run and self.args.test):
                write_json(self.path / "args.json", parse.plain_arguments(self.args))
            if state is not None:
                log = TrainingLog(self.path, state.epoch * state.schedule.steps + state.step)
                self.log = self._stack.enter_context(log)
                if self.same_run:
                    self._write_lines(state)
        except Timeout as error:
            raise InputError(
                f"another command is writing to {self.path}; wait until it ends, or give another --name."
            ) from error
        except OSError as error:
            raise InputError(
                f"the output folder {self.path} cannot be written: {error.strerror}; give another --save_path."
            ) from error

    def replace_old_run(self) -> None:
        """Remove the run that ``--overwrite`` replaces; files that this run has written in the meantime stay."""
        if not self._replaced:
            return
        for file, number in self._replaced.items():
            with suppress(FileNotFoundError):
                if file.stat().st_ino == number:
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
        self._replaced = {}
        write_json(self.path / "args.json", parse.plain_arguments(self.args))

    def after_step(self, state: TrainState, losses: dict[str, float] | None) -> None:
        """Add the losses, if given, to TensorBoard, and write ``model_last.pth`` every ``--save_every_minutes``."""
        if losses and self.log is not None:
            step = state.epoch * state.schedule.steps + state.step - 1
            weights = getattr(state.objective.balance, "weights", {})  # none with fixed scales
            rates = [group["lr"] for group in state.optimizer.param_groups]
            self.log.scalars("loss", losses, step)
            self.log.scalars("learnt weight", {name: weight.item() for name, weight in weights.items()}, step)
            self.log.scalars("learning rate", dict(zip(("network", "loss weights"), rates, strict=False)), step)
            self.log.scalars("speed", {"images per second": state.record.speed}, step)
        minutes = self.args.save_every_minutes
        # After the last step, the epoch's own checkpoint follows, and its metrics must not be logged twice.
        if minutes and state.step < state.schedule.steps and time.monotonic() - self._saved_at >= 60 * minutes:
            self.save(state)

    def save(self, state: TrainState, is_best: bool = False) -> None:
        """Write ``model_last.pth``; for the best epoch and every tenth, write the weights to a file of their own.

        Args:
            state: the training, after a complete step.
            is_best: whether it has just finished its best epoch.
        """
        if state.step:
            state.record.read(state.epoch, state.step)  # a loss that is not finite must not reach a checkpoint
        if self.world.leads and not is_best and state.best_file is not None and state.best_file != self.best:
            copy_checkpoint(state.best_file, self.best)
        copies = [self.best] if is_best else []
        if state.step == 0 and state.epoch % 10 == 0:
            copies.append(self.last.with_name(f"model_{state.epoch}.pth"))
        if state.best is not None:
            state.best_file = self.best
        self._saved_at = time.monotonic()
        if not self.world.leads:
            return
        if self.log is not None:
            self.log.flush()
        if self.last.is_file() and self.last not in self._replaced:
            _link(self.last, self.last.with_name("model_previous.pth"))
        save_checkpoint(
            self.last, state.network, self.args.model, state.epoch,
            continuing=state.continuing(), copies=copies, **state.entries(),
        )  # fmt: skip
        self.replace_old_run()
        self._write_lines(state)

    def complete_best(self, state: TrainState) -> None:
        """Write ``model_best.pth`` if a crash left the weights of the best epoch in ``model_last.pth`` alone."""
        if self.world.leads and self.same_run and state.best_file == self.last:
            copy_checkpoint(self.last, self.best)
            state.best_file = self.best

    def log_epoch(self, state: TrainState) -> None:
        """Print the line of train.log for the finished epoch, and add its metrics to TensorBoard."""
        epoch = state.history[-1]
        print(format_epoch(epoch), flush=True)
        if self.log is not None:
            for name in ("train", "val"):
                self.log.scalars(name, epoch[name], state.epoch * state.schedule.steps - 1)

    def _write_lines(self, state: TrainState) -> None:
        with atomic_write(self.path / "train.log") as part:
            part.write_text("".join(f"{format_epoch(epoch)}\n" for epoch in state.history), encoding="utf-8")

    def close(self) -> None:
        """Close the logs, release the lock, and remove temporary checkpoints."""
        self._stack.close()


def modified(file: Path) -> int:
    """Return when a file was last written, or 0 if it is missing."""
    return file.stat().st_mtime_ns if file.is_file() else 0


def _link(file: Path, name: Path) -> None:
    """Give a file a second name, without copying it; do nothing where the disk has no hard links."""
    part = name.with_name(f".{name.name}.link")
    with suppress(OSError):
        part.unlink(missing_ok=True)
        os.link(file, part)
        os.replace(part, name)
