"""Claims of papers as experiments that anybody can run. What an experiment is needs no torch."""
