"""What an app's import has left to be done when its process ends: exit callbacks, finalizers, temporary files.

Forked workers share what the import has made, and each of them would do it: the first worker that leaves would remove
a folder that the others use. Python cannot list its exit callbacks, so ``Watch`` notes them while the app is imported.
"""

from __future__ import annotations

import atexit
import sys
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType

from pyserve_workers.life.living import living

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# These end only what each process has for itself.
HARMLESS = {
    "logging:shutdown",  # flushes
    "weakref:finalize._exitfunc",  # runs the finalizers, which are looked at one by one
    "multiprocessing.util:_exit_function",  # ends child processes, which are looked for
    "certifi.core:exit_cacert_ctx",  # removes a copy that is only made for a zipped package
    "PIL._imaging:clear_cache",
    "matplotlib._pylab_helpers:Gcf.destroy_all",
    "pymongo.synchronous.monitor:_shutdown_resources",
    "sentry_sdk.integrations.atexit:AtexitIntegration.setup_once.<locals>._shutdown",  # flushes
    "sentry_sdk.profiler.continuous_profiler:teardown_continuous_profiler",  # ends a thread, if there is one
    "django.dispatch.dispatcher:Signal._remove_receiver",  # forgets an object that is gone
    "urllib3.connectionpool:_close_pool_connections",  # of sockets, which are looked for
}


class Watch:
    """``with Watch() as watch: import`` notes the exit callbacks that are registered meanwhile."""

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self.finalizers = set(finalizers())

    def __enter__(self) -> Watch:
        self.usual = atexit.register, atexit.unregister
        atexit.register, atexit.unregister = self.register, self.unregister
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_on():  # else the app has put its own there
            atexit.register, atexit.unregister = self.usual

    def is_on(self) -> bool:
        return atexit.register == self.register

    def register(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Registers an exit callback; a module that has this function as its own calls it later, too."""
        registered = self.usual[0](func, *args, **kwargs)
        if self.is_on():
            self.noted.append(func)
        return registered

    def unregister(self, func: Callable[..., Any]) -> None:
        self.usual[1](func)
        if self.is_on():
            self.noted = [noted for noted in self.noted if noted != func]

    def found(self) -> list[str]:
        """What each worker would do at its end, as the ends of "the import …"."""
        fresh = [info.func for key, info in finalizers().items() if key not in self.finalizers and info.atexit]
        return [
            *self.named("registered an exit callback", self.noted),
            *self.named("registered a finalizer that runs at exit", fresh),
        ]

    def named(self, what: str, callbacks: Iterable[Any]) -> list[str]:
        names = sorted({name for callback in callbacks if (name := name_of(callback)) not in HARMLESS})
        return [f"{what} ({', '.join(names)})"] if names else []


def finalizers() -> dict[Any, Any]:
    """weakref.finalize's own table: finalizer → its function, and whether that is called at exit."""
    finalize = getattr(sys.modules.get("weakref"), "finalize", None)
    return dict(finalize._registry) if finalize is not None else {}


def name_of(callback: Any) -> str:
    """``module:function``; of a callable object its class. Nothing of the app runs for it."""
    while type(callback) in (MethodType, partial):
        callback = callback.__func__ if type(callback) is MethodType else callback.func
    if type(callback) not in (FunctionType, BuiltinFunctionType):
        callback = type(callback)
    return f"{callback.__module__}:{callback.__qualname__}"


def temporary_files() -> str:
    """Those of NamedTemporaryFile that are removed when the object goes, as every worker's copy of it does."""
    closer = getattr(sys.modules.get("tempfile"), "_TemporaryFileCloser", None)
    if closer is None:
        return ""
    names = sorted(str(it.name) for it in living(lambda kind: kind is closer) if it.delete and not it.close_called)
    return f"made a temporary file ({', '.join(names)})" if names else ""
