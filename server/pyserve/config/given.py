"""What a configuration is made from, before it is one."""

from __future__ import annotations

from collections import namedtuple

# A value with the origin that messages and --print-config name.
Given = namedtuple("Given", "value origin")

# All that a configuration is made from, kept so that a reload reads the same places again.
# cli: name → text or list of texts; environ: the variables that matter; cwd; file: as -c gave it, or None.
Sources = namedtuple("Sources", "cli environ cwd file")
