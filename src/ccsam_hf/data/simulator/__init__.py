"""Simulated B-mode images with exact masks: a target's name and a seed give a case."""

from .scenes import TARGETS, SimulatedCase, simulate, write_folder

__all__ = ["TARGETS", "SimulatedCase", "simulate", "write_folder"]
