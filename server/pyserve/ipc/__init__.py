"""Between master, zygotes and workers: messages, the scoreboard, logs."""

CHANNEL_FD = 3  # of a zygote that begins
