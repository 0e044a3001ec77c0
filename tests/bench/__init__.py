"""Measurements: ratios within one run, medians with spread. Nothing here is a test."""
