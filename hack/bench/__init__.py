"""Benchmarks of the node agent on simulated machines: they print numbers, and no test depends on them."""
