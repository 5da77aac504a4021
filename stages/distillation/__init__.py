"""Recipes: which student, which objectives; the distill stage."""
