"""The CUDA backend: a program as one CUDA C module, run by one graph launch per step."""
