"""What a run will be, before it runs: tokens, work, memory, time, and who computes what."""
