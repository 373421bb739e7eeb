"""Checkpoints and their cards, pushed to the Hub in one commit."""
