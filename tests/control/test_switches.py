"""What `PROXYLESS_DISABLE` switches off, and that a slip there is told."""

from __future__ import annotations

import pytest

from proxyless.control.switches import switched_off


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("", set()),
        ("fault", {"fault"}),
        ("fault,mirror,hedge", {"fault", "mirror", "hedge"}),
        (" fault, mirror ", {"fault", "mirror"}),
        ("fault mirror", {"fault", "mirror"}),
        ("Fault,MIRROR", {"fault", "mirror"}),
        (",", set()),
    ],
)
def test_features_are_named_with_commas_or_blanks_between(
    text: str, off: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    """In any case: who types this is in a hurry."""
    assert switched_off({"PROXYLESS_DISABLE": text}) == off
    assert switched_off({}) == set()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("mirrors", "did you mean mirror?"),
        ("faults", "did you mean fault?"),
        ("retry", "there are fault, hedge, mirror"),
        ("all", "there are fault, hedge, mirror"),
    ],
)
def test_a_word_that_is_no_feature_is_told_and_the_others_hold(
    word: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was passed over in silence, and the faults went on."""
    assert switched_off({"PROXYLESS_DISABLE": f"{word},hedge"}) == {"hedge"}
    (told,) = caplog.messages
    assert told.startswith(f"PROXYLESS_DISABLE names '{word}'")
    assert told.endswith(hint)


def test_what_is_told_is_one_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever stands in the environment."""
    switched_off({"PROXYLESS_DISABLE": "\x1b[31mred" + "x" * 500})
    (told,) = caplog.messages
    assert told.isprintable()
    assert len(told) < 250
