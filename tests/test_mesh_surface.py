"""What a `Mesh` shows: the names of the contract, and the few that commands and plug-ins go by."""

from __future__ import annotations

from proxyless.entrance import Entrance
from proxyless.forks import Forker
from proxyless.mesh import Mesh

CONTRACT = {"aio_channel", "aio_interceptors", "channel", "close", "explain", "interceptors", "ready", "status"}
BESIDE = {"restore", "snapshot", "source", "summary", "want", "watch"}
"""The command line restores, draws from the snapshot and follows services; `ps` asks for the summary, `tap` watches;
`register` asks for the source."""


def test_the_public_names_of_a_mesh() -> None:
    """Nothing that is there for the library's own parts alone stands among what people call."""
    assert {name for name in vars(Mesh) if not name.startswith("_")} == CONTRACT | BESIDE


def test_a_mesh_is_told_of_forks_by_its_entrance() -> None:
    """All that `forks` asks of somebody with calls, the entrance answers."""
    asked = {name for name in vars(Forker) if not name.startswith("_")}
    assert asked - {"busy"} <= vars(Entrance).keys()
    entrance: Forker = Entrance(
        lambda _: None, lambda: None, busy=lambda: True, polled=lambda: True, renew=lambda: None
    )
    assert entrance.busy()
    assert entrance.hold() is False
