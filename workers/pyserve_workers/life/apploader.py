"""From ``module:expression`` to a WSGI callable, or to one line that says what is wrong with it.

    myapp                        the first callable among DEFAULT_NAMES
    shop.web:site.wsgi           a dotted attribute
    myapp:create_app("prod")     what a factory returns; its arguments are literals

Runs in the zygote or in a worker, once the working directory and sys.path are those of the app. Whatever the user's
code raises becomes an AppError whose details are the traceback from the user's first frame on: nobody has to read past
this server's frames or the import machinery's. Must not know of processes, settings or requests. Modules that only an
error needs are imported there.
"""

from __future__ import annotations

import importlib
import os
import sys

from pyserve.errors import AppError, HookTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import CodeType, ModuleType, TracebackType
    from typing import Any, NoReturn

    Call = tuple[tuple[Any, ...], dict[str, Any]]

DEFAULT_NAMES = ("app", "application", "wsgi")
FEW = 8  # a longer list of names helps nobody

# Flags of code objects, as in the inspect module, which takes ten milliseconds to import.
VARARGS = 0x04
ASYNC = 0x80 | 0x200  # a coroutine function or an asynchronous generator


def load(spec: str) -> tuple[Callable[..., Any], str]:
    """Return the WSGI callable that ``spec`` names, and the spec in full: ``myapp`` becomes ``myapp:app``.

    Raises AppError. KeyboardInterrupt and other exceptions of its rank pass through.
    """
    module_name, expression = _split(spec)
    path, call = _parse(expression)
    module = _import(module_name)
    path = path or [_default_name(module)]
    found = _follow(module, path)
    full = f"{module_name}:{'.'.join(path)}"
    if call is not None:
        found, full = _call(found, full, *call)
    _check(found, full)
    return found, full


def find(spec: str) -> Any:
    """What ``MODULE:NAME`` names. AppError if there is no such thing."""
    module, _, name = spec.partition(":")
    return _follow(_import(module), name.split("."))


# Reading the spec


def _split(spec: str) -> tuple[str, str]:
    module_name, colon, expression = (part.strip() for part in spec.partition(":"))
    if "/" in module_name or module_name.endswith(".py"):
        _refuse_path(module_name, colon + expression)
    if not all(module_name.split(".")):
        raise AppError(f"'{spec}' names no module; write 'module:attribute', for example 'myapp:app'")
    if colon and not expression:
        raise AppError(f"'{spec}' names nothing after the colon; write '{module_name}:attribute'")
    return module_name, expression


def _refuse_path(path: str, rest: str) -> NoReturn:
    directory, name = os.path.split(path)
    module = name.removesuffix(".py")
    where = f" with --chdir {directory}" if directory else ""
    raise AppError(f"'{path}{rest}' is a file path; name the module: '{module}{rest}'{where}")


def _parse(expression: str) -> tuple[list[str], Call | None]:
    """``a.b`` → (["a", "b"], None); ``a.b("x", y=1)`` → (["a", "b"], (("x",), {"y": 1})); nothing → ([], None)."""
    if not expression:
        return [], None
    dotted, parenthesis, _ = expression.partition("(")
    path = dotted.rstrip().split(".")
    if not all(name.isidentifier() for name in path):
        _refuse_expression(expression)
    return path, _parse_call(expression) if parenthesis else None


def _parse_call(expression: str) -> Call:
    import ast

    try:
        node = ast.parse(expression, mode="eval").body
    except SyntaxError:
        _refuse_expression(expression)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        _refuse_expression(expression)
    try:
        positional = tuple(ast.literal_eval(argument) for argument in node.args)
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        literals = '"prod", 8, True, None or [1, 2]'
        raise AppError(f"'{expression}': the arguments must be literals, such as {literals}") from None
    if None in named:
        _refuse_expression(expression)
    return positional, {str(name): value for name, value in named.items()}


def _refuse_expression(expression: str) -> NoReturn:
    call = "'create_app(\"prod\")'"
    raise AppError(f"'{expression}' is neither an attribute, such as 'site.wsgi', nor a call, such as {call}")


# Running the user's code, where anything may be raised (hence BLE001, thrice)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        if _is_missing(name, error):
            raise _missing_module(str(getattr(error, "name", name))) from None
        raise _failure(f"importing '{name}'", error) from None


def _follow(module: ModuleType, path: list[str]) -> Any:
    found: Any = module
    walked = f"module '{module.__name__}'"
    for position, name in enumerate(path, 1):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise AppError(f"{walked} has no attribute '{name}'{_near_or_all(name, found)}") from None
        except (Exception, SystemExit) as error:  # noqa: BLE001
            raise _failure(f"reading '{name}' of {walked}", error) from None
        walked = f"'{module.__name__}:{'.'.join(path[:position])}'"
    return found


def _default_name(module: ModuleType) -> str:
    names = vars(module)
    for name in DEFAULT_NAMES:
        if callable(names.get(name)):
            return name
    nothing = f"module '{module.__name__}' has no callable app, application or wsgi"
    submodules = _modules_in(getattr(module, "__path__", ()))
    for name in DEFAULT_NAMES:
        if name in submodules:  # "mysite" for "mysite.wsgi"
            raise AppError(f"{nothing}; did you mean '{module.__name__}.{name}'?")
    raise AppError(f"{nothing}; write '{module.__name__}:attribute'{_all(module)}")


def _call(factory: Any, full: str, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, str]:
    arguments = ", ".join([*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())])
    if not callable(factory):
        raise AppError(f"'{full}' is {_kind(factory)}, which cannot be called with ({arguments})")
    full = f"{full}({arguments})"
    try:
        return factory(*positional, **named), full
    except (Exception, SystemExit) as error:  # noqa: BLE001
        raise _failure(f"calling '{full}'", error) from None


# Looking at what was found


def _check(found: Any, full: str) -> None:
    """Raise AppError unless ``found`` can be called as a WSGI app."""
    if not callable(found):
        raise AppError(f"'{full}' is {_kind(found)}, not a WSGI app{_hint(found, full)}")
    code, bound = _code_of(found)
    if code is None:
        return
    names = code.co_varnames[bound : code.co_argcount]
    if code.co_flags & ASYNC or names == ("scope", "receive", "send"):
        raise AppError(f"'{full}' is an ASGI app, and this is a WSGI server; wrap it in an adapter such as a2wsgi")
    if len(names) < 2 and not code.co_flags & VARARGS:
        takes = f"one argument ({names[0]})" if names else "no argument"
        advice = f"; if it is a factory, write '{full}()'"
        raise AppError(f"'{full}' takes {takes}, a WSGI app takes two (environ, start_response){advice}")


def _code_of(function: Any) -> tuple[CodeType | None, int]:
    """The code that a call of ``function`` runs, and how many of its arguments are bound.

    (None, 0) for a class and for native code.
    """
    if isinstance(function, type):
        return None, 0
    plain = getattr(function, "__func__", function)
    if type(plain) is not type(load):
        plain = type(function).__call__
    if type(plain) is not type(load):
        return None, 0
    return plain.__code__, int(plain is not function)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _hint(value: Any, full: str) -> str:
    module_name, _, expression = full.partition(":")
    called = expression.endswith(")")
    if value is None and called:
        return "; does the factory end without 'return app'?"
    if type(value) is type(sys):
        return f"; did you mean '{value.__name__}'?"
    if isinstance(value, str) and callable(getattr(sys.modules[module_name], value, None)):
        return f"; did you mean '{module_name}:{value}'?"
    if type(value).__name__ == "coroutine":
        value.close()  # or Python warns that it was never awaited
        return "; the factory is an async function, and must be an ordinary one"
    return ""


def _near_or_all(name: str, owner: Any) -> str:
    near = _near(name, [other for other in dir(owner) if not other.startswith("__")])
    return f"; did you mean {near}?" if near else _all(owner)


def _near(name: str, names: Iterable[str], prefix: str = "") -> str:
    import difflib

    return " or ".join(f"'{prefix}{other}'" for other in difflib.get_close_matches(name, sorted(names)))


def _all(owner: Any) -> str:
    """The callables that ``owner`` defines, when they are few; imported functions and classes are not meant."""
    home = getattr(owner, "__name__", None)
    names = [name for name, value in getattr(owner, "__dict__", {}).items() if _is_candidate(name, value, home)]
    return f" (its callables: {', '.join(names)})" if 0 < len(names) <= FEW else ""


def _is_candidate(name: str, value: Any, home: str | None) -> bool:
    if name.startswith("_") or not callable(value):
        return False
    imported = (type(value) is type(load) or isinstance(value, type)) and value.__module__ != home
    return not imported


# Saying what went wrong


def _is_missing(name: str, error: BaseException) -> bool:
    """Whether ``name`` or a package above it does not exist, as opposed to an import inside it that failed."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return False
    return f"{name}.".startswith(f"{error.name}.") and _users_frames(error) is None


def _missing_module(missing: str) -> AppError:
    parent, _, last = missing.rpartition(".")
    if parent and not hasattr(sys.modules[parent], "__path__"):
        attribute = f"; did you mean '{parent}:{last}'?" if hasattr(sys.modules[parent], last) else ""
        return AppError(f"no module '{missing}': '{parent}' is a module, not a package{attribute}")
    places = list(sys.modules[parent].__path__) if parent else _users_directories()
    prefix = f"{parent}." if parent else ""
    near = _near(last, _modules_in(places), prefix)
    suggestion = f"; did you mean {near}?" if near else ""
    return AppError(f"no module '{missing}' in {' or '.join(places)}{suggestion}")


def _users_directories() -> list[str]:
    """The directories that sys.path has before the standard library's: those of the app."""
    library = os.path.dirname(os.__file__)
    own = sys.path[: sys.path.index(library)] if library in sys.path else sys.path
    return list(dict.fromkeys(os.path.abspath(entry) for entry in own if os.path.isdir(entry or ".")))


def _modules_in(directories: Iterable[str]) -> set[str]:
    import pkgutil

    return {module.name for module in pkgutil.iter_modules(list(directories))}


def user_traceback(error: BaseException) -> str:
    """The traceback of what the user's code raised, from the user's first frame on, with its causes; of a hook that was
    too slow, where it was."""
    import traceback

    from pyserve_workers.native.failure import report

    if isinstance(error, HookTimeout):
        while error.__cause__ is not None:  # from the loop that has cancelled it to what it waited for
            error = error.__cause__
        frames = [each for each in traceback.walk_tb(error.__traceback__) if not _is_ours(each[0].f_globals)]
        stack = traceback.StackSummary.extract(iter(frames))
        return "".join(["Stack (most recent call last):\n", *stack.format()]).rstrip()
    return report(error, _users_frames(error))


def _failure(doing: str, error: BaseException) -> AppError:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    details = user_traceback(error)
    try:
        text = str(error).partition("\n")[0]
    except Exception:  # noqa: BLE001  (the details say so)
        text = ""
    return AppError(f"{doing} failed: {name}{text and ': ' + text}", details if "\n" in details else "")


def _users_frames(error: BaseException) -> TracebackType | None:
    """The traceback from the first frame on that is neither this server's nor the import machinery's, if any."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_globals):
        frames = frames.tb_next
    return frames


def _is_ours(frame_globals: dict[str, Any]) -> bool:
    return str(frame_globals.get("__name__")).partition(".")[0] in ("pyserve", "pyserve_workers", "importlib")
