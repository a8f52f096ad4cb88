"""The training loop, top to bottom: data, state, step, log, pictures, checkpoint."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bigbigan.config import Config
from bigbigan.data import ImageSet, Source, fraction_of, glance, open_source
from bigbigan.data.batches import Batches
from bigbigan.data.image_set import FileStore
from bigbigan.data.loading import stored_side
from bigbigan.data.sources import seen_from
from bigbigan.data.streaming import StreamedPixels, training_pixels
from bigbigan.errors import RunError, UserError, out_of_memory
from bigbigan.image import pool_to, reconstruction_distances
from bigbigan.methods import Move, Outcome, generate
from bigbigan.models import Posterior
from bigbigan.models.batch_norm import batch_statistics
from bigbigan.models.layers import held_vectors
from bigbigan.randomness import keyed_generator
from bigbigan.training import checkpoint as ck
from bigbigan.training import distributed
from bigbigan.training.image_grid import grid, pairs_grid, save_image
from bigbigan.training.monitor import Monitor, Silence, read_metrics
from bigbigan.training.precision import check_devices
from bigbigan.training.run_folder import (
    Stop,
    Stopped,
    default_device,
    limits_of,
    open_for_training,
    read_card,
    read_config,
    warn_of_other_settings,
    write_json,
)
from bigbigan.training.seal import key_file, seal
from bigbigan.training.state import TrainingState

__all__ = ["train", "training_step"]


class Validation(Protocol):
    """Measures the networks of a training state while it trains, without changing a weight (early stopping).

    Attributes:
        metric: what is measured; its `name` is logged.
        possible: whether the data and the networks allow it.
        less_is_better: whether the best step has the lowest value.
    """

    metric: Any

    @property
    def possible(self) -> bool: ...

    @property
    def less_is_better(self) -> bool: ...

    def __call__(self, state: TrainingState) -> float: ...


# Makes a Validation of: settings, batches, labels, source, run folder, groups. See `bigbigan.apps.train`.
MakeValidation = Callable[[Config, Batches, "np.ndarray | None", Source, Path, "np.ndarray | None"], Validation]


def train(
    config: Config,
    data: str,
    run: Path,
    progress: bool = True,
    labels: str | None = None,
    validation: MakeValidation | None = None,
) -> int | None:
    """Train `config` on the source `data` in the folder `run`, from its newest checkpoint if it has one.

    Labels, the source's or those of the file `labels`, are used by nothing but what is watched (`log.probe_every`,
    `log.watch`), which changes no weight; unless `data.labels` tells them to G and D, or to E.

    `validation` makes what measures the networks every `log.probe_every` steps; without it nothing is measured.

    Returns:
        None when all steps are done, or the number of the signal that ended it early, with its state saved.

    Raises:
        UserError: data, settings or folder cannot be used; nothing was trained.
        RunError: a loss or gradient was not finite, or a checkpoint could not be saved.
    """
    stop = Stop(nothing_to_save=True)
    try:
        with distributed.joined(patience=60 * config.log.hang_minutes), stop:
            return _train(config, data, run, progress, labels, stop, validation)
    except Stopped:
        with suppress(OSError):  # a terminal that was closed
            print("stopped before the first step: there is nothing to save", file=sys.stderr)
        return stop.signal
    except (MemoryError, RuntimeError, OSError) as error:
        if not out_of_memory(error):
            raise
        t = config.training
        raise RunError(
            f"out of memory ({' '.join(str(error).split())[:160]}); lower training.batch_size={t.batch_size}, raise "
            f"training.accumulate={t.accumulate}, or lower data.memory_gib={config.data.memory_gib:g} for many images"
        ) from error


def _train(
    config: Config,
    data: str,
    run: Path,
    progress: bool,
    labels: str | None,
    stop: Stop,
    validation: MakeValidation | None,
) -> int | None:
    first, device = distributed.is_first(), default_device()
    check_devices(config, device)
    source = open_source(data, labels=labels, max_unreadable=config.data.max_unreadable, limits=limits_of(config))
    images = fraction_of(source.splits["train"], config.data.fraction)
    config = _resolved(config, source, images, data, run)
    if (saved := ck.checkpoints(run)) and saved[-1].step > config.training.steps:
        raise UserError(
            f"training.steps={config.training.steps}: {run} has been trained for {saved[-1].step} steps; expected as "
            "many or more, or another --out"
        )
    with open_for_training(run, config) if first else nullcontext():
        # Data: on the device as uint8, or too large for that and decoded as needed
        side = distributed.largest(_recorded_side(run) if first else 0)
        side = side or stored_side(images, config.encoder.resolution, config.data.augment)
        d = config.data
        shown, world = progress and first, distributed.ranks()
        with distributed.busy("reading images"):
            pixels, kept, fingerprint = training_pixels(
                images, side, d.channels, source, d.memory_gib, device, shown, d.shuffle_shards, world
            )
        if len(pixels) < 2:
            raise UserError(f"--data {data}: {len(pixels)} images are too few to train on")
        known, groups = (None if of is None else of[kept] for of in (images.labels, images.groups))
        told = torch.as_tensor(known, device=device) if config.data.labels == "classes" else None
        batches = Batches(
            pixels,
            config.training.batch_size,
            config.training.seed,
            config.data.augment,
            config.encoder.resolution,
            labels=told,
            mirror=config.data.mirrors,
        )
        if config.log.probe_every and isinstance(pixels, StreamedPixels) and pixels.shards is not None:
            raise UserError(
                f"--data {data}: log.probe_every={config.log.probe_every} needs images of the whole set and would "
                "fetch every shard each time; set log.probe_every=0, or data.memory_gib so high that all are held"
            )
        watch = None
        if config.log.probe_every and first and validation is not None:
            watch = validation(config, batches, known, source, run, groups)
        card = {
            "spec": data,
            "from_run": seen_from(data, run),
            "name": source.name,
            "images": len(pixels),
            "side": side,
            "fingerprint": fingerprint,
            "glance": glance(source.splits["train"]),
            "classes": images.classes,
            "labels": None
            if source.labels is None
            else asdict(source.labels) | {"from_run": seen_from(source.labels.path, run)},
            "skipped": source.skipped,
            "notes": source.notes,
        }
        card["seal"] = seal(card) if first else ""
        if first and not card["seal"]:
            warnings.warn(f"no key can be kept in {key_file()}: verbs will ask for --data", stacklevel=2)
        if not distributed.same(fingerprint):
            raise UserError(f"--data {data}: not all processes of torchrun find the same images there; copy them anew")

        # State: new, or the newest checkpoint
        state = TrainingState(config, device)
        state.system.check(some_images(state, batches, 64))
        newest = None
        if first:
            _same_data(run, card, None if told is None else images)
            ck.remove_old(run, config.log.keep_checkpoints)
            newest = ck.newest_checkpoint(run, set_aside=True)
            if newest is not None:
                ck.load_state(state, newest)
                warn_of_other_settings(run, newest.info().get("settings", {}), config)
                if (run / "data.json").exists():
                    source.remember(read_card(run).get("skipped", []))
            write_json(run / "data.json", card, stamp=True)
        distributed.share(state)
        steps = config.training.steps
        monitor = Monitor(run, state.step, steps, progress) if first else Silence()
        if newest is not None:
            monitor.say(f"continuing from step {state.step}")
        elif progress:
            told_of = f"{config.data.classes} classes" if config.data.classes > 1 else "labels are not used"
            how = f"; {'' if config.data.mirror == 'always' else 'not '}mirrored at random" if config.can_mirror else ""
            monitor.say(f"{len(pixels)} images, {config.encoder.resolution} px{how}; {told_of}")
            if watch is not None and not watch.possible:
                monitor.say(f"log.watch={watch.metric.name} is left out: what it takes is not there")
        if newest is None and first:
            save_image(grid(some_images(state, batches, 64)), run / "samples" / "data.png")
            write_inputs(state, batches, run)

        # Loop. What all ranks do together must not depend on what one of them alone knows.
        started, since, signal = time.perf_counter(), state.step, 0
        stop.nothing_to_save = False
        watches = distributed.largest(watch is not None and watch.possible)
        try:
            if distributed.largest(newest is not None and watch is not None and _missed(watch, state, run)):
                state.fill_standing_statistics(batches)
                if watch is not None:
                    _look(watch, state, monitor, run)
            while state.step < steps and not (signal := distributed.largest(stop.signal or 0)):
                values = training_step(state, batches)
                if _due(config.log.every, state.step, steps):
                    now = time.perf_counter()
                    rate = (state.step - since) * config.training.batch_size * len(state.system.moves)
                    logged = {k: float(v) for k, v in values.items()}
                    logged |= {"images_seen": state.images_seen, "images_per_second": rate / (now - started)}
                    monitor.log(state.step, logged)
                    started, since = now, state.step
                monitor.advance()
                pictures = _due(config.log.pictures_every, state.step, steps)
                probe = bool(watches) and _due(config.log.probe_every, state.step, steps)
                save = probe or _due(config.log.checkpoint_every, state.step, steps)
                paused = time.perf_counter()
                if pictures or save:
                    check_finite(state)
                    state.fill_standing_statistics(batches)
                if pictures and first:
                    write_pictures(state, batches, run)
                if save and first:
                    _save(state, run, card)
                if probe and watch is not None:
                    _look(watch, state, monitor, run)
                started += time.perf_counter() - paused  # images_per_second is of training alone
            if signal and state.step:
                check_finite(state)
                state.fill_standing_statistics(batches)
                if first:
                    _save(state, run, card)
                monitor.say(f"stopped at step {state.step}, saved; the same command continues")
        finally:
            monitor.close()
            if isinstance(pixels, StreamedPixels):
                pixels.close()
        return signal or None


def _resolved(config: Config, source: Source, images: ImageSet, data: str, run: Path) -> Config:
    """`config` with what depends on the data: whether images are mirrored, how many classes there are, and how many
    images each has. A run that goes on keeps what its config.json says."""
    d = config.data
    before = read_config(run).data if (run / "config.json").exists() else None
    if config.can_mirror and d.mirror == "auto":
        by_source: Literal["always", "never"] = "always" if source.mirrorable else "never"
        d = replace(d, mirror=by_source if before is None else before.mirror)
    if d.labels == "classes":
        classes, sizes = _classes(images, data)
        if before is not None and len(before.class_sizes) in (0, classes):
            sizes = before.class_sizes  # empty in a run of an earlier version, whose labels were drawn evenly
        alike = not config.has_generator or len(set(sizes)) == 1
        d = replace(d, classes=classes, class_sizes=() if alike else sizes)
    return replace(config, data=d)


def _classes(images: ImageSet, data: str) -> tuple[int, tuple[int, ...]]:
    """The number of classes, and how many images each has."""
    labels = np.empty(0, dtype=np.int64) if images.labels is None else images.labels
    found = 0 if images.labels is None else len(images.classes or ()) or int(labels.max()) + 1
    if found < 2:
        raise UserError(f"--data {data} has no labels of two or more classes; data.labels=classes needs them, or none")
    if without := int((labels < 0).sum()):
        raise UserError(f"{without:,} of {len(images):,} training images have no label; data.labels=classes needs all")
    return found, tuple(np.bincount(labels, minlength=found).tolist())


def _due(every: int, step: int, steps: int) -> bool:
    """Whether something done `every` so many steps (0 is never), and after the last one, is due after `step`."""
    return every > 0 and (step == steps or step % every == 0)


def training_step(state: TrainingState, batches: Batches) -> dict[str, Tensor]:
    """Run every update of the system once, each on a fresh batch, then update the moving averages.

    Returns what is worth logging, by name. Steps every learner that any part of an update gave a loss for.

    Raises:
        RunError: a loss or gradient is not finite; the update that it would have made was left out.
    """
    config, system = state.config, state.system
    noise = keyed_generator(config.training.seed, "noise", state.step, str(state.device))
    if config.training.compile:
        torch.compiler.cudagraph_mark_step_begin()  # outputs of the last step may be overwritten from here on
    state.set_learning_rates(epoch=batches.steps_per_epoch(len(system.moves)))
    metrics: dict[str, Tensor] = {}
    seen: Seen | None = None
    for i, move in enumerate(system.moves):
        trained, sums, last = _accumulate_gradients(state, move, batches, state.step * len(system.moves) + i, noise)
        metrics |= _apply_gradients(state, trained, sums)
        seen = last if seen is None or last.posterior is not None else seen
    state.step += 1
    state.update_averages()
    logs = _due(config.log.every, state.step, config.training.steps)
    if logs or state.device.type == "cpu":  # on a GPU reading a value forces a device sync
        check_finite(state)
    if logs and seen is not None and config.has_encoder and config.has_generator:
        health = encoder_health(state, *seen)
        metrics |= dict(zip(health, distributed.average(list(health.values())), strict=True))
    return metrics


class Seen(NamedTuple):
    """The last chunk of images that an update saw, with q(z|x) of just these images where E encoded them."""

    x: Tensor
    posterior: Posterior | None


def _accumulate_gradients(
    state: TrainingState, move: Move, batches: Batches, number: int, noise: torch.Generator
) -> tuple[list[str], dict[str, Tensor], Seen]:
    """Add up the gradients of one update over the chunks of batch `number`.

    Returns the learners that got a loss, the metrics summed over chunks, and the last chunk.
    """
    t, system = state.config.training, state.system
    draws = system.draw(t.batch_size, noise)
    trained: dict[str, None] = {}  # a set that keeps its order
    sums: dict[str, Tensor] = {}
    for chunk, rows in enumerate(distributed.parts(t.batch_size, t.accumulate)):
        x, y = batches.batch(number, rows), batches.labels(number, rows)
        random = {name: values[rows] for name, values in draws.items()}
        posterior: Posterior | None = None
        with held_vectors(filter(None, state.networks), chunk > 0):
            for outcome in move(x, random) if y is None else move(x, random, y):
                losses = {learner: loss / t.accumulate for learner, loss in outcome.losses.items()}
                system.backward(losses)
                trained |= dict.fromkeys(losses)
                for name, value in _metrics(losses, outcome, t.accumulate).items():
                    sums[name] = sums[name] + value if name in sums else value
                posterior = outcome.posterior or posterior
    return list(trained), sums, Seen(x, posterior)


def _metrics(losses: dict[str, Tensor], outcome: Outcome, chunks: int) -> dict[str, Tensor]:
    """Return one chunk's share of the losses, of other metrics, and of the mean of each score on both kinds of pairs,
    such as s_xz_enc and s_xz_gen."""
    metrics = {f"loss_{learner}": loss.detach() for learner, loss in losses.items()}
    metrics |= {name: value / chunks for name, value in outcome.figures.items()}
    for kind, pairs in (("enc", outcome.enc), ("gen", outcome.gen)):
        metrics |= {f"{name}_{kind}": s.detach().mean() / chunks for name, s in pairs.items()}
    return metrics


def _apply_gradients(state: TrainingState, trained: list[str], metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average gradients and metrics over all ranks and step the learners in `trained`.

    Where a loss or gradient is not finite nothing is changed, and `check_finite` will report it. Returns the metrics of
    all ranks together with gradient norms by network.
    """
    networks = {letter: n for learner in trained for letter, n in state.system.members(learner).items()}
    gradients = {
        letter: [p.grad for p in network.parameters() if p.grad is not None] for letter, network in networks.items()
    }
    if distributed.ranks() > 1:
        own = [g for of_network in gradients.values() for g in of_network]
        *averaged, averaged_metrics = distributed.average([*own, torch.stack(list(metrics.values()))])
        torch._foreach_copy_(own, averaged)
        metrics = dict(zip(metrics, averaged_metrics, strict=True))
    norms = {f"grad_norm_{letter.lower()}": torch.nn.utils.get_total_norm(g) for letter, g in gradients.items() if g}
    decisive = {name: value for name, value in metrics.items() if name.startswith("loss_")} | norms
    finite = torch.isfinite(torch.stack(list(decisive.values()))).all()
    for optimizer in (state.optimizers[learner] for learner in trained):
        # The fused step leaves weights and moments alone where this is 1, without a device sync.
        optimizer.found_inf = 1 - finite.float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
    state.unchecked.append((state.step + 1, decisive, finite))
    return metrics | norms


def check_finite(state: TrainingState) -> None:
    """Stop the run if an update was left out since the last call, before anything is saved.

    Raises:
        RunError: says what was not finite, and when.
    """
    unchecked, state.unchecked = state.unchecked, []
    finite = torch.stack([f for *_, f in unchecked]).tolist() if unchecked else []
    for (step, figures, _), good in zip(unchecked, finite, strict=True):
        if not good:
            shown = ", ".join(f"{name} {value.item():.4g}" for name, value in figures.items())
            raise RunError(
                f"step {step}: not finite: {shown}; the update was left out before any weight was touched. The last "
                "checkpoint is good; lower optimizer.lr_g, optimizer.lr_d or encoder.lr_multiplier"
            )


@torch.no_grad()
def encoder_health(state: TrainingState, x: Tensor, q: Posterior | None) -> dict[str, Tensor]:
    """Measure the spread of z over images x, mean sigma, and reconstruction errors; leaves no trace in the networks.

    `q` is q(z|x) of these very images; None where E was not trained on them.
    """
    E = state.networks.encoder
    if q is None:  # an E that is not trained on images of the data
        with batch_statistics(E):
            q = E(x)
    spread = {"z_mean_spread": q.mean.std(0).mean(), "z_stdev": q.stdev.mean()}
    return spread | reconstruction_errors(state, pool_to(x, state.system.resolution), q.mean)


@torch.no_grad()
def reconstruction_errors(state: TrainingState, x: Tensor, z_mean: Tensor) -> dict[str, Tensor]:
    """Mean ‖x − G(E(x))‖₂ with pixels in [0, 1], against the same with x and G(E(x)) of different images; a ratio near
    1 means that E has learned nothing yet. Leaves no trace in the networks."""
    G = state.networks.generator
    with batch_statistics(G):
        x_hat = G(z_mean)
    error, shuffled = (d.mean() for d in reconstruction_distances(x, x_hat))
    return {
        "reconstruction_error": error,
        "reconstruction_error_shuffled": shuffled,
        "reconstruction_ratio": error / shuffled,
    }


def some_images(state: TrainingState, batches: Batches, count: int) -> Tensor:
    """The same training images each time, drawn by the seed: [count, C, R_E, R_E], fewer if there are fewer."""
    order = torch.randperm(len(batches.pixels), generator=keyed_generator(state.config.training.seed, "show"))
    if isinstance(batches.pixels, StreamedPixels):
        order = torch.from_numpy(batches.pixels.images.at_hand(order.numpy()))
    return batches.images(order[:count].to(state.device))


def write_inputs(state: TrainingState, batches: Batches, run: Path) -> None:
    """What the networks are shown of some images, where that is not the images: a picture a task, a row an image."""
    noise = keyed_generator(state.config.training.seed, "inputs", 0, str(state.device))
    x = some_images(state, batches, 8)
    for name, views in state.system.pictures(x, state.system.draw(len(x), noise)).items():
        save_image(grid(views.flatten(0, 1), columns=views.shape[1]), run / "samples" / f"inputs-{name}.png")


def write_pictures(state: TrainingState, batches: Batches, run: Path) -> None:
    """Samples of the same z each time, and x above G(E(x)) for the same images each time; nothing without G."""
    G = state.G_ema
    if G is None:
        return
    noise = keyed_generator(state.config.training.seed, "pictures", 0, str(state.device))
    z, classes = state.system.sample_prior(64, noise), state.config.data.classes
    y = torch.arange(64, device=z.device) // 8 % classes if classes > 1 else None  # a row a class
    with torch.no_grad():
        save_image(grid(generate(G, z, y)), run / "samples" / f"samples-{state.step:08d}.png")
        if state.E_ema is not None:
            x = some_images(state, batches, 32)
            pairs = pairs_grid(pool_to(x, state.system.resolution), G(state.E_ema(x).mean))
            save_image(pairs, run / "samples" / f"reconstructions-{state.step:08d}.png")


def _save(state: TrainingState, run: Path, card: dict[str, Any]) -> None:
    write_json(run / "data.json", card, stamp=True)  # streamed images are found unreadable along the way
    info = {
        "experiment": state.config.experiment,
        "fingerprint": card["fingerprint"],
        "torch": torch.__version__,
    }
    ck.save_checkpoint(state, run, info, keep=state.config.log.keep_checkpoints)


def _missed(watch: Validation, state: TrainingState, run: Path) -> bool:
    """Whether the run was ended between a checkpoint and the look at it that was due."""
    log = state.config.log
    due = watch.possible and _due(log.probe_every, state.step, state.config.training.steps)
    return due and not any(x["step"] == state.step and log.watch in x for x in read_metrics(run))


def _look(watch: Validation, state: TrainingState, monitor: Monitor, run: Path) -> None:
    """Log what is watched, and note the step if it is the best so far, of those whose checkpoint is kept."""
    name = watch.metric.name
    with distributed.busy(f"measuring {name}"):
        value = watch(state)
    monitor.log(state.step, {name: value})
    best, kept = ck.best_record(run), [c.step for c in ck.checkpoints(run)]
    before: list[tuple[int, float]] = []
    if best is None:  # the first of a run, or best.json is damaged
        before = [(x["step"], x[name]) for x in read_metrics(run) if x["step"] in kept[:-1] and name in x]
    elif best["step"] in kept and best["metric"] == name:
        before = [(best["step"], best["value"])]
    sign = -1 if watch.less_is_better else 1
    step, value = max([*before, (state.step, value)], key=lambda pair: sign * pair[1])  # of equals the first
    found = {"step": step, "metric": name, "value": value}
    if best != found:
        ck.save_best(run, step, name, value)


def _recorded_side(run: Path) -> int:
    """The side that the images of a run that is continued were stored at, which its crops depend on; 0 of a new run."""
    return int(read_card(run).get("side", 0)) if (run / "data.json").exists() else 0


def _same_data(run: Path, card: dict[str, Any], told: ImageSet | None) -> None:
    """Refuse to continue a run on other images, or with another labels file, than it began with; or, where the networks
    are told the classes of `told`, with classes of other names or in another order."""
    if (run / "data.json").exists():
        before = read_card(run)
        if before.get("fingerprint") != card["fingerprint"]:
            raise UserError(
                f"the images are not those {run} was trained on ({before.get('spec')}); "
                "continue with the same --data, or choose another --out"
            )
        old, new = before.get("labels") or {}, card["labels"] or {}
        if old.get("sha256") != new.get("sha256"):
            was, now = (f"those of {of['path']}" if of else "the source's own" for of in (old, new))
            if was == now:
                now = "of another content"
            raise UserError(
                f"the labels of {run} were {was}, now they are {now}; "
                "continue with the same --labels, or choose another --out"
            )
        if told is not None and told.classes is not None:
            folders = isinstance(told.store, FileStore) and card["labels"] is None
            usual = (
                sorted(told.classes) if folders else told.classes
            )  # before it was recorded, folders were in this order
            if before.get("classes", usual) != told.classes:
                raise UserError(
                    f"the classes of {run} were others, or numbered in another order, than the {len(told.classes)} "
                    "there are now; choose another --out"
                )
