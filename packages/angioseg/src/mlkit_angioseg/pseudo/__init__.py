"""Masks that a trained run makes, with where they came from, as labels to train on."""
