"""A teacher: fetched and verified, then adapted to the corpus."""
