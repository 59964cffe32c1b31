"""The ways pyserve fails, each with the exit code that the master ends with."""

from __future__ import annotations


class ExitCode:
    """Exit codes of the master. Those above 64 are the ones of sysexits.h."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    HOOK = 3
    APP = 4
    BIND = 69
    REQUESTS_CUT = 70
    CONFIG = 78


class PyserveError(Exception):
    """A failure that is told in one line; details (the traceback of the user's app) may follow."""

    exit_code = ExitCode.INTERNAL
    kind = "internal"  # its name in a message on a channel

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class UsageError(PyserveError):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class HookError(PyserveError):
    """A lifecycle hook of the user's app raised."""

    exit_code = ExitCode.HOOK
    kind = "hook"


class AppError(PyserveError):
    """The user's app cannot be imported, found or called."""

    exit_code = ExitCode.APP
    kind = "app"


class BindError(PyserveError):
    """A listening socket cannot be had."""

    exit_code = ExitCode.BIND


class ConfigError(PyserveError):
    """A configuration file, an environment variable or the combination of settings is wrong."""

    exit_code = ExitCode.CONFIG
    kind = "config"


BY_KIND: dict[str, type[PyserveError]] = {
    error.kind: error for error in (PyserveError, HookError, AppError, ConfigError)
}


class RequestTimeout(BaseException):
    """Raised inside the app when a request has run for longer than ``timeout``.

    A BaseException, so that an app's ``except Exception`` does not swallow it.
    """


class HookTimeout(BaseException):
    """Raised inside a lifecycle hook that takes longer than its ``timeout``.

    A BaseException, so that a hook's own ``except Exception`` does not swallow it.
    """


class ClientGone(BaseException):
    """Raised inside the app, by workers that can, when the client of a response that is being streamed has gone away.

    A BaseException, as GeneratorExit is: it ends the response, and nobody has done anything wrong.
    """
