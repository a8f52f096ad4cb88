"""Define what an experiment is, and the table of all experiments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from bigbigan.config import Config
from bigbigan.errors import UserError
from bigbigan.experiments.published import PUBLISHED
from bigbigan.user_code import message_and_place

__all__ = ["EXPERIMENTS", "Experiment", "experiment_of", "register"]


@dataclass(frozen=True)
class Experiment:
    """Hold a named set of settings and what is known about it.

    Attributes:
        name: such as "small/mnist".
        make: returns its settings; takes the scale if there are `scales`.
        data: the default source; None if the user must name one.
        scales: the smaller sizes it has, as the resolution that replaces the paper's 128 px.
    """

    name: str
    make: Callable[..., Config]
    data: str | None = None
    scales: tuple[int, ...] = ()

    def config(self, scale: int = 0) -> Config:
        """Return its settings; scale 0 is the size it is defined at.

        Raises:
            UserError: it does not have this scale, or its function returns something else.
        """
        if scale and scale not in self.scales:
            known = ", ".join(map(str, self.scales))
            raise UserError(f"--scale {scale}: {self.name} " + (f"scales to {known}" if known else "has one size only"))
        try:
            config = self.make(scale) if self.scales else self.make()
        except (TypeError, ValueError) as error:  # settings that do not go together, in a function of the user's own
            raise UserError(f"{self.name}: {message_and_place(error)}") from error
        if not isinstance(config, Config):
            raise UserError(f"{self.name} returns a {type(config).__name__}; expected a bigbigan.config.Config")
        return replace(config, experiment=self.name)

    @property
    def additions(self) -> dict[int, dict[str, Any]]:
        """`Config.additions` at each of its sizes: 0 for its own, and each of `scales`."""
        return {scale: self.config(scale).additions for scale in (0, *self.scales)}

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
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
    """Return a decorator that enters a function as experiment "group/function_name", or "group/name".

    Args:
        group: the group, such as "small".
        data, scales: see `Experiment`.
        name: by default the function's.
    """

    def enter(make: Callable[..., Config]) -> Callable[..., Config]:
        full_name = f"{group}/{name or make.__name__}"
        EXPERIMENTS[full_name] = Experiment(full_name, make, data, scales)
        return make

    return enter


def experiment_of(name: str, make: object) -> Experiment:
    """Return the experiment of a function, as it was registered if it was, but under `name`.

    Raises:
        UserError: it is no function.
    """
    if not callable(make):
        raise UserError(f"{name} is a {type(make).__name__}; expected a function that returns a bigbigan.config.Config")
    known = next((e for e in EXPERIMENTS.values() if e.make is make), Experiment(name, make))
    return replace(known, name=name)
