"""What an experiment is, and the one table of them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.experiments.published import PUBLISHED

__all__ = ["EXPERIMENTS", "Experiment", "register"]


@dataclass(frozen=True)
class Experiment:
    """A named set of settings and what is known of it.

    Attributes:
        name: such as "small/mnist".
        make: returns its settings; takes the scale where there are `scales`.
        data: the source it is meant for, when none is given; None where the user must name one.
        scales: smaller sizes it can be had at, as the resolution that stands for the paper's 128 px.
    """

    name: str
    make: Callable[..., Config]
    data: str | None = None
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
    def additions(self) -> dict[int, dict[str, Any]]:
        """`Config.additions` of each size it can be had at: 0 for its own, and each of `scales`."""
        return {scale: self.config(scale).additions for scale in (0, *self.scales)}

    @property
    def summary(self) -> str:
        return (self.make.__doc__ or "").strip().partition("\n")[0]

    @property
    def table_rows(self) -> dict[str, dict[str, str]]:
        """The published rows it stands for, such as "Table 1, Base", each with its numbers by column."""
        return {
            f"{table.name}, {row.title}": {
                column if row.feature == "avepool" else column.replace("AvePool", row.feature): number
                for column, number in table.numbers(row).items()
            }
            for table in PUBLISHED.values()
            for row in table.rows
            if row.experiment == self.name
        }

    @property
    def table_row(self) -> str | None:
        """The first of `table_rows`."""
        return next(iter(self.table_rows), None)

    @property
    def published(self) -> dict[str, str]:
        """The numbers of `table_row`, by column."""
        return next(iter(self.table_rows.values()), {})


EXPERIMENTS: dict[str, Experiment] = {}


def register(
    group: str,
    data: str | None = None,
    scales: tuple[int, ...] = (),
    name: str = "",
) -> Callable[[Callable[..., Config]], Callable[..., Config]]:
    """Decorator: enters a function as experiment "group/function_name", or "group/name"."""
    own = name

    def enter(make: Callable[..., Config]) -> Callable[..., Config]:
        name = f"{group}/{own or make.__name__}"
        EXPERIMENTS[name] = Experiment(name, make, data, scales)
        return make

    return enter
