"""The visible words of the report in English. The same keys stand in every language's table."""

from __future__ import annotations

EN: dict = {
    "yes": "yes",
    "no": "no",
    "and": ", ",
    "seconds": "{} s",
    "minutes": "{} min {} s",
    "hours": "{} h {} min",
    # the page's frame
    "seed": "seed {}",
    "nothing_recorded": "Nothing was recorded.",
    "results": "Results",
    "sideways": "The table moves sideways.",
    "what_was_run": "What was run",
    "data": "Data",
    "model": "Model",
    "how_to_read": "How to read the numbers",
    "notes": "Notes",
    "versions_and_machine": "Versions and machine",
    "versions": "Versions",
    "machine": "Machine",
    # the first page
    "decision": "For the decision",
    "removed": "What was removed",
    "removed_counts": "{records} records were to be forgotten.",
    "removed_share": "The model now gets {after} of their scored tokens right; before, it was {before}.",
    "removed_reference": "A model that was trained without them gets {reference}.",
    "removed_unseen": "On records that no model has seen, the original gets {unseen}: as much can be guessed.",
    "sure": "How sure it is",
    "sure_reference": "On retained records its predictions are {kl} nats a token away from those of a model trained "
    "without the forgotten records. 0 would be the same predictions.",
    "sure_no_reference": "No model was trained without the forgotten records. How near this model is to such a one is "
    "not known.",
    "sure_membership": "A simple test for traces tells forgotten records from unseen ones with an AUC of {auc} "
    "({low} to {high}). 0.50 would mean that it cannot.",
    "sure_membership_reference": "The same test on the model trained without them: {auc}.",
    "sure_no_membership": "No test for traces was made: it needs held-out records.",
    "sure_exposure": "Planted secrets: {bits} bits of exposure; about 1.4 is what a model gives that never saw them.",
    "cost": "What it cost",
    "cost_run": "{time}, {gradients} gradients, {memory} of memory at the most.",
    "cost_kept": "On retained records accuracy went from {before} to {after}.",
    "cost_not_kept": "What it cost in accuracy on retained records was not measured.",
    "open": "What remains open",
    "card": "For the model card",
    "card_hint": "To be copied as it is (Markdown).",
    "card_title": "## Unlearning",
    "card_method": "- Method: {label} (`{name}`), fastunlearn {version}, {created}",
    "card_forget": "- Records to forget: {records}; accuracy on them {before} before, {after} after",
    "card_forget_reference": "- Accuracy of a model trained without them: {reference}",
    "card_retain": "- Accuracy on retained records: {before} before, {after} after",
    "card_kl": "- KL to a model trained without them, on retained records: {kl} nats a token",
    "card_membership": "- Membership test by loss: AUC {auc} ({low} to {high})",
    "card_limit": "- Not claimed: that no trace is left. Predictions were compared, on the records given; stronger "
    "attacks may find more.",
    # further metrics and attacks
    "more_metrics": "Further metrics",
    "more_metrics_note": "Ranges are 95 % intervals over the records. On forgotten records the aim is the retrained "
    "model's value, no lower and no higher. What each one is: docs/metrics.md.",
    "attacks": "Attacks",
    "attacks_note": "Before → after the attack, and what came back with its 95 % interval. What counts is what comes "
    "back beyond the retrained model. What each one does: docs/attacks.md.",
    "column_metric": "metric and records",
    "column_attack": "attack and measure",
    # details of each run
    "original": "original",
    "retrained": "retrained",
    "before_unlearning": "before unlearning",
    "without_forgotten": "without the forgotten data",
    "first_order": "first-order",
    "second_order": "second-order",
    "kind_unknown": "how it was made is not recorded",
    "run_facts": "{kind}; {gradients} gradients, {time}",
    "stopped": "Stopped: {}",
    "steps": "{} steps",
    "aria_steps": "Steps",
    "aria_sets": "Loss and accuracy",
    "records": "records",
    "loss": "loss, nats",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "forgotten": "forgotten",
    "retained": "retained",
    "held_out": "held out",
    # the table
    "aria_results": "Results of all models",
    "group_accuracy": "Accuracy",
    "group_kl": "KL to retrained, nats",
    "group_leaks": "Leaks (exposure in bits)",
    "group_cost": "Cost",
    "column_model": "model",
    "column_forgotten": "forgotten data",
    "column_retained": "retained data",
    "column_held_out": "held-out data",
    "column_membership": "membership AUC",
    "column_exposure_forget": "exposure, forgotten",
    "column_exposure_retain": "exposure, kept",
    "column_gradients": "gradients",
    "column_time": "time",
    "column_memory": "peak memory",
    "column_uses": "uses retained",
    "tag_closest": "closest to retraining",
    "tag_not_enough": "did not forget enough",
    "table": "Methods are in the order of the comparison: those that forgot enough first, by KL on retained data "
    "(without a retrained model: by accuracy on it). A dash means not measured. Gradients count one for each sample "
    "and pass; the cost of the original and the retrained model is that of their training. Time and memory are of this "
    "machine, for this run.",
    # the plot
    "plot": "Forgetting against distance to the retrained model",
    "no_plot": "No plot: it needs, for the methods, KL to a retrained model or accuracy on retained data. "
    "Measure with retained data, and with a retrained model where there is one.",
    "plot_method": "{label}: forget accuracy {accuracy}, {value}.",
    "plot_kl": "KL {}",
    "plot_retained": "retained {}",
    "enough": "forgot enough →",
    "axis_kl": "KL to retrained on retained data, nats",
    "axis_kl_short": "KL to retrained, retained data",
    "axis_retained": "Accuracy on retained data",
    "axis_up": "{axis} ({better})",
    "closer": "↓ closer to retraining",
    "closer_short": "↓ closer",
    "more_kept": "↑ more is kept",
    "axis_forgotten": "Accuracy on forgotten data (→ more forgotten)",
    "caption": "Each method's way from the original model (cross) to its end (mark with a letter); small dots are "
    "steps on the way and other settings that were tried. Filled marks and whole lines: second-order methods; hollow "
    "marks and broken lines: first-order ones.",
    "caption_unknown": " Grey marks and dotted lines: models without a record of how they were made.",
    "caption_reference": " The star is the retrained model, at a KL of 0, below the logarithmic scale.",
    "caption_limit": " In the shaded part forget accuracy is at most {}.",
    # the verdict
    "verdict_none": "No method was run, so there is nothing to compare.",
    "verdict_goal": "(forget accuracy at most {})",
    "verdict_not_enough": "No method forgot as much as was aimed at {goal}; {label} came nearest with {accuracy}.",
    "verdict_no_reference": "There is no retrained model to compare with: {label} takes forget accuracy from {before} "
    "to {after}{kept}.",
    "verdict_kept": " and keeps {} of the retained data",
    "verdict_closest": "{label} came closest to retraining: a KL of {kl} nats on retained data{compared}{among}.",
    "verdict_among": ", among the {reached} of {all} methods that forgot enough {goal}",
    "verdict_no_kind": " (no {kind} method was run to compare with)",
    "verdict_no_kind_enough": " (no {kind} method forgot that much)",
    "verdict_as_near": ", as near as the best {kind} method ({stated})",
    "verdict_before": ", before the best {kind} method ({stated})",
    "verdict_hardly": ", hardly closer than the best {kind} method ({stated})",
    "verdict_times": ", {times} times closer than the best {kind} method ({stated})",
    # explanations
    "reading": (
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
    ),
    "limits": (
        "Weights alone prove nothing: this report compares predictions on the records that were given to it. It "
        "does not show that no trace of the forgotten data is left.",
        "Unlearning acts on the records as they were given. Paraphrases of them, and copies elsewhere in the "
        "training data, are not covered where they were not listed.",
        "The comparison is of one run with one seed on one model and one set of data. Small differences in KL "
        "may turn round with another seed.",
    ),
}
