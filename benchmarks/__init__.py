"""Benchmarks: each measures one claim against a peer in the same run (benchmarks/README.md)."""
