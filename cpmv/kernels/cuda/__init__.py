"""CUDA sources of this package, and what compiles and launches them: NVRTC, which comes with torch."""
