"""One HTML page with the tables and pictures, and the same numbers as JSON."""
