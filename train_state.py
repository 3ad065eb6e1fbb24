"""The state of a training, and how it continues from a checkpoint."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from datasets.labels import describe_datasets
from engine import Objective
from evaluation.metrics import binary_metrics
from faces.recipe import common_recipe
from models.backbones import build_network
from models.checkpoints import best_so_far, load_checkpoint, load_network, selection_score
from utils import parsing as parse
from utils.devices import PRECISIONS, seed_everything
from utils.errors import InputError
from utils.schedule import Schedule
from utils.training_arguments import TrainingArguments
from utils.world import World

LOSS_WEIGHTS_LR = 1e-3  # independent of --lr

Metrics = dict[str, float | None]


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


def load_optimizer(optimizer: torch.optim.Adam, saved: dict[str, Any]) -> None:
    """Restore Adam's moments and learning rates from a checkpoint; keep all other settings of this command."""
    groups = [
        {**group, "params": old["params"], "lr": old["lr"]}
        for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    for weight, state in optimizer.state.items():  # fused Adam needs the strides of the weights
        moments = {name: torch.empty_like(weight).copy_(state[name]) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {"step": state["step"].reshape(()), **moments}


class Record:
    """The losses, labels and scores of the current epoch's steps.

    They stay on the device until `read`, because reading a loss makes the CPU wait for the step.

    Attributes:
        losses: the losses by name of each step that was read.
        speed: images per second.
    """

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.labels: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.speed = 0.0
        self._unread: list[dict[str, Tensor]] = []

    def add(self, losses: dict[str, Tensor], labels: Tensor, scores: Tensor) -> None:
        """Add the losses by name, scalars, and the B labels and B scores, of one step."""
        self._unread.append({name: loss.detach() for name, loss in losses.items()})
        self.labels.append(labels.clone())  # a worker's tensor keeps a file open
        self.scores.append(scores)

    def read(self, epoch: int, step: int) -> dict[str, float]:
        """Read the losses of the steps since the last call; return the losses of the last step, if there is one.

        Args:
            epoch: number of finished epochs.
            step: number of finished steps of the current epoch.

        Raises:
            InputError: a loss is not finite.
        """
        unread, self._unread = self._unread, []
        values = torch.stack([torch.stack(list(losses.values())) for losses in unread]).tolist() if unread else []
        for number, row in enumerate(values, start=step - len(values) + 1):
            losses = dict(zip(unread[0], row, strict=True))
            if not all(map(math.isfinite, row)):
                raise InputError(
                    f"the loss is not finite in epoch {epoch + 1}, step {number}: "
                    f"{', '.join(f'{name} {value:g}' for name, value in losses.items())}; the last checkpoint is "
                    "unchanged; try a lower --lr."
                )
            self.losses.append(losses)
        return self.losses[-1] if self.losses else {}

    def load(self, record: dict[str, Any], device: torch.device) -> None:
        """Continue the record of an unfinished epoch, the entry ``record`` of a checkpoint."""
        counts, self.losses = record["counts"], record["losses"]
        if len(counts) != len(self.losses) or any(losses.keys() != self.losses[0].keys() for losses in self.losses):
            raise ValueError("the steps differ")
        self.labels = list(record["labels"].to(device).split(counts))
        self.scores = list(record["scores"].to(device).split(counts))
        self.means()

    def means(self) -> dict[str, float]:
        """Return the mean of each loss over the images."""
        counts = [len(labels) for labels in self.labels]
        pairs = list(zip(self.losses, counts, strict=True))
        return {name: sum(losses[name] * n for losses, n in pairs) / sum(counts) for name in self.losses[0]}

    def metrics(self) -> Metrics:
        """Return the metrics of the training images; a mixup blend has the label with the larger share."""
        return binary_metrics(torch.cat(self.labels).cpu().numpy(), torch.cat(self.scores).cpu().numpy())


class TrainState:
    """A training between two steps.

    Args:
        args: the arguments of the run; a run starts with weights from ``args.seed`` and ``args.pretrained``.
        checkpoint: the result of `models.checkpoints.load_checkpoint` for ``args.resume_model``; None for a new run.
        steps: number of steps in an epoch.
        world: the processes.

    Attributes:
        network: the bare network.
        objective: the network, loss terms and balance.
        model: the objective as it is called, wrapped for several processes.
        optimizer: Adam.
        scaler: scales the loss of ``--precision fp16``, whose gradients would underflow; else disabled.
        schedule: the learning rates.
        channels: RGB or BGR.
        epoch: number of finished epochs.
        step: number of finished steps in the current epoch.
        record: losses and scores of these steps.
        val: metrics of the last finished epoch on the validation set; None before the first.
        calibration: thresholds from the validation scores, see `evaluation.verdicts.calibrate`.
        best: `models.checkpoints.selection_score` of the best epoch; None before the first epoch ends.
        best_file: checkpoint of the best epoch.
        about: texts that describe the training faces, such as "drawn faces", also of the run that this run continues.
        history: the values in train.log of each finished epoch; see `format_epoch`.

    Raises:
        InputError: the weights cannot be loaded, or the checkpoint does not fit the arguments.
    """

    def __init__(self, args: TrainingArguments, checkpoint: dict[str, Any] | None, steps: int, world: World) -> None:
        self.args, self.world = args, world
        seed_everything(args.seed, 0)
        pretrained = checkpoint is None and args.pretrained
        self.network = build_network(args.model, args.num_LIBs, args.size, pretrained)
        self.network.precision = PRECISIONS[args.precision]
        self.network.recompute = args.checkpoint_blocks
        self.network.freeze_unused_heads(args.lil_loss, args.gil_loss)
        if args.sync_bn:
            self.network = world.sync_batch_norms(self.network)
        saved = checkpoint or {}
        self.channels: str = saved.get("channels", args.channels)
        self.epoch, self.step = saved.get("epoch", 0), saved.get("step", 0)
        self.record = Record()
        self.val: Metrics | None = saved.get("val")
        self.calibration: dict[str, Any] | None = saved.get("calibration")
        self.history: list[dict[str, Any]] = saved.get("history", [])
        self.about = sorted({*describe_datasets(args.dataset, args.dataset_root), *saved.get("about", [])})
        self.best_file, self.best = best_so_far(args.resume_model, saved)
        self.schedule = Schedule(args.lr_schedule, args.epoch, steps, saved)
        self.objective = Objective(world.wrap_network(self.network), args, world).to(world.device)
        self.optimizer = make_optimizer(self.network, self.objective.balance, args.lr, args.weight_decay)
        self.scaler = GradScaler(world.device.type, enabled=args.precision == "fp16")
        if checkpoint is not None:
            self._continue(checkpoint)
        if len(set(world.gather_objects((self.epoch, self.step)))) > 1:
            raise InputError(
                f"the processes read different checkpoints at {args.save_path / args.name}; put --save_path on "
                "a disk that all machines share."
            )
        self.model = world.wrap(self.objective)
        if not args.checkpoint_blocks and args.accumulate == 1:
            left = (args.epoch - self.epoch) * steps - self.step
            world.compile(self.network.backbones(), left)

    def _continue(self, checkpoint: dict[str, Any]) -> None:
        file, balance = self.args.resume_model, self.objective.balance
        load_network(self.network, checkpoint)
        try:
            balance.load_state_dict(checkpoint.get("balance", balance.state_dict()))  # the authors' have no balance
            if "optimizer" in checkpoint:
                load_optimizer(self.optimizer, checkpoint["optimizer"])
                self.scaler.load_state_dict(checkpoint.get("scaler") or self.scaler.state_dict())
            else:
                print(f"note: {file} holds no optimizer state; Adam starts without its moments")
            for finished in self.history:
                format_epoch(finished)
            if (record := checkpoint.get("record")) is not None:
                self.record.load(record, next(self.network.parameters()).device)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"--resume_model: {file}: the saved state is damaged or does not fit this run; give another checkpoint."
            ) from error

    def finish_epoch(self, val: Metrics, calibration: dict[str, Any] | None) -> bool:
        """Count an epoch, and return whether it is the best so far.

        Args:
            val: metrics on the validation set.
            calibration: thresholds from the validation scores.
        """
        self.epoch, self.step = self.epoch + 1, 0
        self.val, self.calibration = val, calibration
        assert val["log_loss"] is not None  # defined for a single class too
        self.schedule.val_losses = [*self.schedule.val_losses, val["log_loss"]]
        is_best = self.best is None or selection_score(val) > self.best
        self.best = selection_score(val) if is_best else self.best
        means = self.record.means()
        means.pop("skipped", None)
        epoch = {
            "epoch": self.epoch,
            "epochs": self.args.epoch,
            "losses": means,
            "lr": self.optimizer.param_groups[0]["lr"],
            "speed": self.record.speed,
            "skipped": sum(losses["skipped"] for losses in self.record.losses) if self.scaler.is_enabled() else None,
            "train": self.record.metrics(),
            "val": val,
            "best": is_best,
        }
        self.history = [*self.history, epoch]
        self.record = Record()
        return is_best

    def entries(self) -> dict[str, Any]:
        """Return the other checkpoint entries that scoring needs, apart from ``state_dict`` and ``epoch``."""
        finished = {} if self.val is None else {"val": self.val, "best": self.best, "calibration": self.calibration}
        return {
            "args": parse.plain_arguments(self.args),
            "channels": self.channels,
            "balance": self.objective.balance.state_dict(),
            "faces": common_recipe(self.args.dataset, self.args.data_root),
            "about": self.about,
            "history": self.history,
            "val_losses": self.schedule.val_losses,
            "halvings": self.schedule.halvings,
            **finished,
        }

    def continuing(self) -> dict[str, Any]:
        """Return the checkpoint entries that only a resumed training needs."""
        record: dict[str, Any] | None = None
        if self.record.losses:
            record = {
                "losses": self.record.losses,
                "counts": [len(labels) for labels in self.record.labels],
                "labels": torch.cat(self.record.labels),
                "scores": torch.cat(self.record.scores),
            }
        scaler = self.scaler.state_dict() or None
        return {"optimizer": self.optimizer.state_dict(), "scaler": scaler, "step": self.step, "record": record}


def format_epoch(epoch: dict[str, Any]) -> str:
    """Return the line of train.log for an entry of `TrainState.history`."""
    losses = epoch["losses"]
    skipped = "" if epoch["skipped"] is None else f"{epoch['skipped']:.0f} steps skipped, "
    terms = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "total")
    return (
        f"epoch {epoch['epoch']}/{epoch['epochs']}: loss {losses['total']:.4f} ({terms}), lr {epoch['lr']:.2e}, "
        f"{epoch['speed']:.1f} images/s, {skipped}train {format_metrics(epoch['train'])}, "
        f"val {format_metrics(epoch['val'])}{', best' if epoch['best'] else ''}"
    )


def format_metrics(values: Metrics) -> str:
    """Format accuracy, AUC and log loss for train.log."""
    auc = "not defined" if values["auc"] is None else f"{values['auc']:.4f}"
    return f"ACC {values['acc']:.4f} AUC {auc} log loss {values['log_loss']:.4f}"


def check_resume(args: TrainingArguments, checkpoint: dict[str, Any], last: Path | None) -> None:
    """Raise InputError if a training cannot continue from its checkpoint.

    Args:
        args: the arguments of the run.
        checkpoint: the content of ``args.resume_model``.
        last: the checkpoint that the run would replace, or None.
    """
    done = checkpoint["epoch"], checkpoint.get("step", 0)
    for key in ("bs", "seed", "dataset", "oversample") if done[1] else ():  # they determine the order of the images
        now, before = getattr(args, key), checkpoint["args"].get(key)
        if now != before:
            now, before = parse.show_default(now) or now, parse.show_default(before) or before
            raise InputError(
                f"--{key} {now} contradicts {args.resume_model}, which is in the middle of an epoch with --{key} "
                f"{before}; leave --{key} out, or continue from the checkpoint of a finished epoch."
            )
    if last is not None and last.is_file() and args.resume_model is not None and not last.samefile(args.resume_model):
        try:
            newer = load_checkpoint(last)
        except InputError:  # damaged
            newer = {"epoch": 0}
        if (newer["epoch"], newer.get("step", 0)) > done:
            raise InputError(
                f"{last} is newer than {args.resume_model}, and this run would overwrite it; give --resume_model "
                f"{last}, another --name, or --overwrite."
            )
    if done > (args.epoch, 0) or (done[0] == args.epoch and checkpoint.get("val") is None):
        raise InputError(
            f"--epoch {args.epoch} is the total number of epochs, and {args.resume_model} has already finished "
            f"{done[0]}; give a larger number."
        )
