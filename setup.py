"""The native modules; everything else is in setup.cfg."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOTS = ["server", "workers"]
FOLDERS = ["server/pyserve", "workers/pyserve_workers"]
# Plain C that these modules link, each its own copy, so that no shared library has to be installed.
PARSER = [f"workers/pyserve_workers/{name}" for name in ("http1.c", "h1_values.c", "h1_memory.c", "h1_chunked.c")]
LINKS = {"pyserve_workers.inbox": PARSER, "pyserve_workers.parser": PARSER}
FLAGS = [
    "-std=c17",
    "-O2",
    "-Wall",
    "-Wextra",
    # What Cython writes is not ours to tidy:
    "-Wno-unused-parameter",  # methods that ignore self, slots that ignore a closure
    "-Wno-missing-field-initializers",  # PyTypeObject tables
    "-Wno-sign-compare",  # Py_ssize_t against sizeof, in its own utility code
    "-Wno-cast-function-type",  # METH_FASTCALL tables
]


def extension(source: str) -> Extension:
    """The native module written in ``source``, a .pyx below one of the roots."""
    path = Path(source)
    name = f"{path.parent.name}.{path.stem}"
    return Extension(
        name,
        [source, *LINKS.get(name, [])],
        include_dirs=FOLDERS,
        depends=[header for folder in FOLDERS for header in sorted(glob(f"{folder}/*.h"))],
        extra_compile_args=FLAGS,
    )


sources = [source for folder in FOLDERS for source in sorted(glob(f"{folder}/*.pyx"))]
cores = len(os.sched_getaffinity(0))
setup(
    ext_modules=cythonize(
        [extension(source) for source in sources],
        include_path=ROOTS,
        build_dir="build/cython",
        nthreads=min(cores, len(sources)),
    ),
)
