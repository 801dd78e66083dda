"""Training: a recipe and a data set become a run directory. Recipes need no torch, so nothing is imported."""
