"""The MLflow store, and the curve of a training that is under way."""
