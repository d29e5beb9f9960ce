"""docs/attacks.md, made from the table: ``python -m fastunlearn.audit.attacks.page > docs/attacks.md``."""

from __future__ import annotations

import dataclasses

from fastunlearn.audit.attacks.registry import ATTACKS

__all__ = ["page"]

_HEAD = """# Attacks after unlearning

Made from the table in `fastunlearn/audit/attacks/registry.py` by `python -m fastunlearn.audit.attacks.page`.

A model can give right numbers and still hold the records: a few steps of training, or rounding its weights, bring them
back. Each attack says how much comes back, and how much the model that was retrained without the records regains under
the same attack: only the difference is memory.

```python
from fastunlearn.audit.attacks import run_attacks
found = run_attacks(model, tokenizer, sets, ["relearn", "quantise-nf4"], reference=retrained)
found["relearn"]["measures"]["accuracy"]["excess"]    # {"value": ..., "low": ..., "high": ...}
```

On the command line: `fastunlearn evaluate --attacks all`, or names with commas between; settings by
`--attack-set relearn.steps=100`.

| Attack | What it does | Measures | Settings | Source |
| :-- | :-- | :-- | :-- | :-- |
"""

_TAIL = """
Of each measure: `before`, `after` and `regained` (their difference) of both models; `excess`, what the model regains
beyond the retrained one; `ratio` of the two gains (none where the retrained model gains nothing) and `after_ratio` of
the two ends. All with 95 % intervals by the bootstrap over records, the same records for both models.

| Measure | What it is, per record |
| :-- | :-- |
| `accuracy` | share of the target tokens put first given the true ones before; `best_accuracy`: with the best wording |
| `probability` | geometric mean of the target tokens' probabilities |
| `tokens`, `exact` | share of the rest that is written in place, whether all of it is |
| `exact` of `sample` | whether the greedy answer is right, the chance that at least one draw is |
| `rouge_l_recall` | of the greedy answer, and of the best draw |
| `auc` | of all of them together: of telling forgotten from held-out records; its interval is over both |

- The models handed in are not changed: attacks on weights work on a copy, which takes its memory.
- `relearn` measures only records that it was not shown. It trains once with each learning rate and keeps the best:
  the attacker may choose. So do the probes with layers. Both choices lean to the attacker, for both models alike.
- Rounding is simulated in the weights' own dtype, on linear layers but not on embeddings and the output layer.
- `paraphrase` needs other wordings: `people_variants` for generated people, `load_variants` for files with a column
  `paraphrased_question`, or your own `Variants`.
- `prefix` and `sample` count no end token as part of an answer.
- `prefix` leaves out records whose answers have one token; `probe-answer` those whose answer begins as no kept one
  does.
- These are simple attacks. One that fails does not show that nothing is left.
"""


def _settings(kind: type) -> str:
    fields = dataclasses.fields(kind)
    return ", ".join(f"`{field.name}` {field.default}" for field in fields).replace("None", "middle and last") or "–"


def page() -> str:
    """The text of docs/attacks.md."""
    rows = [
        (f"`{one.name}`", one.summary, ", ".join(f"`{name}`" for name in one.measures), _settings(one.settings),
         one.source)
        for one in ATTACKS.values()
    ]  # fmt: skip
    return _HEAD + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n" + _TAIL


if __name__ == "__main__":
    print(page(), end="")
