"""Networks: shapes, gradients, the exact resampling identities, spectral norm, every variant of Table 1's columns."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bigbigan.methods import BigBiGAN, sample_prior
from bigbigan.models import build
from bigbigan.models.batch_norm import batch_statistics
from bigbigan.models.layers import ConditionalBatchNorm2d, SelfAttention, SNConv2d, SNLinear, upsample
from bigbigan.models.resnet import BasicBlock
from tiny import run_update, tiny_config

VARIANTS = {
    "plain": [],
    "no_x": ["loss.s_x=false"],
    "no_z": ["loss.s_z=false"],
    "joint_only": ["loss.s_x=false", "loss.s_z=false"],
    "unary_only": ["loss.s_xz=false"],
    "deterministic": ["encoder.stochastic=false"],
    "uniform": ["latent.prior=uniform", "encoder.stochastic=false"],
    "no_pair_norm": ["discriminator.pair_norm=false"],
    "hinge_of_sum": ["loss.hinge=sum"],
    "attention": ["generator.attention=[8]", "discriminator.attention=[4]"],
    "bottleneck": ["encoder.block=bottleneck", "encoder.blocks=[2,1]"],
    "reversible": ["encoder.block=reversible", "encoder.blocks=[2,1]", "encoder.widths=[8,16]"],
    "imagenet_stem": ["encoder.stem=imagenet", "encoder.resolution=16"],
    "z_to_the_seed": ["generator.skip_z=false", "latent.dim=7"],
    "sum_at_8": ["discriminator.final_size=8"],
    "high_res_e": ["encoder.resolution=16"],
    "colour": ["data.channels=3"],
    "deeper": [
        "generator.channels=[16,8,8]",
        "latent.dim=9",
        "encoder.resolution=16",
        "discriminator.channels=[4,8,8]",
    ],
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_has_right_shapes_and_finite_gradients(settings):
    config = tiny_config(*settings)
    networks = build(config)
    system = BigBiGAN(config, networks)
    noise = torch.Generator().manual_seed(0)
    x = torch.rand(6, config.data.channels, config.encoder.resolution, config.encoder.resolution) * 2 - 1

    (outcome,) = run_update(system, system.discriminator_update, x, system.sample_noise(6, noise))
    enc, gen = outcome.enc, outcome.gen
    assert set(enc) == set(gen) == {f"s_{s}" for s in config.loss.scores}
    assert all(s.shape == (6,) for s in [*enc.values(), *gen.values()])
    for name, p in networks.D.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
    assert all(p.grad is None for n in (networks.G, networks.E) for p in n.parameters())

    networks.D.zero_grad()
    of_e, of_g = run_update(system, system.encoder_generator_update, x, system.sample_noise(6, noise))
    q = of_e.posterior
    assert q.mean.shape == q.stdev.shape == (6, config.latent.dim)
    assert (q.stdev > 0).all() if config.encoder.stochastic else (q.stdev == 0).all()
    assert set(of_e.enc) == set(of_g.gen) == set(enc)
    assert all(p.grad is None for p in networks.D.parameters()), "D must get no gradient in the step of G and E"
    assert all(p.requires_grad for p in networks.D.parameters())
    # Without s_x and s_xz nothing reaches G, without s_z and s_xz nothing reaches E.
    for network, reached in ((networks.G, {"x", "xz"}), (networks.E, {"z", "xz"})):
        for name, p in network.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
        assert bool(reached & set(config.loss.scores)) == any(p.grad.any() for p in network.parameters())


def test_images_lie_in_range_and_have_g_resolution():
    config = tiny_config()
    x = build(config).G(torch.randn(5, config.latent.dim))
    assert x.shape == (5, 1, 8, 8)
    assert x.abs().max() <= 1


def test_same_seed_same_weights_other_seed_other_weights():
    a, b, c = (build(tiny_config(f"training.seed={s}")) for s in (1, 1, 2))
    for name, tensor in a.G.state_dict().items():
        assert torch.equal(tensor, b.G.state_dict()[name])
    assert not torch.equal(a.G.seed.weight, c.G.seed.weight)


def test_building_networks_is_deaf_to_the_global_generator():
    torch.manual_seed(1)
    a = build(tiny_config())
    torch.manual_seed(2)
    b = build(tiny_config())
    for one, other in zip(a, b, strict=True):
        assert all(torch.equal(t, other.state_dict()[n]) for n, t in one.state_dict().items())


def test_fused_pooling_and_upsampling_equal_the_plain_forms():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8, 6, dtype=torch.float64, requires_grad=True)
    conv = SNConv2d(5, 7, 3).double()
    conv.eval()
    for ours, plain in (
        (conv.then_pool(x), F.avg_pool2d(conv(x), 2)),
        (conv.after_upsample(x), conv(upsample(x))),
    ):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-13)
        weight = torch.randn_like(plain)
        grads = [torch.autograd.grad((y * weight).sum(), [x, conv.weight, conv.bias]) for y in (ours, plain)]
        for g, h in zip(*grads, strict=True):
            torch.testing.assert_close(g, h, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", [SNLinear(12, 7), SNConv2d(4, 6, 3)], ids=["linear", "conv"])
def test_spectral_norm_converges_to_the_largest_singular_value(layer):
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    layer.train()
    for _ in range(200):
        normalised = layer.normalised_weight()
    top = torch.linalg.matrix_norm(normalised.detach().flatten(1), ord=2)
    torch.testing.assert_close(top, torch.ones(()), rtol=0, atol=1e-4)


def test_spectral_norm_iterates_once_for_each_weight_value():
    layer = SNLinear(12, 7)
    u = layer.u.clone()
    with torch.no_grad():
        layer(torch.randn(2, 12))
    assert torch.equal(u, layer.u)
    layer.eval()(torch.randn(2, 12))
    assert torch.equal(u, layer.u)
    layer.train()(torch.randn(2, 12))
    assert not torch.equal(u, layer.u)


def test_attention_is_the_textbook_formula():
    torch.manual_seed(0)
    layer = SelfAttention(16).eval()
    x = torch.randn(2, 16, 4, 6)
    assert torch.equal(layer(x), x)  # gamma starts at 0
    nn.init.constant_(layer.gamma, 0.7)
    q, k, v = (conv(x) for conv in (layer.query, layer.key, layer.value))
    k, v = (F.max_pool2d(t, 2).flatten(2) for t in (k, v))
    weights = torch.softmax(torch.einsum("ncq,nck->nqk", q.flatten(2), k), dim=2)
    seen = torch.einsum("nqk,nck->ncq", weights, v).view(2, 8, 4, 6)
    torch.testing.assert_close(layer(x), x + 0.7 * layer.out(seen))


def test_spectral_norm_gradient_matches_torch_parametrization():
    ours = SNLinear(6, 5, bias=False)
    reference = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5, bias=False), eps=1e-4)
    with torch.no_grad():
        reference.parametrizations.weight.original.copy_(ours.weight)
        reference.parametrizations.weight[0]._u.copy_(ours.u)
        v = F.normalize(ours.weight.t() @ ours.u, dim=0)
        reference.parametrizations.weight[0]._v.copy_(v)
    ours.eval(), reference.eval()
    x = torch.randn(3, 6)
    a, b = ours(x), reference(x)
    torch.testing.assert_close(a, b)
    a.square().sum().backward(), b.square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, reference.parametrizations.weight.original.grad)


def test_d_sees_the_pooled_crop_of_a_high_resolution_encoder():
    config = tiny_config("encoder.resolution=16")
    networks = build(config)
    seen = []
    networks.D.F.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(4, 1, 16, 16) * 2 - 1
    system = BigBiGAN(config, networks)
    list(system.discriminator_update(x, system.sample_noise(4, torch.Generator().manual_seed(0))))
    torch.testing.assert_close(seen[0][:4], F.avg_pool2d(x, 2))


def test_priors():
    g = torch.Generator().manual_seed(0)
    normal, uniform = sample_prior(4000, 5, "normal", g), sample_prior(4000, 5, "uniform", g)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert uniform.min() >= -1
    assert uniform.max() <= 1
    assert abs(uniform.std() - 3**-0.5) < 0.01


def test_bn_crelu_is_parameter_free_and_splits_signs():
    E = build(tiny_config()).E
    assert not list(E.feature_norm.parameters())
    a = torch.randn(32, E.num_features)
    out = E.bn_crelu(a)
    positive, negative = out.chunk(2, dim=1)
    assert (out >= 0).all()
    assert not (positive * negative).any()
    expected = (a - a.mean(0)) / (a.var(0, unbiased=False) + E.feature_norm.eps).sqrt()
    torch.testing.assert_close(positive - negative, expected)


def test_projection_shortcut_equals_a_strided_convolution():
    block = BasicBlock(8, 16, stride=2).eval()
    with torch.no_grad():
        block.conv2.weight.zero_()  # leaves the shortcut alone
    x = torch.randn(16, 8, 64, 64).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = block(x)
    expected = F.conv2d(F.relu(block.norm1(x)), block.skip.weight, stride=2)
    torch.testing.assert_close(y, expected)
    y.sum().backward()  # at this shape a strided 1x1 convolution has crashed
    assert torch.isfinite(x.grad).all()


def plain_conditional_batch_norm(norm, x, c):
    gain, bias = (1 + norm.gain(c))[:, :, None, None], norm.bias(c)[:, :, None, None]
    return torch.addcmul(bias, norm.norm(x), gain)


@pytest.mark.parametrize("frozen", [False, True], ids=["running statistics", "none"])
def test_conditional_batch_norm_equals_autograd(frozen):
    ours = ConditionalBatchNorm2d(8, 5).double()
    reference = copy.deepcopy(ours)
    draws = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(6, 8, 4, 4, generator=draws, dtype=torch.double) + 3
    c, weights = torch.randn(6, 5, generator=draws, dtype=torch.double), torch.randn(6, 8, 4, 4, generator=draws)
    found = []
    for norm, forward in ((ours, ours), (reference, partial(plain_conditional_batch_norm, reference))):
        inputs = [t.clone().requires_grad_() for t in (x, c)]
        with batch_statistics(norm) if frozen else nullcontext():
            y = forward(*inputs)
        (y * weights).sum().backward()
        found.append([y.detach(), *(t.grad for t in (*inputs, *norm.parameters())), *norm.buffers()])
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_of_classes_trains_in_bfloat16():
    """Its gains stay float32; bfloat16 keeps 8 bits."""
    norm, labels = ConditionalBatchNorm2d(8, 3, per_class=True), torch.arange(4) % 3
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(4, 8, 6, 6, generator=generator) for _ in range(2))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        given = x.detach().clone().to(dtype).requires_grad_()
        (norm(given, labels) * weight).sum().backward()
        found.append(given.grad.float())
    torch.testing.assert_close(found[1], found[0], atol=0.05, rtol=0.05)


def test_a_conditional_batch_norm_keeps_its_input_alone():
    norm, x, kept = ConditionalBatchNorm2d(8, 5), torch.randn(4, 8, 16, 16, requires_grad=True), {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        norm(x, torch.randn(4, 5))
    assert x.data_ptr() in kept
    assert sum(kept.values()) < 1.2 * x.numel()
