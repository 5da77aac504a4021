"""The losses, named and reduced as in the papers, each checked against a pinned value.

Every objective gives a sum and a count instead of a mean, so that micro-batches and processes add
up to exactly the mean over the whole batch. Shape suffixes used throughout: N selected tokens,
B sequences, S positions, V vocabulary, D width, H heads, L layers, C classes.
"""
