"""One loop that trains everything, its batches and its checkpoints.

Runs with torch, transformers, pyarrow and numpy alone: a GPU machine may have nothing else.
"""
