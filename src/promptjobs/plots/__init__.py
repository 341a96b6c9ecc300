"""Plots of jobs and experiments, as SVG and PNG. Only their own process imports matplotlib."""

TIME_LIMIT_SECONDS = 30
"""Of drawing one picture; most of it is for machines that are busy."""
