"""What an experiment is, and the one table of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bigbigan.config import Config
from bigbigan.errors import UserError

__all__ = ["EXPERIMENTS", "Experiment", "register"]


@dataclass(frozen=True)
class Experiment:
    """A named set of settings and what is known of it.

    Attributes:
        name: such as "small/mnist".
        make: returns its settings; takes the scale where there are `scales`.
        data: the source it is meant for, when none is given; None where the user must name one.
        table_row: the row of a published table it stands for, such as "Table 1, Base".
        published: that row's numbers by column.
        scales: smaller sizes it can be had at, as the resolution that stands for the paper's 128 px.
    """

    name: str
    make: Callable[..., Config]
    data: str | None = None
    table_row: str | None = None
    published: dict[str, str] = field(default_factory=dict)
    scales: tuple[int, ...] = ()

    def config(self, scale: int = 0) -> Config:
        """Its settings; 0 is the size it is defined at.

        Raises:
            UserError: it cannot be had at this scale.
        """
        if scale and scale not in self.scales:
            known = " or ".join(map(str, self.scales))
            raise UserError(f"--scale {scale}: {self.name} " + (f"scales to {known}" if known else "has one size only"))
        return replace(self.make(scale) if self.scales else self.make(), experiment=self.name)

    @property
    def summary(self) -> str:
        return (self.make.__doc__ or "").strip().partition("\n")[0]


EXPERIMENTS: dict[str, Experiment] = {}


def register(
    group: str,
    data: str | None = None,
    table_row: str | None = None,
    published: dict[str, str] | None = None,
    scales: tuple[int, ...] = (),
    name: str = "",
) -> Callable[[Callable[..., Config]], Callable[..., Config]]:
    """Decorator: enters a function as experiment "group/function_name", or "group/name"."""
    own = name

    def enter(make: Callable[..., Config]) -> Callable[..., Config]:
        name = f"{group}/{own or make.__name__}"
        EXPERIMENTS[name] = Experiment(name, make, data, table_row, published or {}, scales)
        return make

    return enter
