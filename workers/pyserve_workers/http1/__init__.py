"""The parser of HTTP/1.1, in plain C."""
