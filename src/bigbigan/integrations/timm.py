"""A ResNet-v2 trunk under timm's names, to go on with in timm: `resnetv2_50` and its kin are the same network.

    network = timm.create_model("resnetv2_50", num_classes=0)
    network.load_state_dict(timm_state_dict(bigbigan.load("runs/best").encoder.trunk))

Which timm model, and which arguments, for which settings of `encoder`: docs/timm.md. timm itself is not needed here.
"""

from __future__ import annotations

from torch import Tensor, nn

from bigbigan.errors import UserError
from bigbigan.models.layers import E_BN_EPS
from bigbigan.models.resnet import ResNetV2

__all__ = ["timm_state_dict"]

TIMM_EPS = 1e-5


def timm_state_dict(trunk: nn.Module) -> dict[str, Tensor]:
    """The state dict of timm's ResNetV2 (num_classes=0) that computes what `trunk` does in evaluation mode.

    timm's batch norms add 1e-5 to a variance where ours add 1e-3; the difference is put into the running variances.

    Args:
        trunk: of an encoder with encoder.block=basic or bottleneck, and encoder.norm=batch.

    Raises:
        UserError: another trunk.
    """
    if not isinstance(trunk, ResNetV2) or not isinstance(trunk.norm, nn.BatchNorm2d):
        kind = "trunk with layer norm" if isinstance(trunk, ResNetV2) else type(trunk).__name__
        raise UserError(f"timm has no network like this {kind}: expected a ResNet-v2 trunk with batch norm")
    names, stage, place = {}, 0, 0
    for i, block in enumerate(trunk.blocks):
        if block.stride == 2:  # the first block of each stage but the first
            stage, place = stage + 1, 0
        names[str(i)] = f"stages.{stage}.blocks.{place}."
        place += 1
    found = {}
    for ours, tensor in trunk.state_dict().items():
        if ours.startswith("root."):
            theirs = "stem.conv.weight"
        elif ours.startswith("blocks."):
            _, number, rest = ours.split(".", 2)
            theirs = names[number] + rest.replace("skip.", "downsample.conv.")
        else:
            theirs = ours  # the closing norm
        found[theirs] = tensor + (E_BN_EPS - TIMM_EPS) if ours.endswith("running_var") else tensor.clone()
    return found
