"""The processes that learn together: who they are, and what they tell each other.

    torchrun --nproc-per-node 2 script.py          the script is the one of a single process, unchanged

`join` reads what torchrun left in the environment and joins the process group through Accelerate: gloo on CPU, NCCL on CUDA
with the device of LOCAL_RANK. Every process ("rank") draws the same prompts, uniform numbers and permutations; of the rows of
any batch rank r works on r, r + world, r + 2 world, ..., and what it finds is gathered on all ranks in the order of one
process. So the numbers are those of one process, up to the order of sums.

1. Gradients are summed by `sum_gradients` after the last micro-batch, not by DistributedDataParallel's hooks, which want one
   forward of one wrapped module and average: a loss here is made of hidden states, a head read in parts and a value head, and
   is already divided by the counts of the whole minibatch. It costs the overlap of that sum with the backward pass.
2. All ranks read a model equally often (`passes`), because one whose weights are in pieces (`textenv.agents.distributed.sharding`)
   is put together by all of them; where a rank has no rows left it reads some row and counts it as nothing.
3. Without torchrun the world is one process, and every method here gives back what it got.
4. Episodes travel pickled, between the processes of one run alone; nothing is read from a file this way.
5. A rank that raises ends with its traceback, and torchrun then ends the others. A rank that says nothing is waited for
   `timeout` seconds.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["TIMEOUT", "World", "join", "world_size"]

T = TypeVar("T")
TIMEOUT = 1800.0
"""Seconds: the longest that one rank may sample, score or save while the others wait."""
BUCKET = 2**23
"""Numbers of gradients that are sent together."""


@dataclass(frozen=True)
class World:
    """The processes of a run, as one of them sees them. What is marked "together" has to be called by all ranks.

    >>> World(rank=1, size=2).share(["a", "b", "c"]), World().share(["a", "b", "c"])
    (['b'], ['a', 'b', 'c'])

    Attributes:
        rank: which of them this is, from 0.
        size: how many they are.
        device: where tensors are when they are sent.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def first(self) -> bool:
        """Whether this rank writes: logs, progress, files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's rows of a batch that all ranks know."""
        return list(items[self.rank :: self.size])

    def passes(self, plans: Sequence[Sequence[list[int]]]) -> list[list[int]]:
        """What this rank reads, pass by pass, as often as the rank that reads most: an empty pass is there to be in step.

        >>> World(rank=1, size=2).passes([[[0, 4], [2]], [[3, 1]]])
        [[3, 1], []]

        Args:
            plans: of every rank, which rows each of its passes reads.
        """
        longest = max(map(len, plans))
        return [*plans[self.rank], *([] for _ in range(longest - len(plans[self.rank])))]

    # --- Together ------------------------------------------------------------------------------------------------

    def gather(self, mine: Sequence[T], n: int) -> list[T]:
        """All n rows, in the order of one process, from the shares of all ranks. Rows are anything that can be pickled."""
        shares = self.everyones(list(mine))
        return [shares[i % self.size][i // self.size] for i in range(n)]

    def everyones(self, thing: T) -> list[T]:
        """What every rank has, by rank."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, thing)
        return found

    def firsts(self, thing: T) -> T:
        """What rank 0 has."""
        if self.size == 1:
            return thing
        box = [thing]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, numbers: Tensor) -> Tensor:
        """Sums over the ranks, element by element, in place; so also numbers of rows, where each rank has zeros in the others'."""
        if self.size > 1:
            torch.distributed.all_reduce(numbers)
        return numbers

    def wait(self) -> None:
        """For all ranks."""
        if self.size > 1:
            torch.distributed.barrier()

    def same_weights(self, *networks: nn.Module | None) -> None:
        """Give every rank the weights of rank 0, where they differ; before anything is sharded or learned."""
        if self.size == 1:
            return
        for network in networks:
            tensors = [] if network is None else [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
            sums = self.everyones(
                [zlib.crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()) for tensor in tensors]
            )
            if any(of != sums[0] for of in sums):
                for tensor in tensors:
                    torch.distributed.broadcast(tensor, src=0)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks, which have gradients of the same parameters."""
        if self.size == 1:
            return
        for bucket in _buckets(parameter for parameter in parameters if parameter.grad is not None):
            flat = torch.cat([parameter.grad.flatten() for parameter in bucket if parameter.grad is not None])
            torch.distributed.all_reduce(flat)
            for parameter, total in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = total.view_as(parameter)


def world_size() -> int:
    """How many processes torchrun started; 1 without it.

    Raises:
        ValueError: WORLD_SIZE is no number of processes.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"WORLD_SIZE={text!r} is no number of processes: unset it, or start with torchrun, which sets it")
    return int(text)


def join(device: str | torch.device = "auto", *, timeout: float = TIMEOUT) -> World:
    """Join the processes that torchrun started; the second time, the same world. Learners do it themselves.

    A script calls it first thing to have "cuda" mean its own GPU before it makes models, or to set the timeout.

    Args:
        device: "cpu": gloo, also where there are GPUs. Otherwise NCCL where there are.
        timeout: seconds that a silent rank is waited for.

    Raises:
        ImportError: torchrun started several processes, but there is no Accelerate.
        RuntimeError: the process group has another size than torchrun said; fewer GPUs than processes.
    """
    size = world_size()
    if size == 1:
        return World()
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(f"torchrun started {size} processes, and they meet through Accelerate: pip install accelerate") from error
    cpu = not torch.cuda.is_available() or (device != "auto" and torch.device(device).type == "cpu")
    local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if not cpu and local >= gpus:
        raise RuntimeError(f"process {local} of this machine finds {gpus} GPUs: --nproc-per-node {gpus}, or device='cpu'")
    state = PartialState(cpu=cpu, timeout=timedelta(seconds=timeout))
    if state.num_processes != size:
        raise RuntimeError(
            f"torchrun started {size} processes, but Accelerate's process group has {state.num_processes}: make no Accelerator "
            "before the agent, or make it with cpu=True on a machine without GPUs"
        )
    return World(state.process_index, size, torch.device("cpu") if cpu else state.device)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one dtype, in their order, of about `BUCKET` numbers together."""
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        held = sum(p.numel() for p in bucket)
        if bucket and (held + parameter.numel() > BUCKET or parameter.dtype != bucket[-1].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
