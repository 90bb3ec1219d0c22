"""The processes of a run: who they are, how they find each other, and what they tell each other outside of training."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from act_engine.errors import ProcessLost
from act_engine.parallel.heartbeat import Heartbeat, Lost

DAY = 86_400
T = TypeVar("T")


@dataclass
class World:
    """All processes of a run, as this one sees them; `connect` makes it."""

    rank: int
    size: int
    device: torch.device
    timeout: float
    """Seconds that a collective waits for a process."""
    control: dist.ProcessGroup | None = field(default=None, repr=False)
    """Between the hosts (gloo), so that asking the other ranks never waits for a GPU; None in a world of one."""
    heartbeat: Heartbeat | None = field(default=None, repr=False)
    joined: bool = False
    """Whether `connect` made the process group, so that `close` ends it."""

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and prints."""
        return self.rank == 0

    def beat(self, step: int) -> None:
        """Note that this rank has taken `step` steps, for whoever asks why it does not answer."""
        if self.heartbeat is not None:
            self.heartbeat.step = step

    def progress(self) -> None:
        """Note that this rank gets on with what it does between two `total`s, such as one more answer of a model."""
        if self.heartbeat is not None:
            self.heartbeat.progress += 1

    def gather(self, values: Tensor) -> Tensor:
        """The equally shaped host tensors of every rank, stacked in rank order."""
        if self.control is None:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        with self.watched():
            dist.all_gather(gathered, values, group=self.control)
        return torch.stack(gathered)

    def texts(self, text: str) -> list[str]:
        """Every rank's `text`, in rank order; a collective."""
        content = text.encode("utf-8", "surrogateescape")
        lengths = self.gather(torch.tensor(len(content))).tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)
        rows = self.gather(padded) if max(lengths) else padded.expand(self.size, 0)
        return [
            bytes(row[:length].tolist()).decode("utf-8", "surrogateescape")
            for row, length in zip(rows, lengths, strict=True)
        ]

    def from_main(self, text: str) -> str:
        """Rank 0's `text`; a collective."""
        return self.texts(text if self.is_main else "")[0]

    def total(self, counts: Sequence[int], *, working: bool = True) -> list[int]:
        """The sum of whole numbers over all ranks; waits for the slowest rank as long as it gets on with its work.

        Args:
            working: the work is such that `progress` is called in it, more often than every `timeout` seconds; False:
                signs of life are enough.

        Raises:
            ProcessLost: a rank died, or has not got on for `timeout` seconds.
        """
        if self.size == 1:
            return list(counts)
        with self.watched():
            if self.heartbeat is not None:
                try:
                    return self.heartbeat.total(counts, self.timeout, working=working)
                except Lost as lost:
                    raise self._lost(str(lost)) from None
            patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=DAY))
            summed = torch.tensor(counts, dtype=torch.int64)
            dist.all_reduce(summed, group=patient)
            dist.destroy_process_group(patient)
            return summed.tolist()

    def main_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on this rank; rank 0 is through with it before the others begin, however long it takes.

        A collective. A user's mistake ends all ranks, as in `together`.
        """
        made, mistake = None, None
        if self.is_main:
            try:
                made = make()
            except (ValueError, OSError) as error:
                mistake = error
        (mistakes,) = self.total([int(mistake is not None)], working=False)
        with self.together():
            if mistake is not None:
                raise mistake
            if not self.is_main and not mistakes:
                made = make()
        return made

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block on every rank or on none: a user's mistake noticed on one rank ends all of them.

        The block must hold no collective. Rank 0 raises the first mistake as a ValueError; the others exit with code 2.
        """
        mistake: ValueError | OSError | None = None
        try:
            yield
        except (ValueError, OSError) as error:
            mistake = error
        if self.control is None:
            if mistake is not None:
                raise mistake
            return
        texts = self.texts("" if mistake is None else str(mistake)[:1000] or type(mistake).__name__)
        rank = next((rank for rank, text in enumerate(texts) if text), None)
        if rank is None:
            return
        if not self.is_main:
            raise SystemExit(2)
        raise mistake or ValueError(f"{texts[rank]} (on rank {rank})")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the failure of a collective inside into `ProcessLost`, which names the rank that died or hung."""
        try:
            yield
        except ProcessLost:
            raise
        except RuntimeError as error:
            if self.size == 1 or not _is_collective_failure(error):
                raise
            lost = self.heartbeat.find_lost() if self.heartbeat else "which one could not be found out"
            raise self._lost(lost) from error

    def _lost(self, who: str) -> ProcessLost:
        return ProcessLost(f"rank {self.rank}: another process died or hung ({who})")

    def close(self) -> None:
        """Leave the process group that `connect` made."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.joined:
            dist.destroy_process_group()


def connect(device: torch.device, *, timeout: float = 600.0, distributed: bool = False) -> World:
    """Join the processes that torchrun started, each GPU process on the GPU of its local rank.

    Args:
        device: cpu or cuda, without an index.
        timeout: seconds after which a collective that a process does not join fails.
        distributed: initialise torch.distributed even for a single process (DeepSpeed needs it).

    Raises:
        ValueError: more GPU processes on this machine than GPUs; or several processes without torchrun's variables.
    """
    launched = max(int(os.environ.get(name) or 1) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    if launched > 1 and "RANK" not in os.environ:
        raise ValueError(
            f"RANK: got none in {launched} processes that srun or mpirun started; allowed: one torchrun on each node, "
            "which starts its processes: srun --ntasks-per-node 1 torchrun --nproc-per-node GPUS …"
        )
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda":
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if processes > gpus:
            raise ValueError(f"--nproc-per-node: got {processes}; this machine has {gpus} GPUs, one for each process")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    heartbeat, joined = None, False
    if not dist.is_initialized() and (size > 1 or distributed):
        limit = timedelta(seconds=timeout)
        store = next(dist.rendezvous("env://", rank, size, timeout=limit))[0] if size > 1 else dist.HashStore()
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"act_engine/{attempt}", store)
        joined = True
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
        if size > 1:
            heartbeat = Heartbeat(store, rank, size)
    if dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)) if size > 1 else None
    return World(rank, size, device, timeout, control, heartbeat, joined)


class Vote:
    """One small number a step and rank, of which every rank learns the highest one step later, without waiting for it.

    So all ranks act on a signal, or on a failed write, after the same step. In a world of one the answer is immediate.
    """

    def __init__(self, world: World) -> None:
        self._group = world.control
        self._ballot: Tensor | None = None
        self._finish: Callable[[], object] = lambda: None

    def cast(self, value: int) -> int:
        """Cast this step's number; returns the highest of the step before (0 after the first)."""
        if self._group is None:
            return value
        decided = self.settle()
        self._ballot = torch.tensor([value])
        work = dist.all_reduce(self._ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        self._finish = work.wait
        return decided

    def settle(self) -> int:
        """The highest of the numbers cast last, waiting for it; every rank that casts must end with this."""
        if self._ballot is None:
            return 0
        self._finish()
        decided, self._ballot = int(self._ballot), None
        return decided


def _is_collective_failure(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "nccl", "connection closed"))
