"""From labels to predictions: images and a CSV from a spreadsheet, to a classifier of next week's images."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from bigbigan.cli import main
from tiny import TINY

CLASSES = ("Kieselalge", "Grünalge", "Zyste")


def draw(folder, count, seed):
    """Photographs of three kinds, a bright stripe at another height in each; return the class of each name."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    truth = {}
    for i in range(count):
        kind = i % 3
        pixels = rng.integers(0, 60, (40, 48, 3))
        pixels[8 + 10 * kind : 14 + 10 * kind] += 180
        name = f"Präparat {seed}-{i:02d}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        truth[name] = CLASSES[kind]
    return truth


def test_from_a_folder_and_a_spreadsheet_to_next_week_s_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truth, later = draw(tmp_path / "photos", 60, seed=1), draw(tmp_path / "new photos", 12, seed=2)
    lines = ["file;label", *(f"{name};{label}" for name, label in list(truth.items())[:45])]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode("latin-1"))  # as a German Excel writes it

    def bigbigan(*words):
        assert main(list(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    inspected = bigbigan("data", "inspect", "photos", "--labels", "labels.csv")
    assert "Grünalge (15)" in inspected
    small = [*TINY, "encoder.resolution=8", "training.steps=8"]
    bigbigan("train", "small/folder64", "--data", "photos", "--out", "run", "--set", *small)
    said = bigbigan("classify", "run", "--labels", "labels.csv", "--save", "head.safetensors")
    assert "head.safetensors" in said
    bigbigan("predict", "run", "--head", "head.safetensors", "--data", "new photos", "--out", "next week.csv")
    with open(tmp_path / "next week.csv", newline="", encoding="utf-8-sig") as f:
        rows = {row["file"]: row for row in csv.DictReader(f)}
    assert rows.keys() == later.keys()
    assert sum(rows[name]["class"] == label for name, label in later.items()) >= 10
    assert all(0 <= float(row["confidence"]) <= 1 for row in rows.values())
    # What one command writes another reads.
    bigbigan("classify", "run", "--data", "new photos", "--labels", "next week.csv", "--save", "again.safetensors")
    bigbigan("report", "run", "--labels", "labels.csv")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in CLASSES)
