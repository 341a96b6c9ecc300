"""Plots of jobs and experiments, as SVG and PNG; needs the extra `plots`."""
