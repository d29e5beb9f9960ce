"""The further measurements of ``fastunlearn evaluate``: metrics and attacks by name, and how they are printed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from fastunlearn.cli._options import named_value, pad_token_id, progress
from fastunlearn.errors import InvalidInputError

__all__ = ["Further", "add_further", "further_lines", "further_sets"]


def add_further(parser: argparse.ArgumentParser) -> None:
    """The options --metrics, --attacks, --attack-set and --more-records."""
    parser.add_argument("--metrics", metavar="NAMES", help="all, or names with commas between (docs/metrics.md)")
    parser.add_argument("--attacks", metavar="NAMES", help="all, or names with commas between (docs/attacks.md)")
    parser.add_argument(
        "--attack-set", action="append", default=[], metavar="ATTACK.KEY=VALUE",
        help="a setting of an attack; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--more-records", action="append", default=[], dest="sets", metavar="NAME=F",
        help="further records for --metrics, such as fresh=prompts.txt; repeatable",
    )  # fmt: skip


def _names(text: str | None, option: str, known) -> list[str] | None:
    """The names of a list; None for "all". Raises InvalidInputError for one that is not ``known``."""
    if text is None or text == "all":
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name not in known:
            raise InvalidInputError(f"{option}: {name!r} is not known; use all, or some of {', '.join(known)}")
    return names


def _attack_settings(texts: list[str], known) -> dict[str, dict]:
    found: dict[str, dict] = {}
    for text in texts:
        attack, dot, rest = text.partition(".")
        try:
            key, value = named_value(rest)
        except argparse.ArgumentTypeError:
            dot = ""
        if not dot or not attack:
            raise InvalidInputError(f"--attack-set {text} must be of the form ATTACK.KEY=VALUE")
        _names(attack, "--attack-set", known)
        found.setdefault(attack, {})[key] = value
    return found


def further_sets(args: argparse.Namespace) -> dict[str, str]:
    """The files of --more-records by name."""
    found: dict[str, str] = {}
    for text in args.sets:
        name, equals, path = text.partition("=")
        if not equals or not name.isidentifier() or not path or name in ("forget", "retain", "held_out", *found):
            raise InvalidInputError(
                f"--more-records {text} must be NAME=F with a name of its own, such as fresh=prompts.txt"
            )
        found[name] = path
    if found and args.metrics is None:
        raise InvalidInputError("--more-records is for --metrics, which is not given; add --metrics all")
    return found


class Further:
    """Measures models one after the other, the retrained one first; does nothing where nothing was asked for."""

    def __init__(self, args: argparse.Namespace, paths: dict[str, str]):
        from fastunlearn.audit.attacks import ATTACKS
        from fastunlearn.audit.attacks.settings import make_settings
        from fastunlearn.audit.metrics import METRICS

        self._args = args
        self._metrics = _names(args.metrics, "--metrics", METRICS)
        self._attacks = _names(args.attacks, "--attacks", ATTACKS)
        self._settings = _attack_settings(args.attack_set, ATTACKS)
        if self._settings and args.attacks is None:
            raise InvalidInputError("--attack-set is for --attacks, which is not given")
        for name, settings in self._settings.items():
            make_settings(name, settings)  # told before anything is measured
        self._variants = {}
        if args.metrics is not None or args.attacks is not None:
            self._variants = {name: found for name, path in paths.items() if (found := _variants(path))}
        self._reference = self._attacked = None

    def of(self, model, tokenizer, samples: dict[str, list], *, is_reference: bool) -> dict:
        """The parts of a report entry: ``more_metrics`` and ``attacks``, where they were asked for."""
        found = {}
        if self._args.metrics is not None:
            found["more_metrics"] = self._measure(model, tokenizer, samples, is_reference)
        if self._args.attacks is not None:
            attacks = self._attack(model, tokenizer, samples, is_reference)
            if attacks is not None:
                found["attacks"] = attacks
        return found

    def _measure(self, model, tokenizer, samples, is_reference: bool) -> dict:
        from fastunlearn.audit.metrics import METRICS, MeasuredModel, evaluate_metrics

        pad = pad_token_id(tokenizer)
        variants = {name: found for name, found in self._variants.items() if name in samples}
        own = MeasuredModel(model, tokenizer, samples, variants=variants, pad_token_id=pad)
        names = self._metrics
        if is_reference:  # it cannot be compared with itself
            self._reference = own
            if names is not None:
                names = [name for name in names if not {"reference", "calibration"} & set(METRICS[name].needs)]
        return evaluate_metrics(
            own, tokenizer, samples, names, reference=None if is_reference else self._reference,
            seed=self._args.seed, progress=progress(self._args),
        )  # fmt: skip

    def _attack(self, model, tokenizer, samples, is_reference: bool) -> dict | None:
        from fastunlearn.audit.attacks import AttackedReference, run_attacks

        if is_reference:  # attacked beside the first of the others
            self._attacked = AttackedReference(model)
            return None
        sets = {name: samples[name] for name in ("forget", "retain", "held_out") if name in samples}
        return run_attacks(
            model, tokenizer, sets, self._attacks, reference=self._attacked, variants=self._variants,
            settings=self._settings, pad_token_id=pad_token_id(tokenizer), seed=self._args.seed,
            progress=progress(self._args),
        )  # fmt: skip


def _variants(path: str) -> list:
    """The other wordings that a file's rows bring; [] where no row brings any, or it is not a file of rows."""
    from fastunlearn.data.variants import load_variants

    if Path(path).suffix.lower() not in (".jsonl", ".json", ".csv") or not Path(path).is_file():
        return []
    found = load_variants(path)
    return found if any(one.perturbed or one.prompts for one in found) else []


def _number(one: dict | None) -> str:
    if one is None or one["value"] is None:
        return "-"
    ends = "" if one["low"] is None else f" ({one['low']:.3g} to {one['high']:.3g})"
    return f"{one['value']:.3g}{ends}"


def further_lines(document: dict) -> Iterator[str]:
    """What was found, in lines for the terminal: each value with its interval."""
    entries = {"original": document["original"], "retrained": document["reference"], **document["methods"]}
    for model, entry in entries.items():
        for metric, places in (entry or {}).get("more_metrics", {}).items():
            for place, one in places.items():
                yield f"{model}  {metric}  {place}: {_number(one)}"
        for attack, found in (entry or {}).get("attacks", {}).items():
            for measure, sides in found["measures"].items():
                own, other = sides["model"], sides["reference"]
                line = f"{model}  {attack}  {measure}: {_number(own['before'])} -> {_number(own['after'])}"
                if other is not None:
                    line += f"; retrained {_number(other['before'])} -> {_number(other['after'])}"
                    line += f"; excess {_number(sides['excess'])}"
                yield line
