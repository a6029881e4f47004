"""Numerical methods for one weight matrix: pruning, quantisation and low-rank correction.

Plain tensors in, results out; no files, models or contexts.
"""
