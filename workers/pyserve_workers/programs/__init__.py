"""What a process begins with."""
