"""Convert the weights of a ResNet-v2 trunk to timm, whose `resnetv2_50` and similar models are the same network.

    network = timm.create_model("resnetv2_50", num_classes=0)
    network.load_state_dict(timm_state_dict(bigbigan.load("runs/best").encoder.trunk))

docs/notes/timm.md lists the timm model and its arguments for each kind of `encoder`. timm is not needed here.
"""

from __future__ import annotations

from torch import Tensor, nn

from bigbigan.errors import UserError
from bigbigan.models.layers import E_BN_EPS
from bigbigan.models.resnet import ResNetV2

__all__ = ["timm_state_dict"]

TIMM_EPS = 1e-5


def timm_state_dict(trunk: nn.Module) -> dict[str, Tensor]:
    """Return a state dict for timm's ResNetV2 (num_classes=0), which then equals `trunk` in evaluation mode.

    timm's batch norms add 1e-5 to variances, those of this package 1e-3; the running variances include the difference.

    Args:
        trunk: of an encoder with encoder.block=basic or bottleneck, and encoder.norm=batch.

    Raises:
        UserError: the trunk is of another kind.
    """
    if not isinstance(trunk, ResNetV2) or not isinstance(trunk.norm, nn.BatchNorm2d):
        kind = "trunk with layer norm" if isinstance(trunk, ResNetV2) else type(trunk).__name__
        raise UserError(f"timm has no network like this {kind}: expected a ResNet-v2 trunk with batch norm")
    prefixes, stage, block_of_stage = {}, 0, 0
    for i, block in enumerate(trunk.blocks):
        if block.stride == 2:  # the first block of each stage but the first
            stage, block_of_stage = stage + 1, 0
        prefixes[str(i)] = f"stages.{stage}.blocks.{block_of_stage}."
        block_of_stage += 1
    converted = {}
    for name, tensor in trunk.state_dict().items():
        if name.startswith("root."):
            timm_name = "stem.conv.weight"
        elif name.startswith("blocks."):
            _, number, suffix = name.split(".", 2)
            timm_name = prefixes[number] + suffix.replace("skip.", "downsample.conv.")
        else:
            timm_name = name  # the final norm
        converted[timm_name] = tensor + (E_BN_EPS - TIMM_EPS) if name.endswith("running_var") else tensor.clone()
    return converted
