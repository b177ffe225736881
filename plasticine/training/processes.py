"""The processes of one training, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


def is_first() -> bool:
    """Whether this process, alone or the first of ``torchrun``, is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this one is.

    Attributes:
        rank: of this process; 0 alone writes and prints.
        count: processes in all.
        device: that this process computes on.
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: str) -> Iterator[Processes]:
        """Joins the other processes that ``torchrun`` started; alone where it was not used.

        They speak by NCCL on CUDA devices and by Gloo elsewhere. "cuda" stands for each
        process's own GPU of its machine.

        Args:
            device: of torch, as "cpu" or "cuda".

        Raises:
            ValueError: several processes of one machine would share a numbered GPU.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            yield cls(device=device)
            return
        kind = torch.device(device)
        if kind.type == "cuda":
            if kind.index is not None:
                raise ValueError(
                    f"under torchrun every process takes a GPU of its own: expected device "
                    f"'cuda', got {device!r}"
                )
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if kind.type == "cuda" else "gloo")
        try:
            yield cls(distributed.get_rank(), count, device)
        finally:
            distributed.destroy_process_group()

    def wait(self) -> None:
        """Waits until every process has come here."""
        if self.count > 1:
            distributed.barrier()

    def share(self, network: nn.Module) -> None:
        """Gives every process the first one's parameters and buffers."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, 0)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over the processes.

        Args:
            tensors: float32, on this process's device, of the same shapes in every process.
        """
        if self.count == 1 or not tensors:
            return
        together = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(together)
        together /= self.count
        for tensor, mean in zip(
            tensors, together.split([tensor.numel() for tensor in tensors]), strict=True
        ):
            tensor.copy_(mean.view_as(tensor))
