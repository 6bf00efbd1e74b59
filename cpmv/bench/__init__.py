"""Measuring a model on the machine at hand, each number beside the limit that the same run has measured."""
