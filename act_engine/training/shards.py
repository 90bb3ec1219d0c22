"""Checkpoints of which every process writes its own part: PyTorch's distributed checkpoints, in safetensors files.

`torch.distributed.checkpoint` says in each file's header where its tensors lie in the whole ones; its own format would
keep that in a pickle, which could execute anything when read.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
FILES = "shard-*.safetensors"


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint's folder was written by `save_shards`."""
    return any(folder.glob(FILES))


def save_shards(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], group: dist.ProcessGroup) -> list[Path]:
    """Write this process's part of the tensors, by model's name and by their own; a collective; returns its files.

    Of a tensor that every process holds whole one of them writes it.

    Raises:
        OSError: a process could not write, the same on all of them.
    """
    import torch.distributed.checkpoint as dcp

    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    state = {f"{stem}.{name}": value for stem, part in tensors.items() for name, value in part.items()}
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(state, storage_writer=writer, process_group=group)
    except dcp.CheckpointException as error:  # no Exception; every rank has that of each
        rank, (reason, _) = min(error.failures.items(), key=lambda failure: failure[0])
        raise OSError(f"{reason} (on rank {rank})") from error
    rank = dist.get_rank(group)
    return sorted(folder.glob(f"shard-{rank + 1:05d}-*.safetensors"))


def load_shards(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The whole tensors of a checkpoint in shards, by model's name and by their own, on the host."""
    import torch.distributed.checkpoint as dcp

    sizes = dcp.HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    state = {name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in sizes.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp.load(state, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        stem, _, rest = name.partition(".")
        tensors.setdefault(stem, {})[rest] = value
    return tensors


def local_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of the tensors lies in this process."""
    from torch.distributed.tensor import DTensor

    return {name: value.to_local() if isinstance(value, DTensor) else value for name, value in tensors.items()}


def agree(call: Callable[[], T], group: dist.ProcessGroup) -> list[T]:
    """What `call` gives on every rank, in their order; a collective. If it raises on one, the same is raised on all."""
    try:
        mine = (call(), None)
    except Exception as error:
        mine = (None, (type(error), str(error)))
    every: list = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, mine, group=group)
    for rank, (_, error) in enumerate(every):
        if error is not None:
            kind, text = error
            raise (kind if issubclass(kind, RuntimeError | OSError) else OSError)(f"{text} (on rank {rank})")
    return [value for value, _ in every]
