"""Weights and what must never be parted from them: artefacts, preprocessing, other people's formats."""
