"""Parse the command line and run one command.

Exit codes: 0 done; 1 a run failed; 2 the user made a mistake; 128 + n ended by signal n with the state saved.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import re
import shlex
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from bigbigan.cli.commands import (
    bench,
    classify,
    cluster,
    compare,
    data_inspect,
    data_shard,
    encode,
    evaluate,
    export,
    feature_extractor,
    generate,
    interpolate,
    label_next,
    list_experiments,
    neighbours,
    predict,
    reconstruct,
    report,
    serve,
    table,
    train,
)
from bigbigan.cli.common import TRUST, check_run, writable
from bigbigan.cli.terminal import plain_output
from bigbigan.compute import AUTO, computing, reuse_freed_memory
from bigbigan.errors import RunError, UserError, out_of_memory
from bigbigan.io import DISK_FULL
from bigbigan.user_code import trusting

__all__ = ["build_parser", "main"]

EXAMPLES = "examples:"  # begins the examples of a command

# In order of use. None marks the command that has subcommands.
COMMANDS: dict[str, ModuleType | None] = {
    "list": list_experiments,
    "data": None,
    "train": train,
    "evaluate": evaluate,
    "report": report,
    "compare": compare,
    "encode": encode,
    "classify": classify,
    "predict": predict,
    "label-next": label_next,
    "cluster": cluster,
    "generate": generate,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "neighbours": neighbours,
    "serve": serve,
    "export": export,
    "table": table,
    "feature-extractor": feature_extractor,
    "bench": bench,
}
DATA_COMMANDS: dict[str, ModuleType] = {"inspect": data_inspect, "shard": data_shard}
# Options that name folders, not files.
FOLDERS = (
    (train, "out"),
    (generate, "out"),
    (export, "out"),
    (data_shard, "out"),
    (table, "results"),
    (evaluate, "out"),
)


class _Formatter(argparse.HelpFormatter):
    """Keep the lines of examples as they are, and break no line at a hyphen: cc-by-4.0, --out."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES) else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    commands: Sequence[str] = ()  # that the parser chooses from
    of_module: Mapping[ModuleType, _Parser] = {}  # the parsers of the commands

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:  # the command's own parser reports it
            self.of_module[options.module].error(f"unrecognized arguments: {' '.join(unknown)}")
        return options

    def error(self, message: str) -> NoReturn:
        if self.commands and message.endswith("arguments are required: COMMAND"):
            self.print_help(sys.stderr)
            self.exit(2)
        if self.commands and (wrong := re.match(r"argument COMMAND: invalid choice: '(.*?)' \(", message)):
            near = difflib.get_close_matches(wrong[1], self.commands, 1)
            near = [f"data {wrong[1]}"] if wrong[1] in DATA_COMMANDS else near
            message = f"there is no command {wrong[1]}" + (f"; did you mean {near[0]}?" if near else "")
        if wrong := re.match(r"unrecognized arguments: (?:.* )?(--[\w-]+)", message):
            near = difflib.get_close_matches(wrong[1], self._option_string_actions, 1, 0.7)
            message = f"there is no option {wrong[1]}" + (f"; did you mean {near[0]}?" if near else "")
        elif message.startswith("unrecognized arguments") and ".tar" in message:  # the shell has expanded a pattern
            message += "; a pattern of shards must be quoted: 'part-{000..099}.tar'"
        self.exit(2, f"bigbigan: {message}; see: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with plain_output():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # if its encoding is not UTF-8, print \xe9 for characters it lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = build_parser()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            options = parser.parse_args(argv)
            options.command = shlex.join(["bigbigan", *argv])
            with (
                computing(getattr(options, "device", AUTO), getattr(options, "batch_size", None)),
                trusting(getattr(options, "trust", ())),
            ):
                _check_targets(options)
                if options.module in (train, evaluate):
                    reuse_freed_memory()
                code = options.module.run(options) or 0
            sys.stdout.flush()
            return code
        except SystemExit as end:  # of the parser
            return int(end.code or 0)
        except UserError as error:
            print(f"bigbigan: {error}", file=sys.stderr)
            return 2
        except RunError as error:
            print(f"bigbigan: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # the reader has closed the pipe: `bigbigan list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if error.errno in DISK_FULL and error.filename is None:  # standard output: all other files have names
                print(f"bigbigan: the output cannot be written: {error.strerror}", file=sys.stderr)
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            if out_of_memory(error):
                return _report_out_of_memory(error)
            if error.filename is None:
                raise
            print(f"bigbigan: {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return _report_out_of_memory(error)
        except KeyboardInterrupt:
            print("bigbigan: interrupted", file=sys.stderr)
            return 130


def _report_out_of_memory(error: BaseException) -> int:
    reason = " ".join(str(error).split())[:160]
    print(
        f"bigbigan: out of memory{f' ({reason})' if reason else ''}; use fewer or smaller images (--batch-size, "
        "--count, --max-images, --resolution), stop other programs, or use a machine with more memory",
        file=sys.stderr,
    )
    return 1


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    print(f"bigbigan: warning: {message}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, in order of use."""
    parser = _Parser(
        prog="bigbigan",
        description="Learn image features without labels by learning to generate images.",
        epilog="Begin with: bigbigan train small/digits --out runs/digits. Examples: bigbigan COMMAND --help",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    of_module: dict[ModuleType, _Parser] = {}
    for name, module in COMMANDS.items():
        if module is not None:
            of_module[module] = _add_command(commands, name, module)
            continue
        summary = "Inspect a source of images, or write it as tar shards."
        data = commands.add_parser(name, help=summary, description=summary)
        data_commands = data.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
        for data_name, data_module in DATA_COMMANDS.items():
            of_module[data_module] = _add_command(data_commands, data_name, data_module)
        data.commands = tuple(DATA_COMMANDS)
    parser.commands = tuple(COMMANDS)
    parser.of_module = of_module
    return parser


def _add_command(commands: Any, name: str, module: ModuleType) -> _Parser:
    summary = (module.run.__doc__ or "").strip()  # empty under python -OO
    examples = "\n".join([EXAMPLES, *(f"  bigbigan {example}" for example in module.EXAMPLES)])
    parser = commands.add_parser(
        name,
        help=summary.partition("\n")[0],
        description=summary,
        epilog=examples,
        formatter_class=_Formatter,
    )
    module.add_arguments(parser)
    if module is train or any(action.dest == "run" for action in parser._actions):
        parser.add_argument("--trust", **TRUST)
    parser.set_defaults(module=module)
    return parser


class _Version(argparse.Action):
    """Print the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        import bigbigan

        print(f"bigbigan {bigbigan.__version__}")
        parser.exit()


def _refuse_to_overwrite(name: str, out: Path, options: argparse.Namespace) -> None:
    """Raise UserError if a file to write is one that the command reads, or that the run was trained on."""
    if not out.is_file():
        return
    if out.suffix.lower() == ".png":
        from bigbigan.image.grid import is_foreign

        if is_foreign(out):
            raise UserError(f"{name} {out} is an image that bigbigan did not write; choose another name")
    for read in ("labels", "head", "data", "source", "config"):
        path = getattr(options, read, None)
        if path is not None and Path(path).is_file() and out.samefile(path):
            raise UserError(f"{name} {out} is the file given by --{read}, which it would replace; choose another name")
    run = getattr(options, "run", None)
    if run is not None and (Path(run) / "data.json").is_file():
        from bigbigan.training.run_folder import source_and_labels

        recorded: tuple[str | None, ...] = ()
        with suppress(UserError):  # what a run of somebody else names is not looked for
            recorded = source_and_labels(Path(run), None, None)
        for path in recorded:
            if path is not None and Path(path).is_file() and out.samefile(path):
                raise UserError(f"{name} {out} is a file that {run} was trained on; choose another name")


def _check_targets(options: argparse.Namespace) -> None:
    """Raise UserError, before anything is loaded, if there is no such run or source, or a file cannot be written."""
    if hasattr(options, "run"):
        from bigbigan.inference.pretrained import pretrained_folder

        if (shipped := pretrained_folder(options.run)) is not None:
            if options.module is report and options.out is None:
                raise UserError(f"--out is required for {options.run}, which is part of the installed package")
            options.run = type(options.run)(shipped)
        check_run(options.run)
        if options.module is report and options.out is None and not options.run.is_dir():
            raise UserError(f"--out is required for {options.run}, a model on the Hugging Face Hub")
    for name in ("data", "source"):
        if isinstance(spec := getattr(options, name, None), str):
            from bigbigan.data.sources import parse_spec  # needs numpy

            parse_spec(spec)
    for name in ("out", "results", "sheet", "picture", "save", "groups"):
        path = getattr(options, name, None)
        is_grid = options.module is generate and path is not None and path.suffix.lower() == ".png"
        if path is not None and ((options.module, name) not in FOLDERS or is_grid):
            if options.module is not label_next:  # it adds rows to the labels it is given
                _refuse_to_overwrite(f"--{name}", path, options)
            writable(path)
    if options.module is evaluate and options.out is not None:
        writable(options.out / "results.jsonl")
    elif options.module is evaluate and (Path(options.run) / "checkpoints").is_dir():
        writable(Path(options.run) / "results.jsonl", "give a folder for the results: --out DIR")
    elif options.module is report and options.out is None:
        writable(options.run / "report.html", "give another place: --out FILE.html")
