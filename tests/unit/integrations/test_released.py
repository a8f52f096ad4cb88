"""The converter of the released generator, on variables of the names and shapes that its public ports use.

The real ones are not available. Their stand-in is written from this package's G by a mapping of this file's own,
and what they mean is computed by this file's own forward pass: numpy, images [N, H, W, C], as TensorFlow lays them out.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bigbigan import load
from bigbigan.cli import main
from bigbigan.config import override
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.models import build
from reproduction.external import convert_released
from tiny import write_npz

SMALL = [  # seed, and blocks to 32 px with attention at 16
    "generator.channels=[24,16,16,8]", "generator.attention=[16]", "generator.shared_dim=5", "latent.dim=12",
    "discriminator.channels=[8,8,8]", "discriminator.attention=[16]", "discriminator.mlp_width=8",
    "encoder.resolution=32", "encoder.stem=small", "encoder.widths=[8,8]", "encoder.blocks=1", "encoder.head_width=8",
    "log.standing_batches=2",
]  # fmt: skip
EPS = 1e-4  # of batch norm, in the ports


@pytest.fixture(scope="module")
def config():
    return override(find("table1/resnet_up_encoder_lr").config(), SMALL)


@pytest.fixture(scope="module")
def G(config):
    """A generator with every parameter and statistic away from where it starts, u near its singular vector."""
    G = build(config).G
    draw = torch.Generator().manual_seed(1)
    for p in G.parameters():
        p.data += torch.randn(p.shape, generator=draw) * (0.5 if p.ndim < 2 else 0.1)
    for _ in range(60):
        G(torch.randn(8, 12, generator=draw))
    G.requires_grad_(False)
    return G.eval()


def theirs(G) -> dict[str, np.ndarray]:
    """The variables of a module with this generator: averages as they are, and beside them raw ones of other values."""
    state = {name: t.numpy() for name, t in G.state_dict().items()}
    found: dict[str, np.ndarray] = {}

    def put(name: str, value: np.ndarray, averaged: bool = True) -> None:
        name = f"GenEncWrapper/Generator/{name}"
        found[name] = value + 1 if averaged else value
        if averaged:
            found[f"{name}/ema_0.9999"] = value

    def normalised(name: str, layer: str, matrix: np.ndarray, u: np.ndarray) -> None:
        put(f"{name}/w", matrix)
        put(f"{name}/u0", u[None], averaged=False)
        put(f"{name}/u1", np.zeros((1, matrix.size // len(u))), averaged=False)
        if f"{layer}.bias" in state and not layer.startswith("seed"):
            put(f"{name}/b", state[f"{layer}.bias"])

    def conv(name: str, layer: str) -> None:
        normalised(name, layer, np.einsum("oihw->hwio", state[f"{layer}.weight"]), state[f"{layer}.u"])

    def batch_norm(name: str, layer: str) -> None:
        put(f"{name}/accumulated_mean", state[f"{layer}.running_mean"], averaged=False)
        put(f"{name}/accumulated_var", state[f"{layer}.running_var"], averaged=False)
        put(f"{name}/accumulation_counter", np.float32(1), averaged=False)

    put("linear/w", state["shared.weight"])
    width = G.channels[0]
    by_place = [c * 16 + place for place in range(16) for c in range(width)]  # H, W, C of what we keep as C, H, W
    normalised("GenZ/G_linear", "seed", state["seed.weight"][by_place].T, state["seed.u"][by_place])
    put("GenZ/G_linear/b", state["seed.bias"][by_place])
    for i in range(len(G.blocks)):
        block = "GBlock" if i == 0 else f"GBlock_{i}"
        conv(f"{block}/conv0", f"blocks.{i}.conv1")
        conv(f"{block}/conv1", f"blocks.{i}.conv2")
        conv(f"{block}/conv_sc", f"blocks.{i}.skip")
        for name, layer in ((f"{block}/BatchNorm", f"blocks.{i}.norm1"), (f"{block}/BatchNorm_1", f"blocks.{i}.norm2")):
            for kind, part in (("scale", "gain"), ("offset", "bias")):
                normalised(f"{name}/{kind}", "", state[f"{layer}.{part}.weight"].T, state[f"{layer}.{part}.u"])
            batch_norm(name, f"{layer}.norm")
    (at,) = G.attention
    for name, layer in (("theta", "query"), ("phi", "key"), ("g", "value"), ("o_conv", "out")):
        conv(f"attention/{name}", f"attention.{at}.{layer}")
    put("attention/gamma", state[f"attention.{at}.gamma"].reshape(1))
    put("BatchNorm/scale", state["norm.weight"].reshape(1, 1, 1, -1))
    put("BatchNorm/offset", state["norm.bias"].reshape(1, 1, 1, -1))
    batch_norm("BatchNorm", "norm")
    conv("conv_2d", "to_image")
    return found | {"GenEncWrapper/Encoder/unknown/w": np.zeros((7, 7, 3, 64)), "Disc/unknown": np.zeros(3)}


def read(variables, config):
    return convert_released.convert(convert_released.of_generator(variables)[0], config)


def forward(variables: dict[str, np.ndarray], z: np.ndarray, blocks: int, attended: int) -> np.ndarray:
    """What the module computes, from its variables: images [N, H, W, 3] of z [N, dim_z], in float64."""

    def get(name: str, ema: bool = True) -> np.ndarray:
        return np.float64(variables[f"GenEncWrapper/Generator/{name}" + "/ema_0.9999" * ema])

    def weight(name: str) -> np.ndarray:
        """Divided by what one half of a power iteration from u0 says of its largest singular value."""
        w, u = get(f"{name}/w"), get(f"{name}/u0", False)
        return w / np.linalg.norm(u @ w.reshape(-1, w.shape[-1]).T)

    def conv(x: np.ndarray, name: str) -> np.ndarray:
        w = weight(name)
        edge, (h, width) = w.shape[0] // 2, x.shape[1:3]
        padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        out = sum(padded[:, i : i + h, j : j + width] @ w[i, j] for i in range(w.shape[0]) for j in range(w.shape[1]))
        has_bias = f"GenEncWrapper/Generator/{name}/b" in variables
        return out + get(f"{name}/b") if has_bias else out

    def normalise(x: np.ndarray, name: str) -> np.ndarray:
        mean, var, n = (
            get(f"{name}/{k}", False) for k in ("accumulated_mean", "accumulated_var", "accumulation_counter")
        )
        return (x - mean / n) / np.sqrt(var / n + EPS)

    def conditional(x: np.ndarray, name: str, c: np.ndarray) -> np.ndarray:
        gain, bias = (c @ weight(f"{name}/{kind}") for kind in ("scale", "offset"))
        return normalise(x, name) * (1 + gain)[:, None, None] + bias[:, None, None]

    def twice(x: np.ndarray) -> np.ndarray:
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def pooled(x: np.ndarray) -> np.ndarray:
        n, h, w, c = x.shape
        return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4)).reshape(n, -1, c)

    def attend(x: np.ndarray) -> np.ndarray:
        theta = conv(x, "attention/theta").reshape(len(x), -1, x.shape[-1] // 8)
        phi, g = pooled(conv(x, "attention/phi")), pooled(conv(x, "attention/g"))
        scores = np.exp(theta @ phi.transpose(0, 2, 1))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ g
        return x + get("attention/gamma") * conv(mixed.reshape(*x.shape[:3], -1), "attention/o_conv")

    chunks = np.split(z, blocks + 1, axis=1)
    embedding = np.ones((len(z), 1)) @ get("linear/w")
    x = (chunks[0] @ weight("GenZ/G_linear") + get("GenZ/G_linear/b")).reshape(len(z), 4, 4, -1)
    for i in range(blocks):
        block, c = "GBlock" if i == 0 else f"GBlock_{i}", np.concatenate([chunks[i + 1], embedding], axis=1)
        h = conv(twice(np.maximum(conditional(x, f"{block}/BatchNorm", c), 0)), f"{block}/conv0")
        h = conv(np.maximum(conditional(h, f"{block}/BatchNorm_1", c), 0), f"{block}/conv1")
        x = h + conv(twice(x), f"{block}/conv_sc")
        x = attend(x) if i == attended else x
    x = normalise(x, "BatchNorm") * get("BatchNorm/scale") + get("BatchNorm/offset")
    return np.tanh(conv(np.maximum(x, 0), "conv_2d"))


def test_the_converted_generator_makes_the_same_images(G, config):
    again, note = read(theirs(G), config)
    z = torch.randn(6, 12)
    torch.testing.assert_close(again(z), G(z), atol=1e-5, rtol=0)
    assert "used unchanged" in note


def test_it_computes_what_the_variables_mean(G, config):
    """Order of layers, layouts, chunks of z, statistics, spectral norm: against numpy that knows TensorFlow's layout
    and nothing of this package."""
    variables = theirs(G)
    z = np.random.default_rng(0).normal(size=(3, 12))
    images = read(variables, config)[0](torch.from_numpy(z).float()).numpy()
    expected = forward(variables, z, blocks=3, attended=1)
    assert np.abs(expected).mean() > 0.05
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1), expected, atol=2e-5)


def test_names_may_have_a_module_before_and_a_device_behind(G, config):
    variables = {f"module/{name}:0": value for name, value in theirs(G).items()}
    z = torch.randn(2, 12)
    torch.testing.assert_close(read(variables, config)[0](z), G(z), atol=1e-5, rtol=0)


def accumulated(G, count: float, by: float):
    """The same statistics, accumulated over `count` passes, as `by` times their means."""
    variables = theirs(G)
    for name, value in variables.items():
        if "/accumulat" in name:
            variables[name] = np.float32(count) if name.endswith("counter") else value * np.float32(by)
    return variables


def test_weights_of_the_seed_distinguish_sums_from_means(G, config):
    z = torch.randn(2, 12)
    means, note = read(accumulated(G, 200, 1), config)
    torch.testing.assert_close(means(z), G(z), atol=1e-5, rtol=0)
    assert "used unchanged" in note
    sums, note = read(accumulated(G, 200, 200), config)
    torch.testing.assert_close(sums(z), G(z), atol=1e-5, rtol=0)
    assert "divided by their counters" in note


def without(name):
    return lambda v: v.pop(f"GenEncWrapper/Generator/{name}")


def changed(name, change):
    return lambda v: v.update({f"GenEncWrapper/Generator/{name}": change(v[f"GenEncWrapper/Generator/{name}"])})


FAULTS = {
    "missing": (without("GBlock_1/conv0/w/ema_0.9999"), "1 variables of G are missing, .*GBlock_1/conv0/w/ema_0.9999"),
    "no statistics": (without("BatchNorm/accumulated_var"), "missing, .*Generator/BatchNorm/accumulated_var"),
    "another width": (changed("conv_2d/w/ema_0.9999", lambda w: w[:, :, 1:]), r"3, 7, 3\]; expected \[3, 3, 8, 3\]"),
    "not transposed": (
        changed("GBlock/BatchNorm/scale/w/ema_0.9999", lambda w: w.T), r"\[24, 8\]; expected \[8, 24\]"
    ),
    "a longer vector": (changed("BatchNorm/scale/ema_0.9999", lambda w: np.ones(9)), r"\[9\]; expected \[8\]"),
    "not finite": (changed("linear/w/ema_0.9999", lambda w: w * np.nan), "not finite"),
    "unknown": (lambda v: v.update({"GenEncWrapper/Generator/GBlock_7/w": np.ones(3)}), "no place in G, .*GBlock_7"),
    "other statistics": (changed("GBlock/BatchNorm/accumulated_var", lambda w: w * 50), "not of one module"),
    "another module": (lambda v: [v.pop(n) for n in list(v) if "/Generator/" in n], "named .../Generator/"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_variables_that_do_not_fit_are_refused_in_one_line(kind, G, config):
    spoil, message = FAULTS[kind]
    variables = theirs(G)
    spoil(variables)
    with pytest.raises(UserError, match=message) as error:
        read(variables, config)
    assert "\n" not in str(error.value)


@pytest.fixture
def small_module(config, monkeypatch):
    class Small:
        def config(self):
            return config

    monkeypatch.setattr(convert_released, "find", lambda name: Small())


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_the_folder_opens_and_is_of_a_generator_alone(ending, G, small_module, tmp_path, capsys):
    file, out, variables = tmp_path / f"variables.{ending}", tmp_path / "out", theirs(G)
    np.savez(file, **variables) if ending == "npz" else save_file(
        {name: np.ascontiguousarray(v) for name, v in variables.items()}, file
    )
    assert convert_released.main([str(file), "--out", str(out)]) == 0
    note = capsys.readouterr().out
    assert "skipped 2 variables of other networks" in note
    assert "GenEncWrapper/Encoder/unknown/w  [7, 7, 3, 64]" in note
    model = load(out)
    assert json.loads((out / "model.json").read_text())["networks"] == ["G"]
    assert (model.networks.E, model.networks.D) == (None, None)
    z = torch.randn(2, 12)
    assert torch.equal(model.generate(z), G(z))
    assert model.refine(torch.zeros(2, 3, 32, 32), steps=2, z=z).z.shape == (2, 12)
    with pytest.raises(UserError, match=r"this model has no encoder .* only a generator"):
        model.encode(torch.zeros(2, 3, 32, 32))
    with pytest.raises(UserError, match="no discriminator: it is an autoencoder, or was exported without one"):
        model.discriminate(torch.zeros(2, 3, 32, 32), z)
    card = (out / "README.md").read_text()
    assert "Converted from the variables of deepmind/bigbigan-resnet50/1" in card
    assert "model.encode" not in card


def test_verbs_take_the_folder(G, small_module, tmp_path, capsys):
    np.savez(tmp_path / "v.npz", **theirs(G))
    assert convert_released.main([str(tmp_path / "v.npz"), "--out", str(tmp_path / "out")]) == 0
    data = str(write_npz(tmp_path / "rows.npz", side=32, channels=3))
    folder = str(tmp_path / "out")
    assert main(["generate", folder, "--count", "4", "--truncation", "0.5", "--out", str(tmp_path / "g.png")]) == 0
    assert main(["export", folder, "--out", str(tmp_path / "again")]) == 0
    assert "Converted" in (tmp_path / "again" / "README.md").read_text()
    capsys.readouterr()
    for verb in (
        ["encode", folder, "--out", str(tmp_path / "f.npz")],
        ["evaluate", folder, "--metrics", "knn1_l2_avepool"],
    ):
        assert main([*verb, "--data", data]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "only a generator" in error


def test_a_missing_file_and_a_full_folder_are_refused(tmp_path, capsys):
    (tmp_path / "v.npz").write_text("no zip")
    (tmp_path / "v.safetensors").write_text("no header")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for file, out in (("v.npz", "out"), ("v.safetensors", "out"), ("none.npz", "out"), ("v.npz", "full")):
        assert convert_released.main([str(tmp_path / file), "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert ("--out" in error) == (out == "full")
    assert not (tmp_path / "out").exists()
