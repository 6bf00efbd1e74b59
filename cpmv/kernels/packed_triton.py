"""Triton kernels for packed weights."""
def available(device):
    return False
