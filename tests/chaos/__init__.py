"""A soak of the whole service: `python -m tests.chaos`."""
