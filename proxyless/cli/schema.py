"""`proxyless schema`: the JSON Schema of the documents, made of the same values that decode them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

import typer

from proxyless.cli import screen
from proxyless.model.documents import FileEndpoint, MeshDocument, ServiceDocument, Version
from proxyless.model.quantities import STRICT, Name


@dataclass(frozen=True, slots=True)
class FileDocument:
    """A file of a `file:` source: the mesh's document, the services', and their endpoints."""

    __pydantic_config__ = STRICT
    api_version: Version = "proxyless/v1"
    mesh: MeshDocument | None = None
    services: Mapping[Name, ServiceDocument] = field(default_factory=dict, hash=False)
    endpoints: Mapping[Name, tuple[FileEndpoint, ...]] = field(default_factory=dict, hash=False)


class Kind(str, Enum):
    """Which document."""

    service = "service"
    mesh = "mesh"
    file = "file"


_VALUES: Mapping[Kind, type[Any]] = {
    Kind.service: ServiceDocument,
    Kind.mesh: MeshDocument,
    Kind.file: FileDocument,
}

Wanted = Annotated[Kind, typer.Argument(help="A service's document, the mesh's, or a file with all of them.")]


def schema(kind: Wanted = Kind.service) -> None:
    """The JSON Schema of the documents, for editors."""
    from proxyless.control.dialects.native import schema as made

    screen.as_json(made(_VALUES[kind]))
