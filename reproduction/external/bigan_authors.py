"""Train and score a row of BiGAN's table with the authors' own code, and write its result lines.

    python -m reproduction.external.bigan_authors CHECKOUT ROW --data DIR --epochs N [--seed S] [--runs DIR]

CHECKOUT is a copy of jeffdonahue/bigan, DIR has the four files of MNIST. The code of 2016 runs here with PyTensor,
Theano's successor: lib2to3 converts a copy to Python 3, and names that no longer exist are replaced; what it trains and
scores is not changed. It holds out 10,000 training images and scores on them. ROW is one of

    mnist, latent_regressor, joint_latent_regressor    the three objectives of its train_mnist.sh, else its settings
    discriminator                                      the same without an encoder

Learning rates are constant for half of the epochs, and fall in the other half. RUNS/ROW-N-S.log has the brightness of
G's images after each epoch. A run with scores in its log is not run again; one that was interrupted starts again.

Needs Python 3.12 or older (lib2to3) and these packages: pytensor scikit-learn matplotlib pandas joblib; and a BLAS
that PyTensor finds (PYTENSOR_FLAGS="blas__ldflags=-lopenblas").
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bigbigan.errors import RunError, UserError
from bigbigan.evaluation.records import Measurement, ResultLine
from reproduction.common import Script, run_program

HELD_OUT, EPOCH, BATCH, SEED = 10_000, 391, 128, 42  # the defaults of their code
SETTINGS = (
    "--dataset mnist --crop_size 28 --discrim_net mnist_mlp --gen_net deconvnet_mnist_mlp --megabatch_gb 0.5 "
    "--classifier --classifier_deploy --nolog_gain --nogain --nobias --no_decay_gain --deploy_iters 1000 "
    "--disp_samples 400 --disp_interval 1000000 --no_disp_one --optimizer adam --noise u-50"
)
ENCODER = "--encode --encode_normalize --encode_net mnist_mlp "
ROWS = {
    "mnist": ENCODER + "--encode_gen_weight 1 --encode_weight 0 --discrim_weight 0 --joint_discrim_weight 1",
    "latent_regressor": ENCODER + "--encode_gen_weight 0 --encode_weight 1 --discrim_weight 1 --joint_discrim_weight 0",
    "joint_latent_regressor": ENCODER
    + "--encode_gen_weight 0.25 --encode_weight 1 --discrim_weight 1 --joint_discrim_weight 0",
    "discriminator": "--no-encode",
}
# Their names of metrics, and ours.
METRICS = {
    "NNC_e-": "knn1_euclidean_avepool",
    "NNC_d": "knn1_euclidean_discriminator",
    "EGr": "reconstruction_error",
    "EGr_b": "reconstruction_error_mismatched",
}
FILES = {
    f"{split}-{kind}.idx{n}-ubyte": f"{split}-{kind}-idx{n}-ubyte.gz"
    for split in ("train", "t10k")
    for kind, n in (("images", 3), ("labels", 1))
}

# Replaced text of their files: division of integers, integers of NumPy's own type, and a dict that is changed while it
# is read, which behave differently in Python 3; and an addition that logs how bright G's images are.
CHANGES = {
    "lib/vis.py": [("j = n/nw", "j = n//nw")],
    "net.py": [("Output(out.value, out_shape,", "Output(out.value, tuple(int(s) for s in out_shape),")],
    "train_gan.py": [
        ("for k, v in disp_costs.items():", "for k, v in list(disp_costs.items()):"),
        (
            "        epoch_time = time() - start_time\n",
            "        epoch_time = time() - start_time\n"
            "        seen = _gen_train(*dist.sample(num=args.batch_size)).reshape(args.batch_size, -1)\n"
            "        print('Brightest pixel: %.4g' % seen.max(axis=1).mean(), flush=True)\n",
        ),
    ],
}
THEANO = """
from pytensor import config, function as _function, grad, gradient, shared
from pytensor.compile import sharedvalue
from pytensor.graph.basic import Variable
from . import tensor


class compile:
    sharedvalue = sharedvalue


def function(inputs, outputs=None, updates=None, **options):
    outputs = outputs if outputs is None or hasattr(outputs, "ndim") else list(outputs)
    return _function(list(inputs), outputs, updates=updates, on_unused_input="ignore")
"""
TENSOR = """
import pytensor
import pytensor.tensor as _t
from pytensor import grad
from pytensor.tensor import *

sgn = _t.sign


def tensor4(dtype=None):
    return _t.tensor4(dtype=dtype or pytensor.config.floatX)


class nnet:
    sigmoid = staticmethod(_t.sigmoid)
    relu = staticmethod(lambda x, alpha=0: 0.5 * (1 + alpha) * x + 0.5 * (1 - alpha) * abs(x))
    softmax = staticmethod(lambda x: _t.special.softmax(x, axis=-1))
    binary_crossentropy = staticmethod(lambda p, y: -(y * _t.log(p) + (1.0 - y) * _t.log(1.0 - p)))
    categorical_crossentropy = staticmethod(lambda p, y: -_t.log(p[_t.arange(y.shape[0]), y]))
"""
START = """
import random, runpy, sys, types
import joblib, matplotlib.image, numpy, sklearn.externals


class Random(random.Random):
    def sample(self, population, k):
        return super().sample(list(population), k)


random.Random, numpy.int, sklearn.externals.joblib = Random, int, joblib
sys.modules["scipy.misc"] = misc = types.ModuleType("scipy.misc")
misc.imsave = lambda path, image: matplotlib.image.imsave(path, image, cmap="gray", vmin=0, vmax=1)
runpy.run_path("train_gan.py", run_name="__main__")
"""


def port(checkout: Path, data: Path, work: Path, seed: int = SEED) -> None:
    """Write a copy of the code that runs, with the data in the folder it expects."""
    if work.exists():
        shutil.rmtree(work)
    shutil.copytree(checkout, work, ignore=shutil.ignore_patterns(".git"))
    names = ["train_gan.py", "data.py", "dist.py", "gan.py", "load.py", "net.py", "lib"]
    run_program([sys.executable, "-W", "ignore", "-m", "lib2to3", "-w", "-n", "--no-diffs", *names], cwd=work)
    for name, changes in {**CHANGES, "lib/rng.py": [(f"seed = {SEED}", f"seed = {seed}")]}.items():
        text = (work / name).read_text()
        for old, new in changes:
            if old not in text:
                raise UserError(
                    f"{checkout / name} does not contain {old.strip()!r}; expected the code of jeffdonahue/bigan"
                )
            text = text.replace(old, new)
        (work / name).write_text(text)
    new_files = {
        "start.py": START, "theano/__init__.py": THEANO, "theano/tensor.py": TENSOR, "theano/sandbox/__init__.py": "",
        "theano/sandbox/rng_mrg.py": "from pytensor.tensor.random.utils import RandomStream as MRG_RandomStreams\n",
    }  # fmt: skip
    for name, text in new_files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    (work / "data/mnist").mkdir(parents=True)
    for theirs, ours in FILES.items():
        (work / "data/mnist" / theirs).write_bytes(gzip.decompress((data / ours).read_bytes()))


def scores(log: str) -> dict[int, dict[str, float]]:
    """Return the values of each evaluation, by epoch and by name in the log."""
    return {
        int(epoch): {name: float(value) for name, value in re.findall(r"([\w/-]+): ([\d.]+)", line)}
        for epoch, line in re.findall(r"^ *(\d+)\) \w+: .*\n(NND/100: .*)$", log, re.MULTILINE)
    }


def result_lines(script: Script, row: str, epochs: int, seed: int, log: str) -> list[ResultLine]:
    """Return result lines of the evaluation before training and of the last one."""
    seconds = sum(map(float, re.findall(r"^Epoch \d+: ([\d.]+) seconds", log, re.MULTILINE)))
    evaluated, protocol = scores(log), {"references": 60_000 - HELD_OUT}
    lines: list[ResultLine] = []
    for epoch in (0, epochs):
        measured = {
            metric: Measurement(evaluated[epoch][theirs], protocol=protocol)
            for theirs, metric in METRICS.items()
            if theirs in evaluated[epoch]
        }
        lines += script.result_lines(
            measured,
            subject="trained" if epoch else "untrained",
            experiment=f"bigan/{row}",
            dataset=f"mnist-held-out-{HELD_OUT}",
            split="test",
            n=HELD_OUT,
            settings={"peer": "jeffdonahue/bigan"},
            seed=seed,
            steps=epoch * EPOCH,
            images_seen=epoch * EPOCH * BATCH,
            seconds=seconds * (epoch > 0),
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    script = Script(__spec__, __doc__, "results/bigan_authors.jsonl")
    script.parser.add_argument("checkout", type=Path)
    script.parser.add_argument("row", choices=ROWS)
    script.parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    script.parser.add_argument("--epochs", type=int, required=True, metavar="N")
    script.parser.add_argument("--seed", type=int, default=SEED, metavar="S", help=f"default {SEED}, as in their code")
    script.parser.add_argument("--runs", type=Path, default=Path("runs/bigan-authors"), metavar="DIR")
    return script.run(train_and_score, arguments)


def train_and_score(script: Script, options: argparse.Namespace) -> None:
    if sys.version_info >= (3, 13):
        raise UserError("this is Python 3.13 or newer; expected 3.12 or older, which have lib2to3")
    if options.epochs < 1:
        raise UserError(f"--epochs {options.epochs}: expected at least 1")
    if not (options.checkout / "train_gan.py").exists():
        raise UserError(f"{options.checkout}: no train_gan.py there; expected a copy of jeffdonahue/bigan")
    if missing := [name for name in FILES.values() if not (options.data / name).exists()]:
        raise UserError(f"--data {options.data}: no {', '.join(missing)} there; expected MNIST's four files")
    name = f"{options.row}-{options.epochs}-{options.seed}"
    options.runs.mkdir(parents=True, exist_ok=True)
    log, work = options.runs / f"{name}.log", options.runs / f"{name}-code"
    if not log.exists() or options.epochs not in scores(log.read_text()):
        port(options.checkout, options.data, work, options.seed)
        length = f"--epochs {options.epochs // 2} --decay_epochs {options.epochs - options.epochs // 2}"
        command = [sys.executable, "start.py", *f"{SETTINGS} {ROWS[options.row]} {length} --exp_dir exp".split()]
        flags = ",".join(["floatX=float32,linker=cvm", *filter(None, [os.environ.get("PYTENSOR_FLAGS")])])
        with log.open("w") as file:
            done = subprocess.run(
                command, cwd=work, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTENSOR_FLAGS": flags}
            )
        if done.returncode:
            raise RunError(f"{log}: {log.read_text().strip().splitlines()[-1]}")
    script.append(result_lines(script, options.row, options.epochs, options.seed, log.read_text()))


if __name__ == "__main__":
    sys.exit(main())
