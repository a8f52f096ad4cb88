"""Hand a model on: export, model card, ONNX, timm."""
