"""The network: pure modules, tensors in, tensors out. Parameter names are the released ones."""
