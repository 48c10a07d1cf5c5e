"""Processes that train one run together: which of them this one is, and what all of them sum, share and agree on.

One process has no process group, and everything here gives it back what it gave. With several, each call but `rank`,
`world`, `rows` and `part_of` is made by all of them, in the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
Drawn = TypeVar("Drawn", bound=Any)  # a tensor or an array, a row an image


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; 0 is the one that writes."""
    return dist.get_rank() if world() > 1 else 0


@dataclass(frozen=True)
class Rows:
    """Which rows of a step's whole batch are here: `here` of `whole`, from `first` on."""

    first: int
    here: int
    whole: int

    def of(self, drawn: Drawn) -> Drawn:
        """The rows here of what was drawn for the whole batch."""
        return drawn if self.here == self.whole else drawn[self.first : self.first + self.here]


def rows(here: int) -> Rows:
    """Those of this process, where every process has as many as are `here`."""
    return Rows(rank() * here, here, world() * here)


def total(values: Tensor) -> Tensor:
    """The sum of `values` over the processes; without gradient where there are several."""
    if world() == 1:
        return values
    summed = values.detach().clone()
    dist.all_reduce(summed)
    return summed


def highest(values: Tensor) -> Tensor:
    """The highest of `values` among the processes."""
    if world() == 1:
        return values
    found = values.detach().clone()
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found


def with_others(values: Tensor) -> Tensor:
    """`total`, whose gradient is that of this process's own `values`."""
    return values if world() == 1 else values + (total(values) - values.detach())


def part_of(value: Tensor) -> Tensor:
    """This process's part of a `value` that all have alike: the parts sum to it, and the gradient stays whole."""
    return value if world() == 1 else value - value.detach() * (1 - 1 / world())


def gathered(values: Tensor) -> Tensor:
    """The rows of all processes, (world B, ...), in the order of the whole batch; gradients find their way back."""
    if world() == 1:
        return values
    if values.requires_grad and torch.is_grad_enabled():
        found: Tensor = _Gathered.apply(values)
        return found
    return _of_all(values)


def _of_all(values: Tensor) -> Tensor:
    sent = values.detach().contiguous()
    sent = sent.byte() if sent.dtype == torch.bool else sent
    found = [torch.empty_like(sent) for _ in range(world())]
    dist.all_gather(found, sent)
    return torch.cat(found).to(values.dtype)


class _Gathered(torch.autograd.Function):
    """Rows of which any process's loss may be made: their gradient is the sum of what all of these say."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.here = len(values)
        return _of_all(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        first = rank() * ctx.here
        return total(gradient.contiguous())[first : first + ctx.here]


def taken(values: Tensor, wanted: Sequence[int]) -> Tensor:
    """Rows of a whole batch of which every process holds `values` (B, ...): those `wanted` by the rows here.

    `wanted` names for each row of a whole batch, not necessarily of the same one, a row of that of `values`. Only what
    another process wants is sent.
    """
    here, asking = len(values), len(wanted) // world()
    own = [wanted[i] for i in range(rank() * asking, (rank() + 1) * asking)]
    foreign = sorted({j for i, j in enumerate(wanted) if i // asking != j // here})
    sent = [[j for j in foreign if j // here == process] for process in range(world())]
    most = max(map(len, sent))
    place = {j: j - rank() * here for j in range(rank() * here, (rank() + 1) * here)}
    if most:
        mine = ([place[j] for j in sent[rank()]] + [0] * most)[:most]
        values = torch.cat([values, gathered(_at(values, mine))])
        for process, theirs in enumerate(sent):
            place |= {j: here + process * most + k for k, j in enumerate(theirs) if process != rank()}
    return _at(values, [place[j] for j in own])


def _at(values: Tensor, which: Sequence[int]) -> Tensor:
    return values[torch.tensor(which, dtype=torch.long).to(values.device, non_blocking=True)]


def everywhere(condition: Tensor) -> bool:
    """Whether `condition`, a single truth value, holds in every process. Waits for the device."""
    return not bool(highest((~condition).int()))


def anywhere(condition: bool) -> bool:
    """Whether `condition` holds in any process."""
    return condition if world() == 1 else bool(highest(torch.tensor(int(condition))))


def shown(value: T) -> list[T]:
    """The `value` of each process, by rank."""
    found: list[Any] = [value] * world()
    if world() > 1:
        dist.all_gather_object(found, value)
    return found


class Elsewhere(ValueError):
    """Another process could not go on, and has said why."""


def agree(error: Exception | None) -> None:
    """Raises in all processes where one of them has an `error`: its own where it has one, else `Elsewhere`."""
    if anywhere(error is not None):
        told = shown(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        first = next(process for process, text in enumerate(told) if text is not None)
        raise Elsewhere(f"process {first} could not go on: {told[first]}")


def together(make: Callable[[], T]) -> T:
    """What `make` gives here, once it has given something in every process."""
    made: list[T] = []
    error: Exception | None = None
    try:
        made.append(make())
    except Exception as problem:
        error = problem
    agree(error)
    return made[0]


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in all of them; the others do not call it."""
    made: list[Any] = [together(lambda: make() if rank() == 0 else None)]
    if world() > 1:
        dist.broadcast_object_list(made, src=0, device=torch.device("cpu"))
    return made[0]


@torch.no_grad()
def same(network: nn.Module) -> None:
    """Give `network` the first process's weights and buffers."""
    if world() > 1:
        for value in [*network.parameters(), *network.buffers()]:
            dist.broadcast(value, src=0)


def same_everywhere(networks: Sequence[nn.Module]) -> bool:
    """Whether the weights and buffers of all `networks` are equal to the bit in all processes."""
    values = [value for network in networks for value in [*network.parameters(), *network.buffers()]]
    sums = torch.stack([value.detach().double().sum() for value in values])
    return world() == 1 or bool(torch.equal(highest(sums), -highest(-sums)))
