"""Kernels for the paths where plain torch leaves a card waiting: small products, paged attention, epilogues.

Each stands beside a plain-torch truth with the same signature, and everything runs without them. Triton and CUDA are
imported inside functions only; which path was taken is logged once (`available`).
"""
