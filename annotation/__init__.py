"""Labelling new cells: what annotate.py does between its inputs and its outputs. Only it and the benchmarks enter."""
