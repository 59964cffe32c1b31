"""How requests run: the classes of workers and what they are made of."""
