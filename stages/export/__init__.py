"""A student for production: safetensors, ONNX, INT8, parity, a model card."""
