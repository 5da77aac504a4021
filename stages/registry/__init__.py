"""Lineage, the MLflow record, the gate, and the aliases of the registered model."""
