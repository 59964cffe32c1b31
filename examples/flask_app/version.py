"""The app's version, in a file of its own: change it, send SIGHUP to the server, and watch the page."""

VERSION = "1"
