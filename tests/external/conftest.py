"""torchvision, and with it timm, beside a torch without CUDA; for `make test-interop`, see CONTRIBUTING.md."""

import torch

try:
    import torchvision
except ModuleNotFoundError:
    pass  # the tests say so
except RuntimeError as error:
    # The published wheel is a CUDA build: its operators do not load beside a CPU torch, and then it describes two that
    # do not exist. Where they are declared it imports, and all of it that is Python works.
    if "operator torchvision::nms does not exist" not in str(error):
        raise
    DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # they live as long as this does
    for operator in ("nms", "qnms"):
        DECLARED.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
