"""A logger: gets metrics, pictures and text while a run trains."""

import csv
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from bigbigan.config import Config


class CSV:
    """Write metrics to scalars.csv in the run folder, one value a row, and pictures below pictures/.

    Args:
        run: the run folder.
        config: the settings of the run.
        step: the step that training continues from, 0 for a new run. Steps that were logged before do not come again.
    """

    def __init__(self, run: Path, config: Config, step: int) -> None:
        self.run = run
        self.file = (run / "scalars.csv").open("a", newline="")
        self.rows = csv.writer(self.file)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.writerows([step, name, value] for name, value in values.items())
        self.file.flush()

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        folder = self.run / "pictures"
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            picture.save(folder / f"{name}-{step}.png")

    def text(self, name: str, text: str) -> None:
        (self.run / f"{name}.txt").write_text(text)

    def close(self) -> None:
        self.file.close()
