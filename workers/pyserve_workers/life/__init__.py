"""One worker's life: loading the app, boot, drain, end."""
