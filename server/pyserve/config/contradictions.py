"""Settings that are fine one by one but not together, or not for this user of this machine."""

from __future__ import annotations

import os

from pyserve.config import addresses
from pyserve.config.settings import BY_NAME
from pyserve.errors import ConfigError
from pyserve.system import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyserve.config.given import Given

OURS = ("sync", "threads", "gevent")
NONE = ("0", "0%")
WILDCARDS = ("0.0.0.0", "::")

# (the larger, the smaller): the first must not be less than the second.
AT_LEAST = (
    ("response_spool", "response_buffer"),
    ("spool_limit", "response_spool"),
    ("spool_limit", "limit_request_body"),
    ("limit_request_head", "limit_request_line"),
    ("limit_request_head", "limit_request_field_size"),
)


def check(given: Mapping[str, Given]) -> None:
    """Raise ConfigError for the first contradiction. given: every setting's name → (value, origin)."""
    for large, small in AT_LEAST:
        if given[large].value < given[small].value:
            raise ConfigError(f"{said(given, large)} is less than {said(given, small)}")
    if given["drain_delay"].value >= given["graceful_timeout"].value:
        raise ConfigError(
            f"{said(given, 'drain_delay')} is not less than {said(given, 'graceful_timeout')}, which it is a part of"
        )
    check_bind([addresses.parse(text) for text in given["bind"].value], given["bind"].origin)
    for name in ("chdir", "spool_dir"):
        if BY_NAME[name].is_given(given[name].origin) and not os.path.isdir(given[name].value):
            raise ConfigError(f"{said(given, name)}: no such directory")
    check_worker_class(given)
    if all(given[name].value in NONE for name in ("max_surge", "max_unavailable")):
        raise ConfigError(
            f"{said(given, 'max_surge')} and {said(given, 'max_unavailable')}: "
            "no worker could ever be replaced, one of them must be more"
        )
    if os.geteuid() != 0:
        check_accounts(given)


def check_bind(binds: list[addresses.Address], origin: str) -> None:
    """No address twice, none that another one covers. Port 0 is a new port each time."""
    seen: list[addresses.Address] = []
    for address in binds:
        for other in seen:
            if address == other and not (address.kind == "tcp" and address.port == 0):
                raise ConfigError(f"{address} is given twice ({origin})")
            if covers(other, address) or covers(address, other):
                raise ConfigError(f"{other} and {address} are the same port of one interface ({origin})")
        seen.append(address)


def covers(wide: addresses.Address, narrow: addresses.Address) -> bool:
    """Is ``wide`` all interfaces of the IP version that ``narrow`` names one of, on the same port?"""
    if wide.kind != "tcp" or narrow.kind != "tcp" or wide.port != narrow.port or wide.port == 0:
        return False
    same_version = (":" in wide.host) == (":" in narrow.host)
    return wide.host in WILDCARDS and same_version and narrow.host not in WILDCARDS


def check_worker_class(given: Mapping[str, Given]) -> None:
    """Worker classes are plugins; looking for them is slow, so our own are not looked for."""
    chosen = given["worker_class"].value
    if chosen in OURS:
        return
    from importlib.metadata import entry_points

    installed = {*OURS, *entry_points(group="pyserve.workers").names}
    if chosen not in installed:
        raise ConfigError(f"{said(given, 'worker_class')} is not installed, there is: {', '.join(sorted(installed))}")


def check_accounts(given: Mapping[str, Given]) -> None:
    """Only root can become somebody else."""
    from pyserve.system.accounts import group_id, user_id

    ours = {"user": (user_id, [os.geteuid()]), "group": (group_id, [os.getegid(), *os.getgroups()])}
    for name, (number_of, numbers) in ours.items():
        account = given[name].value
        if account is not None and number_of(account) not in numbers:
            raise ConfigError(f"{said(given, name)}: only root can change the {name}, and pyserve does not run as root")


def warnings(given: Mapping[str, Given]) -> list[str]:
    """Settings that were given and have nothing to act on."""
    lines = []
    if given["access_logformat"].origin != "default" and given["access_logfile"].value is None:
        lines.append(f"{said(given, 'access_logformat')} does nothing: access_logfile is not set")
    if given["worker_connections"].origin != "default" and given["worker_class"].value in ("sync", "threads"):
        lines.append(f"{said(given, 'worker_connections')} does nothing: {said(given, 'worker_class')}")
    if given["socket_mode"].origin != "default" and not any(map(has_mode, given["bind"].value)):
        lines.append(f"{said(given, 'socket_mode')} does nothing: no unix socket at a path is bound")
    most = given["limit_connections"].value
    needed, allowed = descriptors.needed(most), descriptors.allowed(most)
    if needed > allowed and given["limit_connections"].origin != "default":
        lines.append(
            f"{said(given, 'limit_connections')} may need {needed} descriptors, and a worker may open {allowed}: "
            f"beyond them clients are answered with 503, and large bodies cannot be spooled"
        )
    if given["max_requests_jitter"].value and not given["max_requests"].value:
        lines.append(f"{said(given, 'max_requests_jitter')} does nothing: max_requests is not set")
    if given["threads"].value > 1 and given["worker_class"].value != "threads":
        lines.append(f"{said(given, 'threads')} does nothing: {said(given, 'worker_class')}")
    return lines


def has_mode(bind: str) -> bool:
    return bind.startswith("unix:") and not addresses.is_abstract(bind.removeprefix("unix:"))


def said(given: Mapping[str, Given], name: str) -> str:
    """``timeout = 30s (pyserve.toml line 4)``."""
    value, origin = given[name]
    return f"{name} = {BY_NAME[name].kind.show(value)} ({origin})"
