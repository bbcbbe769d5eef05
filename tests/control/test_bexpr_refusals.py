"""The filters that are refused: where, why, and what to write instead; and the bounds on their size."""

from __future__ import annotations

import pytest

from proxyless.control.bexpr import FilterError, compile_filter


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("  ", 3, "no value"),
        # White space that is missing, or in excess.
        ("not(Service.Port == 1)", 4, 'white space after "not"'),
        ("(Service.Port == 1)or(Service.Port == 1)", 20, '"and" or "or" between white space'),
        ('Service.Tags contains"x"', 13, "no operator"),
        ('"x"in Service.Tags', 4, "no operator"),
        ("Service. ID == x", 9, "no name after the dot"),
        ("Service .ID == x", 8, "no operator"),
        ('Service.Meta ["x"] == x', 13, "no operator"),
        ("Service.Port == 1or Service.Port == 2", 17, "no value"),
        ("Service.Tags is emptyx", 22, "the match ended before this"),
        ("Service.Port\u00a0== 1", 13, "no operator"),
        # Words and operators that are none.
        ("Service.Port == 1 AND Service.Port == 1", 19, '"and" or "or"'),
        ("Service.Port = 1", 13, '"==", "!="'),
        ("Service.Port < 1", 13, "no operator"),
        ("Service.Port == 1 and", 19, '"and" or "or"'),
        ("(Service.Port == 1", 19, 'the "(" of column 1 is not closed'),
        ("Service.Port == 1)", 18, "the match ended before this"),
        ("Service.Meta[x] == 1", 14, "a quoted one"),
        ('Service.Meta["x" == 1', 18, "the bracket is not closed"),
        ('"x" == Service.ID', 4, "the selector stands first"),
        ("true == Service.ID", 1, "an entry has no 'true'"),
        ('Service.ID in "text"', 15, 'no selector after "in"'),
        # Values that need quotes, or better ones.
        ("Service.Meta.version == v1.2", 28, "no name after the dot"),
        ("Service.ID == web-1", 18, "needs its quotes"),
        ("Service.ID == a/b", 16, "needs its quotes"),
        ("Service.ID == 9a", 15, "quote everything else"),
        ("Service.ID == 01", 15, "no value"),
        ("Service.ID == 1.", 15, "no value"),
        ("Service.ID == +1", 15, "no value"),
        ("Service.ID == 'x'", 15, '"text" or `text`'),
        ('Service.ID == "x', 15, "the quote is not closed"),
        ('Service.ID == "a\nb"', 17, "a line break in double quotes"),
        (r'Service.ID == "a\d"', 17, "an unknown escape"),
        (r'Service.ID == "\400"', 16, "an unknown escape"),
        (r'Service.ID == "\U00110000"', 16, "an unknown escape"),
        ("Service.ID == `\ud800`", 16, "half of a surrogate pair"),
        # What does not exist, or not here.
        (
            "Service.Name == x",
            9,
            "Service, a structure, has no 'Name' to filter by; expected one of Kind, ID,",
        ),
        ("service.ID == x", 1, "expected one of Service, Node, Checks"),
        ("Service.Meta.a.b == x", 16, "Service.Meta.a, a string, has no 'b'"),
        ("Service.Tags.x == x", 14, "expected nothing below it"),
        ("Service.Proxy.Upstreams is empty", 9, "has no 'Proxy'"),
        ("Service.Locality.Zone == a", 9, "has no 'Locality'"),
        ("Checks.Definition is empty", 8, "Checks, a list of structures, has no 'Definition'"),
        ('Service[""] == x', 9, "has no ''"),
        # Operators that the kind of value does not bear.
        ("Service == x", 9, '"==" cannot be asked of Service, a structure; expected one of Kind,'),
        ("Service.ID is empty", 12, '"is empty" cannot be asked of Service.ID, a string'),
        ("1 in Service.Port", 3, '"in" cannot be asked of Service.Port, an integer; expected one of ==, !='),
        ("Service.Tags == x", 14, "a list of strings; expected one of in, not in, is empty, is not empty"),
        ("Service.Meta not matches x", 14, "a map"),
        ("x in Checks", 3, "a list of structures"),
        # Values of the wrong type.
        ("Service.Port == 1.5", 17, "'1.5' is no integer of 64 bits"),
        ('Service.Port != " 9001"', 17, "no integer"),
        ('Service.Port == "08"', 17, "no integer"),
        ('Service.Port == "1_"', 17, "no integer"),
        ('Service.Port == "\uff11"', 17, "no integer"),
        ("Service.Port == 9223372036854775808", 17, "no integer of 64 bits"),
        ("Service.Connect.Native == yes", 27, "no boolean; expected one of 1, t, T, true"),
        # Regular expressions of other makes; \C, (?<x>) and non-ASCII names are RE2's but not Go's.
        ("Service.ID matches `(?=x)`", 20, "a bad regular expression: invalid perl operator"),
        (r"Service.ID matches `(a)\1`", 20, "a bad regular expression"),
        (r"Service.ID matches `\C`", 20, r"Go's regular expressions have no \C"),
        ("Service.ID matches `(?<x>a)`", 20, "Go's regular expressions have no (?<"),
        ("Service.ID matches `(?P<é>a)`", 20, "Go's regular expressions have no (?P<é"),
        (r'Service.ID matches "\xe2"', 20, "no UTF-8"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(text: str, column: int, says: str) -> None:
    """What the server answers with 500 is refused here, with the column, the problem and what to write."""
    with pytest.raises(FilterError) as refused:
        compile_filter(text)
    assert str(refused.value).startswith(f"filter, column {column}: ")
    assert says in str(refused.value)


def test_a_refusal_shows_the_place_on_one_printable_line() -> None:
    """However the filter is broken over lines, the message is one line and marks the spot."""
    with pytest.raises(FilterError) as refused:
        compile_filter("Service.ID == a\nand Service.Porte == 1")
    assert str(refused.value).endswith(r"; at Service.ID == a\nand Service.>>>Porte == 1")


@pytest.mark.parametrize(
    "pattern",
    [r"\Q\C\E", r"\\C", "[(?<]", r"[\\]C", "(?P<x1>a)", r"\Q(?<\E", r"[[:alpha:](?<]", r"[]\]\\C(?<]"],
)
def test_what_only_looks_like_an_extension_of_re2_is_accepted(pattern: str) -> None:
    """Quoted, escaped or in a class, the characters of the refused forms are plain text, as in Go."""
    assert not compile_filter(f"Service.ID matches `{pattern}`")({"Service": {"ID": "~"}})


@pytest.mark.parametrize(
    ("fits", "too_much", "says"),
    [
        ("Service.ID == `{}`".format("x" * 4080), "Service.ID == `{}`".format("x" * 4081), "4097 characters"),
        (
            "(" * 64 + "x in Service.ID" + ")" * 64,
            "(" * 65 + "x in Service.ID" + ")" * 65,
            "nested too deeply",
        ),
        ("not " * 64 + "x in Service.ID", "not " * 65 + "x in Service.ID", "nested too deeply"),
        (
            "not (" * 32 + "x in Service.ID" + ")" * 32,
            "not (" * 33 + "x in Service.ID" + ")" * 33,
            "at most 64",
        ),
        ("Service.ID matches " + "x" * 1024, "Service.ID matches " + "x" * 1025, "at most 1024"),
    ],
)
def test_size_is_bounded(fits: str, too_much: str, says: str) -> None:
    """At each bound a filter still works; one step beyond, it is refused with the bound named."""
    assert compile_filter(fits)({"Service": {"ID": "x" * 4080}})
    with pytest.raises(FilterError, match=says):
        compile_filter(too_much)


def test_a_bad_regular_expression_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """RE2 would complain to stderr behind the back of Python; the exception says it all."""
    with pytest.raises(FilterError):
        compile_filter("Service.ID matches `(never seen before`")
    assert capfd.readouterr() == ("", "")
