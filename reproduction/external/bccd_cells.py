"""Cut the cells out of the smears of BCCD (github.com/Shenggan/BCCD_Dataset), with a labels file that groups by smear.

    python -m reproduction.external.bccd_cells BCCD_Dataset/BCCD --out cells

writes cells/SMEAR-NUMBER.png, a square of 64 px around each box, and cells.csv with columns file, label (RBC, WBC,
Platelets), group (the smear) and split (the data set's own, which never divides a smear).
"""

from __future__ import annotations

import argparse
import csv
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reproduction.common import Script

SIDE = 64  # px of a written square
MARGIN = 1.1  # side of a square over the longer side of its box
SMALLEST = 12  # px; smaller boxes are skipped


def squares(annotation: Path, width: int, height: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Return the class and the square, inside the image, of each box of a smear."""
    found = []
    for box in ET.parse(annotation).iter("object"):
        edges = [int(box.findtext(f"bndbox/{edge}", "0")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        x0, y0, x1, y1 = edges
        if min(x1 - x0, y1 - y0) < SMALLEST:
            continue
        side = min(round(MARGIN * max(x1 - x0, y1 - y0)), width, height)
        left = min(max((x0 + x1 - side) // 2, 0), width - side)
        top = min(max((y0 + y1 - side) // 2, 0), height - side)
        found.append((box.findtext("name", ""), (left, top, left + side, top + side)))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__)
    script.parser.add_argument("folder", type=Path, help="folder with JPEGImages, Annotations and ImageSets")
    script.parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; the labels file gets its name and .csv"
    )
    return script.run(cut, arguments)


def cut(script: Script, options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    with options.out.with_suffix(".csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "group", "split"))
        for split in ("train", "val", "test"):
            for smear in (options.folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
                with Image.open(options.folder / "JPEGImages" / f"{smear}.jpg") as image:
                    cells = squares(options.folder / "Annotations" / f"{smear}.xml", *image.size)
                    for number, (label, square) in enumerate(cells):
                        name = f"{smear}-{number:02d}.png"
                        cell = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, square)
                        cell.save(options.out / name)
                        rows.writerow((name, label, smear, split))


if __name__ == "__main__":
    sys.exit(main())
