"""Phrases that docs/style.md replaces stay out of the text and of names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What is never right, and what to write instead. In names, _ counts as a space. Words that are only sometimes wrong are
# left to the reader: docs/style.md has the whole vocabulary.
DENIED = {
    r"\b(?:is|are|was|were|be|been|being) told\b": "is conditioned on; is given; is reported",
    r"\btold (?:of|nothing)\b": "conditioned on; given",
    r"\blearners?\b": "player",
    r"\b(?:discriminator|encoder|generator) moves?\b": "D step, G step, update",
    r"\bheld fixed\b": "frozen, fixed",
    r"\bat hand\b": "local, cached, available",
    r"\b(?:lies?|lying|made|shards) elsewhere\b": "remote; external",
    r"\bpassed over\b": "skipped, ignored",
    r"\bwritten aside\b": "written to a temporary file",
    r"\bsound (?:checkpoint|run|file|line|record)s?\b": "valid",
    r"\bupper line\b": "supervised upper bound",
    r"\blost runs?\b": "mode collapse; a run that collapsed",
    r"\bcompanions?\b": "baselines",
    r"\b(?:small|Table 1's) twins?\b": "scaled-down version",
    r"\b(?:at most|after|within|by|of) so many\b": "at most N; the name of the number",
    r"\b(?:cannot|can|to) be had\b": "cannot be fetched, is not available",
    r"\bhand(?:ed)? on\b": "export",
    r"\bwithout a word\b": "silently",
    r"\bin vain\b": "without success; permanent",
    r"\banew\b": "again",
    r"\bfigures on (?:train|val|test)\b": "metrics on",
    r"\bbehind the (?:colon|slash|name)\b": "after the",
    r"\ba (?:row|line|file|folder) an? (?:class|image|task|shard|page|module|split|command)\b": "one for each",
}

EXCEPTIONS = {  # a part of the line: why it stays
    "pack the archive anew with Deflate": "the message is part of fingerprints that runs have recorded",
}

HAVE_THE_LIST = {"docs/style.md", "tests/docs/test_style.py"}


def violations(text):
    """(line number, phrase, what to write instead) of each denied phrase."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not any(part in line for part in EXCEPTIONS):
            plain = line.replace("_", " ")
            found += [
                (number, m[0], better) for p, better in DENIED.items() for m in re.finditer(p, plain, re.IGNORECASE)
            ]
    return found


def checked_files():
    files = [f for folder in ("src", "docs", "tests", "reproduction") for f in (ROOT / folder).rglob("*")]
    for file in [*files, *ROOT.glob("*.md")]:
        path = file.relative_to(ROOT)
        is_text = file.suffix in (".py", ".md", ".rst") and "generated" not in path.parts
        if is_text and path.as_posix() not in HAVE_THE_LIST:
            yield path


def test_text_has_no_denied_phrase():
    files = list(checked_files())
    assert len(files) > 50
    lines = [
        f"{path}:{number}: {phrase!r}; write: {better}"
        for path in files
        for number, phrase, better in violations((ROOT / path).read_text())
    ]
    assert not lines, "docs/style.md:\n" + "\n".join(lines)


def test_every_exception_is_used():
    source = "\n".join(file.read_text() for file in (ROOT / "src").rglob("*.py"))
    assert all(source.count(part) == 1 for part in EXCEPTIONS)


@pytest.mark.parametrize(
    "line",
    [
        "D is told which",
        "images_at_hand = 3",
        "# The learner of D",
        "At most so many images",
        "a row an image",
        "Shards elsewhere",
    ],
)
def test_dialect_is_found(line):
    assert violations(f"x = 1\n{line}\n")[0][0] == 2


@pytest.mark.parametrize(
    "line",
    ["scikit-learn", "so many that it fails", "a handout", "a file and a folder", "soundness of runs", "foretold"],
)
def test_plain_text_is_not_found(line):
    assert not violations(line)
