"""What a `Mesh` shows: the names of the contract, and the few that commands and plug-ins go by."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import proxyless
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


def test_connect_has_the_parameters_of_the_contract_with_its_defaults() -> None:
    """CONTRACT section 1: all of them None, so that a program may hand on what it was not told."""
    names = ["source", "labels", "locality", "services", "balancers", "tracer_provider", "meter_provider"]
    given = inspect.signature(proxyless.connect).parameters
    assert {name: given[name].default for name in names} == dict.fromkeys(names)


def test_connect_takes_each_of_them_as_none(tmp_path: Path) -> None:
    """As a program does whose own settings are empty."""
    path = tmp_path / "mesh.yaml"
    path.write_text("services: {web: {}}\n")
    with proxyless.connect(
        f"file:{path}",
        labels=None,
        locality=None,
        services=None,
        balancers=None,
        tracer_provider=None,
        meter_provider=None,
    ) as mesh:
        assert mesh.ready(timeout=2.0)


@pytest.mark.parametrize(
    ("services", "says"),
    [("web", r"it is a list of names; write \['web'\]"), (["web", ""], "a service has a name, got ''")],
)
def test_a_slip_in_services_is_said_and_leaves_no_threads(tmp_path: Path, services: list[str], says: str) -> None:
    """One name is not one service a letter; and the mesh that was opened for it is closed again."""
    path = tmp_path / "mesh.yaml"
    path.write_text("services: {web: {}}\n")
    with pytest.raises(proxyless.ConfigError, match=says):
        proxyless.connect(f"file:{path}", services=services)


def test_a_path_is_no_source_and_what_to_write_is_said() -> None:
    """A source is a URL in text, or an object that can be watched."""
    with pytest.raises(proxyless.ConfigError, match=r"write 'file:mesh\.yaml'"):
        proxyless.connect(Path("mesh.yaml"))  # type: ignore[arg-type]
