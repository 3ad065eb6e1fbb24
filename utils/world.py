"""The processes of a run, their devices, and the signals that stop them."""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.devices import select_devices, to_device
from utils.errors import InputError
from utils.process import STOP_SIGNALS, Stopped, current_rank
from utils.threads import bound_threads

Item = TypeVar("Item")
COMPILE_FROM = 2000  # training steps; for fewer, compilation takes longer than it saves (docs/performance.md)


class World:
    """The processes that share a run, and the devices of this process.

    torchrun, or `run_with_submitit` on SLURM, starts several processes and sets RANK, WORLD_SIZE and LOCAL_RANK.
    Without them there is one process, rank 0 of 1, and the methods send nothing, so callers need not ask whether a run
    is distributed. All processes must call the methods that communicate in the same order.

    Use it as a context manager, which joins and leaves the process group.

    Args:
        gpu_num: the value of ``--gpu_num``. With several processes, each takes one of these GPUs.
        catch_signals: record SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2; `handshake` then raises `Stopped`. A SIGINT
            more than two seconds after the first signal raises KeyboardInterrupt.

    Attributes:
        rank: from 0.
        size: number of processes.
        devices: this process's devices; several for `torch.nn.DataParallel`.
        device: the first of them.
        stop: the number of the signal that this process received, or 0.

    Raises:
        InputError: a GPU does not exist.
    """

    def __init__(self, gpu_num: str | None, catch_signals: bool = False) -> None:
        self.rank, self.size = current_rank(), int(os.environ.get("WORLD_SIZE", 1))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if self.size > 1 else 1
        self.devices = select_devices(gpu_num)
        if self.size > 1:
            local_rank = int(os.environ.get("LOCAL_RANK", 0))
            if self.devices[0].type == "cuda" and local_rank >= len(self.devices):
                raise InputError(
                    f"{self.local_size} processes share {len(self.devices)} GPUs; start at most one process per GPU "
                    "(torchrun --nproc_per_node)."
                )
            self.devices = [self.devices[local_rank % len(self.devices)]]
        self.device = self.devices[0]
        self.stop, self._stopped_at = 0, 0.0
        self._signals = STOP_SIGNALS if catch_signals else []

    def __enter__(self) -> "World":
        # nohup ignores SIGHUP, and so does its command; a shell ignores SIGINT for what it runs in the background.
        caught = [n for n in self._signals if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._note) for number in caught}
        if self.size > 1:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group("cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.size > 1 and failure is None:
            dist.destroy_process_group()

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        # torchrun passes on the SIGINT that a terminal has sent to all processes already.
        if number == signal.SIGINT and self.stop and now - self._stopped_at > 2:
            raise KeyboardInterrupt
        if not self.stop:
            self.stop, self._stopped_at = number, now

    def bound_threads(self) -> AbstractContextManager[None]:
        """Return a block that binds PyTorch's threads to a core each, if this run has one process on this CPU."""
        return bound_threads() if self.device.type == "cpu" and self.local_size == 1 else nullcontext()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone writes files and draws progress bars."""
        return self.rank == 0

    def share(self, items: Sequence[Any]) -> Any:
        """Return this process's part of a sequence; parts are contiguous, and their sizes differ by at most one."""
        size, larger = divmod(len(items), self.size)
        start = self.rank * size + min(self.rank, larger)
        return items[start : start + size + (self.rank < larger)]

    def handshake(self, count: int) -> list[int]:
        """Exchange the number of rows of each process, and stop all of them if one received a signal.

        Args:
            count: number of rows of this process.

        Returns:
            The count of each process, in the order of their ranks.

        Raises:
            Stopped: a process received a signal.
        """
        if self.size == 1:
            pairs = [(count, self.stop)]
        else:
            parts = [torch.empty(2, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(parts, torch.tensor([count, self.stop]))
            pairs = [(int(n), int(stop)) for n, stop in parts]
        if stop := max(stop for _, stop in pairs):
            raise Stopped(stop)
        return [n for n, _ in pairs]

    def gather(self, part: Tensor, counts: list[int]) -> Tensor:
        """Concatenate the tensors of all processes, in the order of their ranks.

        The gradient of the result flows to `part`, multiplied by `size`, because DistributedDataParallel divides the
        sum of the processes' gradients by `size`.

        Args:
            part: this process's rows, counts[rank] x ...
            counts: number of rows of each process.
        """
        if self.size == 1:
            return part
        padded = part.new_zeros(max(counts), *part.shape[1:])
        padded[: len(part)] = part.detach()
        padded_parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(padded_parts, padded)
        parts = [rows[:count] for rows, count in zip(padded_parts, counts, strict=True)]
        if part.requires_grad:
            parts[self.rank] = part.clone()
            parts[self.rank].register_hook(lambda gradient: gradient * self.size)
        return torch.cat(parts)

    def pick(self, part: Tensor, counts: list[int], wanted: Tensor) -> Tensor:
        """Return rows of the whole batch, fetched from the processes that hold them.

        Args:
            part: this process's rows of the batch, counts[rank] x ...
            counts: number of rows of each process.
            wanted: B, int64, on the CPU, the same on all processes: for each row of the batch, the row to fetch.

        Returns:
            The rows wanted for this process's rows, counts[rank] x ...
        """
        if self.size == 1:
            return part[wanted.to(part.device, non_blocking=True)]
        ends = torch.tensor(list(accumulate(counts)))
        first = int(ends[self.rank]) - counts[self.rank]
        by_rank = wanted.split(counts)
        sent = [rows[(rows >= first) & (rows < ends[self.rank])] - first for rows in by_rank]
        owner = torch.bucketize(by_rank[self.rank], ends, right=True)
        received = torch.empty_like(part)
        dist.all_to_all_single(
            received,
            part[torch.cat(sent).to(part.device, non_blocking=True)],
            torch.bincount(owner, minlength=self.size).tolist(),
            [len(rows) for rows in sent],
        )
        fetched = torch.empty_like(part)
        fetched[owner.argsort(stable=True).to(part.device, non_blocking=True)] = received
        return fetched

    def gather_objects(self, part: Item) -> list[Item]:
        """Return the picklable `part` of each process, in the order of their ranks."""
        if self.size == 1:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return parts

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages the gradients of all processes."""
        if self.size == 1:
            return objective
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(objective, ids, gradient_as_bucket_view=True)

    def wrap_network(self, network: nn.Module) -> nn.Module:
        """Move a network to the device; with several devices in this process, split its batches among them."""
        to_device(network, self.device)
        return nn.DataParallel(network, self.devices) if len(self.devices) > 1 else network

    def sync_batch_norms(self, network: Any) -> Any:
        """Let the batch norms of a network use the batch of all processes; raise InputError without GPUs."""
        from timm.layers import convert_sync_batchnorm  # timm takes a second to import

        if self.device.type != "cuda" or len(self.devices) > 1:
            raise InputError("--sync_bn True needs GPUs and torchrun, with one process per GPU; leave it out.")
        return convert_sync_batchnorm(network)  # timm's, which knows its batch norms with activations

    def compile(self, modules: Sequence[Any], steps: int) -> None:
        """Compile modules in place, if this process has one GPU and trains for `COMPILE_FROM` steps or more."""
        if self.device.type == "cuda" and len(self.devices) == 1 and steps >= COMPILE_FROM:
            for module in modules:
                module.compile()

    def copy_from_rank_0(self, network: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to all other processes."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)


def is_lost_connection(error: RuntimeError) -> bool:
    """Return whether another process ended while this one waited for it."""
    texts = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "gloo", "NCCL")
    return isinstance(error, dist.DistError) or any(text in str(error) for text in texts)
