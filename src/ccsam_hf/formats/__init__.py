"""Masks and annotations written to files that other tools read."""
