"""The state folder of a run: what a restart needs, and the marks by which it knows its own results."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path

from fastunlearn.errors import InvalidInputError, OutputError
from fastunlearn.storage.files import refuse_existing, write_json

__all__ = ["RUN", "STEPS", "RunState", "remove_state"]

RUN, STEPS, LOG = "run.json", "steps.safetensors", "log.jsonl"


class RunState:
    """``folder`` with run.json (the run's identifier and what it is a run of), the weights after the last step and the
    log. ``restarted``: it was there before."""

    def __init__(self, folder: Path, identity: dict[str, str], about: dict):
        self.folder, self.identity = folder, identity
        self.restarted = (folder / RUN).is_file()
        if self.restarted:
            about = self._read()
            self._check(about)
        else:
            if folder.exists() and any(folder.iterdir()):
                raise OutputError(f"{folder} is there already and is no state of a run: name another run.state")
            refuse_existing(folder, overwrite=True)
            about = {"run": secrets.token_hex(16), "identity": identity, **about}
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # the weights in it may still know the records
            write_json(folder / RUN, about)
        self.run: str = about["run"]
        self.about = about

    def _read(self) -> dict:
        path = self.folder / RUN
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found["run"], str) and isinstance(found["identity"], dict):
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise InvalidInputError(f"{path} is damaged: delete the folder {self.folder} to start the run anew")

    def _check(self, about: dict) -> None:
        names = [name for name in self.identity if about["identity"].get(name) != self.identity[name]]
        if names:
            raise InvalidInputError(
                f"{self.folder} is the state of a run with other data or settings ({', '.join(names)}): put these back "
                "to finish that run, or delete the folder to give it up"
            )

    @property
    def steps(self) -> Path:
        return self.folder / STEPS

    @property
    def log(self) -> Path:
        return self.folder / LOG


def remove_state(folder: Path) -> None:
    """Deletes a state folder; run.json goes last, so that a kill in between leaves a state that is known as such."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RUN):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    os.rmdir(folder)
