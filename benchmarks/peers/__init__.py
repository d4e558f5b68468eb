"""Shoal beside other stores, interleaved: see benchmarks/README.md."""
