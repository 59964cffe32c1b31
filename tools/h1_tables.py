"""Write the parser's tables in workers/pyserve_workers/http1.

h1_fields.h: indexes of common field names; h1_known.h: their perfect hash; h1_tables.h: byte classes.
Run it after changing a list below: `python tools/h1_tables.py`. With --check it only compares, and exits 1 if a file is
out of date.
"""

from __future__ import annotations

import random
import string
import sys
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "workers" / "pyserve_workers" / "http1"
HEADER = "/* Written by tools/h1_tables.py: change the lists there. */\n"


def words(text: str) -> list[str]:
    return text.split()


# Fields with which a trailer section is refused. RFC 9110 6.5.1 keeps several kinds out of it. Refused are message
# framing and the connection, routing (with what proxies write about it) and authentication: they say where a message
# ends, whom it is for and who sends it. A proxy has acted on those of the head; others behind the content make sense
# only where a later reader merges them. The other kinds (request modifiers, response controls, content format) decide
# none of this: they are dropped, as all trailers are.
NOT_IN_TRAILERS = words("""
    content-length transfer-encoding connection keep-alive proxy-connection te trailer upgrade expect
    host max-forwards forwarded x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-forwarded-prefix
    x-real-ip proxy
    authorization proxy-authorization cookie
""")

# The other names that common browsers, tools and proxies send.
COMMON = words("""
    accept accept-charset accept-encoding accept-language access-control-request-headers access-control-request-method
    cache-control content-disposition content-encoding content-language content-md5 content-range content-type
    date dnt from idempotency-key if-match if-modified-since if-none-match if-range if-unmodified-since
    origin pragma prefer priority purpose range referer save-data
    sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc
    sec-websocket-extensions sec-websocket-key sec-websocket-protocol sec-websocket-version
    traceparent tracestate upgrade-insecure-requests user-agent via x-csrf-token x-csrftoken
    x-request-id x-requested-with
""")

NAMES = NOT_IN_TRAILERS + COMMON

# RFC 9110 5.6.2: tchar
TCHAR = "!#$%&'*+-.^_`|~" + string.ascii_letters + string.digits
# RFC 3986 2.2, 2.3
SUB_DELIMS = "!$&'()*+,;="
UNRESERVED = string.ascii_letters + string.digits + "-._~"
# RFC 5234 B.1: VCHAR. RFC 3986 3.3 and 3.4 have fewer of them, and a "%" only before two hex digits. The WHATWG URL
# standard leaves others as they are ("?ids[]=1", "?q=100%"), so every browser sends them, and other clients send the
# rest. A fragment, which "#" begins, is the client's own and never sent.
VISIBLE = bytes(range(0x21, 0x7F))

CLASSES: dict[str, Iterable[int]] = {
    "TCHAR": TCHAR.encode(),
    # "?" ends a path, and behind its "%" the parser looks for "00"
    "PATH": VISIBLE.translate(None, b"#?%"),
    "QUERY": VISIBLE.translate(None, b"#"),
    # RFC 9110 5.5: field-vchar = VCHAR / obs-text, and between them SP / HTAB
    "VALUE": [*b"\t", *range(0x20, 0x7F), *range(0x80, 0x100)],
    # RFC 3986 3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ). Without the comma: it is what joining two
    # Host fields leaves.
    "REG_NAME": (UNRESERVED + SUB_DELIMS.replace(",", "")).encode(),
    # every byte that an authority may hold; the first other one ends it
    "AUTHORITY": (UNRESERVED + SUB_DELIMS + "%:[]").encode(),
    "HEX": string.hexdigits.encode(),
    "UNDERSCORE": b"_",
}


def identifier(name: str) -> str:
    return "H1_FIELD_" + name.upper().replace("-", "_")


def environ_key(name: str) -> str:
    """PEP 3333: CGI's names for the two fields that describe the body, HTTP_ and the name for the others."""
    key = name.upper().replace("-", "_")
    return key if name in ("content-type", "content-length") else "HTTP_" + key


def features(name: str) -> tuple[int, int, int, int]:
    """What the hash looks at, the same as known_slot() in http1.c: length, first, middle and last but one byte."""
    return len(name), ord(name[0]), ord(name[len(name) // 2]), ord(name[-2])


def find_hash(names: list[str], slots: int) -> tuple[int, ...]:
    """Four multipliers for which no two names share a slot."""
    if not all(set(name) <= set(string.ascii_lowercase + string.digits + "-") for name in names):
        raise SystemExit("same_name() in http1.c compares letters, digits and '-' only")
    if len(set(map(features, names))) < len(names):
        raise SystemExit("two names have the same features: let features() look at another byte")
    generator = random.Random(9112)
    while True:
        factors = tuple(generator.randrange(1, 256) for _ in range(4))
        taken = {slot(name, factors, slots) for name in names}
        if len(taken) == len(names):
            return factors


def slot(name: str, factors: tuple[int, ...], slots: int) -> int:
    return sum(f * x for f, x in zip(factors, features(name), strict=True)) % slots


def table(values: list[int], per_line: int) -> str:
    rows = [values[i : i + per_line] for i in range(0, len(values), per_line)]
    return "".join("    " + " ".join(f"{value}," for value in row) + "\n" for row in rows)


def fields_header() -> str:
    lines = [HEADER, "#ifndef PYSERVE_H1_FIELDS_H\n#define PYSERVE_H1_FIELDS_H\n\n", "enum {\n"]
    lines += [f"    {identifier(name)},\n" for name in NAMES]
    lines += ["    H1_KNOWN_FIELDS,\n", "};\n\n#endif\n"]
    return "".join(lines)


def tables_header() -> str:
    out = [HEADER, "#ifndef PYSERVE_H1_TABLES_H\n#define PYSERVE_H1_TABLES_H\n\n#include <stdint.h>\n\n"]
    out.append("/* Byte classes, one bit each; the grammar stands beside the lists in tools/h1_tables.py. */\nenum {\n")
    out += [f"    H1_{name} = {1 << bit},\n" for bit, name in enumerate(CLASSES)]
    out.append("};\n\nstatic const uint8_t h1_class[256] = {\n")
    bits = [sum(1 << bit for bit, members in enumerate(CLASSES.values()) if byte in members) for byte in range(256)]
    out += [table(bits, 16), "};\n\n#endif\n"]
    return "".join(out)


def known_header() -> str:
    slots = 512
    factors = find_hash(NAMES, slots)
    by_slot = {slot(name, factors, slots): index for index, name in enumerate(NAMES)}
    out = [HEADER, "/* For http1.c alone: it defines h1_known_fields[]. */\n"]
    out.append("#ifndef PYSERVE_H1_KNOWN_H\n#define PYSERVE_H1_KNOWN_H\n\n")
    out.append('#include <stdint.h>\n\n#include "http1.h"\n\n')
    out.append("/* name, its length, forbidden in a trailer section, environ key and its length */\n")
    out.append("const h1_known_field h1_known_fields[H1_KNOWN_FIELDS] = {\n")
    for name in NAMES:
        key = environ_key(name)
        out.append(f'    {{"{name}", {len(name)}, {int(name in NOT_IN_TRAILERS)}, "{key}", {len(key)}}},\n')
    out.append(f"}};\n\n#define LONGEST_KNOWN {max(map(len, NAMES))}u\n")
    out.append(f"#define HASH_SLOTS {slots}u\n#define EMPTY_SLOT 255u\n\n")
    out.append("/* Perfect hash: factors of length, first, middle and last but one byte. */\n")
    out.append(f"static const uint32_t hash_factors[4] = {{{', '.join(map(str, factors))}}};\n\n")
    out.append("static const uint8_t hash_slots[HASH_SLOTS] = {\n")
    out += [table([by_slot.get(index, 255) for index in range(slots)], 16), "};\n\n#endif\n"]
    return "".join(out)


def current(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def main() -> int:
    files = {"h1_fields.h": fields_header(), "h1_tables.h": tables_header(), "h1_known.h": known_header()}
    stale = [name for name, text in files.items() if current(FOLDER / name) != text]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"{name} is out of date: run python tools/h1_tables.py", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (FOLDER / name).write_text(files[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
