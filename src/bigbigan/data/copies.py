"""Write a labels file that keeps identical images, and images of one group, in one group: `data inspect --groups`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bigbigan.data.csv_cells import writing_csv
from bigbigan.data.image_set import Source
from bigbigan.data.labels import rows_of
from bigbigan.data.labels_table import Row, refuse_to_lose_labels

__all__ = ["grouped_rows", "write_groups"]


def grouped_rows(source: Source, copies: Sequence[Sequence[str]]) -> dict[str, Row]:
    """Return rows of a labels file, by image, in which images are in one group if they are copies or were in one.

    Groups that share copies become one. Without a labels file, only images of such groups have a row, without a label.

    Args:
        source: the images.
        copies: names of identical images, at least two in each set.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    files = [file for images in source.splits.values() for file in images.files]
    place = {file: i for i, file in enumerate(files)}
    rows = rows_of(source) if source.labels is not None else {}
    sets = [[place[file] for file in copied] for copied in copies]
    groups: dict[int, list[int]] = {}
    for images in source.splits.values():
        if images.groups is not None:
            for file, group in zip(images.files, images.groups.tolist(), strict=True):
                groups.setdefault(group, []).append(place[file])
    sets += [members for members in groups.values() if len(members) > 1]
    ends = np.array([(members[0], other) for members in sets for other in members[1:]], dtype=np.int64).reshape(-1, 2)
    links = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(files), len(files)))
    _, component = connected_components(links, directed=False)
    names: dict[int, str] = {}
    for file, row in rows.items():
        if row.group:
            names.setdefault(int(component[place[file]]), row.group)
    used = {row.group for row in rows.values()}
    new = (name for number in itertools.count() if (name := f"copies-{number}") not in used)
    for i in sorted(set(ends.flatten().tolist())):
        if (c := int(component[i])) not in names:
            names[c] = next(new)
    return {
        file: replace(rows.get(file, Row()), group=names.get(int(c), ""))
        for file, c in zip(files, component, strict=True)
        if file in rows or int(c) in names
    }


def write_groups(source: Source, copies: Sequence[Sequence[str]], out: Path) -> int:
    """Write `grouped_rows` as a labels file, which replaces the source's; return the number of groups.

    Raises:
        UserError, RunError: the file cannot be written (`bigbigan.io.writing`), or has labels that would be lost.
    """
    rows = grouped_rows(source, copies)
    refuse_to_lose_labels("--groups", out, rows)
    used = [name for name in ("label", "split") if any(getattr(row, name) for row in rows.values())]
    columns = ["group", *used]
    with writing_csv(out) as write:
        write("file", *columns)
        for file, row in rows.items():
            write(file, *(getattr(row, name) for name in columns))
    return len({row.group for row in rows.values() if row.group})
