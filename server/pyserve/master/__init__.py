"""The master process: it owns the port and looks after all others."""
