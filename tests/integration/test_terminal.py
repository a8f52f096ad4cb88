"""Names of others steer neither the terminal nor a model card."""

import io
import json
import re
import shutil
import sys
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from bigbigan.apps.train import train
from bigbigan.cli import main
from bigbigan.cli.terminal import plain_output, without_control
from bigbigan.data.markdown import code, plain
from bigbigan.errors import UserError
from tiny import tiny_config, write_npz

NASTY = "a\x1b]0;owned\x07\n\r\x9b31m\u202e\u2028\ud800\x7fb"


@contextmanager
def terminal():
    """A Latin-1 terminal; what was written to it is in the two texts, stdout and stderr, afterwards."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="latin-1", newline="") for _ in range(2))
    texts = []
    with redirect_stdout(out), redirect_stderr(err):
        yield texts
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("latin-1"))


def test_text_on_one_line_has_no_control_characters():
    assert without_control(NASTY) == r"a\x1b]0;owned\x07\n\r\x9b31m\u202e\u2028\ud800\x7fb"
    assert without_control("Größe ×\u00a0µ 猫") == "Größe ×\u00a0µ 猫"


def test_what_is_printed_is_made_plain():
    with terminal() as texts, plain_output():
        print(NASTY, "\tx")
        print("猫 é")  # the terminal is Latin-1
        print(f"bigbigan: {NASTY}", file=sys.stderr)
        sys.stderr.write("\r 50%|##  |\x1b[A")  # a progress bar
    out, err = texts
    assert out == "a\\x1b]0;owned\\x07\n\\r\\x9b31m\\u202e\\u2028\\ud800\\x7fb \tx\n\\u732b é\n"
    assert err == "bigbigan: a\\x1b]0;owned\\x07\\n\\r\\x9b31m\\u202e\\u2028\\ud800\\x7fb\n\r 50%|##  |\x1b[A"


def test_errors_and_warnings_are_one_line_each(tmp_path, monkeypatch):
    from bigbigan.cli import settings

    def find(name):
        warnings.warn(NASTY, stacklevel=1)
        raise UserError(NASTY)

    monkeypatch.setattr(settings, "find", find)
    with terminal() as texts:
        assert main(["train", "x", "--out", str(tmp_path / "run")]) == 2
        assert main(["table", f"1{NASTY}\x1b"]) == 2
        assert main([f"no-verb{NASTY}".replace("\ud800", "")]) == 2
    out, err = texts
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith(r"bigbigan: warning: a\x1b")
    assert lines[1].startswith(r"bigbigan: a\x1b")
    assert all(re.fullmatch(r"bigbigan: [ -~]+", line) for line in lines), lines
    assert len(lines) == 4


# -- the model card -------------------------------------------------------------------------------------------

EVIL = "x<img src=x onerror=alert(1)>|\n# owned\n[a](http://evil.example) **b** `c` <!-- \x1b[31m ![d](e) _f_ &lt;"


def test_markdown_shows_names_letter_by_letter():
    assert plain("small/mnist, fashion-mnist 28 px") == "small/mnist, fashion-mnist 28 px"
    assert plain("knn5_l2_avepool") == "knn5_l2_avepool"
    assert plain("<b>&lt;") == "&lt;b&gt;&amp;lt;"
    text = plain(EVIL)
    assert text.isprintable()
    assert not re.search(r"(?<!\\)[`*\[\]()|!#]", text)
    assert "<" not in text
    assert r"\_f\_" in text
    assert code("a") == "`a`"
    assert code("a`b") == "``a`b``"
    assert code("`a|b\n") == r"`` `a\|b\n ``"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    train(tiny_config("training.steps=2"), str(write_npz(folder / "rows.npz")), folder / "run", progress=False)
    assert main(["evaluate", str(folder / "run"), "--quiet", "--metrics", "knn5_l2_avepool"]) == 0
    return folder / "run"


@pytest.fixture
def evil(run, tmp_path):
    """A run whose names are markup."""
    shutil.copytree(run, tmp_path / "evil")
    for name, changes in (("config.json", {"experiment": EVIL}), ("data.json", {"name": EVIL})):
        path = tmp_path / "evil" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    evil = [line | {"dataset": EVIL, "split": EVIL} for line in lines]
    (tmp_path / "evil" / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evil))
    return tmp_path / "evil"


def test_the_card_of_a_foreign_run_has_no_markup_of_its_own(run, evil, tmp_path, capsys):
    cards = []
    for folder in (run, evil):
        assert main(["export", str(folder), "--out", str(tmp_path / f"out-{folder.name}")]) == 0
        cards.append((tmp_path / f"out-{folder.name}" / "README.md").read_text())
    assert "\x1b" not in capsys.readouterr().out + cards[1]
    shapes = [[re.match(r"#*|\|?", line)[0] for line in card.splitlines()] for card in cards]
    assert shapes[0] == shapes[1]  # the same headings and tables
    for line in cards[1].splitlines():
        assert "<" not in re.sub(r"(`+) ?.*?[^`]\1(?!`)", "", line)
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 6)
