"""``fastunlearn unlearn``: loads a model, makes it forget, saves it with an account of what was done."""

from __future__ import annotations

import argparse

from fastunlearn.cli._options import (
    add_device,
    add_length,
    add_overwrite,
    add_seed,
    add_trust,
    check_out,
    load,
    named_value,
    progress,
    read_records,
)  # fmt: skip
from fastunlearn.errors import InvalidInputError

NAME = "unlearn"
HELP = "Make a model forget the records of a file, and save the new model."
RESULT = "unlearning.json"
#: Filled in where they are not given; None until then, so that --config can tell what was given.
DEFAULTS = {"method": "fisher-removal", "memory": "1GB", "seed": 0, "device": "cpu"}
#: What has a key of its own in the configuration.
KEYS = {
    "model": "model.folder", "forget": "data.forget", "retain": "data.retain", "held_out": "data.held_out",
    "out": "model.out", "method": "method.name", "parameters": "method.parameters",
    "kept_fisher": "method.kept_fisher", "settings": "[method.settings]", "memory": "method.memory",
    "seed": "method.seed", "max_length": "data.max_length", "truncate": "data.truncate", "device": "model.device",
    "trust_remote_code": "model.trust_remote_code", "overwrite": "another model.out",
}  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="F", help="a production run as this fastunlearn.toml says; no other option but --dry-run"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --config: only show what would be done")
    parser.add_argument("--model", metavar="DIR", help="model folder (safetensors)")
    parser.add_argument("--forget", metavar="F", help="records to forget")
    parser.add_argument("--retain", metavar="R", help="records that the model must keep")
    parser.add_argument("--held-out", metavar="H", help="records that the model has never seen")
    parser.add_argument("--out", metavar="DIR", help="model folder to make")
    parser.add_argument("--method", metavar="NAME", help="see fastunlearn methods (default: fisher-removal)")
    parser.add_argument(
        "--parameters", nargs="+", metavar="PATTERN", help="names of the weights to change (* and ? allowed)"
    )
    parser.add_argument("--kept-fisher", metavar="FILE", help="made by fastunlearn keep-fisher")
    parser.add_argument(
        "--set", dest="settings", type=named_value, action="append", default=[], metavar="key=value",
        help="a setting of the method, such as damping=1e-4 (see fastunlearn methods NAME); may be given again",
    )  # fmt: skip
    parser.add_argument("--memory", metavar="SIZE", help="memory to work in (default: 1GB)")
    add_seed(parser)
    add_length(parser)
    add_device(parser)
    add_trust(parser)
    add_overwrite(parser)
    parser.set_defaults(**dict.fromkeys(DEFAULTS))


def settings_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The pairs of --set as a dictionary; a key given twice is an error, and so is one that has its own
    option."""
    own = {
        "model", "tokenizer", "forget", "retain", "held_out", "method", "parameters", "kept_fisher", "seed",
        "max_length", "truncate", "memory", "progress",
    }  # fmt: skip
    settings: dict[str, object] = {}
    for key, value in pairs:
        if key in own:
            raise InvalidInputError(f"--set {key}: not a setting of a method; it has an argument of its own")
        if key in settings:
            raise InvalidInputError(f"--set {key} is given twice; give it once")
        settings[key] = value
    return settings


def show_dry_run(facts: dict) -> None:
    """Prints what a run would do, a line for each fact."""
    for name, value in facts.items():
        words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        print(f"{name}: {words or '-'}")
    print("Dry run: nothing was computed and nothing was written.")


def _configured(args: argparse.Namespace) -> None:
    values = {name: getattr(args, name) for name in KEYS}
    given = [name for name, value in values.items() if value is not None and value is not False and value != []]
    if given:
        options = ", ".join("--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in given)
        keys = ", ".join(KEYS[name] for name in given)
        raise InvalidInputError(f"--config says everything: leave out {options} (set {keys} in fastunlearn.toml)")
    from fastunlearn.production.config import load_config
    from fastunlearn.production.job import job_of
    from fastunlearn.production.run import check_job, run_job

    job = job_of(load_config(args.config))
    if args.dry_run:
        show_dry_run(check_job(job))
        return
    outcome = run_job(job, progress=progress(args))
    again = ", taken up after an interruption" if outcome.restarted else ""
    print(f"{outcome.account['method']}{again}: {outcome.account['stopped']}. New model: {outcome.out}")
    print(f"Evidence: {outcome.evidence}")
    print(f"Run identifier: {outcome.account['run']} (for an auditor: fastunlearn verify --run)")


def run(args: argparse.Namespace) -> None:
    if args.config is not None:
        _configured(args)
        return
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    missing = [name for name in ("model", "forget", "out") if getattr(args, name) is None]
    if missing or args.dry_run:
        raise InvalidInputError(
            f"--{', --'.join(missing)} needed, or --config" if missing else "--dry-run goes with --config"
        )
    check_out(args.out, args)
    settings = settings_of(args.settings)
    from fastunlearn.resources import parse_memory
    from fastunlearn.storage import save_model
    from fastunlearn.unlearn import get_method, unlearn

    parse_memory(args.memory, name="--memory")
    get_method(args.method)
    forget, retain, held_out = (read_records(path) for path in (args.forget, args.retain, args.held_out))
    model, tokenizer = load(args.model, args)
    result = unlearn(
        model, tokenizer, forget=forget, retain=retain, held_out=held_out, method=args.method,
        parameters=args.parameters, kept_fisher=args.kept_fisher, seed=args.seed, max_length=args.max_length,
        truncate=args.truncate, memory=args.memory, progress=progress(args), **settings,
    )  # fmt: skip
    save_model(result.model, tokenizer, args.out, overwrite=args.overwrite, extra={RESULT: result.to_dict()})
    print(
        f"{result.method}: {result.stopped}; {result.gradients} gradients, {result.seconds:.1f} s. "
        f"New model: {args.out}"
    )
