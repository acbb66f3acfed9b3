"""Packaged networks: NAME.onnx and its card NAME.json."""
