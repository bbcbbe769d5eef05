"""The embedded source: bundles, single documents, folders; broken and mended, and never half believed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from proxyless.control import Source
from proxyless.control import file as module
from proxyless.control.file import FileSource
from proxyless.control.loop import Loop
from proxyless.events import ConfigRejected, SourceRecovered, SourceStale
from proxyless.model.snapshot import ClusterKey
from proxyless.model.topology import Endpoint, Locality, Watched
from tests.control.hearing import GONE, Hearing, answer


class Reading(Hearing):
    """A loop on a file or a folder. Nothing watches it: `look` is one look at the disk."""

    def __init__(self, path: Path, *wanted: str) -> None:
        self.path = path
        super().__init__()
        self.files = FileSource(path)
        self.source: Any = self.files
        self._listen(self.files, *wanted)

    def _listen(self, source: Source, *wanted: str) -> None:
        self.loop = Loop(source, self.compiler, self.published.append, self.told, self.clock)
        self.files._sink = self.loop
        self.look()
        for service in wanted:
            self.loop.want(service)

    def look(self, text: str | bytes | None = None, name: str = "") -> Reading:
        """Look at the disk, after writing `text` to the file (or `name` in the folder)."""
        if text is not None:
            target = self.path / name if name else self.path
            target.write_bytes(text.encode() if isinstance(text, str) else text)
        self.files._look()
        return self


BUNDLE = """
apiVersion: proxyless/v1
mesh: {defaults: {timeout: 4s}}
services:
  web:
    subsets: {v1: {labels: {version: v1}}, v2: {filter: 'Service.Meta.version == "v2"'}}
    routes: [{split: [{subset: v1}, {subset: v2}]}]
  rec:
endpoints:
  web:
  - {address: "a:1", labels: {version: v1}, locality: us-east-1/us-east-1a, weight: 3}
  - {address: "[::1]:2", labels: {version: v2}}
  rec: [{address: "c:1"}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mesh.yaml"


def endpoints(reading: Reading, service: str, subset: str = "") -> list[str]:
    """Addresses of a destination."""
    found = [c for key, c in reading.snapshot.clusters.items() if key == ClusterKey(service, subset)]
    return [node.address for cluster in found for node in cluster.nodes]


def test_a_bundle_holds_the_mesh_its_services_and_their_endpoints(file: Path) -> None:
    """CONTRACT section 3; a filter sees labels as Consul's meta, and a service may have no rules at all."""
    file.write_text(BUNDLE)
    reading = Reading(file, "web", "rec")
    assert (endpoints(reading, "web", "v1"), endpoints(reading, "web", "v2")) == (["a:1"], ["[::1]:2"])
    assert endpoints(reading, "rec") == ["c:1"]
    assert reading.snapshot.services["rec"].routes[0].timeout == 4.0
    assert reading.errors() == {}
    (node,) = reading.snapshot.clusters[ClusterKey("web", "v1")].nodes
    assert node.endpoint.locality == Locality("us-east-1", "us-east-1a")
    assert node.endpoint.weight == 3
    assert [d["origin"] for d in reading.loop.status()["documents"]] == [
        "mesh.yaml#mesh",
        "mesh.yaml#services.rec",
        "mesh.yaml#services.web",
    ]


def test_a_single_document_is_one_service_s(file: Path) -> None:
    """It names its service, and that is its key."""
    file.write_text("service: web\n" + GONE % "file")
    assert answer(Reading(file, "web")) == "file"


def test_json_is_a_file_too(tmp_path: Path) -> None:
    """By its content."""
    (tmp_path / "mesh.json").write_text('{"services": {"web": {"routes": [{"timeout": "3s"}]}}}')
    reading = Reading(tmp_path / "mesh.json", "web")
    assert reading.snapshot.services["web"].routes[0].timeout == 3.0


def test_a_folder_is_all_its_files_together(tmp_path: Path) -> None:
    """In the order of their names; endpoints of one service add up, other files are nobody's business."""
    (tmp_path / "a.yaml").write_text("service: web\nroutes: []")
    (tmp_path / "b.yml").write_text("endpoints: {web: [{address: 'a:1'}]}")
    (tmp_path / "c.json").write_text('{"endpoints": {"web": [{"address": "b:1"}, {"address": "a:1"}]}}')
    (tmp_path / "notes.txt").write_text("{{{")
    reading = Reading(tmp_path, "web")
    assert endpoints(reading, "web") == ["a:1", "b:1"]
    assert reading.files.status() == {"files": ["a.yaml", "b.yml", "c.json"], "error": ""}


def test_a_service_in_two_files_is_in_neither(tmp_path: Path) -> None:
    """Nobody can know which is meant; what held before holds on, and the finding names both."""
    (tmp_path / "a.yaml").write_text("service: web\n" + GONE % "first")
    reading = Reading(tmp_path, "web")
    reading.look("services: {web: {}}", "b.yaml")
    assert answer(reading) == "first"
    assert reading.errors() == {
        "services/web": ["stands in two files: a.yaml and b.yaml#services.web; keep one of them"]
    }
    (tmp_path / "b.yaml").unlink()
    assert reading.look().errors() == {}


def test_an_edit_is_taken_as_a_whole(file: Path) -> None:
    """Endpoints and documents that belong together change together."""
    file.write_text(BUNDLE)
    reading = Reading(file, "web")
    reading.look(BUNDLE.replace("v2", "v3"))
    assert endpoints(reading, "web", "v3") == ["[::1]:2"]
    assert reading.look(BUNDLE).errors() == {}


def test_a_look_at_what_has_not_changed_reads_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `stat` of each file, ten times a second."""
    file.write_text(BUNDLE)
    reading = Reading(file, "web")
    monkeypatch.setattr(Path, "read_bytes", lambda _path: pytest.fail("it was read"))
    assert reading.look().errors() == {}


# --- broken, and mended ---


def edited(old: str, new: str) -> str:
    """The bundle with a slip in it."""
    assert old in BUNDLE
    return BUNDLE.replace(old, new)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("services: {web: [", "line 1: not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("- a\n- b", "must be a mapping"),
        (edited("services:", "servces:"), "servces (line 4): is not a key that is known here"),
        (edited("proxyless/v1", "proxyless/v9"), "apiVersion (line 2): must be proxyless/v1"),
        ("services: [web]", "services (line 1): must be a mapping of names to documents"),
        ("services: {}\nservice: web", "service (line 2): is not a key that is known here"),
        ("service: [web]", "service (line 1): must be the name of a service"),
        ('service: ""', "service (line 1): must be the name of a service"),
        ("routes: []", "a file for one service alone says which: service: NAME"),
        (edited("a:1", "nowhere"), "endpoints.web[0].address (line 11): must be host:port"),
        (edited("weight: 3", "weight: 70000"), "endpoints.web[0].weight (line 11): must be 0 to 65535"),
        (edited("weight: 3", 'weight: "3"'), "endpoints.web[0].weight (line 11): must be a whole number"),
        (edited("us-east-1/us-east-1a", "a/b/c/d"), "endpoints.web[0].locality (line 11): must be region/"),
        (edited('{address: "c:1"', "{adress: 'c:1'"), "endpoints.rec[0].adress (line 13): is not a key"),
        (edited('"c:1"', "unix:/x"), "endpoints.rec[0].address (line 13): must be host:port"),
        (edited('"c:1"', '"169.254.169.254:80"'), "must not be a link-local"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_changes_nothing(broken: str | bytes, says: str, file: Path) -> None:
    """Neither documents nor endpoints: what the file said before stays, until it is mended."""
    file.write_text(BUNDLE)
    reading = Reading(file, "web", "rec")
    reading.look(broken)
    assert (endpoints(reading, "web", "v1"), endpoints(reading, "rec")) == (["a:1"], ["c:1"])
    (errors,) = reading.errors().values()
    assert says in "; ".join(errors)
    assert len(reading.told.of(ConfigRejected)) == 1
    reading.look(BUNDLE + "  new: [{address: 'n:1'}]\n")
    assert reading.errors() == {}


def test_one_wrong_document_of_a_bundle_leaves_the_rest_alone(file: Path) -> None:
    """They are judged one by one, with the lines of the file."""
    file.write_text("services:\n  web: {routes: []}\n  rec: {routes: []}\nendpoints: {web: [{address: 'a:1'}]}\n")
    reading = Reading(file, "web", "rec")
    reading.look(f"services:\n  web:\n    {GONE % 'new'}\n  rec:\n    routes:\n    - timeout: 5\n")
    assert answer(reading) == "new"
    assert reading.errors() == {
        "services/rec": [
            'routes[0].timeout (line 6): must be a duration with a unit, got the bare number 5: did you mean "5s"?'
        ]
    }


@pytest.mark.parametrize("broken", ["services: {web: [", BUNDLE.replace("services:", "servces:")])
def test_a_file_that_was_never_right_refuses_calls_at_once(broken: str, file: Path) -> None:
    """With the finding: a program with a slip in its file must not hang, nor run without its rules."""
    file.write_text(broken)
    reading = Reading(file, "web")
    effects, outcome = reading.call()
    assert effects == []
    assert outcome.refused == "not_ready"
    assert outcome.details.startswith("proxyless: not_ready: mesh.yaml is invalid and no earlier version")
    reading.look(BUNDLE)
    assert reading.call()[0] == ["send a"]


def test_a_wrong_file_in_a_folder_refuses_only_what_nothing_else_tells_of(tmp_path: Path) -> None:
    """The services of the other files are served."""
    (tmp_path / "a.yaml").write_text("services: {")
    (tmp_path / "b.yaml").write_text("endpoints: {rec: [{address: 'c:1'}]}")
    reading = Reading(tmp_path, "web", "rec")
    assert reading.call("rec")[0] == ["send c"]
    assert reading.call("web")[1].refused == "not_ready"


def test_all_that_is_wrong_with_a_bundle_is_said_at_once(file: Path) -> None:
    """Its keys, its endpoints and its documents, each with the path from the top of the file."""
    file.write_text("servces: {}\nservices: {web: {routes: 7}}\nendpoints: {web: [{address: x}]}")
    reading = Reading(file, "web")
    assert reading.errors() == {
        "file mesh.yaml": [
            "services.web.routes (line 2): must be a list, got 7 (a number); begin each entry with a "
            "dash, or put [ ] "
            "around it",
            'servces (line 1): is not a key that is known here; did you mean "services"?',
            "endpoints.web[0].address (line 3): must be host:port with a port of 1 to 65535, got 'x'",
        ]
    }


def test_all_that_is_wrong_with_the_endpoints_is_said_at_once(file: Path) -> None:
    """What is of the wrong kind hid what could not be called, until it was mended."""
    file.write_text(
        "endpoints:\n  web:\n  - {address: localhost:1, weight: 70000, locality: a/b/c/d}\n"
        "  - {address: '127.0.0.1:1', weight: 1.5}\n  - {adress: x}\n"
    )
    reading = Reading(file, "web")
    assert reading.errors() == {
        "file mesh.yaml": [
            "endpoints.web[0].locality (line 3): must be region/zone/subzone, got 'a/b/c/d'",
            "endpoints.web[0].address (line 3): must not be localhost, which names a different machine for every "
            "reader; use the address",
            "endpoints.web[0].weight (line 3): must be 0 to 65535, got 70000",
            "endpoints.web[1].weight (line 4): must be a whole number, got 1.5 (a number)",
            "endpoints.web[2].address (line 5): is required",
            'endpoints.web[2].adress (line 5): is not a key that is known here; did you mean "address"?',
        ]
    }


def test_a_file_of_another_system_is_refused_with_what_to_do(file: Path) -> None:
    """As in KV: what was found, and where to look."""
    file.write_text("apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec: {hosts: [web]}\n")
    (errors,) = Reading(file).errors().values()
    assert (
        'apiVersion (line 1): must be proxyless/v1, got "networking.istio.io/v1"; documents of another system are not '
        "read: say the same in this language (see `proxyless schema`)"
    ) in errors


def test_a_file_that_disappears_leaves_what_it_said(file: Path) -> None:
    """Stale, told once; and fresh again when it is back."""
    file.write_text(BUNDLE)
    reading = Reading(file, "web")
    reading.told.events.clear()
    file.unlink()
    reading.look().look()
    assert endpoints(reading, "web", "v1") == ["a:1"]
    assert reading.told.of(SourceStale) == [
        SourceStale(f"file:{file}", "documents", "can't be read: No such file or directory")
    ]
    reading.look(BUNDLE.replace("a:1", "b:1"))
    assert len(reading.told.of(SourceRecovered)) == 1
    assert endpoints(reading, "web", "v1") == ["b:1"]


def test_a_file_that_goes_from_a_folder_takes_its_documents_along(tmp_path: Path) -> None:
    """Deleting is an edit like others, where the folder itself can be read."""
    (tmp_path / "a.yaml").write_text("service: web\n" + GONE % "x")
    (tmp_path / "b.yaml").write_text("endpoints: {web: [{address: 'a:1'}]}")
    reading = Reading(tmp_path, "web")
    (tmp_path / "a.yaml").unlink()
    assert reading.look().call()[0] == ["send a"]


def test_the_watching_thread_sees_an_edit_and_ends_with_the_source(file: Path) -> None:
    """The one test with a real thread: an edit arrives by itself, and `close` leaves nothing behind."""
    file.write_text("endpoints: {web: [{address: 'a:1'}]}")
    heard: list[tuple[Endpoint, ...]] = []
    arrived = threading.Event()

    class Ear:
        def endpoints(self, _watched: Watched, told: tuple[Endpoint, ...]) -> None:
            heard.append(told)
            if told and told[0].address == "b:1":
                arrived.set()

        def __getattr__(self, _name: str) -> Any:
            return lambda *_told: None

    source = FileSource(file)
    source.start(Ear())  # type: ignore[arg-type]
    try:
        source.watch(Watched("web"))
        file.write_text("endpoints: {web: [{address: 'b:1'}]}   # another size")
        assert arrived.wait(5.0)
    finally:
        source.close()
    assert [endpoint.address for endpoint in heard[0]] == ["a:1"]


def test_a_bundle_s_document_without_a_service_s_name_has_no_effect_and_others_have(tmp_path: Path) -> None:
    """Each part is judged by itself."""
    bundle = "services:\n  web: {%s}\n  a/b: {routes: []}\n" % (GONE % "good")
    (path := tmp_path / "mesh.yaml").write_text(bundle)
    reading = Reading(path, "web")
    assert answer(reading) == "good"
    (error,) = reading.errors()["services/a/b"]
    assert error == 'line 3: the name of a service must be letters, digits and inner . _ -, got "a/b"'


class _Choking:
    """A sink that can't take the second of what it is told."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []
        self.again = threading.Event()

    def documents(self, documents: Any) -> None:
        self.heard.append(sorted(documents))
        if len(self.heard) == 2:
            raise RuntimeError("choked")
        if len(self.heard) == 3:
            self.again.set()

    def __getattr__(self, name: str) -> Any:
        return lambda *_told: None


def test_a_look_that_fails_in_whoever_is_told_is_not_the_last(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread was gone after it, and with it every later edit of the file; now it is read again."""
    monkeypatch.setattr(module, "LATER", 0.01)
    sink: Any = _Choking()
    file.write_text("services: {one: {}}")
    source = FileSource(file)
    source.start(sink)
    try:
        newer = file.with_suffix(".new")
        newer.write_text("services: {one: {}, two: {}}")
        newer.replace(file)
        assert sink.again.wait(10.0)
    finally:
        source.close()
    assert sink.heard == [["services/one"], ["services/one", "services/two"], ["services/one", "services/two"]]
    assert any("could not be taken in" in told for told in caplog.messages)
