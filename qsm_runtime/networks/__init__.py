"""Networks as methods: a card says what an .onnx file takes and gives, and everything else is adapted to it."""
