"""Tells people and programs what became of runs, and what FastOOM ended."""
