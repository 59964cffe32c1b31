"""What a user types for the app: each form that works, and each mistake with the whole message that it gets."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyserve
import pyserve_workers
from pyserve.errors import AppError, ExitCode
from pyserve_workers.life import apploader

APP = """
def {name}(environ, start_response):
    start_response("200 OK", [])
    return [b"{name}"]
"""


class Project:
    """A directory of the user's, first on sys.path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, source: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))

    def fail(self, spec: str) -> tuple[str, str]:
        """Load ``spec``, which must fail; return message and details.

        This directory reads ROOT, and the lines of ^^^ under the source, which differ between Pythons, are left out.
        """
        with pytest.raises(AppError) as caught:
            apploader.load(spec)
        assert caught.value.exit_code == ExitCode.APP
        assert "\n" not in caught.value.message
        details = [line for line in caught.value.details.splitlines() if not line or set(line) - set(" ~^")]
        return self.shorten(caught.value.message), self.shorten("\n".join(details))

    def shorten(self, text: str) -> str:
        return text.replace(str(self.root), "ROOT")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    before = set(sys.modules)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(
        sys, "path", [str(tmp_path), *sys.path[sys.path.index(str(Path(subprocess.__file__).parent)) :]]
    )
    yield Project(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or tmp_path).startswith(str(tmp_path)):
            del sys.modules[name]


def body(app: Callable[..., Any]) -> bytes:
    return b"".join(app({}, lambda _status, _headers: None))


@pytest.mark.parametrize(
    ("spec", "full", "answer"),
    [
        ("shop", "shop:application", b"application"),
        ("shop:other", "shop:other", b"other"),
        (" shop : other ", "shop:other", b"other"),
        ("shop:site.wsgi", "shop:site.wsgi", b"bound"),
        ("shop.web", "shop.web:app", b"app"),
        ("shop.web:app", "shop.web:app", b"app"),
        ("shop:create()", "shop:create()", b"() {}"),
        ('shop:create("prod")', "shop:create('prod')", b"('prod',) {}"),
        ('shop:create("a:b(c)", debug=True)', "shop:create('a:b(c)', debug=True)", b"('a:b(c)',) {'debug': True}"),
        (
            "shop:create(-1, None, [1, {'a': 2.5}])",
            "shop:create(-1, None, [1, {'a': 2.5}])",
            b"(-1, None, [1, {'a': 2.5}]) {}",
        ),
        ("shop:site.make(port=80)", "shop:site.make(port=80)", b"port 80"),
        ("shop:instance", "shop:instance", b"called"),
        ("shop:AppClass", "shop:AppClass", b"class"),
        ("shop:wrapped", "shop:wrapped", b"other"),
        ("shop:partial", "shop:partial", b"other"),
        ("not-a-name", "not-a-name:wsgi", b"wsgi"),
    ],
)
def test_what_works(project: Project, spec: str, full: str, answer: bytes) -> None:
    project.write(
        "shop/__init__.py",
        f"""
        import functools

        app = "not callable, so passed over"
        {textwrap.indent(APP.format(name="application"), "        ").strip()}
        {textwrap.indent(APP.format(name="other"), "        ").strip()}

        def create(*args, **named):
            return lambda environ, start_response: [f"{{args}} {{named}}".encode()]

        class Site:
            def wsgi(self, environ, start_response):
                return [b"bound"]

            def make(self, port):
                return lambda environ, start_response: [b"port %d" % port]

            def __call__(self, environ, start_response):
                return [b"called"]

        class AppClass:
            def __init__(self, environ, start_response):
                pass

            def __iter__(self):
                yield b"class"

        @functools.wraps(other)
        def wrapped(*args):
            return other(*args)

        partial = functools.partial(other)
        site = instance = Site()
        """,
    )
    project.write("shop/web.py", APP.format(name="app"))
    project.write("not-a-name.py", APP.format(name="wsgi"))
    app, description = apploader.load(spec)
    assert (description, body(app)) == (full, answer)


NEITHER = "is neither an attribute, such as 'site.wsgi', nor a call, such as 'create_app(\"prod\")'"
ASGI = "is an ASGI app, and this is a WSGI server; wrap it in an adapter such as a2wsgi"
TWO = "a WSGI app takes two (environ, start_response); if it is a factory, write"

MISTAKES = {
    "": "'' names no module; write 'module:attribute', for example 'myapp:app'",
    ":app": "':app' names no module; write 'module:attribute', for example 'myapp:app'",
    "shop..web": "'shop..web' names no module; write 'module:attribute', for example 'myapp:app'",
    "shop:": "'shop:' names nothing after the colon; write 'shop:attribute'",
    "shop.py": "'shop.py' is a file path; name the module: 'shop'",
    "shop.py:app": "'shop.py:app' is a file path; name the module: 'shop:app'",
    "src/shop.py:app": "'src/shop.py:app' is a file path; name the module: 'shop:app' with --chdir src",
    "/srv/shop": "'/srv/shop' is a file path; name the module: 'shop' with --chdir /srv",
    "shop:a b": f"'a b' {NEITHER}",
    "shop:a..b": f"'a..b' {NEITHER}",
    "shop:create(": f"'create(' {NEITHER}",
    "shop:create().x": f"'create().x' {NEITHER}",
    "shop:create()()": f"'create()()' {NEITHER}",
    "shop:create(**{})": f"'create(**{{}})' {NEITHER}",
    "shop:create(x)": "'create(x)': the arguments must be literals, such as \"prod\", 8, True, None or [1, 2]",
    "shop:create(*[1])": "'create(*[1])': the arguments must be literals, such as \"prod\", 8, True, None or [1, 2]",
    "shp": "no module 'shp' in ROOT; did you mean 'shop'?",
    "zzz:app": "no module 'zzz' in ROOT",
    "zzz.web:app": "no module 'zzz' in ROOT",
    "shop.wbe": "no module 'shop.wbe' in ROOT/shop; did you mean 'shop.web'?",
    "single.app": "no module 'single.app': 'single' is a module, not a package; did you mean 'single:app'?",
    "single.zzz": "no module 'single.zzz': 'single' is a module, not a package",
    "single:ap": "module 'single' has no attribute 'ap'; did you mean 'app'?",
    "single:zzz": "module 'single' has no attribute 'zzz' (its callables: app, create)",
    "single:site.wsg": "'single:site' has no attribute 'wsg'; did you mean 'wsgi'?",
    "single:number.zzz": "'single:number' has no attribute 'zzz'",
    "crowd:zzz": "module 'crowd' has no attribute 'zzz'",
    "crowd": "module 'crowd' has no callable app, application or wsgi; write 'crowd:attribute'",
    "factory": "module 'factory' has no callable app, application or wsgi; "
    "write 'factory:attribute' (its callables: create_app)",
    "shop": "module 'shop' has no callable app, application or wsgi; did you mean 'shop.wsgi'?",
    "kinds:none": "'kinds:none' is None, not a WSGI app",
    "kinds:number": "'kinds:number' is an int, not a WSGI app",
    "kinds:number()": "'kinds:number' is an int, which cannot be called with ()",
    "kinds:text": "'kinds:text' is a str, not a WSGI app",
    "kinds:name": "'kinds:name' is a str, not a WSGI app; did you mean 'kinds:returns_none'?",
    "kinds:single": "'kinds:single' is a module, not a WSGI app; did you mean 'single'?",
    "kinds:returns_none": f"'kinds:returns_none' takes no argument, {TWO} 'kinds:returns_none()'",
    "kinds:one": f"'kinds:one' takes one argument (config), {TWO} 'kinds:one()'",
    "kinds:returns_none()": "'kinds:returns_none()' is None, not a WSGI app; "
    "does the factory end without 'return app'?",
    "kinds:returns_none(8)": "calling 'kinds:returns_none(8)' failed: TypeError: "
    "returns_none() takes 0 positional arguments but 1 was given",
    "kinds:async_factory()": "'kinds:async_factory()' is a coroutine, not a WSGI app; "
    "the factory is an async function, and must be an ordinary one",
    "kinds:asgi": f"'kinds:asgi' {ASGI}",
    "kinds:asgi_instance": f"'kinds:asgi_instance' {ASGI}",
    "kinds:asgi_method.receive": f"'kinds:asgi_method.receive' {ASGI}",
    "kinds:asgi_plain": f"'kinds:asgi_plain' {ASGI}",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_mistakes(project: Project, spec: str) -> None:
    project.write("shop/__init__.py", "import single as app\n")
    project.write("shop/web.py", "")
    project.write("shop/wsgi.py", APP.format(name="application"))
    project.write(
        "factory.py",
        "from json import dumps\nfrom pathlib import Path\n_hidden = print\n\ndef create_app(config=None): ...\n",
    )
    project.write("crowd.py", "\n".join(f"def function{number}(): ..." for number in range(9)))
    project.write(
        "single.py",
        APP.format(name="app") + "number = 8\n\n"
        "def create(): ...\n\n"
        "class _Site:\n    def wsgi(self, environ, start_response): ...\n\nsite = _Site()\n",
    )
    project.write(
        "kinds.py",
        """
        import single
        none, number, text, name = None, 8, "text", "returns_none"

        def returns_none(): ...
        def one(config): ...
        async def async_factory(): ...
        async def asgi(scope, receive, send): ...
        def asgi_plain(scope, receive, send): ...

        class Asgi:
            async def __call__(self, scope, receive, send): ...
            async def receive(self, scope, receive, send): ...

        asgi_instance = asgi_method = Asgi()
        """,
    )
    assert project.fail(spec) == (MISTAKES[spec], "")


def test_the_traceback_of_an_import_begins_with_the_users_first_frame(project: Project) -> None:
    project.write("myapp.py", "import helper\n\napp = helper.make()\n")
    project.write("helper.py", "def make():\n    return 1 / 0\n")
    assert project.fail("myapp:app") == (
        "importing 'myapp' failed: ZeroDivisionError: division by zero",
        textwrap.dedent(
            """\
            Traceback (most recent call last):
              File "ROOT/myapp.py", line 3, in <module>
                app = helper.make()
              File "ROOT/helper.py", line 2, in make
                return 1 / 0
            ZeroDivisionError: division by zero""",
        ),
    )


def test_a_module_missing_inside_the_users_module_is_not_the_users_module_missing(project: Project) -> None:
    project.write("myapp.py", "import myap\n")
    assert project.fail("myapp") == (
        "importing 'myapp' failed: ModuleNotFoundError: No module named 'myap'",
        textwrap.dedent(
            """\
            Traceback (most recent call last):
              File "ROOT/myapp.py", line 1, in <module>
                import myap
            ModuleNotFoundError: No module named 'myap'"""
        ),
    )


def test_nor_is_a_package_that_imports_the_module_asked_for(project: Project) -> None:
    project.write("shop/__init__.py", "import shop.web\n")
    message, details = project.fail("shop.web")
    assert message == "importing 'shop.web' failed: ModuleNotFoundError: No module named 'shop.web'"
    assert 'File "ROOT/shop/__init__.py", line 1, in <module>' in details


def test_a_syntax_error_says_where(project: Project) -> None:
    project.write("myapp.py", "app = 1\ndef app(:\n")
    message, details = project.fail("myapp")
    assert message == "importing 'myapp' failed: SyntaxError: invalid syntax (myapp.py, line 2)"
    assert details == '  File "ROOT/myapp.py", line 2\n    def app(:\nSyntaxError: invalid syntax'


def test_chained_exceptions_are_kept(project: Project) -> None:
    project.write(
        "myapp.py",
        "try:\n    {}['key']\nexcept KeyError as error:\n    raise RuntimeError('no key\\nat all') from error\n",
    )
    message, details = project.fail("myapp")
    assert message == "importing 'myapp' failed: RuntimeError: no key"
    assert details == textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "ROOT/myapp.py", line 2, in <module>
            {}['key']
        KeyError: 'key'

        The above exception was the direct cause of the following exception:

        Traceback (most recent call last):
          File "ROOT/myapp.py", line 4, in <module>
            raise RuntimeError('no key\\nat all') from error
        RuntimeError: no key
        at all"""
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("leaves", "importing 'leaves' failed: SystemExit: no database"),
        ("leaves_silently", "importing 'leaves_silently' failed: SystemExit"),
        ("custom", "importing 'custom' failed: custom.Mine: told"),
        ("factory:create(8)", "calling 'factory:create(8)' failed: ValueError: 8"),
        ("lazy:app", "reading 'app' of module 'lazy' failed: ValueError: app"),
    ],
)
def test_other_failures_of_the_users_code(project: Project, spec: str, message: str) -> None:
    project.write("leaves.py", "import sys\nsys.exit('no database')\n")
    project.write("leaves_silently.py", "raise SystemExit\n")
    project.write("custom.py", "class Mine(Exception): ...\nraise Mine('told')\n")
    project.write("factory.py", "def create(number):\n    raise ValueError(number)\n")
    project.write(
        "lazy.py",
        "def __getattr__(name):\n    raise ValueError(name) if name == 'app' else AttributeError(name)\n",
    )
    actual, details = project.fail(spec)
    assert actual == message
    assert details.splitlines()[:2][-1].startswith(f'  File "ROOT/{spec.partition(":")[0]}.py", line ')
    assert "apploader" not in details
    assert "importlib" not in details


def test_an_interrupt_passes_through(project: Project) -> None:
    project.write("myapp.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        apploader.load("myapp")


def test_a_good_spec_imports_nothing_slow(project: Project) -> None:
    """The start path: what only an error or a factory needs must not be imported for a plain app."""
    project.write("myapp.py", APP.format(name="app"))
    program = "import sys; from pyserve_workers.life import apploader; apploader.load('myapp'); print(*sys.modules)"
    # Without the site module, whose .pth files may import anything.
    roots = [str(project.root), *(str(Path(str(module.__file__)).parents[1]) for module in (pyserve, pyserve_workers))]
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {roots!r}; {program}"]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "myapp" in imported
    assert {"ast", "difflib", "inspect", "pkgutil", "re", "traceback", "typing"}.isdisjoint(imported)
