"""The kernel's and the machine's: descriptors, processes, accounts, paths."""
