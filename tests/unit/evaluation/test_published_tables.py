"""Published tables beside ours: what is compared, how seeds are summed up, and what was not run says so."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.data.batches import Batches
from bigbigan.errors import UserError
from bigbigan.evaluation import published_tables as published
from bigbigan.evaluation.published_tables import TABLES, fill
from bigbigan.evaluation.table_formats import FORMATS
from bigbigan.evaluation.training_budget import budget
from bigbigan.experiments import find
from bigbigan.training.state import TrainingState
from bigbigan.training.step import training_step
from reproduction import common
from reproduction.train import table as train_table


def line(experiment, value, metric="top1_table1_avepool", scale=32, seed=0, steps=600, dataset="mnist", **more):
    subject = "external" if ":" in experiment else "trained" if steps else "untrained"
    return {
        "study": "evaluation",
        "subject": subject,
        "images_seen": 384 * steps,
        "experiment": experiment if set(experiment) & set("/:") else f"table1/{experiment}",
        "metric": metric, "value": value, "scale": scale, "seed": seed, "steps": steps, "dataset": dataset,
        "split": "train_val", "settings": {},
    } | more  # fmt: skip


def ours(table, column):
    at = table.columns.index(column)
    return {experiment: cells[at].ours for _, experiment, cells in table.rows}


def test_table_1_has_all_rows_and_says_what_was_not_run():
    table = fill("1", [])
    assert len(table.rows) == 19
    ours_of = {experiment: [cell.ours for cell in cells] for _, experiment, cells in table.rows}
    assert ours_of.pop("table1/no_encoder") == ["not run", "not run", "–", "–", "–"]  # without E there is no accuracy
    assert {text for texts in ours_of.values() for text in texts} == {"not run"}
    for form in FORMATS.values():
        assert form(table).count("not run") == 5 * 19 - 3


def test_values_that_a_row_cannot_have_are_dashes():
    bigan = {experiment: [cell.ours for cell in cells] for _, experiment, cells in fill("bigan", []).rows}
    assert bigan["bigan/discriminator"] == ["not run", "not run", "–", "–", "–"]
    assert set(bigan["bigan/mnist"]) == {"not run"}
    table = {title: [cell.ours for cell in cells] for title, _, cells in fill("2", []).rows}
    assert table["BiGAN, AlexNet, conv3"] == ["not run", "not run", "–", "–", "–"]
    assert set(table["Motion Segmentation (MS), ResNet-101"]) == {"–"}


def test_seeds_are_summed_up_as_median_and_mean():
    lines = [line("base", v, seed=s) for s, v in enumerate([10.0, 20.0, 60.0])] + [line("base", 30.0, seed=2)]
    assert ours(fill("1", lines, 32), "Cls.")["table1/base"] == "20.00 (20.00 ± 10.00)"


def test_a_column_shows_one_metric_data_set_and_length():
    lines = [line(row, 50.0 + i) for i, row in enumerate(("base", "revnet", "low_res_g"))]
    lines += [line("base", 99.0, steps=900), line("revnet", 98.0, dataset="cifar10")]
    lines += [line("base", 97.0, metric="top1_linear_avepool"), line("base", 96.0, scale=64)]
    table = fill("1", lines, 32)
    shown = ours(table, "Cls.")
    assert [shown[f"table1/{row}"] for row in ("base", "revnet", "low_res_g")] == ["50.00", "51.00", "52.00"]
    assert table.notes[0] == "Cls.: ours is top1_table1_avepool on mnist (train_val), 600 steps"
    assert ours(fill("1", lines, 64), "Cls.")["table1/base"] == "96.00"
    assert ours(fill("1", lines), "Cls.")["table1/base"] == "not run"


def test_cls_of_table_1_is_by_the_paper_s_classifier_alone():
    others = ["top1_linear_avepool_10perclass", "top1_linear_avepool", "top1_sweep5k_avepool"]
    lines = [line("base", 40.0 + i, metric, split="test") for i, metric in enumerate(others)]
    table = fill("1", lines, 32)
    assert ours(table, "Cls.")["table1/base"] == "not run"
    assert ours(table, "10 labels per class")["table1/base"] == "40.00"
    table = fill("1", [*lines, line("base", 50.0)], 32)
    assert ours(table, "Cls.")["table1/base"] == "50.00"


def test_the_row_of_1m_steps_is_a_run_twice_as_long():
    def run(name, steps, value):
        return line(f"table3/{name}", value, "fid10k_test_mnist-cnn", steps=steps, split="test")

    high = "bigbigan_high_res_e_sl"
    lines = [run("biggan_sl", 600, 30.0), run("bigbigan_sl", 600, 20.0), run(high, 600, 19.0)]
    shown = lambda table: [cells[2].ours for _, _, cells in table.rows]  # noqa: E731
    assert shown(fill("3", lines, 32)) == ["30.00", "not run", "20.00", "19.00", "not run"]
    table = fill("3", [*lines, run(high, 1200, 17.0), run(high, 1800, 99.0)], 32)
    assert shown(table) == ["30.00", "not run", "20.00", "19.00", "17.00"]
    assert "600 steps, BigBiGAN High Res E + SL, 1M steps: 1,200 steps" in table.notes[0]
    assert shown(fill("3", lines[-1:], 32)) == ["not run"] * 3 + ["19.00", "not run"]  # alone it is the shorter row's


def test_a_column_without_published_numbers_is_shown_once():
    head = FORMATS["markdown"](fill("bigan", [])).splitlines()[2]
    assert head.startswith("|  | 1-NN | ours | untrained (ours) | 1-NN on E(x) | ours |")


def test_changed_settings_are_reported():
    table = fill("1", [line("base", 1.0, settings={"training.batch_size": 64})], 32)
    assert "training.batch_size=64" in table.notes[0]


def test_of_equally_many_rows_those_begun_last_are_shown():
    first = [line(row, 1.0, settings={"optimizer.lr_g": 1.0}) for row in ("base", "revnet")]
    then = [line(row, 2.0, settings={"optimizer.lr_g": 2.0}) for row in ("base", "revnet")]
    assert ours(fill("1", first + then, 32), "Cls.")["table1/base"] == "2.00"
    assert ours(fill("1", then + first, 32), "Cls.")["table1/base"] == "1.00"
    assert ours(fill("1", [*first, *then[:1]], 32), "Cls.")["table1/base"] == "1.00"  # more rows


def test_how_many_classes_the_data_has_parts_no_rows():
    settings = {"training.batch_size": 32}
    lines = [line("base", 1.0, settings=settings), line("revnet", 2.0, settings=settings | {"data.classes": 10})]
    assert ours(fill("1", lines, 32), "Cls.")["table1/revnet"] == "2.00"


def test_untrained_lines_do_not_count():
    assert ours(fill("1", [line("base", 1.0, steps=0)], 32), "Cls.")["table1/base"] == "not run"


def test_the_rank_correlation_is_of_the_rows_that_were_run():
    order = ["uniform_prior", "deterministic_encoder", "base", "revnet"]  # by published accuracy
    table = fill("1", [line(row, float(i)) for i, row in enumerate(order)], 32)
    assert any("over 4 rows 1.00, p = 0.042" in note for note in table.notes)  # one of 24 orders
    table = fill("1", [line(row, float(-i)) for i, row in enumerate(order)], 32)
    assert any("over 4 rows -1.00, p = 1" in note for note in table.notes)
    assert not any("rank" in note for note in fill("1", [line(r, 1.0) for r in order[:2]], 32).notes)


def test_the_rank_correlation_leaves_out_rows_that_do_not_compare():
    rows = ("base", "no_unaries", "low_res_g", "high_res_g")  # published FID: 31.19, 42.92, 15.82, 38.58
    lines = [line(row, value, "fid10k_train_mnist-cnn") for row, value in zip(rows, (1.0, 3.0, 9.0, 2.0), strict=True)]
    notes = fill("1", lines, 32).notes
    assert any(note.startswith("FID: rank correlation of published and ours over 3 rows 1.00") for note in notes)


def test_external_encoders_are_rows_of_table_2():
    lines = [
        line("table1/resnet_up_encoder_lr", 60.0, "top1_sweep5k_avepool", scale=0, split="test"),
        line("timm:resnet50", 70.0, "top1_sweep5k_avepool", scale=0, steps=0, split="test"),
        line("timm:resnet50", 20.0, "top1_sweep5k_pixels", scale=0, steps=0, split="test", subject="pixels"),
        line("timm:resnet18", 70.0, "top1_linear_avepool", scale=0, steps=0, split="test"),
        line("models/encoder", 65.0, "top1_sweep5k_avepool", scale=0, split="test", subject="external"),
    ]
    shown = ours(fill("2", lines), "AvePool top-1")
    assert shown["models/encoder"] == "65.00"  # no experiment of ours
    assert "timm:resnet18" not in shown  # measured by another protocol
    assert shown["timm:resnet50"] == "70.00"
    assert shown["table1/resnet_up_encoder_lr"] == "60.00"


def test_table_2_compares_at_equal_numbers_of_images_seen():
    sweep, common = "top1_sweep5k_avepool", {"split": "test", "settings": {"training.batch_size": 32}}
    lines = [
        line("table1/base", 40.0, sweep, steps=66, images_seen=6336, **common),
        line("pretext/rotation", 42.0, sweep, steps=198, images_seen=6336, **common),
        line("pretext/cpc", 41.0, sweep, steps=198, images_seen=6336, **common),
        line("pretext/cpc", 50.0, sweep, steps=900, images_seen=28_800, **common),
        line("pretext/cpc", 20.0, sweep, steps=0, images_seen=0, **common),
    ]
    table = fill("2", lines, 32)
    shown = ours(table, "AvePool top-1")
    assert [shown[e] for e in ("table1/base", "pretext/rotation", "pretext/cpc")] == ["40.00", "42.00", "41.00"]
    assert any("6,336 images seen" in note for note in table.notes)
    assert shown["pretext/exemplar"] == "not run"
    assert ("Motion Segmentation (MS), ResNet-101", None) in [row[:2] for row in table.rows]  # published alone


def test_an_experiment_of_one_size_is_shown_in_a_scaled_table():
    lines = [
        line("bigan/imagenet", 31.5, "top1_sweep5k_conv3", scale=0),
        line("table1/base", 30.0, "top1_sweep5k_avepool"),
    ]
    table = fill("2", lines, 32)
    assert ours(table, "AvePool top-1")["bigan/imagenet"] == "31.50"
    assert "BiGAN, AlexNet, conv3: not scaled down" in table.notes
    assert not any("not scaled down" in note for note in fill("2", lines[:1]).notes)


def test_table_2_shows_images_seen_and_updates_of_e():
    sweep = "top1_sweep5k_avepool"
    common = {"split": "test", "settings": {"training.batch_size": 32}}
    fast = common["settings"] | {"encoder.lr_multiplier": 5.0}
    lines = [
        line("table1/base", 20.0, sweep, steps=0, images_seen=0, **common),
        line("table1/base", 40.0, sweep, steps=66, images_seen=6336, **common),
        line("table1/base", 44.0, sweep, steps=198, images_seen=19_008, **common),  # as many updates as the others
        line("table1/base", 47.0, sweep, steps=66, images_seen=6336, split="test", settings=fast),
        line("table1/base", 51.0, sweep, steps=500, images_seen=48_000, **common),  # another budget
        line("table1/base", 52.0, sweep, steps=66, images_seen=6336, dataset="other", **common),
        line("pretext/rotation", 42.0, sweep, steps=198, images_seen=6336, **common),
        line("pretext/cpc", 41.0, sweep, steps=198, images_seen=6336, **common),
    ]
    table = fill("2", lines, 32)
    title = "BigBiGAN, ResNet-50 at 128 px (Base)"
    found = [
        (row[0], budget, row[2][0].values)
        for row, budget in zip(table.rows, table.budgets, strict=True)
        if row[1] == "table1/base"
    ]
    assert found == [
        (title, (6336, 66, 2112), [40.0]),
        (f"{title}, 198 updates of E", (19_008, 198, 6336), [44.0]),
        (f"{title}, encoder.lr_multiplier=5.0", (6336, 66, 2112), [47.0]),
    ]
    rows = {row["row"]: row for row in table.as_dict()["rows"]}
    assert rows["Rotation, RevNet-50 ×4"]["budget"] == {
        "images_seen": 6336, "updates": 198, "encoder_images": 6336
    }  # fmt: skip
    shown = FORMATS["markdown"](table)
    assert "|  | images seen | updates of E | AvePool top-1 |" in shown
    assert f"| {title} | 6,336 (2,112 by E) | 66 |" in shown
    assert "| Rotation, RevNet-50 ×4 | 6,336 | 198 |" in shown
    assert "images seen | updates" not in FORMATS["markdown"](fill("1", lines, 32))


@pytest.mark.parametrize("name", ["table1/base", "pretext/rotation"])
def test_e_is_updated_once_a_step_by_one_batch(name):
    """What the budgets of Table 2 rest on, counted by E's optimiser and by the images that gave E a gradient."""
    narrow = ["encoder.blocks=1", "encoder.widths=[8,8]", "training.batch_size=4"]
    more = ["discriminator.channels=[8,8,8,8]", "generator.channels=[8,8,8,8]", "latent.dim=4"]
    config = override(find(name).config(32), [*narrow, *(more if name == "table1/base" else [])])
    state = TrainingState(config, torch.device("cpu"))
    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    entered = []

    def learns(module, inputs, output):
        if output.requires_grad:
            entered.append(len(inputs[0]))

    state.networks.E.trunk.register_forward_hook(learns)
    for _ in range(2):
        training_step(state, Batches(pixels, 4, 0))
    updates = {float(v) for k, v in state.moments().items() if k.startswith("E.") and k.endswith(".step")}
    found = budget(line(name, 1.0, steps=2, images_seen=state.images_seen, settings={"training.batch_size": 4}))
    assert updates == {found.updates} == {2}
    views = 4 if name == "pretext/rotation" else 1  # of each image
    assert sum(entered) == views * found.encoder_images
    assert found.images_seen == (24 if name == "table1/base" else 8)


def test_e_may_be_updated_more_than_once_in_a_step():
    settings = {"training.batch_size": 4, "training.e_steps": 2}
    found = budget(line("table1/base", 1.0, steps=10, images_seen=120, settings=settings))
    assert (found.updates, found.encoder_images) == (20, 80)


def test_the_budget_counts_the_updates_of_the_experiment():
    found = budget(line("small/cifar10_16px", 1.0, steps=100, images_seen=25_600, scale=0))
    assert found == (25_600, 200, 12_800)


def test_table_2_can_be_trained_at_either_budget(monkeypatch, tmp_path):
    """reproduction/train/table.py 2 --equal"""
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(common, "bigbigan", lambda *words: commands.append(words))
    steps = {}
    for equal in ("images", "updates"):
        arguments = ["2", "base", "rotation", "imagenet", "--data", "digits", "--steps", "200", "--equal", equal]
        assert train_table.main(arguments) == 0
        studies = {c[c.index("--study") + 1] for c in commands if c[0] == "evaluate"}
        assert studies == {"table2" if equal == "images" else "table2_updates"}
        trains = [c for c in commands if c[0] == "train"]
        runs = {Path(c[c.index("--out") + 1]): c[c.index("--steps") + 1] for c in trains}
        assert {run.parent for run in runs} == {Path("runs/table2" if equal == "images" else "runs/table2-updates")}
        steps[equal] = {run.name: count for run, count in runs.items()}
        commands.clear()
    assert steps == {
        "images": {"base_32": "200", "rotation_32": "600", "imagenet": "600"},
        "updates": {"base_32": "200", "rotation_32": "200", "imagenet": "200"},
    }
    assert train_table.main(["1", "--data", "x", "--steps", "2", "--equal", "updates"]) == 2


@pytest.mark.parametrize(
    ("scale", "settings", "steps"),
    [
        (16, [], {"imagenet": 150}),  # 3 · 64 images a step, over 128
        (32, [], {"rotation": 300, "imagenet": 300}),  # 3 · 128 over 128
        (64, [], {"rotation": 300, "imagenet": 600}),  # 3 · 256 over 256 and over 128
        (64, ["training.batch_size=64"], {"rotation": 300, "imagenet": 300}),
        (32, ["training.e_steps=2"], {"resnet_up_encoder_lr": 100}),
    ],
)
def test_rows_of_table_2_see_equally_many_images(scale, settings, steps, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(common, "bigbigan", lambda *words: commands.append(words))
    words = ["2", "base", *steps, "--data", "digits", "--steps", "100", "--scale", str(scale)]
    assert train_table.main([*words, *(["--set", *settings] if settings else [])]) == 0
    trains = [c for c in commands if c[0] == "train"]
    found = {c[1].split("/")[1]: int(c[c.index("--steps") + 1]) for c in trains}
    assert found == {"base": 100} | steps


def test_1nn_of_other_numbers_of_references_is_not_mixed():
    seeds = [
        line("bigan/mnist", 95.0, "knn1_euclidean_avepool", scale=0, seed=1,
             protocol={"references": 50_000, "train_images": 60_000}, images_seen=6_000_000),
        line("bigan/mnist", 96.0, "knn1_euclidean_avepool", scale=0, seed=2,
             protocol={"references": 60_000}, images_seen=6_000_000),
    ]  # fmt: skip
    table = fill("bigan", seeds)
    assert ours(table, "1-NN")["bigan/mnist"] == "96.00"
    assert "60,000 references" in table.notes[0]
    table = fill("bigan", seeds[::-1])
    assert ours(table, "1-NN")["bigan/mnist"] == "95.00"
    assert "(100 epochs), 50,000 references" in table.notes[0]


def test_lines_of_some_of_the_images_are_not_mixed_with_others():
    """evaluate --max-images"""
    some = {"references": 800, "train_images": 800}
    lines = [
        line("bigan/mnist", 20.0, "knn1_euclidean_avepool", scale=0, seed=1, protocol=some, images_seen=1_000_000),
        line("bigan/mnist", 95.0, "knn1_euclidean_avepool", scale=0, seed=2,
             protocol={"references": 800}, images_seen=1_000_000),
    ]  # fmt: skip
    for order in (lines, lines[::-1]):
        table = fill("bigan", order)
        assert ours(table, "1-NN")["bigan/mnist"] == f"{order[-1]['value']:.2f}"
        assert ("epochs" in table.notes[0]) == (order[-1] is lines[1])


def test_fid_by_classifiers_with_other_weights_is_not_mixed():
    fid = [
        line(row, value, "fid10k_train_mnist-cnn", protocol={"network": network})
        for row, value, network in (("base", 2.5, "one"), ("revnet", 3.0, "one"), ("resnet101", 9.0, "two"))
    ]
    shown = ours(fill("1", fid, 32), "FID")
    assert [shown[f"table1/{row}"] for row in ("base", "revnet", "resnet101")] == ["2.50", "3.00", "not run"]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_table_is_rendered_in_every_form(name, tmp_path, capsys):
    for form in FORMATS:
        assert main(["table", name, "--results", str(tmp_path), "--format", form]) == 0
        out = capsys.readouterr().out
        assert all(row.title in out.replace("&amp;", "&") for row in TABLES[name].published.rows)
    assert main(["table", name, "--results", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["row"] for row in rows] == [row.title for row in TABLES[name].published.rows]


def test_the_cli_reads_the_result_lines_of_a_folder(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps(line("base", 12.34)) + "\n")
    assert main(["table", "1", "--scale", "32", "--results", str(tmp_path)]) == 0
    assert "12.34" in capsys.readouterr().out


def test_without_a_scale_the_table_shows_full_size_or_the_scale_with_most_results(tmp_path, capsys):
    def shown(*options):
        assert main(["table", "1", "--results", str(tmp_path), *options]) == 0
        return capsys.readouterr().out

    file = tmp_path / "a.jsonl"
    scaled = [line("base", 12.34), line("base", 23.45, scale=16), line("revnet", 34.56, scale=16)]
    file.write_text("".join(json.dumps(x) + "\n" for x in [*scaled, line("timm:vit", 45.67, scale=0)]))
    assert "ours at scale 16" in shown()
    assert "34.56" in shown()
    assert "few results at scale 32; more with --scale 16" in shown("--scale", "32")
    assert "12.34" in shown("--scale", "32")
    assert "no results at scale 64; more with --scale 16" in shown("--scale", "64")
    assert "no results at full size; more with --scale 16" in shown("--scale", "0")
    with file.open("a") as more:
        more.write(json.dumps(line("base", 56.78, scale=0)) + "\n")
    assert "56.78" in shown()
    assert "ours at scale" not in shown()


def test_mistakes_are_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match="expected one of 1, 2, 3, bigan"):
        fill("4", [])
    assert main(["table", "1", "--results", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_bigan_table_scores_d_of_the_gan_and_the_untrained():
    more = {"scale": 0, "protocol": {"references": 60_000}}
    lines = [
        line("bigan/mnist", 97.0, "knn1_euclidean_avepool", steps=23_450, images_seen=3_001_600, **more),
        line("bigan/mnist", 96.8, "knn1_euclidean_avepool", steps=0, images_seen=0, **more),
        line("bigan/discriminator", 96.0, "knn1_euclidean_discriminator", steps=23_450, images_seen=3_001_600, **more),
        line("bigan/mnist", 88.0, "knn1_euclidean_avepool", steps=9, dataset="fashion-mnist", images_seen=1, **more),
    ]
    elsewhere = {"steps": 9, "dataset": "fashion-mnist", "images_seen": 1, **more}
    lines += [line(f"bigan/autoencoder_l{n}", 85.0, "knn1_euclidean_avepool", **elsewhere) for n in (1, 2)]
    table = fill("bigan", lines)  # of MNIST, though more rows were run on the other
    assert ours(table, "1-NN") | {"bigan/mnist": "97.00", "bigan/discriminator": "96.00"} == ours(table, "1-NN")
    assert ours(table, "untrained")["bigan/mnist"] == "96.80"
    assert ours(table, "untrained")["bigan/discriminator"] == "not run"
    assert any("23,450 steps (50 epochs)" in note for note in table.notes)
    assert "D: measured on discriminator instead of avepool" in table.notes
    assert ours(fill("bigan", lines, dataset="fashion-mnist"), "1-NN")["bigan/mnist"] == "88.00"
    assert [row[0] for row in table.rows] == ["BiGAN", "D", "LR", "JLR", "AE (l2)", "AE (l1)"]


def test_untrained_networks_of_other_sizes_do_not_share_a_column():
    common = {
        "subject": "untrained", "dataset": "rows", "split": "test", "metric": "top1_linear_avepool", "protocol": {},
        "length": 0, "row": "Base",
    }  # fmt: skip
    same, trained_otherwise, other = (
        common | {"value": value, "settings": settings}
        for value, settings in (
            (80.0, {}), (81.0, {"optimizer.lr_g": 0.1, "encoder.lr_multiplier": 5.0}), (50.0, {"encoder.widths": [16]})
        )
    )  # fmt: skip
    column = SimpleNamespace(metrics=["top1_linear_avepool"])
    found = published._fullest(column, [other, same, trained_otherwise])
    assert sorted(line["value"] for line in found) == [80.0, 81.0]
