"""List the published numbers, as printed. Experiments, `bigbigan list` and `table`, docs and tests read them from here.

1, 2, 3   Donahue & Simonyan 2019, "Large Scale Adversarial Representation Learning", Tables 1 to 3
bigan     Donahue, Krähenbühl & Darrell 2017, "Adversarial Feature Learning", Table 1
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "PublishedRow", "PublishedTable"]


@dataclass(frozen=True)
class PublishedRow:
    """Hold a row of a published table.

    Attributes:
        title: the method as printed.
        experiment: the name of our experiment; None if there is none.
        numbers: as printed, in the order of the table's columns; "-" if the table has a dash. Numbers are missing for
            columns at the end that the source does not have for this row.
        feature: the feature that the accuracies are measured on, as our metrics name it.
        length: how many times as long as the table's other rows it was trained.
        incomparable: columns whose number does not compare with the other rows, as the table's notes say.
    """

    title: str
    experiment: str | None
    numbers: tuple[str, ...] = ()
    feature: str = "avepool"
    length: int = 1
    incomparable: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedTable:
    """Hold a published table.

    Attributes:
        name: what rows are cited by, such as "Table 1".
        title: what it shows.
        columns: names of the numbers of a row.
        rows: as in the source, from top to bottom.
        notes: what was measured, and how runs were selected.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]

    def numbers(self, row: PublishedRow) -> dict[str, str]:
        """Return the numbers of a row by column, without those printed as a dash."""
        return {column: n for column, n in zip(self.columns, row.numbers, strict=False) if n != "-"}


_Row = PublishedRow

TABLE_1 = PublishedTable(
    "Table 1",
    "the systems, on ImageNet",
    ("IS", "FID", "Cls."),
    (
        _Row("Base", "table1/base", ("22.66 ± 0.18", "31.19 ± 0.37", "48.10 ± 0.13")),
        _Row("Deterministic E", "table1/deterministic_encoder", ("22.79 ± 0.27", "31.31 ± 0.30", "46.97 ± 0.35")),
        _Row("Uniform P_z", "table1/uniform_prior", ("22.83 ± 0.24", "31.52 ± 0.28", "45.11 ± 0.93")),
        _Row("x Unary Only", "table1/x_unary_only", ("23.19 ± 0.28", "31.99 ± 0.30", "47.74 ± 0.20")),
        _Row("z Unary Only", "table1/z_unary_only", ("19.52 ± 0.39", "39.48 ± 1.00", "47.78 ± 0.28")),
        _Row("No Unaries (BiGAN)", "table1/no_unaries", ("19.70 ± 0.30", "42.92 ± 0.92", "46.71 ± 0.88")),
        _Row("Small G (32)", "table1/small_g_32", ("3.28 ± 0.18", "247.30 ± 10.31", "43.59 ± 0.34")),
        _Row("Small G (64)", "table1/small_g_64", ("19.96 ± 0.15", "38.93 ± 0.39", "47.54 ± 0.33")),
        _Row("No E (GAN)", "table1/no_encoder", ("23.56 ± 0.37", "30.91 ± 0.23", "-")),
        _Row("High Res E (256)", "table1/high_res_e", ("23.45 ± 0.14", "27.86 ± 0.13", "50.80 ± 0.30")),
        _Row(
            "Low Res G (64)",
            "table1/low_res_g",
            ("19.40 ± 0.19", "15.82 ± 0.06", "47.51 ± 0.09"),
            incomparable=("FID",),
        ),
        _Row("High Res G (256)", "table1/high_res_g", ("24.70", "38.58", "51.49")),
        _Row("ResNet-101", "table1/resnet101", ("23.29", "28.01", "51.21")),
        _Row("ResNet ×2", "table1/resnet_x2", ("23.68", "27.81", "52.66")),
        _Row("RevNet", "table1/revnet", ("23.33 ± 0.09", "27.78 ± 0.06", "49.42 ± 0.18")),
        _Row("RevNet ×2", "table1/revnet_x2", ("23.21", "27.96", "54.40")),
        _Row("RevNet ×4", "table1/revnet_x4", ("23.23", "28.15", "57.15")),
        _Row("ResNet (↑ E LR)", "table1/resnet_up_encoder_lr", ("23.27 ± 0.22", "28.51 ± 0.44", "53.70 ± 0.15")),
        _Row("RevNet ×4 (↑ E LR)", "table1/revnet_x4_up_encoder_lr", ("23.08", "28.54", "60.15")),
    ),
    (
        "Published: mean ± standard deviation over three seeds; rows without ± were run once",
        "Published Cls.: top-1 accuracy of logistic regression on features of E, scored on train_val, 10,000 images of "
        "the training set",
        "Published numbers are of the step with the best Cls., those of No E (GAN) of the step with the best FID",
        "Low Res G (64): its FID is of 64-px images and does not compare with the other rows",
    ),
)

# A row for each network: its AvePool features, and its BN+CReLU features if the paper has them.
TABLE_2 = PublishedTable(
    "Table 2",
    "linear classification on frozen features, ImageNet",
    ("AvePool top-1", "AvePool top-5", "BN+CReLU top-1", "BN+CReLU top-5"),
    (
        _Row("BiGAN, AlexNet, conv3", "bigan/imagenet", ("31.0", "-"), feature="conv3"),
        _Row("Motion Segmentation (MS), ResNet-101", None, ("27.6", "48.3")),
        _Row("Exemplar (Ex), ResNet-101", "pretext/exemplar", ("31.5", "53.1")),
        _Row("Relative Position (RP), ResNet-101", "pretext/relative_position", ("36.2", "59.2")),
        _Row("Colorization (Col), ResNet-101", "pretext/colorization", ("39.6", "62.5")),
        _Row("Combination of MS+Ex+RP+Col, ResNet-101 (ours: Ex+RP+Col)", "pretext/combination", ("-", "69.3")),
        _Row("CPC, ResNet-101", "pretext/cpc", ("48.7", "73.6")),
        _Row("Rotation, RevNet-50 ×4", "pretext/rotation", ("55.4", "-")),
        _Row("Efficient CPC, ResNet-170", "pretext/efficient_cpc", ("61.0", "83.0")),
        _Row("BigBiGAN, ResNet-50", "table1/resnet_up_encoder_lr", ("55.4", "77.4", "56.6", "78.6")),
        _Row("BigBiGAN, RevNet-50 ×4", "table1/revnet_x4_up_encoder_lr", ("60.8", "81.4", "61.3", "81.9")),
    ),
    (
        "Published: on ImageNet's official validation set, BigBiGAN at the step with the best accuracy on train_val",
        "Combination: published of four tasks, ours of three, without motion segmentation",
        'AlexNet trained on all labels has 62.5 top-1 and 83 top-5 (from the blog post "Large Scale Adversarial '
        "Representation Learning Explained\", not in the paper's table)",
    ),
)

TABLE_3 = PublishedTable(
    "Table 3",
    "unsupervised image generation, ImageNet at 128 px",
    ("IS", "FID vs. train", "FID vs. val"),
    (
        _Row("BigGAN + SL, 500K steps", "table3/biggan_sl", ("20.4 (15.4 ± 7.57)", "-", "25.3 (71.7 ± 66.32)")),
        _Row(
            "BigGAN + Clustering, 500K steps",
            "table3/biggan_clustering",
            ("22.7 (22.8 ± 0.42)", "-", "23.2 (22.7 ± 0.80)"),
        ),
        _Row(
            "BigBiGAN + SL, 500K steps",
            "table3/bigbigan_sl",
            ("25.38 (25.33 ± 0.17)", "22.78 (22.63 ± 0.23)", "23.60 (23.56 ± 0.12)"),
        ),
        _Row(
            "BigBiGAN High Res E + SL, 500K steps",
            "table3/bigbigan_high_res_e_sl",
            ("25.43 (25.45 ± 0.04)", "22.34 (22.36 ± 0.04)", "22.94 (23.00 ± 0.15)"),
        ),
        _Row(
            "BigBiGAN High Res E + SL, 1M steps",
            "table3/bigbigan_high_res_e_sl",
            ("27.94 (27.80 ± 0.21)", "20.32 (20.27 ± 0.09)", "21.61 (21.62 ± 0.09)"),
            length=2,
        ),
    ),
    (
        "Published: median (mean ± standard deviation) of three runs, BigBiGAN at the step with the best FID vs. train",
        "BigGAN's published rows are results of Lucic et al. 2019",
    ),
)

BIGAN = PublishedTable(
    "BiGAN's table",
    "1-NN on permutation-invariant MNIST",
    ("1-NN", "1-NN on E(x)", "‖x − G(E(x))‖", "mismatched"),
    (
        # The last three are NNC_e, EGr and EGr_b after 400 epochs in the README of jeffdonahue/bigan, not in the table.
        _Row("BiGAN", "bigan/mnist", ("97.39", "92.10", "5.95", "9.60")),
        _Row("D", "bigan/discriminator", ("97.30",), feature="discriminator"),
        _Row("LR", "bigan/latent_regressor", ("97.44",)),
        _Row("JLR", "bigan/joint_latent_regressor", ("97.13",)),
        _Row("AE (l2)", "bigan/autoencoder_l2", ("97.58",)),
        _Row("AE (l1)", "bigan/autoencoder_l1", ("97.63",)),
    ),
    (
        "Published: the 1-NN column is the paper's; BiGAN's other three numbers are those of the README of "
        "jeffdonahue/bigan after 400 epochs",
    ),
)

PUBLISHED = {"1": TABLE_1, "2": TABLE_2, "3": TABLE_3, "bigan": BIGAN}
