"""CUDA kernels and their adapters. The Python here only builds them: `aim_edge.plugins.build`."""
