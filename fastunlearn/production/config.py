"""Reading fastunlearn.toml: every key is known, of the right type and in range, or an error says which is not."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from pathlib import Path

from fastunlearn.errors import InvalidInputError
from fastunlearn.production._options import allowed
from fastunlearn.production.schema import SECTIONS, Config

__all__ = ["NAME", "check_method", "load_config", "make_config", "method_settings"]

NAME = "fastunlearn.toml"
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}


def load_config(path: str | os.PathLike) -> Config:
    """The configuration in the file ``path``. Raises InvalidInputError, naming file and key, for whatever is wrong."""
    path = Path(path)
    if path.is_dir():
        path = path / NAME
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise InvalidInputError(f"there is no file {path}; `fastunlearn new FOLDER` writes one to start from") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, a number too long, lists nested too deep
        raise InvalidInputError(f"{path} is not valid TOML: {error}") from error
    return make_config(values, path)


def make_config(values: dict, path: str | os.PathLike = NAME) -> Config:
    """The configuration of the tables ``values``, as if they stood in the file ``path``. Raises InvalidInputError."""
    path = Path(path)
    sections = {}
    for name, table in values.items():
        if name not in SECTIONS:
            raise InvalidInputError(f"{path.name}: unknown table [{name}]; {_nearest(name, SECTIONS)}")
        if not isinstance(table, dict):
            raise InvalidInputError(f"{path.name}: {name} must be a table: write [{name}] and its keys below")
        sections[name] = _section(name, table, path.name)
    if "model" not in sections:
        raise InvalidInputError(f"{path.name}: the table [model] is missing: give at least model.folder")
    return Config(path=path, **sections)


def _nearest(name: str, known) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else f"the known ones are {', '.join(known)}"


def _section(name: str, table: dict, file: str):
    fields = {one.name: one for one in dataclasses.fields(SECTIONS[name])}
    for key, value in table.items():
        if key not in fields:
            raise InvalidInputError(f"{file}: unknown key {name}.{key}; {_nearest(key, fields)}")
        if not fields[key].metadata["check"](value):
            kind = next((words for kind, words in _KINDS.items() if isinstance(value, kind)), type(value).__name__)
            shown = f"{value!r}" if isinstance(value, int | float) else kind
            raise InvalidInputError(f"{file}: {name}.{key} must be {allowed(fields[key])}, got {shown}")
    for key, one in fields.items():
        if key not in table and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise InvalidInputError(f"{file}: {name}.{key} is missing: {one.metadata['doc']}")
    return SECTIONS[name](**{key: tuple(v) if isinstance(v, list) else v for key, v in table.items()})


def method_settings(config: Config) -> dict:
    """The settings of the method that are given; "none" stands for null, which TOML lacks."""
    return {name: None if value == "none" else value for name, value in config.method.settings.items()}


def check_method(config: Config):
    """The method's settings, those that are not given too. Raises InvalidInputError where the method, one of its
    settings, its memory or what it needs is wrong."""
    from fastunlearn.resources import parse_memory
    from fastunlearn.unlearn import get_method
    from fastunlearn.unlearn.settings import make_settings

    chosen = config.method
    method = get_method(chosen.name)
    settings = make_settings(method.settings, chosen.name, dict(method.preset) | method_settings(config))
    parse_memory(chosen.memory, name="method.memory")
    from fastunlearn.audit.attacks import ATTACKS

    unknown = [name for name in config.evidence.attacks if name not in ATTACKS]
    if unknown:
        near = _nearest(unknown[0], ATTACKS)
        raise InvalidInputError(f"{config.path.name}: evidence.attacks: no attack is {unknown[0]!r}; {near}")
    if method.uses_kept != bool(chosen.kept_fisher):
        wanted = "is needed" if method.uses_kept else "is not used: leave it out"
        raise InvalidInputError(f"{config.path.name}: method.kept_fisher {wanted} with {chosen.name}")
    if (method.uses_retain or getattr(settings, "retain_weight", 0) > 0) and not config.data.retain:
        raise InvalidInputError(f"{config.path.name}: data.retain is needed by {chosen.name}")
    return settings
