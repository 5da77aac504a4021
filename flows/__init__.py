"""Prefect decides when and where stages run; nothing here computes, and nothing imports torch."""

from flows import environment

# Prefect reads its settings once, when it is imported: they must stand before any flow imports it.
environment.configure()
