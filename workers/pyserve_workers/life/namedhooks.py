"""The hooks that the configuration names, so that an app need not import pyserve."""

from __future__ import annotations

from pyserve.app import lifecycle
from pyserve.errors import AppError
from pyserve_workers.life.apploader import find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.config.config import Config


def register(config: Config) -> None:
    """Import them and add them to the table, after those that the app itself has decorated. AppError, which names the
    setting, if one is not there or cannot be called."""
    for event in lifecycle.EVENTS:
        for named in getattr(config, event):
            try:
                lifecycle.register(event, find(named))
            except AppError as error:
                raise AppError(f'{event} = "{named}": {error.message}', error.details) from None
            except TypeError as error:
                raise AppError(f'{event} = "{named}": {error}') from None
