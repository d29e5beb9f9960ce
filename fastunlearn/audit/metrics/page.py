"""docs/metrics.md, made from the table: ``python -m fastunlearn.audit.metrics.page > docs/metrics.md``."""

from __future__ import annotations

from fastunlearn.audit.metrics.registry import METRICS, NEEDS

__all__ = ["page"]

_HEAD = """# Metrics

Made from the table in `fastunlearn/audit/metrics/registry.py` by `python -m fastunlearn.audit.metrics.page`.

```python
from fastunlearn.audit.metrics import evaluate_metrics
found = evaluate_metrics(model, tokenizer, sets, ["probability", "kl", "mia_loss"], reference=retrained)
found["kl"]["retain"]    # {"value": ..., "low": ..., "high": ...}
```

`sets` holds encoded records by name: `forget`, and where there are any `retain`, `held_out` (like forget, but never
trained on), `fresh` (other prompts). A metric of one set is measured on each of them. Without names all metrics are
taken whose needs are met. On the command line: `fastunlearn evaluate --metrics all`, or names with commas between, and
`--more-records fresh=prompts.txt` for further sets; the report then has a table of them.

*Better* holds on kept data. On forgotten data every metric should be as the retrained model's, no lower and no higher.
Every value has a 95 % interval by the percentile bootstrap over records, seeded: it speaks of the chance of the
records, not of the training; for that, train with several seeds.

| Metric | What it is | Range | Better | Needs | Source |
| :-- | :-- | :-- | :-- | :-- | :-- |
"""

_TAIL = """
## What needs what

{needs}

Wrong answers come from `fastunlearn.data.variants`: `people_variants` for generated people, `load_variants` for files
with TOFU's columns (`perturbed_answer`, `paraphrased_answer`, `paraphrased_question`).

## How to read them

- *A high p-value is weak evidence.* With 40 and 40 items the Kolmogorov-Smirnov test passes every distance below .304.
  So `forget_quality` gives that critical value and `bound`, which the true distance does not exceed with 95 %
  confidence (with 40 items never below .468); and `equivalence_margin` says how alike two models have been *shown* to
  be. The interval of the p-value shows how far it jumps from sample to sample, and may lie wholly below it.
- *An attack that fails proves little.* Compare each AUC with the retrained model's, not with 0.5: the two sets may
  differ by themselves. An AUC well below 0.5 gives the records away too.
- The answer to a prompt is written greedily, for as many tokens as the true one has. Free text has no prompt: its first
  half is the prompt, for `rouge_l_*` alone.
- `mia_zlib` and `rouge_l_*` see the text as the tokenizer writes it; no stemming. `mia_zlib` compresses all the text
  that the loss is of, free text as a whole.
- `truth_ratio` takes the arithmetic mean over wrong answers, as equation 1 of TOFU. Its script takes the geometric mean
  for the forget quality: `truth_ratio(..., mean="geometric")` in `fastunlearn/audit/metrics/truth.py`.
- `klom` fits normal distributions below 20 models of each kind, and takes the paper's histogram from there on.
"""


def page() -> str:
    """The text of docs/metrics.md."""
    rows = [
        (f"`{one.name}`", one.definition, one.range, one.better, ", ".join(one.needs) or "–", one.source)
        for one in METRICS.values()
    ]
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    needs = "\n".join(f"- *{name}*: {words}" for name, (_, words) in NEEDS.items())
    return _HEAD + table + "\n" + _TAIL.format(needs=needs)


if __name__ == "__main__":
    print(page(), end="")
