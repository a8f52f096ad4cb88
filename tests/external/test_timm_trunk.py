"""A trunk under timm's names gives in timm what it gives here, on photographs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bigbigan.config import Config, override
from bigbigan.data import load_pixels, open_source
from bigbigan.errors import UserError
from bigbigan.experiments import find
from bigbigan.image import to_float
from bigbigan.integrations.timm import timm_state_dict
from bigbigan.models import construct
from bigbigan.models.layers import init_weights

timm = pytest.importorskip("timm", reason="timm is not installed: make test-interop")


LITTLE = [  # of the networks that no test looks at
    "generator.channels=[8,8]", "generator.attention=[]", "generator.shared_dim=4",
    "discriminator.channels=[8,8]", "discriminator.attention=[]", "discriminator.mlp_width=8", "encoder.head_width=8",
]  # fmt: skip


def trunk_of(config: Config) -> nn.Module:
    """A trunk whose batch norms have statistics and gains that a wrong name, order or mode would show."""
    trunk = construct(override(config, LITTLE)).encoder.trunk
    draw = torch.Generator().manual_seed(0)
    init_weights(trunk, draw)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.4, generator=draw)
            module.bias.data.normal_(0, 0.2, generator=draw)
            module.running_mean.normal_(0, 0.2, generator=draw)
            module.running_var.uniform_(0.3, 2, generator=draw)
    return trunk.eval().requires_grad_(False)


def photographs(shared, side: int, count: int = 8) -> torch.Tensor:
    source = open_source(str(shared / "caltech101" / "caltech101-128.tar.gz"))
    images = source.splits["train"]
    picks = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    return to_float(torch.from_numpy(load_pixels(images.subset(picks), side, 3, source)[0]))


def agree(trunk: nn.Module, network: nn.Module, x: torch.Tensor) -> None:
    network.load_state_dict(timm_state_dict(trunk))
    with torch.no_grad():
        ours, theirs = trunk(x), network.eval()(x)
    tolerance = 1e-5 * float(ours.abs().max())
    assert ours.std(0).mean() > 100 * tolerance  # features alike for all images would agree whatever the names
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(("experiment", "name", "arguments"), [
    ("table1/base", "resnetv2_50", {}),
    ("table1/resnet101", "resnetv2_101", {}),
    ("table1/resnet_x2", "resnetv2_50", {"width_factor": 2}),
])  # fmt: skip
def test_the_paper_s_trunks_are_models_of_timm_as_they_are(experiment, name, arguments, shared):
    trunk = trunk_of(find(experiment).config())
    agree(trunk, timm.create_model(name, num_classes=0, **arguments), photographs(shared, 128, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_trunk_needs_its_stem(channels, shared):
    """small/cifar10's and small/mnist's: basic blocks, a 3×3 root convolution and no pooling."""
    trunk = trunk_of(find("small/cifar10" if channels == 3 else "small/mnist").config())
    widths = (32, 64, 128, 512) if channels == 3 else (16, 32, 64, 256)
    network = timm.create_model(
        "resnetv2_18", num_classes=0, in_chans=channels, layers=[1] * 4, channels=widths, stem_chs=widths[0]
    )
    network.stem.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
    network.stem.pool = nn.Identity()
    agree(trunk, network, photographs(shared, 32)[:, :channels])


def test_a_scaled_row_of_table_1(shared):
    """Bottlenecks of 64 px: quarters of its widths are multiples of 8, as timm makes them."""
    config = find("table1/base").config(64)
    trunk = trunk_of(config)
    assert config.encoder.widths == (64, 128, 256, 512)
    network = timm.create_model("resnetv2_50", num_classes=0, channels=config.encoder.widths, stem_chs=16)
    network.stem.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    network.stem.pool = nn.Identity()
    agree(trunk, network, photographs(shared, 64))


def test_a_picture_as_timm_reads_it(shared):
    """timm's own transform for this model takes pixels to [-1, 1], which is what a trunk is given here."""
    form = timm.data.resolve_model_data_config(timm.create_model("resnetv2_50"))
    form |= {"input_size": (3, 128, 128), "crop_pct": 1.0}
    pixels = ((photographs(shared, 128, 2) + 1) * 127.5).round().to(torch.uint8)
    read = timm.data.create_transform(**form)
    x = torch.stack([read(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in pixels])
    torch.testing.assert_close(x, to_float(pixels), atol=1e-6, rtol=0)


def test_a_backbone_that_timm_lacks_is_refused_in_one_line():
    reversible = construct(override(find("small/mnist").config(), ["encoder.block=reversible"])).encoder.trunk
    with pytest.raises(UserError, match="timm has no network like this RevNet"):
        timm_state_dict(reversible)
