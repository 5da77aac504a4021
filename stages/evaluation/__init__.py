"""Tasks, fine-tuning, metrics, averages; speed and size."""
