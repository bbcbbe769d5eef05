"""What a copy of a request carries: a name of its own, and nothing that lets it act as the caller."""

from __future__ import annotations

import pytest

from proxyless.policy.mirror import shadow_authority, stripper


@pytest.mark.parametrize(
    ("authority", "shadow"),
    [
        ("web", "web-shadow"),
        ("web.example:443", "web.example-shadow:443"),
        ("10.0.0.1:80", "10.0.0.1-shadow:80"),
        ("unix:/run/web.sock", "unix:/run/web.sock-shadow"),
        ("a:b", "a:b-shadow"),
        ("::1", "::1-shadow"),
        ("[::1]:80", "[::1]-shadow:80"),
    ],
)
def test_the_suffix_stands_before_the_port(authority: str, shadow: str) -> None:
    """As Envoy puts it there."""
    assert shadow_authority(authority) == shadow


@pytest.mark.parametrize(
    "key",
    [
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "x-goog-iam-authorization-token",
        "x-amz-security-token",
        "x-forwarded-client-cert",
        "x-jwt-payload",
        "x-session-id",
        "grpc-previous-rpc-attempts",
        "auth-token-bin",
    ],
)
def test_credentials_stay_behind(key: str) -> None:
    """Whatever lets its holder act as the caller, by the usual names."""
    assert stripper(())(((key, "secret"), ("x-user-tier", "premium"))) == (("x-user-tier", "premium"),)


def test_what_is_allowed_by_name_goes_along() -> None:
    """That key and no other."""
    strip = stripper(("authorization",))
    assert strip((("authorization", "a"), ("cookie", "b"))) == (("authorization", "a"),)


def test_no_metadata_is_none() -> None:
    """A caller may give nothing at all."""
    assert stripper(())(None) == ()
