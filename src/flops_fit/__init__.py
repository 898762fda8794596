"""flops-fit: how big a model, and how much data, for a compute budget."""

__version__ = "0.1.0"
