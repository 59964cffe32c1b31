"""The settings: one table, and everything that reads it."""
