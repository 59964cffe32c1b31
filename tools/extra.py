"""Print what an extra of the installed pyserve needs, one a line, for pip: tools/extra.py test"""

from __future__ import annotations

import sys
from importlib.metadata import requires

wanted = f'extra == "{sys.argv[1]}"'
for line in requires("pyserve") or []:
    what, _, marker = line.partition(";")
    if wanted in marker:
        print(what.strip())
