"""Benchmarks: workloads as data, the runner that times them, the report that shows them."""
