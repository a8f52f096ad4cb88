"""The command line: `bigbigan VERB ...`. Exit codes: 0 done, 1 a run failed, 2 a mistake in what was asked,
128 + n ended by signal n with the state saved."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from bigbigan.errors import RunError, UserError, out_of_memory
from bigbigan.io import DISK_FULL
from bigbigan.terminal import plain_output

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments") and ".tar" in message:  # the shell has expanded a pattern
            message += "; a pattern of shards must be quoted: 'part-{000..099}.tar'"
        self.exit(2, f"bigbigan: {message}; see: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with plain_output():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that is not of UTF-8 gets \xe9 for what it lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    try:
        options = parser.parse_args(argv)
    except SystemExit as end:
        return int(end.code or 0)
    options.command = shlex.join(["bigbigan", *argv])
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            _check_targets(options)
            code = options.verb(options) or 0
            sys.stdout.flush()
            return code
        except UserError as error:
            print(f"bigbigan: {error}", file=sys.stderr)
            return 2
        except RunError as error:
            print(f"bigbigan: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # what was printed is not wanted any more: `bigbigan list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            if error.errno in DISK_FULL and error.filename is None:  # of standard output: all other files are named
                print(f"bigbigan: the output cannot be written: {error.strerror}", file=sys.stderr)
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            if out_of_memory(error):
                return _too_little_memory(error)
            if error.filename is None:  # not of a file that was named
                raise
            print(f"bigbigan: {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return _too_little_memory(error)
        except KeyboardInterrupt:
            print("bigbigan: interrupted", file=sys.stderr)
            return 130


def _too_little_memory(error: BaseException) -> int:
    said = " ".join(str(error).split())[:160]
    print(
        f"bigbigan: out of memory{f' ({said})' if said else ''}; ask for fewer or smaller images (--count, --most, "
        "--resolution), end what else runs here, or take a machine with more",
        file=sys.stderr,
    )
    return 1


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    print(f"bigbigan: warning: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bigbigan", description="Learn image features without labels by learning to generate images.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)

    def verb(
        name: str, function: Callable[[argparse.Namespace], int | None], under: Any = verbs
    ) -> argparse.ArgumentParser:
        summary = (function.__doc__ or "").strip()  # empty under python -OO
        sub = under.add_parser(name, help=summary.partition("\n")[0], description=summary)
        sub.set_defaults(verb=function)
        return sub

    def run_and_data(sub: argparse.ArgumentParser, data: str | None, out: str | None) -> None:
        sub.add_argument("run", type=Path, metavar="RUN", help="run folder (train --out)")
        if data:
            sub.add_argument("--data", metavar="SOURCE", help=data)
            sub.add_argument("--labels", **file)
        if out:
            sub.add_argument("--out", type=Path, required=True, metavar=out.split()[0], help=out.partition(" ")[2])

    own = (
        "images; by default those of the run. digits, mnist, cifar10, folder, archive, idx folder, npz, shards, hf:NAME"
    )
    file: dict[str, Any] = {
        "metavar": "FILE.csv",
        "help": "labels in place of the source's own: columns file, label and, if you like, group and split",
    }
    quiet: dict[str, Any] = {"action": "store_true", "help": "no progress bar"}
    as_json: dict[str, Any] = {"action": "store_true", "help": "print the result as JSON"}

    raw_cells: dict[str, Any] = {
        "action": "store_true",
        "help": "write names that begin with = + - @ as they are, without the apostrophe that keeps spreadsheets from "
        "running them",
    }
    which: dict[str, Any] = {
        "default": "newest",
        "metavar": "WHICH",
        "help": "of a run: newest (default), best, or a step",
    }

    sub = verb("list", _list)
    sub.add_argument("--json", **as_json)

    sub = verb("train", _train)
    sub.add_argument("experiment", metavar="EXPERIMENT", help="such as small/mnist; see: bigbigan list")
    sub.add_argument(
        "--data", metavar="SOURCE", help=own.replace("those of the run", "those the experiment is named for")
    )
    sub.add_argument("--labels", **file)
    sub.add_argument("--out", type=Path, metavar="RUN", help="run folder; the same one again continues the run")
    sub.add_argument(
        "--scale", type=int, default=0, metavar="S", help="a row of Table 1 or 2 made smaller: S px stand for 128"
    )
    sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="a.b=value", help="change settings")
    sub.add_argument("--steps", type=int, metavar="N", help="short for --set training.steps=N")
    sub.add_argument("--dry-run", action="store_true", help="print settings and costs of a step, and stop")
    sub.add_argument("--json", **as_json)
    sub.add_argument("--quiet", **quiet)

    sub = verb("evaluate", _evaluate)
    sub.add_argument(
        "run",
        metavar="RUN",
        help="run folder (train --out), or any frozen encoder: timm:NAME, hub:REPO:ENTRY, python:MODULE:NAME",
    )
    sub.add_argument("--data", metavar="SOURCE", help=own)
    sub.add_argument("--labels", **file)
    sub.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="such as top1_linear_bn_crelu, top1_sweep5k_avepool, knn5_l1_avepool, fid10k_train_encoder; "
        "* fits any part; default: all that the run and data allow, but for those that take hours",
    )
    sub.add_argument("--checkpoint", **which)
    sub.add_argument("--most", type=int, metavar="N", help="of each split at most so many images, drawn by one seed")
    sub.add_argument("--resolution", type=int, metavar="R", help="of the images an encoder made elsewhere takes")
    sub.add_argument("--channels", type=int, choices=(1, 3), help="of those images")
    sub.add_argument("--results", type=Path, metavar="FILE", help="append the result lines to this file too")
    sub.add_argument("--out", type=Path, metavar="DIR", help="write results.jsonl there and nothing into RUN")
    sub.add_argument("--json", **as_json)
    sub.add_argument("--quiet", **quiet)

    sub = verb("feature-network", _feature_network)
    sub.add_argument("name", metavar="NAME", help="mnist-cnn or cifar-resnet18")
    sub.add_argument("--data", required=True, metavar="SOURCE", help="labelled images with a train and a test split")
    sub.add_argument("--labels", **file)
    sub.add_argument("--epochs", type=int, metavar="N", help="passes over the images (default: 3 and 15)")
    sub.add_argument("--results", type=Path, metavar="FILE", help="append the result line to this file")
    sub.add_argument("--quiet", **quiet)

    sub = verb("encode", _encode)
    run_and_data(sub, own, "FILE .npz, .csv or .parquet")
    sub.add_argument(
        "--features",
        metavar="NAME,...",
        help="avepool_feat, bn_crelu_feat, z_mean; of each image also anomaly_score, reconstruction_error, score_x, "
        "score_z, score_xz; default: all features that the encoder has",
    )

    sub.add_argument("--raw-cells", **raw_cells)

    sub = verb("generate", _generate)
    run_and_data(sub, None, "DIR_OR_GRID.png folder for single images, or one picture of all")
    sub.add_argument("--count", type=int, default=64, metavar="N", help="how many images (default 64)")
    sub.add_argument("--truncation", type=float, default=1.0, metavar="T", help="scale of z, above 0 to 1 (default 1)")
    sub.add_argument("--seed", type=int, default=0, metavar="S", help="of the latents (default 0)")
    sub.add_argument("--label", type=int, metavar="K", help="class of all images, of a model trained with labels")

    sub = verb("reconstruct", _reconstruct)
    run_and_data(sub, own, "GRID.png picture to write")
    sub.add_argument("--count", type=int, default=32, metavar="N", help="how many images (default 32)")
    sub.add_argument("--refine", type=int, default=0, metavar="STEPS", help="optimise z from E(x) for so many steps")
    sub.add_argument("--json", **as_json)

    sub = verb("interpolate", _interpolate)
    run_and_data(sub, own, "GRID.png picture to write")
    sub.add_argument("--count", type=int, default=8, metavar="N", help="how many walks (default 8)")
    sub.add_argument("--steps", type=int, default=8, metavar="K", help="images of a walk (default 8)")
    sub.add_argument("--latents", action="store_true", help="between latents drawn from P_z, not between images")
    sub.add_argument("--seed", type=int, default=0, help="of those latents (default 0)")

    sub = verb("neighbours", _neighbours)
    run_and_data(sub, own, "GRID.png picture to write")
    sub.add_argument("--count", type=int, default=8, metavar="N", help="how many images (default 8)")
    sub.add_argument("--neighbours", type=int, default=8, metavar="K", help="of each image (default 8)")
    sub.add_argument("--json", **as_json)

    sub = verb("serve", _serve)
    run_and_data(sub, "of the examples and nearest images; by default that of the run", None)
    sub.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="where to serve (default 127.0.0.1: to this machine alone); given again, another name it is reached by",
    )
    sub.add_argument("--port", type=int, default=7860, metavar="N", help="default %(default)s; 0: any that is free")

    sub = verb("classify", _classify)
    run_and_data(sub, own.replace("images;", "images, labelled;"), "FILE.csv predictions, with their confidence")
    count = sub.add_mutually_exclusive_group(required=True)
    count.add_argument(
        "--labels-per-class", type=int, metavar="N", help="how many labelled images of each class are used"
    )
    count.add_argument("--label-fraction", type=float, metavar="P", help="or which share of each class, above 0 to 1")
    sub.add_argument("--finetune", action="store_true", help="train the encoder too, beside the frozen one")
    sub.add_argument("--scratch", action="store_true", help="compare with the same network trained on the labels alone")
    sub.add_argument("--draws", type=int, default=5, metavar="K", help="of labelled images to measure over (default 5)")
    sub.add_argument("--raw-cells", **raw_cells)
    sub.add_argument("--results", type=Path, metavar="FILE", help="append the result lines to this file too")
    sub.add_argument("--json", **as_json)
    sub.add_argument("--quiet", **quiet)

    sub = verb("cluster", _cluster)
    sub.add_argument("run", metavar="RUN", help="run folder, or any frozen encoder as in evaluate")
    sub.add_argument("--data", metavar="SOURCE", help=own)
    sub.add_argument("--labels", **file | {"help": "labels to compare clusters with, as in train"})
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="each image and its cluster")
    sub.add_argument("--clusters", type=int, default=50, metavar="K", help="how many (default 50)")
    sub.add_argument("--features", choices=("avepool", "bn_crelu", "z_mean"), default="avepool", help="default avepool")
    sub.add_argument("--sheet", type=Path, metavar="SHEET.png", help="draw a row of images for each cluster")
    sub.add_argument("--raw-cells", **raw_cells)
    sub.add_argument("--results", type=Path, metavar="FILE", help="append the result lines to this file too")
    sub.add_argument("--json", **as_json)

    sub = verb("report", _report)
    run_and_data(sub, own, None)
    sub.add_argument("--out", type=Path, metavar="FILE.html", help="the page to write (default: RUN/report.html)")

    sub = verb("export", _export)
    run_and_data(sub, None, "DIR folder to write")
    sub.add_argument("--onnx", action="store_true", help="E and G as ONNX files too")
    sub.add_argument("--checkpoint", **which)

    sub = verb("table", _table)
    sub.add_argument("name", metavar="NAME", help="1, 2, 3 or bigan")
    sub.add_argument(
        "--scale", type=int, default=0, metavar="S", help="of rows trained smaller: S px (32 or 64) stand for 128"
    )
    sub.add_argument("--dataset", metavar="NAME", help="result lines of this data set alone, such as fashion-mnist")
    sub.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of result lines (default results)"
    )
    sub.add_argument("--format", choices=("text", "markdown", "html"), default="text", help="default text")
    sub.add_argument("--json", **as_json)

    summary = "Look at a source of images, or write it as tar shards."
    sub = verb("bench", _bench)
    sub.add_argument("experiment", metavar="EXPERIMENT", help="such as small/mnist; see: bigbigan list")
    sub.add_argument("--scale", type=int, default=0, metavar="S", help="as in train")
    sub.add_argument("--set", nargs="+", action="extend", default=[], metavar="a.b=value", help="change settings")
    sub.add_argument(
        "--vary", metavar="a.b=V1,V2,...", help="measure for each value, such as training.batch_size=16,32,64"
    )
    sub.add_argument("--steps", type=int, default=5, metavar="N", help="timed, after two that warm up (default 5)")
    sub.add_argument("--picture", type=Path, metavar="CHART.png", help="draw how cost grows with what is varied")
    sub.add_argument("--results", type=Path, metavar="FILE", help="append result lines to this file")
    sub.add_argument("--json", **as_json)

    data = verbs.add_parser("data", help=summary[0].lower() + summary[1:-1], description=summary)
    data_verbs = data.add_subparsers(required=True, metavar="VERB", parser_class=_Parser)
    sub = verb("inspect", _data_inspect, data_verbs)
    sub.add_argument("source", metavar="SOURCE", help=own.replace("images; by default those of the run.", "such as"))
    sub.add_argument("--labels", **file)
    sub.add_argument("--out", type=Path, metavar="SHEET.png", help="write a contact sheet")
    sub.add_argument("--json", **as_json)

    sub = verb("shard", _data_shard, data_verbs)
    sub.add_argument("source", metavar="SOURCE", help=own.replace("images; by default those of the run.", "such as"))
    sub.add_argument("--labels", **file)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; again to go on")
    cut = sub.add_mutually_exclusive_group()
    cut.add_argument("--size-mib", type=float, default=256, metavar="S", help="how large a shard may be (default 256)")
    cut.add_argument("--images", type=int, metavar="N", help="images of a shard, instead")
    sub.add_argument("--resolution", type=int, metavar="R", help="store R×R PNG instead of the files: smaller, faster")
    sub.add_argument("--json", **as_json)
    sub.add_argument("--quiet", **quiet)
    return parser


def _version() -> str:
    import bigbigan

    return f"bigbigan {bigbigan.__version__}"


# Each verb imports what it needs, so that --help and `list` do not wait for torch.


def _list(options: argparse.Namespace) -> None:
    """Show the experiments, the table rows each stands for and their published numbers."""
    from bigbigan.experiments import EXPERIMENTS

    if options.json:
        entries = [
            {
                "name": e.name,
                "summary": e.summary,
                "data": e.data,
                "table_row": e.table_row,
                "published": e.published,
                "table_rows": e.table_rows,
                "scales": e.scales,
                "additions": e.additions,
            }
            for e in EXPERIMENTS.values()
        ]
        print(json.dumps(entries, indent=2))
        return
    width = max(map(len, EXPERIMENTS))
    for e in EXPERIMENTS.values():
        line = f"{e.name:{width}}  {e.summary}"
        for row, numbers in e.table_rows.items():
            line += f"  [{row}: {', '.join(f'{column} {number}' for column, number in numbers.items())}]"
        at_own_size, *at_a_scale = (_named(found) for found in e.additions.values())
        ours = at_own_size or next((f"{found} at --scale" for found in at_a_scale if found), "")
        print(line + (f"  (not in the paper: {ours})" if ours else ""))


def _named(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


def _train(options: argparse.Namespace) -> int | None:
    """Train an experiment; the same command again continues where it stopped."""
    from bigbigan.config import override
    from bigbigan.experiments import find
    from bigbigan.training.run_folder import source_and_labels

    experiment = find(options.experiment)
    steps = [] if options.steps is None else [f"training.steps={options.steps}"]
    config = override(experiment.config(options.scale), [*options.set, *steps])
    if options.dry_run:
        from bigbigan.training.flops import step_cost

        cost = step_cost(config)
        if options.json:
            print(json.dumps({"config": config.to_dict(), "additions": config.additions, **cost}, indent=2))
            return None
        print(json.dumps(config.to_dict(), indent=2))
        for name, count in cost["parameters"].items():
            print(f"{name:10} {count:>14,} parameters")
        print(f"one step of {config.training.batch_size} images: {cost['flops_per_step'] / 1e9:,.1f} GFLOP, "
              f"about {cost['memory_bytes'] / 2**20:,.0f} MiB")  # fmt: skip
        if config.additions:
            print(f"not in the paper: {_named(config.additions)} (docs/deviations.md, 2 and 3)")
        return None
    if options.out is None:
        raise UserError(f"train {options.experiment}: --out RUN is missing: the folder to train in")
    data, labels = options.data, options.labels
    if (options.out / "data.json").exists():
        data, labels = source_and_labels(options.out, data, labels)
    if (data := data or experiment.data) is None:
        raise UserError(f"train {options.experiment}: --data SOURCE is missing: a folder or archive of images, say")
    from bigbigan.apps.train import train
    from bigbigan.training.distributed import is_first

    ended = train(config, data, options.out, progress=not options.quiet, labels=labels)
    if not is_first():  # of the processes of torchrun one speaks
        return None if ended is None else 128 + ended
    if options.json:
        print(json.dumps({"run": str(options.out), "steps": config.training.steps, "ended_by_signal": ended}))
    elif ended is None:
        run = options.out
        print(f"trained {config.training.steps} steps; next: bigbigan evaluate {run}; bigbigan report {run}")
    return None if ended is None else 128 + ended


def _evaluate(options: argparse.Namespace) -> None:
    """Measure a run beside raw pixels and the untrained encoder; writes result lines."""
    from bigbigan.evaluation.records import append_results, results_table
    from bigbigan.evaluation.runner import evaluate

    if options.most is not None:
        _at_least(2, most=options.most)
    metrics = options.metrics.split(",") if options.metrics else None
    lines = evaluate(
        options.run,
        options.data,
        metrics,
        options.command,
        progress=not options.quiet,
        labels=options.labels,
        resolution=options.resolution,
        channels=options.channels,
        checkpoint=options.checkpoint,
        most=options.most,
        out=options.out,
    )
    if options.results:
        append_results(options.results, lines)
    print(json.dumps([asdict(line) for line in lines], indent=2) if options.json else results_table(lines))


def _feature_network(options: argparse.Namespace) -> None:
    """Train a small classifier to compare images of its kind by: FID and others where Inception is no judge."""
    from bigbigan.data import open_source
    from bigbigan.evaluation.image_quality.feature_networks import train_classifier
    from bigbigan.evaluation.records import append_results
    from bigbigan.training.run_folder import default_device

    if options.epochs is not None and options.epochs < 1:
        raise UserError(f"--epochs {options.epochs}: expected at least 1")
    device = default_device()
    source = open_source(options.data, labels=options.labels)
    path, line = train_classifier(
        options.name, source, options.epochs, device, options.command, progress=not options.quiet
    )
    if options.results:
        append_results(options.results, [line])
    print(f"{path}: {line.value:.1f} % of {line.n:,} test images right")


def _encode(options: argparse.Namespace) -> None:
    """Write features or scores of every image of a source, with file names and labels."""
    from bigbigan.apps.encode import encode

    features = options.features.split(",") if options.features else None
    count = encode(options.run, options.data, options.out, features, options.labels, options.raw_cells)
    print(f"{options.out}: {count} images")


def _generate(options: argparse.Namespace) -> None:
    """Draw samples, as a grid (a name ending in .png) or as single images into a folder."""
    import torch

    from bigbigan.data.decode import EXTENSIONS, NOT_READ
    from bigbigan.inference.model import load
    from bigbigan.training.image_grid import grid, save_image
    from bigbigan.training.run_folder import default_device

    _at_least(1, count=options.count)
    one, other = options.out.suffix.lower() == ".png", (*EXTENSIONS, *NOT_READ, ".pdf", ".svg", ".npz", ".zip", ".mp4")
    if not one and options.out.suffix.lower() in other:
        raise UserError(f"--out {options.out}: expected a name ending in .png for one picture, or a folder")
    _writable(options.out if one else options.out / "00000.png")
    model = load(options.run, device=default_device())
    batches = model.generate_batches(options.count, options.truncation, options.seed, options.label)
    if one:
        save_image(grid(torch.cat([batch.cpu() for batch in batches])), options.out)
    else:
        for i, image in enumerate(image for batch in batches for image in batch):
            save_image(grid(image[None], least_side=1), options.out / f"{i:05d}.png")
    print(options.out)


def _reconstruct(options: argparse.Namespace) -> None:
    """Draw x above G(E(x)) for images of a source; with --refine, G of z optimised from E(x) below."""
    from bigbigan.apps.visualize import reconstructions

    _at_least(0, refine=options.refine)
    _picture(options)
    picture, errors = reconstructions(options.run, options.data, options.count, options.refine, options.labels)
    _save(picture, options)
    if options.json:
        print(json.dumps({"grid": str(options.out), "error": errors}))
    else:
        print(f"{options.out}: mean error " + ", ".join(f"{value:.2f} {name}" for name, value in errors.items()))


def _interpolate(options: argparse.Namespace) -> None:
    """Draw walks between the encodings of images of a source, their ends beside them; or between latents."""
    from bigbigan.apps.visualize import interpolations, latent_walks

    _at_least(2, steps=options.steps)
    _picture(options)
    if options.latents and options.data:
        raise UserError(f"--data {options.data}: walks between latents need no images; leave out --data or --latents")
    if options.latents:
        picture = latent_walks(options.run, options.count, options.steps, options.seed)
    else:
        picture = interpolations(options.run, options.data, options.count, options.steps, options.labels)
    _save(picture, options)
    print(options.out)


def _neighbours(options: argparse.Namespace) -> None:
    """Draw images of a source and, beside each, the training images nearest to it in feature space."""
    from bigbigan.apps.visualize import neighbours

    _at_least(1, neighbours=options.neighbours)
    _picture(options)
    picture, found = neighbours(options.run, options.data, options.count, options.neighbours, options.labels)
    _save(picture, options)
    print(json.dumps(found, indent=2) if options.json else options.out)


def _serve(options: argparse.Namespace) -> None:
    """Serve a page to try a model with: samples, an image of your own, walks between two."""
    from bigbigan.apps.serve import serve

    host, *names = options.host or ["127.0.0.1"]
    serve(options.run, host, options.port, options.data, options.labels, names)


def _at_least(least: int, **given: int) -> None:
    for name, value in given.items():
        if value < least:
            raise UserError(f"--{name} {value}: expected at least {least}")


def _picture(options: argparse.Namespace) -> None:
    """Tell a mistake in what a picture is to be before anything is read."""
    _at_least(1, count=options.count)
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: expected a name ending in .png")


def _save(picture: Any, options: argparse.Namespace) -> None:
    from bigbigan.training.image_grid import save_image

    save_image(picture, options.out)


def _check_targets(options: argparse.Namespace) -> None:
    """Tell that a file cannot be written before hours are spent on what is to stand in it."""
    for name in ("out", "results", "sheet", "picture"):
        path = getattr(options, name, None)
        if path is not None and (options.verb, name) not in FOLDERS:
            _writable(path)
    if options.verb is _evaluate and options.out is not None:
        _writable(options.out / "results.jsonl")
    elif options.verb is _evaluate and (Path(options.run) / "checkpoints").is_dir():
        _writable(Path(options.run) / "results.jsonl", "give a folder for the results: --out DIR")
    elif options.verb is _report and options.out is None and options.run.is_dir():
        _writable(options.run / "report.html", "give another place: --out FILE.html")


def _writable(path: Path, remedy: str = "choose another place") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made: {error.strerror}") from None
    if path.is_dir():
        raise UserError(f"{path} is a folder; expected the name of a file to write")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path} cannot be written: permission denied; {remedy}")


def _classify(options: argparse.Namespace) -> None:
    """Train a classifier on a few labels; writes predictions, measures accuracy beside baselines."""
    from bigbigan.apps.classify import Labels, classify
    from bigbigan.evaluation.records import append_results, results_table

    if options.labels_per_class is not None and options.labels_per_class < 1:
        raise UserError(f"--labels-per-class {options.labels_per_class}: expected at least 1")
    if options.label_fraction is not None and not 0 < options.label_fraction <= 1:
        raise UserError(f"--label-fraction {options.label_fraction}: expected a number above 0 and up to 1")
    if options.draws < 1:
        raise UserError(f"--draws {options.draws}: expected at least 1")
    lines = classify(
        str(options.run),
        options.data,
        Labels(options.labels_per_class, options.label_fraction),
        options.out,
        options.command,
        labels_file=options.labels,
        finetune=options.finetune,
        scratch=options.scratch,
        draws=options.draws,
        progress=not options.quiet,
        raw_cells=options.raw_cells,
    )
    if options.results:
        append_results(options.results, lines)
    print(json.dumps([asdict(line) for line in lines], indent=2) if options.json else results_table(lines))
    if not options.json:
        print(options.out)


def _cluster(options: argparse.Namespace) -> None:
    """Cluster images by an encoder's features: a file of labels for a conditional BigGAN, and a sheet to look at."""
    from bigbigan.apps.cluster import cluster
    from bigbigan.evaluation.records import append_results, results_table

    _at_least(2, clusters=options.clusters)
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {options.sheet}: expected a name ending in .png")
    lines, found = cluster(
        options.run,
        options.data,
        options.out,
        options.command,
        options.clusters,
        options.features,
        options.sheet,
        options.labels,
        options.raw_cells,
    )
    if options.results:
        append_results(options.results, lines)
    if options.json:
        print(json.dumps({**found, "results": [asdict(line) for line in lines]}, indent=2))
        return
    if lines:
        print(results_table(lines))
    sizes = found["sizes"]
    print(f"{options.out}: {sum(sizes):,} images in {len(sizes)} clusters of {min(sizes):,} to {max(sizes):,}")


def _report(options: argparse.Namespace) -> None:
    """Write report.html: curves, samples, reconstructions, neighbours, probe, settings, data card."""
    from bigbigan.apps.report import write_report

    print(write_report(options.run, options.data, options.labels, options.out))


def _export(options: argparse.Namespace) -> None:
    """Write the model as a folder to hand on: safetensors, settings and a model card; ONNX files if asked."""
    from bigbigan.integrations.export import export

    print(export(options.run, options.out, options.checkpoint, options.onnx))


def _table(options: argparse.Namespace) -> None:
    """Fill a published table from result lines: published beside ours, "not run" where not run."""
    from bigbigan.evaluation.published_tables import FORMATS, fill
    from bigbigan.evaluation.records import read_results

    folder = options.results
    if not folder.is_dir():
        raise UserError(f"--results {folder} is not a folder; expected one of *.jsonl files of result lines")
    is_run = (folder / "config.json").exists() or (folder / "metrics.jsonl").exists()
    files = [folder / "results.jsonl"] if is_run else sorted(folder.glob("*.jsonl"))
    if is_run and not files[0].exists():
        raise UserError(f"--results {folder} has no results.jsonl; measure the run first: bigbigan evaluate {folder}")
    lines = [line for path in files for line in read_results(path)]
    table = fill(options.name, lines, options.scale, options.dataset)
    print(json.dumps(table.as_dict(), indent=2) if options.json else FORMATS[options.format](table))


def _bench(options: argparse.Namespace) -> None:
    """Time training steps on random images: by part, images and FLOPs a second, peak memory."""
    from bigbigan.apps.benchmark import bench, chart, result_lines
    from bigbigan.config import override
    from bigbigan.evaluation.records import append_results
    from bigbigan.experiments import find
    from bigbigan.training import distributed

    _at_least(1, steps=options.steps)
    name, equals, values = (options.vary or "").partition("=")
    if options.vary and not (equals and values):
        raise UserError(f"--vary {options.vary}: expected a.b=V1,V2,..., for example training.batch_size=16,32,64")
    if options.picture and (not options.vary or options.picture.suffix.lower() != ".png"):
        raise UserError(
            f"--picture {options.picture}: expected a name ending in .png, and --vary with what to draw it over"
        )
    made = find(options.experiment).config(options.scale)
    varied = [f"{name}={value}" for value in values.split(",")] if options.vary else [""]
    configs = {v.removeprefix(f"{name}="): override(made, [*options.set, *([v] if v else [])]) for v in varied}
    costs = {}
    for value, config in configs.items():
        cost = costs[value] = bench(config, options.steps)
        if not distributed.is_first():
            continue
        if options.results:
            append_results(options.results, result_lines(config, cost, options.steps, options.command))
        if not options.json:
            print(f"{name}={value}: " if value else "", end="")
            parts = ", ".join(f"{part.replace('_', ' ')} {seconds:.3f}" for part, seconds in cost.parts.items())
            print(f"{cost.seconds:.3f} s a step ({parts}), {cost.images_per_second:,.0f} images/s, "
                  f"{cost.flops / 1e9:,.1f} GFLOP a step, {cost.tflops:.3g} TFLOP/s, {cost.share:.0%} of a matrix "
                  f"product's, {cost.peak_memory_mib:,.0f} MiB", flush=True)  # fmt: skip
    if not distributed.is_first():
        return
    if options.json:
        print(
            json.dumps(
                {value or "defined": asdict(cost) | {"share": cost.share} for value, cost in costs.items()}, indent=2
            )
        )
    if options.picture:
        chart(costs, name, options.experiment, options.picture)


def _data_inspect(options: argparse.Namespace) -> None:
    """Count the images of a source, their sizes and labels, list what cannot be read, draw a contact sheet."""
    from bigbigan.data import contact_sheet, inspect, open_source
    from bigbigan.training.image_grid import save_image

    if options.out and options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out}: expected a name ending in .png")
    source = open_source(options.source, labels=options.labels)
    facts = inspect(source)
    print(json.dumps(facts, indent=2) if options.json else _describe(facts))
    if options.out:
        save_image(contact_sheet(source), options.out)


def _data_shard(options: argparse.Namespace) -> None:
    """Write a source as tar shards (WebDataset), shuffled, with checksums; the same command again goes on."""
    from bigbigan.data import open_source, write_shards

    if not options.size_mib > 0:
        raise UserError(f"--size-mib {options.size_mib}: expected a number above 0")
    given = {"images": options.images, "resolution": options.resolution}
    _at_least(1, **{name: value for name, value in given.items() if value is not None})
    written = write_shards(
        open_source(options.source, labels=options.labels),
        options.out,
        options.size_mib,
        options.images,
        options.resolution,
        progress=not options.quiet,
    )
    if options.json:
        print(json.dumps(written, indent=2))
        return
    for split, n in written["splits"].items():
        print(f"{options.out / split}: {n['images']:,} images in {n['shards']:,} shards, {n['bytes'] / 2**20:,.1f} MiB")
    skipped = written["skipped"]
    for file, reason in skipped[:20]:
        print(f"skipped: {file}: {reason}")
    if len(skipped) > 20:
        print(f"skipped: {len(skipped) - 20:,} more, listed in {options.out / 'index.json'}")


def _describe(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines for a person."""
    lines = [f"{facts['spec']}"]
    for name, split in facts["splits"].items():
        sizes, kinds = split["sizes"], [f"{n} {kind}" for kind, n in split["channels"].items() if n]
        if sizes is None:
            lines.append(f"{name}: {split['count']} files, none readable")
            continue
        width, height = sizes["most_common"]["size"]
        others = f", {sizes['different'] - 1} other sizes" if sizes["different"] > 1 else ""
        lines.append(f"{name}: {split['count']} images ({', '.join(kinds)}), most {width}x{height}{others}, "
                     f"{split['duplicates']} duplicates, {split['unreadable']} unreadable")  # fmt: skip
        if split["classes"]:
            counts = [f"{label} {n}" for label, n in split["classes"].items()]
            more = f", ... {len(counts)} classes" if len(counts) > 12 else ""
            more += f"; without a label {split['unlabelled']}" if split["unlabelled"] else ""
            lines.append("  labels: " + ", ".join(counts[:12]) + more)
        else:
            lines.append("  no labels")
    lines += [f"{n} images stand in both of {pair}" for pair, n in facts["shared"].items()]
    lines += [f"note: {note}: {n}" for note, n in facts["notes"].items()]
    lines += [f"skipped: {file}: {reason}" for file, reason in facts["skipped"]]
    return "\n".join(lines)


# Options of these names that are folders.
FOLDERS = (
    *((verb, "out") for verb in (_train, _evaluate, _generate, _export, _data_shard)),
    (_table, "results"),
)


if __name__ == "__main__":
    sys.exit(main())
