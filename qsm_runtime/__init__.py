"""Quantitative susceptibility mapping: from gradient-echo phase to susceptibility."""
