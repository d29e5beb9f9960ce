"""The fixed text of the report."""

from __future__ import annotations

from fastunlearn.audit.verdict import Verdict, share_text

NO_PLOT = (
    "No plot: it needs, for the methods, KL to a retrained model or accuracy on retained data. "
    "Measure with retained data, and with a retrained model where there is one."
)
TABLE = (
    "Methods are in the order of the comparison: those that forgot enough first, by KL on retained data. "
    "A dash means not measured. Gradients count one for each sample and pass; the cost of the original and "
    "the retrained model is that of their training. Time and memory are of this machine, for this run."
)

READING = (
    (
        "Accuracy",
        "The share of scored tokens that the model puts first. On forgotten data it should fall to what the "
        "retrained model has (not to 0: some of it can be guessed), on retained data it should stay, and on "
        "held-out data, which no model saw, it shows what can be guessed.",
    ),
    (
        "KL to retrained",
        "How far the model's predictions are from those of a model trained anew without the forgotten data: "
        "the mean over scored tokens of KL(retrained || model), in nats. 0: the same predictions. A second "
        "retraining with another seed is not at 0 either.",
    ),
    (
        "Membership AUC",
        "The chance that a forgotten record has a lower loss than a held-out one. 0.5: the loss does not "
        "tell them apart. 1: it always does. Well below 0.5: the records are predicted worse than unseen "
        "ones, which also gives them away. Compare with the retrained model's value, not with 0.5 alone: the "
        "two sets may differ by themselves. The interval is a bootstrap over the records, at 95 % "
        "if not stated otherwise; this attack is a simple one, and stronger ones exist.",
    ),
    (
        "Exposure",
        "Canaries are records with a random secret. Exposure is log2(number of possible secrets) minus "
        "log2(rank of the true one), ranks counted over every possible secret, averaged over the canaries. "
        "The highest value (10.0 bits for 1000 secrets) means that the model puts the secret first; about "
        "1.4 bits is what a model that never saw it gives on average.",
    ),
    (
        "Gradients, time, peak memory",
        "What the method took to run, without measuring. A gradient is one sample's loss taken "
        "backwards once.",
    ),
    ("Uses retained data", "Whether the method looked at records that are to be kept."),
)

LIMITS = (
    "Weights alone prove nothing: this report compares predictions on the records that were given to it. It "
    "does not show that no trace of the forgotten data is left.",
    "Unlearning acts on the records as they were given. Paraphrases of them, and copies elsewhere in the "
    "training data, are not covered where they were not listed.",
    "The comparison is of one run with one seed on one model and one set of data. Small differences in KL "
    "may turn round with another seed.",
)


def caption(document: dict, verdict: Verdict) -> str:
    """What the plot shows, for those who see it for the first time."""
    words = [
        "Each method's way from the original model (cross) to its end (mark with a letter);",
        "small dots are steps on the way and other settings that were tried.",
        "Filled marks and whole lines: second-order methods; hollow marks and broken lines: "
        "first-order ones.",
    ]
    if document["reference"] is not None:
        words.append("The star is the retrained model, at a KL of 0, below the logarithmic scale.")
    if verdict.limit is not None:
        words.append(f"In the shaded part forget accuracy is at most {share_text(verdict.limit)}.")
    return " ".join(words)
