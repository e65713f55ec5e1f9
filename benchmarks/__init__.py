"""Measures gradc against TorchInductor's launches and bytes, and on a GPU against PyTorch's times. `python -m benchmarks`."""
