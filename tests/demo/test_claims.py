"""The claims against documents whose figures are known."""

from __future__ import annotations

import copy

import pytest

from fastunlearn.demo.claims import claims, sentences


def item(forget, retain, kl, *, uses_retain=True, steps=(), frontier=()):
    return {
        "forget_accuracy": forget, "retain_accuracy": retain, "kl_retain": kl, "uses_retain": uses_retain,
        "steps": [{"forget_accuracy": f, "kl_retain": k} for f, k in steps],
        "frontier": [{"forget_accuracy": f, "kl_retain": k} for f, k in frontier],
    }  # fmt: skip


@pytest.fixture
def document():
    return {
        "original": item(1.0, 0.98, 0.001),
        "reference": item(0.10, 0.99, 0.0),
        "methods": {
            "fisher-removal": item(0.05, 0.97, 0.01, steps=[(0.14, 0.002)]),
            "gradient-ascent": item(0.08, 0.3, 0.9, uses_retain=False, steps=[(0.9, 0.001), (0.14, 0.4)]),
            "npo": item(0.50, 0.9, 0.02, uses_retain=False),
            "gradient-difference": item(0.02, 0.9, 0.09, frontier=[(0.16, 0.01), (0.15, 0.04)]),
            "bounded-difference": item(0.01, 0.99, 0.02, frontier=[(0.12, 0.016)]),
            "finetune": item(0.7, 0.99, 0.001),
        },
    }


def test_ratios_at_the_same_forgetting(document):
    found = claims(document)
    # points that have not forgotten do not count (0.9 at 0.001, npo, finetune, 0.16 at 0.01); of ours only the end
    assert found["without_retain_data"] == {"method": "gradient-ascent", "kl_retain": 0.4, "ratio": 0.01 / 0.4}
    assert found["with_retain_data"] == {"method": "gradient-difference", "kl_retain": 0.04, "ratio": 0.25}
    # our own pull without curvature is compared apart
    assert found["own_pull_with_retain_data"] == {
        "method": "bounded-difference", "kl_retain": 0.016, "ratio": 0.01 / 0.016
    }  # fmt: skip
    assert found["own_pull_without_retain_data"]["method"] is None
    assert found["retain_accuracy_kept"] == pytest.approx(0.97 / 0.98)
    assert all(found["shown"].values())
    text = " ".join(sentences(found))
    assert "gradient-ascent, 0.4" in text and "0.25 of" in text and "0.050" in text


@pytest.mark.parametrize(
    ("change", "claim"),
    [({"forget_accuracy": 0.16}, "forgets"), ({"retain_accuracy": 0.92}, "keeps"),
     ({"kl_retain": 0.11}, "against_methods_without_retain_data"),
     ({"kl_retain": 0.03}, "against_methods_with_retain_data")],
)  # fmt: skip
def test_what_falls_short_is_said(document, change, claim):
    document["methods"]["fisher-removal"].update(change)
    assert claims(document)["shown"][claim] is False


def test_methods_that_never_forget_are_named_as_such(document):
    for name in ("gradient-ascent", "gradient-difference"):
        document["methods"][name].update(item(0.9, 1.0, 0.1, uses_retain=name != "gradient-ascent"))
    found = claims(document)
    assert found["without_retain_data"] == {"method": None, "kl_retain": None, "ratio": None}
    assert "no first-order method with retained data forgot as much" in sentences(found)[1]


def test_the_retain_free_method(document):
    document["methods"]["fisher-removal-retain-free"] = item(0.0, 0.49, 0.1, uses_retain=False)
    assert claims(copy.deepcopy(document))["retain_free"] == {
        "forget_accuracy": 0.0, "kl_retain": 0.1, "retain_accuracy_kept": 0.5, "ratio": 0.25
    }  # fmt: skip
