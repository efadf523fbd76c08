"""Benchmarks: candidate scoring, the training step, convolution kernels."""
