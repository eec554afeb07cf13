"""The agent of one site: makes its Triton serve what the control plane wishes, and proves it."""

__version__ = "0.1.0"
