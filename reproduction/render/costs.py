"""Render the tables of time, memory and arithmetic: docs/notes/performance.md and others."""

from __future__ import annotations

from bigbigan.config import named_settings
from reproduction.render.cells import Line, cell, changes, newest_by, of_study, title_of


def bench(lines: list[Line]) -> str:
    """Render the parts of a step, and its speed."""
    chosen = of_study(lines, "bench")
    parts = ("data", "discriminator_update", "encoder_generator_update", "update", "averages", "rest")
    names = ("data", "D", "G and E", "all networks", "averages", "other")
    head = ("seconds per step", *names, "images/s", "GFLOP/s", "share of matrix product", "peak MiB")
    out = [f"| experiment | device | {' | '.join(head)} |", "|---|---|" + "---|" * len(head)]
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for x in chosen:
        settings = named_settings(changes(x)[0])
        scale = f" at scale {x['scale']}" if x["scale"] else ""
        title = f"{title_of(x['experiment'], x)}{scale}{', ' + settings if settings else ''}"
        groups.setdefault((title, x["device"]), {})[x["metric"]] = x["value"]
    for (title, device), found in groups.items():
        whole = found["seconds_per_step"]
        shares = [f"{found[f'seconds_{p}'] / whole:.0%}" if f"seconds_{p}" in found else "–" for p in parts]
        speed = [
            f"{found['images_per_second']:,.0f}",
            f"{1000 * found['tflops']:,.0f}",
            f"{found['share_of_matmul']:.0%}",
        ]
        cells = [f"{whole:.3g}", *shares, *speed, f"{found['peak_memory_mib']:,.0f}"]
        out.append(f"| {title} | {device} | {' | '.join(cells)} |")
    return "\n".join(out if groups else [*out, "| not run |" + " |" * (len(head) + 1)])


def evaluation_time(lines: list[Line]) -> str:
    """Render the seconds of default evaluations, by part, for each file of labels."""
    chosen = {x["command"]: x for x in of_study(lines, "evaluation_time") if x["metric"] == "evaluation_seconds"}
    parts = list(dict.fromkeys(part for x in chosen.values() for part in x["protocol"]))
    head = ("experiment", "without a label", "test images", "device", "seconds", *parts)
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for x in chosen.values():
        seconds = [f"{x['protocol'].get(part, 0):.0f}" for part in parts]
        counts = [f"{x['labels']['without']:,}", f"{x['n']:,}"]
        cells = [title_of(x["experiment"], x), *counts, x["device"], f"{x['value']:.0f}", *seconds]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def bigan_speed(lines: list[Line]) -> str:
    """Render steps per second of bigan/mnist and of a plain loop, by device."""
    chosen = of_study(lines, "bigan_speed")
    found = newest_by(chosen, "device", "metric")
    head = ("device", "ours, steps per second", "plain", "ratio", "compiled", "over eager", "bf16", "over float32")
    out = [f"| {' | '.join(head)} |", "|---" * 8 + "|"]
    for device in dict.fromkeys(x["device"] for x in chosen):
        metrics = ("ours", "plain", "over_plain", "compiled", "compiled_over_eager", "bf16", "bf16_over_float32")
        values = [found.get((device, f"steps_per_second_{m}")) for m in metrics]
        shown = ["not run" if v is None else f"{v:.{n}f}" for v, n in zip(values, (1, 1, 2, 1, 2, 1, 2), strict=True)]
        out.append(f"| {device} | {' | '.join(shown)} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | | | |"])


def data_speed(lines: list[Line]) -> str:
    """Render what one core reads and decodes, and what training steps consume."""
    chosen = of_study(lines, "data_speed")
    found = {(x["dataset"], x["metric"]): x for x in chosen}
    rows = {
        "files of a folder, images/s and core": "images_per_core_second_folder",
        "shards of the files, relative to the folder": "speed_of_shards_over_folder",
        "shards of `--resolution`, relative to the folder": "speed_of_shards_Rpx_over_folder",
        "folder, relative to decoding it to 146 px": "speed_of_folder_over_viewed_side",
        "stored, KiB an image": "stored_kib",
        "stored, relative to 146 px": "stored_over_viewed_side",
        "crops of 128 px, images/s and core": "images_per_core_second_crops",
        "crops, relative to cutting them from 146 px": "speed_of_crops_over_viewed_side",
        "folder, relative to what `small/cifar10` consumes on the core": "speed_of_folder_over_small_cifar10",
        "folder, relative to the maximum that `table1/base` consumes": "speed_of_folder_over_table1_base",
        "cores that `table1/base` needs at 100 TFLOP/s, folder": "cores_for_100_tflops_folder",
        "the same, shards of `--resolution`": "cores_for_100_tflops_shards_Rpx",
    }
    sets = {x["dataset"]: x["protocol"] for x in chosen}
    titles = [f"{name}, {p['median_width']:.0f}×{p['median_height']:.0f} → {p['side']} px" for name, p in sets.items()]
    out = [f"| | {' | '.join(titles or ['not run'])} |", "|---|" + "---|" * max(1, len(titles))]
    for title, metric in rows.items():
        cells = []
        for name in sets:
            value = found[name, metric]["value"]
            cells.append(f"{'×' if 'over' in metric else ''}{float(f'{value:.3g}'):,g}")
        out.append(f"| {title} | {' | '.join(cells or ['not run'])} |")
    return "\n".join(out)


def probe_speed(lines: list[Line]) -> str:
    """Render fits of the few-label probe by the package's solver and by scikit-learn's default one, by strength."""
    chosen = of_study(lines, "probe_speed")
    found = newest_by(chosen, "C", "metric")
    head = ("C", "ms a fit", "scikit-learn's", "objective", "scikit-learn's", "test images classified differently, %")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for C in sorted({x["settings"]["C"] for x in chosen}):
        ours, theirs = (1000 * found[C, f"fit_seconds{name}"] for name in ("", "_sklearn"))
        values = (found[C, f"objective{name}"] for name in ("", "_sklearn"))
        cells = [f"{ours:.0f}", f"{theirs:,.0f}", *(f"{v:.3f}" for v in values)]
        out.append(f"| {C:g} | {' | '.join(cells)} | {found[C, 'differing_predictions_sklearn']:.1f} |")
    return "\n".join(out if chosen else [*out, "| not run" + " |" * len(head)])


def encode_speed(lines: list[Line]) -> str:
    """Memory of encode over the number of images, and its speed over a bare loop."""
    chosen = of_study(lines, "encode_speed")
    found = newest_by(chosen, "metric", "n")
    out = ["| `bigbigan encode`, 32 px | |", "|---|---|"]
    for (metric, n), value in found.items():
        title = {
            "encode_speed_over_bare_loop": f"images per second, over a bare loop of the same encoder ({n:,} images)",
            "encode_peak_memory_mib": f"peak memory for {n:,} images, MiB",
            "encode_peak_memory_growth": f"the same, over the memory for {min(k for _, k in found):,} images",
        }.get(metric)
        if title:
            out.append(f"| {title} | {value:,.0f} |" if "mib" in metric else f"| {title} | {value:.2f} |")
    return "\n".join(out if chosen else [*out, "| not run | |"])


def demo_time(lines: list[Line]) -> str:
    """Render the duration of `make demo` in a clean clone."""
    found = newest_by(of_study(lines, "demo_time"), "device", "metric")
    out = ["| `make demo`, seconds | |", "|---|---|"]
    kinds = {"demo_seconds_with_installation": "with installation", "demo_seconds": "without"}
    for device, metric in found:
        out.append(f"| {device}, {kinds[metric]} | {found[device, metric]:.0f} |")
    return "\n".join(out if found else [*out, "| not run | |"])


def busy_machine(lines: list[Line]) -> str:
    """Seconds per step next to busy processes, with OpenMP threads that spin or sleep."""
    chosen = of_study(lines, "busy_machine")
    head = ("experiment", "threads", "busy processes", "load", "spinning", "sleeping", "times as fast")
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    found: dict[tuple[str, int, int], dict[str, Line]] = {}
    for x in chosen:
        found.setdefault((x["experiment"], x["protocol"]["threads"], x["protocol"]["busy"]), {})[x["metric"]] = x
    for (experiment, threads, busy), of in found.items():
        spinning, sleeping = (f"{of[f'seconds_per_step_{k}']['value']:.3g} s" for k in ("spinning", "sleeping"))
        ratio = of["step_speed_sleeping_over_spinning"]
        cells = (
            f"`{experiment}`",
            threads,
            busy,
            ratio["protocol"]["load"],
            spinning,
            sleeping,
            f"{ratio['value']:.3g}",
        )
        out.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | | |"])


def minimal_flops(lines: list[Line]) -> str:
    """Render the arithmetic of a step, and the minimum that its losses need."""
    chosen = of_study(lines, "minimal_flops")
    found = newest_by(chosen, "experiment", "metric")
    out = ["| experiment | batch | TFLOP per step | minimum | ratio |", "|---|---|---|---|---|"]
    for name, batch in {x["experiment"]: x["n"] for x in chosen}.items():
        ours, minimum, ratio = (
            found[name, m] for m in ("flops_per_step", "minimal_flops_per_step", "flops_over_minimal")
        )
        out.append(f"| `{name}` | {batch:,} | {ours / 1e12:.3f} | {minimum / 1e12:.3f} | {ratio:.3f} |")
    return "\n".join(out if chosen else [*out, "| not run | | | | |"])


def peers(lines: list[Line]) -> str:
    """Render a step of ours and of another code's on equal networks."""
    codes = {
        "biggan": "BigGAN-PyTorch, CIFAR-10",
        "bigbigan": "BigBiGAN-PyTorch, widths 4·64",
        "inception": "torch-fidelity, features for FID",
    }
    chosen = of_study(lines, "peers")
    head = ("seconds for 64 images", "peak memory, MiB", "GFLOP per image", "parameters (of G)")
    out = [f"| code | device | | {' | '.join(head)} |", "|---|---|---|---|---|---|---|"]
    for peer, device, precision in dict.fromkeys(map(_peer, chosen)):
        found = {x["metric"]: x for x in chosen if _peer(x) == (peer, device, precision)}
        for side in ("theirs", "ours"):
            network = "parameters_G" if f"parameters_G_{side}" in found else "parameters_network"
            names = ("seconds_per_step", "peak_memory_mib", "gflop_per_image", network)
            cells = [f"{found[f'{m}_{side}']['value']:,.{n}f}" for m, n in zip(names, (2, 0, 1, 0), strict=True)]
            out.append(f"| {codes[peer]} | {device}, {precision} | {side} | {' | '.join(cells)} |")
        speed, memory = (cell(found[m], 2) for m in ("speed_over_theirs", "memory_over_theirs"))
        out.append(f"| | | | ours is {speed} times as fast | {memory} of its memory | | |")
    return "\n".join(out if chosen else [*out, "| not run | | | | | | |"])


def _peer(x: Line) -> tuple[str, str, str]:
    return x["settings"]["peer"], x["device"], x["settings"].get("training.precision", "float32")


def full_size_table(lines: list[Line]) -> str:
    """Render time and memory of one real step of full-size rows."""
    chosen = of_study(lines, "full_size")
    found, devices = newest_by(chosen, "experiment", "metric"), {x["experiment"]: x["device"] for x in chosen}
    out = ["| experiment | device | seconds | peak memory, GiB | loss of D |", "|---|---|---|---|---|"]
    for name, device in devices.items():
        seconds, memory, loss = (found[name, m] for m in ("seconds_per_step", "peak_memory_mib", "loss_d"))
        out.append(f"| `{name}` | {device} | {seconds:.0f} | {memory / 1024:.1f} | {loss:.2f} |")
    return "\n".join(out if devices else [*out, "| not run | | | | |"])


def reversible_table(lines: list[Line]) -> str:
    """Render memory and time of reversible blocks, with activations kept and recomputed."""
    chosen = of_study(lines, "reversible")
    found = newest_by(chosen, "metric", "encoder.keep_activations", "blocks")
    out = ["| blocks | kept: MiB, s | recomputed: MiB, s | time |", "|---|---|---|---|"]
    for blocks in sorted({x["settings"]["blocks"] for x in chosen}):
        (m0, t0), (m1, t1) = (
            [found.get((m, keep, blocks), float("nan")) for m in ("extra_memory_mib", "forward_backward_seconds")]
            for keep in (True, False)
        )
        out.append(f"| {blocks} | {m0:,.0f}, {t0:.2f} | {m1:,.0f}, {t1:.2f} | ×{t1 / t0:.2f} |")
    return "\n".join(out)
