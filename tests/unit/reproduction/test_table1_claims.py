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
    lines += [line("low_res_g", FID, 1.0), line("high_res_e", FID, 2.0)]
    found = {row: (cells[0], cells[3]) for row, cells in rows_of(lines).items()}
    assert found["Small G (32)"] == ("Base", "-4.51, ours -11.00: **agrees**")
    assert found["Uniform P_z"] == ("Base", "-2.99, ours +4.00: **disagrees**")
    assert found["High Res E (256)"] == ("Base", "+2.70, ours +9.00: **agrees**")
    assert found["RevNet ×4"] == ("High Res E (256)", "+6.35, ours +10.00: **agrees**")
    # Published -0.32, of deviations 0.13 and 0.28 over three runs: two standard errors are 0.356.
    assert found["z Unary Only"][1] == "-0.32, ours -31.00: no claim"
    assert found["No Unaries (BiGAN)"][1] == "-1.39, ours -0.50: undecided"
    assert rows_of(lines)["Low Res G (64)"][2] == "not comparable"
    assert "Base" not in found
    assert "Small G (64)" not in found


def test_the_deviation_is_pooled_over_all_rows_with_seeds():
    lines = [line("base", CLS, value, seed) for seed, value in enumerate((39.0, 39.0, 42.0))]  # deviation sqrt(3)
    lines += [line("high_res_e", CLS, value, seed) for seed, value in enumerate((33.0, 36.0, 39.0))]  # pooled: sqrt(6)
    lines += [line("uniform_prior", CLS, 34.4)]
    # Next to the mean of Base, 40; two standard errors are 2 sqrt(6 + 6/3) = 5.66.
    assert rows_of(lines)["Uniform P_z"][3] == "-2.99, ours -5.60: undecided"
    lines[-1]["value"] = 34.3
    assert rows_of(lines)["Uniform P_z"][3] == "-2.99, ours -5.70: **agrees**"


def test_published_rows_that_were_run_once_have_the_deviation_of_their_group():
    lines = [line(row, CLS, 40.0 + seed, seed) for row in ("high_res_e", "high_res_g") for seed in range(3)]
    lines += [line("high_res_e", FID, 3.0), line("revnet_x4", FID, 4.0)]
    found = rows_of(lines)
    # Deviations 0.30, 0.09, 0.18 and 0.15 are 0.20 pooled; with 0.30 / sqrt(3), two standard errors are 0.52.
    assert found["High Res G (256)"][3] == "+0.69, ours +0.00: undecided"
    # 0.13, 0.06 and 0.44 (not that of Low Res G, which does not compare) are 0.27: two standard errors are 0.55.
    assert found["RevNet ×4"][2] == "+0.29, ours +1.00: no claim"


def test_with_one_seed_only_signs_are_shown():
    found = rows_of([line("base", FID, 3.0), line("no_unaries", FID, 4.0), line("small_g_32", FID, 2.0)])
    assert found["No Unaries (BiGAN)"][2] == "+11.73, ours +1.00: same sign"
    assert found["Small G (32)"][2] == "+216.11, ours -1.00: other sign"
    assert found["Small G (32)"][1] == "not run"


def test_small_differences_are_undecided():
    lines = [line("base", CLS, value, seed) for seed, value in enumerate((40.0, 44.0))]
    assert rows_of([*lines, line("small_g_32", CLS, 40.0)])["Small G (32)"][3] == "-4.51, ours -2.00: undecided"
