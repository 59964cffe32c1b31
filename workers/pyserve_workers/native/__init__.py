"""One connection's life, from its bytes to the app and back."""
