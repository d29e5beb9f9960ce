"""``fastunlearn evaluate``: measures models on the same records and writes a report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastunlearn.cli._further import Further, add_further, further_lines, further_sets
from fastunlearn.cli._options import (
    add_device,
    add_lang,
    add_length,
    add_overwrite,
    add_seed,
    add_trust,
    check_report_out,
    context,
    load,
    pad_token_id,
    progress,
    read_records,
)  # fmt: skip
from fastunlearn.errors import InvalidInputError

NAME = "evaluate"
HELP = "Measure how far models have forgotten, and write report.json and report.html."
_COST = ("uses_retain", "gradients", "seconds", "peak_bytes", "settings", "stopped", "steps")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", required=True, metavar="[NAME=]DIR", help="a model folder; repeatable"
    )
    parser.add_argument("--original", metavar="DIR", help="the model before (default: the first --model)")
    parser.add_argument("--reference", metavar="DIR", help="the model retrained without the forget records")
    parser.add_argument("--forget", required=True, metavar="F", help="records to forget")
    parser.add_argument("--retain", required=True, metavar="R", help="records that the model must keep")
    parser.add_argument("--held-out", metavar="H", help="records that the models have never seen")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report")
    add_further(parser)
    add_seed(parser)
    add_length(parser)
    add_device(parser)
    add_trust(parser)
    add_overwrite(parser)
    add_lang(parser)


def name_models(texts: list[str]) -> dict[str, Path]:
    """Name to folder of each ``NAME=DIR`` or ``DIR`` (named as the folder is). A name given twice is an
    error."""
    named: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():  # a folder may have "=" in its name
            name, folder = Path(text).resolve().name, text
        if not name or not folder:
            raise InvalidInputError(f"--model {text} must be DIR or NAME=DIR")
        if name in named:
            raise InvalidInputError(f"--model: two models are named {name}; give NAME=DIR to tell them apart")
        named[name] = Path(folder)
    return named


def _account(path: Path) -> dict:
    """The JSON object in ``path``; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}; mend it or remove it") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{path} must hold a JSON object; mend it or remove it")
    return found


def cost_of(folder: Path) -> dict:
    """What unlearning.json in ``folder`` says of the way to this model, else what training.json says of its cost; {}
    where there is neither."""
    found = _account(folder / "unlearning.json")
    if found:
        return found
    trained = _account(folder / "training.json")
    return {name: trained[name] for name in ("gradients", "seconds") if name in trained}


def _first_order(cost: dict) -> bool | None:
    """Whether the method that ``cost`` names uses gradients alone; None where it names none that is known."""
    from fastunlearn.unlearn import METHODS

    name = cost.get("method")
    return METHODS[name].first_order if isinstance(name, str) and name in METHODS else None


class _Evaluation:
    """Measures one model after the other on the same token sequences."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        paths = {"forget": args.forget, "retain": args.retain, "held_out": args.held_out, **further_sets(args)}
        paths = {name: path for name, path in paths.items() if path is not None}
        self.records = {name: read_records(path) for name, path in paths.items()}
        self._further = Further(args, paths)
        self._tokens: dict[str, list] | None = None
        self._reference = None
        self.model: dict = {}

    def _samples(self, model, tokenizer, folder: Path) -> dict[str, list]:
        """The records as tokens of this model; they must be those of the models before."""
        from fastunlearn.data import encode
        from fastunlearn.unlearn.request import check_overlap

        length = context(model, self._args)
        samples = {
            name: encode(records, tokenizer, max_length=length, truncate=self._args.truncate, name=name)
            for name, records in self.records.items()
        }
        tokens = {name: [one.input_ids.tolist() for one in samples[name]] for name in samples}
        if self._tokens is None:
            for name in ("retain", "held_out"):  # its numbers would speak of the wrong records
                check_overlap(samples["forget"], samples.get(name, []), name)
            self._tokens = tokens
            size = model.num_parameters()
            self.model = {"type": type(model).__name__, "parameters": size, "context": length}
        elif tokens != self._tokens:
            raise InvalidInputError(
                f"the tokens of the records in {folder} differ from those of the first model, so nothing can "
                "be compared: evaluate models of one tokenizer and context"
            )
        return samples

    def entry(self, label: str, folder: Path, *, is_reference: bool = False) -> dict:
        """The report entry of the model in ``folder``."""
        from fastunlearn.audit.document import entry
        from fastunlearn.audit.measure import measure

        cost = cost_of(folder)
        model, tokenizer = load(folder, self._args)
        samples = self._samples(model, tokenizer, folder)
        if is_reference:
            self._reference = model  # stays in memory: smaller than its log-probabilities of all tokens
        shown = {name: samples[name] for name in ("forget", "retain", "held_out") if name in samples}
        metrics = measure(
            model, **shown, reference=self._reference, tokenizer=tokenizer,
            pad_token_id=pad_token_id(tokenizer), seed=self._args.seed,
        )  # fmt: skip
        made = entry(label, metrics, **{name: cost[name] for name in _COST if name in cost})
        made["first_order"] = _first_order(cost)
        return made | self._further.of(model, tokenizer, samples, is_reference=is_reference)


def run(args: argparse.Namespace) -> None:
    models = name_models(args.model)
    check_report_out(args)
    original = Path(args.original) if args.original else models.pop(next(iter(models)))
    from fastunlearn.audit.document import build_document
    from fastunlearn.audit.html import write_report

    evaluation = _Evaluation(args)
    total = 1 + len(models) + (args.reference is not None)
    with progress(args).task("Evaluating", total=total, unit="model") as task:
        reference = None
        if args.reference:  # first: the others are compared with it
            reference = evaluation.entry("retrained", Path(args.reference), is_reference=True)
            task.advance()
        before = evaluation.entry("original", original)
        task.advance()
        methods = {}
        for name, folder in models.items():
            methods[name] = evaluation.entry(name, folder)
            task.advance()
    counts = {name: len(records) for name, records in evaluation.records.items()}
    document = build_document(
        title="Evaluation of unlearning", original=before, reference=reference, methods=methods,
        seed=args.seed, data=counts, model=evaluation.model,
    )  # fmt: skip
    write_report(document, args.out, lang=args.lang)
    for line in further_lines(document):
        print(line)
    print(f"Report: {Path(args.out) / 'report.html'}")
