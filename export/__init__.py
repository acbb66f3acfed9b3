"""Published networks: torch definitions, checkpoint loaders, ONNX with a card.

Needs torch, which the runtime never imports.
"""
