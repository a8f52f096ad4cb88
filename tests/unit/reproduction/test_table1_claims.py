"""Each row of Table 1 is compared with the row that it changes, and the verdict knows the noise."""

from reproduction.render.table1_claims import claims

CLS, FID = "top1_table1_avepool", "fid10k_train_mnist-cnn"


def line(row, metric, value, seed=0):
    return {
        "study": "table1", "subject": "trained", "experiment": f"table1/{row}", "scale": 16, "settings": {},
        "dataset": "cifar10", "split": "train_val", "metric": metric, "value": value, "seed": seed, "steps": 9,
        "images_seen": 9, "protocol": {},
    }  # fmt: skip


def rows_of(lines):
    rows = [text.strip("| ").split(" | ") for text in claims(lines).splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_a_difference_is_decided_by_the_seeds_of_base():
    lines = [line("base", CLS, value, seed) for seed, value in enumerate((40.0, 41.0, 42.0))]
    lines += [line("small_g_32", CLS, 30.0), line("uniform_prior", CLS, 45.0), line("no_unaries", CLS, 40.5)]
    lines += [line("high_res_e", CLS, 50.0), line("revnet_x4", CLS, 60.0), line("z_unary_only", CLS, 10.0)]
    found = {row: (cells[0], cells[3]) for row, cells in rows_of(lines).items()}
    assert found["Small G (32)"] == ("Base", "-4.51, ours -11.00: **agrees**")
    assert found["Uniform P_z"] == ("Base", "-2.99, ours +4.00: **disagrees**")
    assert found["High Res E (256)"] == ("Base", "+2.70, ours +9.00: **agrees**")
    assert found["RevNet ×4"] == ("High Res E (256)", "+6.35, ours +10.00: **agrees**")
    assert found["z Unary Only"][1] == "-0.32, ours -31.00: no claim"  # ± 0.13 and ± 0.28
    assert found["No Unaries (BiGAN)"][1] == "-1.39, ours -0.50: no claim"
    assert "Base" not in found
    assert "Small G (64)" not in found


def test_the_two_groups_of_rows_have_deviations_of_their_own_pooled_over_rows():
    lines = [line("base", CLS, value, seed) for seed, value in enumerate((39.0, 40.0, 41.0))]
    lines += [line("small_g_32", CLS, value, seed) for seed, value in enumerate((33.0, 36.0, 39.0))]  # pooled: sqrt(5)
    lines += [line("uniform_prior", CLS, 35.5)]
    assert rows_of(lines)["Uniform P_z"][3] == "-2.99, ours -4.50: undecided"  # less than 2 sqrt(5 + 5/3)
    lines[-1]["value"] = 34.5
    assert rows_of(lines)["Uniform P_z"][3] == "-2.99, ours -5.50: **agrees**"
    lines += [line("high_res_e", CLS, value, seed) for seed, value in enumerate((49.9, 50.0, 50.1))]
    lines += [line("revnet_x2", CLS, 50.5)]
    assert rows_of(lines)["RevNet ×2"][3] == "+3.60, ours +0.50: **agrees**"


def test_with_one_seed_only_signs_are_shown():
    found = rows_of([line("base", FID, 3.0), line("no_unaries", FID, 4.0), line("small_g_32", FID, 2.0)])
    assert found["No Unaries (BiGAN)"][2] == "+11.73, ours +1.00: same sign"
    assert found["Small G (32)"][2] == "+216.11, ours -1.00: other sign"
    assert found["Small G (32)"][1] == "not run"


def test_small_differences_are_undecided():
    lines = [line("base", CLS, value, seed) for seed, value in enumerate((40.0, 44.0))]
    assert rows_of([*lines, line("small_g_32", CLS, 40.0)])["Small G (32)"][3] == "-4.51, ours -2.00: undecided"
