"""What is decided, and nothing done: states, events and what follows from them."""
