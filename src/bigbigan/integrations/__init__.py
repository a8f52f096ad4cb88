"""Export a model for other programs: folder with a model card, ONNX, timm."""
