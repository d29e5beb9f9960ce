"""docs/configuration.md and the commented starter file, both made from the schema.

    python -m fastunlearn.production.documentation FILE     writes the page
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping

from fastunlearn.production._options import allowed
from fastunlearn.production.schema import SECTIONS
from fastunlearn.storage.files import write_text

__all__ = ["page", "starter_toml", "toml_value"]

_INTRODUCTION = """# fastunlearn.toml

One file for `fastunlearn plan`, `pilot`, `unlearn --config` and `requests`. Paths are relative to the file's folder.
An unknown key, a wrong type or a value out of range is refused before anything runs. `fastunlearn new FOLDER` writes a
file to start from. This page is made from the schema (`python -m fastunlearn.production.documentation
docs/configuration.md`).
"""


def toml_value(value) -> str:
    """``value`` as TOML writes it (strings, numbers, booleans, lists of strings)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    # JSON's string escapes are those of TOML's basic strings, but for DEL, which TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _default(field: dataclasses.Field) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "empty"
    return "must be given" if field.default is dataclasses.MISSING else f"`{toml_value(field.default)}`"


def page() -> str:
    """The page that explains every key."""
    parts = [_INTRODUCTION]
    for name, section in SECTIONS.items():
        rows = [f"## [{name}]\n\n{section.__doc__}\n\n| Key | Value | Default | Meaning |\n| :-- | :-- | :-- | :-- |"]
        for one in dataclasses.fields(section):
            rows.append(f"| `{one.name}` | {allowed(one)} | {_default(one)} | {one.metadata['doc']} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def starter_toml(given: Mapping[str, Mapping[str, object]]) -> str:
    """A configuration with a comment on every key; those not in ``given`` are comments too, with their default."""
    parts = ["# Every key is explained in docs/configuration.md. A line that starts with # shows the default.\n"]
    for name, section in SECTIONS.items():
        lines = [f"[{name}]  # {section.__doc__}"]
        own = given.get(name, {})
        for one in dataclasses.fields(section):
            if one.default_factory is not dataclasses.MISSING:
                continue
            lines.append(f"# {one.metadata['doc']}")
            if one.name in own:
                lines.append(f"{one.name} = {toml_value(own[one.name])}")
            else:
                lines.append(f"# {one.name} = {toml_value(one.default)}")
        for one in dataclasses.fields(section):
            if one.default_factory is not dataclasses.MISSING:
                lines += ["", f"[{name}.{one.name}]  # {one.metadata['doc']}"]
                lines += [f"{key} = {toml_value(value)}" for key, value in own.get(one.name, {}).items()]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    write_text(sys.argv[1], page())
