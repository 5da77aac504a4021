"""Measurements of the engine against what it replaces; docs/experiments.md holds their results."""
