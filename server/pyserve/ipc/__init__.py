"""Between master, zygotes and workers: messages, the scoreboard, logs."""
