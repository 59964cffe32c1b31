"""The native modules; everything else is in setup.cfg."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOTS = ["server", "workers"]
FOLDERS = sorted({os.path.dirname(header) for root in ROOTS for header in glob(f"{root}/**/*.h", recursive=True)})
# Plain C that these modules link, each its own copy, so that no shared library has to be installed.
PARSER = [f"workers/pyserve_workers/http1/{name}" for name in ("http1.c", "h1_values.c", "h1_memory.c", "h1_chunked.c")]
LINKS = {"pyserve_workers.native.inbox": PARSER, "pyserve_workers.http1.parser": PARSER}
FOR_TESTS = {"pyserve_workers.http1.parser"}
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
    name = ".".join(Path(source).with_suffix("").parts[1:])
    return Extension(
        name,
        [source, *LINKS.get(name, [])],
        include_dirs=FOLDERS,
        depends=[header for folder in FOLDERS for header in sorted(glob(f"{folder}/*.h"))],
        extra_compile_args=FLAGS,
    )


class Build(build_ext):
    """All modules; a wheel holds those that serving needs."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if "bdist_wheel" in self.distribution.commands:
            self.extensions = [module for module in self.extensions if module.name not in FOR_TESTS]


sources = [source for root in ROOTS for source in sorted(glob(f"{root}/**/*.pyx", recursive=True))]
cores = len(os.sched_getaffinity(0))
setup(
    cmdclass={"build_ext": Build},
    ext_modules=cythonize(
        [extension(source) for source in sources],
        include_path=ROOTS,
        build_dir="build/cython",
        nthreads=min(cores, len(sources)),
    ),
)
