"""Whole studies of a task on any model."""
