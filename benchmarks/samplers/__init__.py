"""What `benchmarks/sampler.py` compares samplers with: families of simulated spaces, the protocol, the players."""
