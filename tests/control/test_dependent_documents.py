"""Documents that need each other: one sends to a subset of another, which may change, go, or come later."""

from __future__ import annotations

from proxyless.events import ConfigRejected
from tests.control.hearing import GONE, Hearing, answer

SENDS = "routes: [{split: [{service: rec, subset: v2}]}]"
HAS = "subsets: {v1: {}, v2: {}}"
LACKS = "subsets: {v1: {}}"


def test_an_edit_that_takes_away_what_another_needs_is_set_aside() -> None:
    """The one that was there first lives on; the edit says who needs what it took."""
    hearing = Hearing("web").says(web=SENDS, rec=HAS).says(rec=LACKS)
    assert hearing.errors() == {
        "services/rec": [
            "subsets (line 1): leaves out a subset, but services/web still sends there (routes[0].split[0].subset: "
            "rec has "
            'no subset "v2"); change services/web first'
        ]
    }
    assert list(map(str, hearing.snapshot.clusters)) == ["rec/v2"]


def test_it_takes_effect_when_nobody_needs_it_any_more() -> None:
    """Without being written again."""
    hearing = Hearing("web", "rec").says(web=SENDS, rec=HAS).says(rec=LACKS + "\n" + GONE % "new")
    assert hearing.errors() != {}
    hearing.says(web="routes: [{split: [{service: rec, subset: v1}]}]")
    assert hearing.errors() == {}
    assert answer(hearing, "rec") == "new"


def test_a_deletion_that_another_cannot_bear_is_set_aside() -> None:
    """The deleted document stays in effect, visibly, until nobody needs it."""
    hearing = Hearing("web").says(web=SENDS, rec=HAS).says(rec=None).says(rec=None)
    assert list(map(str, hearing.snapshot.clusters)) == ["rec/v2"]
    assert hearing.errors() == {
        "services/rec": [
            "was deleted, but services/web still sends there (routes[0].split[0].subset: rec has no "
            'subset "v2"); '
            "change services/web first"
        ]
    }
    assert len(hearing.told.of(ConfigRejected)) == 1
    hearing.says(web=None)
    assert hearing.errors() == {}
    assert list(map(str, hearing.snapshot.clusters)) == ["web"]


def test_a_document_written_before_the_one_it_needs_takes_effect_with_it() -> None:
    """The order in which an operator writes two documents doesn't matter in the end."""
    hearing = Hearing("web").says(web=SENDS)
    assert hearing.errors() == {
        "services/web": ['routes[0].split[0].subset (line 1): rec has no subset "v2"; its subsets are: none']
    }
    assert hearing.call()[1].refused == "not_ready"
    hearing.says(rec=HAS).lives("rec", "a:1")
    assert hearing.errors() == {}
    assert hearing.call()[0] == ["send a"]


def test_both_edited_at_once_take_effect_at_once() -> None:
    """A rename in one go is no conflict."""
    hearing = Hearing("web").says(web=SENDS, rec=HAS)
    hearing.says(web=SENDS.replace("v2", "v3"), rec="subsets: {v3: {}}")
    assert hearing.errors() == {}
    assert list(map(str, hearing.snapshot.clusters)) == ["rec/v3"]


def test_only_those_at_fault_are_set_aside() -> None:
    """Of several edits that came together, the innocent take effect."""
    hearing = Hearing("web", "aaa", "zzz").says(aaa=GONE % "one", web=SENDS, rec=HAS, zzz=GONE % "one")
    hearing.says(aaa=GONE % "two", rec=LACKS, zzz=GONE % "two")
    assert set(hearing.errors()) == {"services/rec"}
    assert (answer(hearing, "aaa"), answer(hearing, "zzz")) == ("two", "two")


def test_a_new_document_that_sends_astray_is_at_fault_itself() -> None:
    """Even if the other was edited with it: that one took nothing away."""
    hearing = Hearing("web", "rec").says(rec=HAS)
    hearing.says(web=SENDS.replace("v2", "v9"), rec=HAS + "\n" + GONE % "new")
    assert set(hearing.errors()) == {"services/web"}
    assert answer(hearing, "rec") == "new"


def test_an_unknown_balancer_is_found_by_the_compiler_and_set_aside_alike() -> None:
    """In a service's document, in a subset's policy, in the mesh's."""
    hearing = Hearing("web").lives("web", "a:1").says(web=GONE % "good")
    hearing.says(
        web="trafficPolicy: {loadBalancer: {policy: nope}}",
        mesh="defaults: {trafficPolicy: {loadBalancer: {policy: no}}}",
    )
    assert set(hearing.errors()) == {"services/web", "mesh"}
    assert answer(hearing) == "good"


def test_what_only_shows_beside_another_document_is_told_with_its_line_too() -> None:
    """ "Each with its path, the line where the text is YAML": though the compiler never saw the text."""
    hearing = Hearing("web").says(web="routes:\n- name: r\n  split:\n  - service: rec\n    subset: v2")
    (error,) = hearing.errors()["services/web"]
    assert error.startswith("routes[0].split[0].subset (line 5): rec has no subset")
