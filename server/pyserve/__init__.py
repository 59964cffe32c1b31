"""pyserve: a pre-fork WSGI server for Linux.

This is the public face: the lifecycle decorators, ``exclusive`` and ``__version__``. They are looked up when first
used, so that ``import pyserve`` costs an app next to nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.app.alone import Refused, exclusive
    from pyserve.app.lifecycle import (
        after_fork,
        before_fork,
        before_shutdown,
        on_app_loaded,
        on_bootstrap,
        on_destroy,
        on_init,
        on_shutdown,
    )

__all__ = [
    "Refused",
    "__version__",
    "after_fork",
    "before_fork",
    "before_shutdown",
    "exclusive",
    "on_app_loaded",
    "on_bootstrap",
    "on_destroy",
    "on_init",
    "on_shutdown",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        from pyserve.app import alone, lifecycle

        return getattr(alone if name in ("Refused", "exclusive") else lifecycle, name)
    raise AttributeError(f"module 'pyserve' has no attribute {name!r}")
