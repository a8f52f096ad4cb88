"""What the pages say is so: tables are those of the result lines, links lead somewhere, commands parse, and what a
pages ask readers to type runs."""

import argparse
import contextlib
import importlib
import importlib.util
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple, get_args
from unittest.mock import MagicMock, patch
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bigbigan.apps.train import train
from bigbigan.cli import build_parser, main
from bigbigan.config import Config, override
from bigbigan.config.files import read_settings
from bigbigan.config.schema import flat
from bigbigan.evaluation.metric_names import FEATURES, KNOWN, NAMED_FEATURES, NETWORKS, parse_metrics
from bigbigan.evaluation.published_tables import fill
from bigbigan.evaluation.records import Subject
from bigbigan.experiments import EXPERIMENTS, find
from bigbigan.user_code import is_named
from reproduction.render import tables
from tiny import tiny_config

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), ROOT / "reproduction" / "README.md"]
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted(FILES)]
NOT_RUN = re.compile(r"<!-- not run: (\S.*) -->")  # before a block, with the reason
COMMAND = re.compile(r"`((?:bigbigan|make|torchrun|python -m reproduction\.[\w.]+) [^`]*)`")  # in a line of prose
OPTIONAL = {"datasets", "onnx", "onnxruntime", "tensorflow", "timm", "torchvision"}
# Programs that are not ours.
OTHERS = {"conda", "cp", "docker", "git", "jq", "ls", "mkdir", "pip", "sha256sum", "source", "tensorboard"}


class Block(NamedTuple):
    language: str
    code: str
    line: int  # of its first line in the page
    not_run: str  # the reason given


def blocks(page: str, language: str) -> list[Block]:
    """The fenced blocks of a page in a language."""
    found, before, lines = [], "", (ROOT / page).read_text().splitlines()
    number = 0
    while number < len(lines):
        if fence := re.match(r" *(`{3,})\s*(\S*)", lines[number]):
            end = next(n for n in range(number + 1, len(lines)) if lines[n].lstrip().startswith(fence[1]))
            reason = NOT_RUN.fullmatch(before)
            code = textwrap.dedent("\n".join(lines[number + 1 : end]))
            found.append(Block(fence[2], code, number + 2, reason[1] if reason else ""))
            number = end
        before = lines[number].strip() or before
        number += 1
    return [b for b in found if b.language == language]


def prose(page: str) -> str:
    return re.sub(r"^ *(`{3,}).*?^ *\1", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: str, text: str | None = None) -> list[str]:
    """What stands behind "$ " in console blocks, a line that ends in a backslash together with the next."""
    codes = [b.code for b in blocks(page, "console")] if text is None else [text]
    return [
        line.removeprefix("$ ")
        for code in codes
        for line in code.replace("\\\n", " ").splitlines()
        if line.startswith("$ ")
    ]


@pytest.mark.parametrize("page", PAGES)
def test_console_lines_are_one_command_each(page):
    for block in blocks(page, "console"):
        for line in filter(None, block.code.replace("\\\n", " ").splitlines()):
            assert line.startswith("$ "), f"{page}: {line}"
            assert line.count("$ ") == 1, f"{page}: {line}"


def test_tables_are_rendered_from_the_result_lines():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a damaged result line
        assert tables.main(["--check"]) == 0


def test_readme_of_reproduction_lists_every_script():
    folder = ROOT / "reproduction"
    scripts = {p for p in folder.glob("*/*.py") if "__main__" in p.read_text() or p.stem == "frozen_random"}
    rows = re.findall(r"^\| `(\w+/\w+\.py)` \|.*\| `(.+)` \|$", (folder / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(script for script, _ in rows) == sorted(p.relative_to(folder).as_posix() for p in scripts)
    for script, command in rows:
        assert Path(script).stem in command
        assert _mistake(command) is None, command


def test_index_pages_list_every_page():
    for index, folder in (("docs/index.md", "docs"), ("docs/notes/README.md", "docs/notes")):
        listed = re.findall(r"^- \[[^\]]+\]\(([\w/]+\.(?:md|rst))\)", (ROOT / index).read_text(), flags=re.MULTILINE)
        there = {p.name for p in (ROOT / folder).iterdir() if p.suffix in (".md", ".rst")} - {Path(index).name}
        assert there == {name for name in listed if "/" not in name}
        assert len(listed) == len(set(listed))


def test_readme_is_short():
    text = re.sub(r"<!-- table .*?<!-- end -->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(text.split()) < 700


def test_every_setting_has_a_meaning_on_its_page():
    rows = re.findall(
        r"^\| `([\w.]+)` \| (\S.*) \| .* \| (\S.*) \|$", (ROOT / "docs/configuration.md").read_text(), re.M
    )
    assert [name for name, *_ in rows if "." not in name] == ["experiment", "system", "networks", "scale"]
    assert sorted(name for name, *_ in rows) == sorted(flat(Config().to_dict()))
    assert all(len(meaning.split()) > 1 for _, _, meaning in rows)


def test_glossary_has_every_metric():
    text = (ROOT / "docs/evaluation.md").read_text()
    listed = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE))))
    assert {*FEATURES, *NAMED_FEATURES, *NETWORKS} <= listed | {f"conv{n}" for n in range(2, 5)}
    for metric in KNOWN.values():
        name = metric.name.replace(f"_{metric.feature}", "_F") if metric.feature else metric.name
        name = re.sub(rf"_{metric.network}$", "_NET", name) if metric.network else name
        name = name.replace(f"_{metric.task}", "_TASK") if metric.task else name.replace("50k_", "10k_")
        name = re.sub(r"^knn\d+(?!.*_10perclass)", "knnK", name)
        name = re.sub(r"_\d+percent", "_Ppercent", re.sub(r"_(?!10perclass)\d+perclass", "_Nperclass", name))
        if metric.measure in ("kid", "precision", "recall"):
            name = name.replace("_test_", "_train_")
        assert name in listed, f"{metric.name}: no {name}"


def test_troubleshooting_quotes_messages_of_the_code():
    """Words in capitals and dots stand for what changes."""
    code = "".join(path.read_text() for path in sorted((ROOT / "src").glob("**/*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    page = (ROOT / "docs/troubleshooting.md").read_text()
    quotes = [q for q in re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE) if " " in q]
    assert len(quotes) > 25
    parts = [part.strip() for quote in quotes for part in re.split(r"\.\.\.|\b[A-Z]{1,7}\b|\(|\)|[\d.]+%?", quote)]
    assert [part for part in parts if len(part) >= 8 and part not in code] == []


def anchors(page: Path) -> set[str]:
    """The names that headings have as targets of links, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+?)\s*$", prose(page.relative_to(ROOT).as_posix()), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(next(s for s in (slug, *(f"{slug}-{n}" for n in range(1, 99))) if s not in found))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    targets = re.findall(r"\]\(<?([^)\s>]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)|<(\w+:[^>\s]+)>", text, flags=re.MULTILINE)
    for target in map("".join, targets):
        url = urlsplit(target)
        if url.scheme:
            assert re.fullmatch(r"https:[\w-]+(\.[\w-]+)+", f"{url.scheme}:{url.netloc}"), f"{page}: {target}"
            continue
        file = ((ROOT / page).parent / unquote(url.path)).resolve() if url.path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        assert file.is_relative_to(ROOT), f"{page} links out of the repository: {target}"
        if url.fragment:
            assert url.fragment in anchors(file), f"{page}: {target}: no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_parse(page):
    for line in commands(page):
        assert _mistake(line) is None, f"{page}: $ {line}\n{_mistake(line)}"
    # A line of prose may leave out what is obvious there.
    for line in COMMAND.findall(prose(page)):
        mistake = _mistake(line) if "..." not in line else None
        assert mistake is None or "arguments are required" in mistake, f"{page}: {line}\n{mistake}"


def _mistake(line: str) -> str | None:
    """What is wrong with a command, by the parsers themselves; None if nothing is."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word == ">":
            next(lexer)  # the file
        elif set(word) <= set("|&;"):
            parts.append([])
        elif parts[-1] or not re.match(r"[A-Z_]+=", word):
            parts[-1].append(word)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            for words in parts:
                _parse(words)
        except SystemExit as end:
            return f"exit {end.code}: {said.getvalue()}" if end.code else None
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None


def _parse(words: list[str]) -> None:
    program, *arguments = words
    if program == "bigbigan":
        _parse_verb(arguments)
    elif program == "python" and arguments[0] == "-m" and arguments[1].startswith("reproduction."):
        _parse_script(arguments[1], arguments[2:])
    elif program == "python":
        assert arguments[:1] in (["-m"], ["-c"]) or (ROOT / arguments[0]).exists(), f"there is no {arguments[0]}"
    elif program == "make":
        dry = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert dry.returncode == 0, dry.stderr
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(arguments)
        if options.module:
            assert options.training_script == "bigbigan", options.training_script
            _parse_verb(options.training_script_args)
        elif Path(options.training_script).name == "bigbigan":
            _parse_verb(options.training_script_args)
        else:
            raise AssertionError(options.training_script)
    elif program == "pip":
        _parse_pip(arguments)
    else:
        assert program in OTHERS, f"{program} is not a program these pages may ask for: {sorted(OTHERS)}"


def _parse_verb(arguments: list[str]) -> None:
    if len(arguments) - arguments[:1].count("data") <= 1 and arguments != ["list"]:
        arguments = [*arguments, "--help"]  # a verb that is spoken of
    options = vars(build_parser().parse_args(arguments))
    name = options.get("experiment")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "extending_skeleton"))
        if name and not name.isupper() and not _made_on_the_page(name):
            override(find(name).config(options["scale"]), options["set"])
        if options.get("metrics"):
            parse_metrics(metric for metric in options["metrics"].split(",") if not _made_on_the_page(metric))
    if arguments[0] == "table":
        fill(options["name"], [], options["scale"] or 0, options["dataset"])


def _made_on_the_page(name: str) -> bool:
    """Whether a name is of code in a module of the reader's own, not of the skeleton."""
    return is_named(name) and not name.startswith("my_package.")


class _ParsedError(Exception):
    """The arguments were understood; nothing more is to be done with them."""


def _parse_script(module: str, arguments: list[str]) -> None:
    """Let a script of reproduction/ parse its arguments, and do nothing more."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: object) -> None:
        parse_args(self, arguments)
        raise _ParsedError

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(_ParsedError):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        while True:  # packages that a script compares with need not be installed to read its arguments
            try:
                importlib.import_module(module).main()
            except ModuleNotFoundError as missing:
                if missing.name is None or missing.name.partition(".")[0] not in OPTIONAL:
                    raise
                patch.setitem(sys.modules, missing.name, MagicMock())


def _parse_pip(arguments: list[str]) -> None:
    extras = re.findall(r"\.\[([\w,-]+)\]|bigbigan\[([\w,-]+)\]", " ".join(arguments))
    project = (ROOT / "pyproject.toml").read_text()
    for extra in ",".join(map("".join, extras)).split(","):
        assert not extra or re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), f"there is no extra {extra}"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("bigbigan train small/mnits --out x", "small/mnist"),
        ("bigbigan train small/mnist --out x --set training.step=5", "training.steps"),
        ("bigbigan evaluate x --metric y --nothing", "--nothing"),
        ("bigbigan evaluate x --metrics top1_linaer_pixels", "top1_linaer_pixels"),
        ("bigbigan table 9", "9"),
        ("bigbigan tabel", "tabel"),
        ("python -m reproduction.measure.truncation runs/x --network y --smaples 9", "--smaples"),
        ("python -m reproduction.train.ablations --fast", "--fast"),
        ("make tset", "tset"),
        ("torchrun --nproc-per-node 2 -m bigbigan train small/mnits --out x", "small/mnist"),
        ("pip install -e '.[onxn]'", "onxn"),
        ("brew install bigbigan", "brew"),
    ],
)
def test_a_command_that_is_wrong_is_found(line, says):
    assert says in (_mistake(line) or "")


# What a pages ask readers to type


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of small images in three classes, 40 of each: class k has a bright row. photos.csv beside it."""
    folder, rng = tmp_path_factory.mktemp("docs") / "photos", np.random.default_rng(0)
    rows = ["file,label,group,split"]
    for k, name in enumerate(("apples", "pears", "plums")):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 60, (16, 16, 3))
            pixels[4 * k] += 180
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02d}.png")
            rows.append(f"{name}/{i:02d}.png,{name if i else ''},G{i // 2},{'test' if i >= 32 else 'train'}")
    folder.with_suffix(".csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(photos):
    train(tiny_config("training.steps=2"), str(photos), photos.parent / "run", progress=False)
    return photos.parent / "run"


@pytest.fixture(scope="module")
def exported(run, photos):
    """The run exported with a saved classifier."""
    head, out = photos.parent / "head.safetensors", photos.parent / "photos_model"
    assert main(["classify", str(run), "--save", str(head), "--quiet"]) == 0
    assert main(["export", str(run), "--head", str(head), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_on_the_pages_runs(page, run, exported, photos, tmp_path, monkeypatch):
    """In order, in one namespace with `images`, `paths` and `labels`; runs, photos_model and photos.csv lie ready."""
    monkeypatch.chdir(tmp_path)
    code = [block for block in blocks(page, "python") if not block.not_run]
    (tmp_path / "runs").mkdir()
    for name in set(re.findall(r"\bruns/([\w-]+)", "".join(b.code for b in code))):
        (tmp_path / "runs" / name).symlink_to(run)
    for beside in (photos, photos.with_suffix(".csv"), exported):
        (tmp_path / beside.name).symlink_to(beside)
    paths = sorted(photos.glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(path).convert("L").resize((8, 8))) for path in paths[::10]])
    names = {"images": torch.from_numpy(pixels)[:, None], "paths": paths, "labels": [p.parent.name for p in paths]}
    with patch.dict(EXPERIMENTS):  # a page may register its own
        for block in code:
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)


def test_settings_on_the_pages_are_read(tmp_path):
    (block,) = blocks("docs/extending.md", "yaml")
    (tmp_path / "mine.yaml").write_text(block.code)
    file = read_settings(tmp_path / "mine.yaml")
    assert file.config(find(file.experiment).config()).training.steps == 2000


MODULES = [b for b in blocks("docs/extending.md", "python") if b.code.startswith("# my_module.py")]


@pytest.mark.parametrize("block", MODULES, ids=lambda block: str(block.line))
def test_a_file_on_the_page_can_be_imported_alone(block):
    """Names that it uses are its own: an import of an earlier block does not count."""
    with patch.dict(EXPERIMENTS):
        exec(compile(block.code, "my_module.py", "exec"), names := {"__name__": "my_module"})
    used = {name for code in functions(names) for name in code.co_names}
    missing = {name for name in used & {"np", "torch", "nn", "find", "override", "Path"} if name not in names}
    assert missing == set()


def functions(names):
    """Yield the code of all functions and methods that a module defines."""
    for value in names.values():
        if getattr(value, "__module__", "") != "my_module":
            continue
        for found in [value, *vars(value).values()] if isinstance(value, type) else [value]:
            if code := getattr(found, "__code__", None):
                yield code


def test_few_blocks_are_not_run_and_each_says_why():
    left_out = [(page, b.line, b.not_run) for page in PAGES for b in blocks(page, "python") if b.not_run]
    assert len(left_out) <= 3, left_out


SMALLER = [
    "generator.channels=[8,8,8,8,8]", "generator.shared_dim=4", "latent.dim=10",
    "discriminator.channels=[8,8,8,8]", "discriminator.mlp_width=16", "discriminator.mlp_layers=2",
    "encoder.widths=[8,8,8,8]", "encoder.head_width=16", "encoder.head_layers=2",
    "training.batch_size=8", "log.standing_batches=2", "log.validate_every=0",
]  # fmt: skip


class Extra(NamedTuple):
    name: str
    module: str


EXTRAS = {"--onnx": Extra("onnx", "onnxruntime"), "serve": Extra("serve", "gradio")}  # what needs more installed


def _smaller(words: list[str]) -> list[str]:
    """The same command with tiny networks, two steps and few measurements."""
    if words[0] == "train":
        return [*words, "--steps", "2", "--set", *SMALLER]
    if words[0] == "evaluate" and "--metrics" not in words:
        return [*words, "--metrics", "knn5_l2_*,reconstruction_ratio"]
    if words[0] == "classify" and not {"--trials", "--save"} & set(words):
        return [*words, "--trials", "2"]
    return ["2" if before == "--refine" else word for before, word in zip(["", *words], words, strict=False)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("README.md", "Your own images"),
        ("docs/quickstart.md", "Your own images"),
        ("docs/quickstart.md", "Look at a model"),
        ("docs/your_data.md", "Your own labels"),
        ("docs/your_data.md", "From 200 labels to next week's images"),
    ],
)
def test_commands_for_own_images_run(page, section, photos, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for beside in (photos, photos.with_suffix(".csv")):
        (tmp_path / beside.name).symlink_to(beside)
    (tmp_path / "new_photos").symlink_to(photos)
    text = re.search(rf"^## {section}\n(.*?)^## ", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)[1]
    lines = [line for line in commands(page, text) if line.startswith("bigbigan ")]
    assert len(lines) >= 4
    if not any(line.startswith("bigbigan train ") for line in lines):
        (tmp_path / "runs").mkdir()
        shutil.copytree(run, tmp_path / "runs" / "photos")
    for line in lines:
        words = _smaller(shlex.split(line, comments=True)[1:])
        extra = next((extra for word, extra in EXTRAS.items() if word in words), None)
        if extra and importlib.util.find_spec(extra.module):
            continue  # tests/external runs these
        code = main(words)
        said = capsys.readouterr()
        if extra:
            assert code == 2
            assert f"[{extra.name}]" in said.err
            continue
        assert code == 0, f"{page}: $ {line}\n{said.err}"
        for before, word in itertools.pairwise(words):
            assert before != "--out" or Path(word).exists(), f"{page}: $ {line}\nmade no {word}"


def test_result_lines_are_complete_and_name_no_local_path():
    files = list((ROOT / "results").glob("*.jsonl"))
    assert files
    for file in files:
        for text in file.read_text().splitlines():
            line = json.loads(text)
            fields = {"study", "subject", "experiment", "metric", "value", "n", "seed", "steps", "commit", "command"}
            assert fields <= set(line)
            assert line["subject"] in get_args(Subject)
            assert not re.search(r"(^| )/", line["command"]), f"{file.name}: {line['command']}"


def test_jobs_of_slurm_and_kubernetes_start_commands_that_parse():
    page = "docs/training_at_scale.md"
    (slurm,), (manifests,) = blocks(page, "bash"), blocks(page, "yaml")
    (line,) = re.findall(r"torchrun [^|]*", slurm.code.replace("\\\n", " "))
    job, service = yaml.safe_load_all(manifests.code)
    pod = job["spec"]["template"]["spec"]
    for words in (shlex.split(line), pod["containers"][0]["command"]):
        _parse(words)
    port = service["spec"]["ports"][0]["port"]
    there = f"{job['metadata']['name']}-0.{pod['subdomain']}:{port}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert f"--rdzv-endpoint={there}" in words
