"""What the pages say is so: tables are those of the result lines, links lead somewhere, commands parse."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bigbigan.cli import _parser

ROOT = Path(__file__).parents[1]
PAGES = [p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]]


def test_tables_are_rendered_from_the_result_lines():
    check = [sys.executable, str(ROOT / "tools" / "render_tables.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}; run python tools/render_tables.py"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_parse(page):
    for line in re.findall(r"^\$ (bigbigan .*)$", (ROOT / page).read_text(), flags=re.MULTILINE):
        _parser().parse_args(shlex.split(line, comments=True)[1:])


def test_result_lines_are_complete_and_commands_name_no_place_of_a_machine():
    files = list((ROOT / "results").glob("*.jsonl"))
    assert files
    for file in files:
        for text in file.read_text().splitlines():
            line = json.loads(text)
            assert {"experiment", "metric", "value", "n", "seed", "steps", "commit", "command"} <= set(line)
            assert not re.search(r"(^| )/", line["command"]), f"{file.name}: {line['command']}"
