"""The names that a source knows: services with a document, in Consul's catalog, or in the file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from proxyless.cli.failures import Failure
from proxyless.cli.session import Address, View, guarded, unreachable


def registered(where: Address) -> Mapping[str, Sequence[str]]:
    """The services that have somewhere to go, with their tags: the catalog's, or those below `endpoints:`.

    Empty for the source of a plug-in, which can't be asked.
    """
    if where.is_consul:
        from proxyless.control.consul_settings import ConsulSettings
        from proxyless.control.store import KvStore
        from proxyless.control.watcher import Unanswered

        with KvStore(guarded(where, lambda: ConsulSettings.parse(where.url))) as store:
            try:
                return store.services()
            except Unanswered as silent:
                raise unreachable(where, str(silent)) from None
    if where.scheme == "file":
        from proxyless.cli.files import endpoint_names

        return dict.fromkeys(endpoint_names(where.path), ())
    return {}


def check_known(view: View, service: str) -> None:
    """Raise a Failure that names the nearest service if nobody has ever heard of `service`.

    To a client it would be a service with the defaults and without an endpoint; to a person it is a slip.
    """
    if service in view.services or view.trouble:
        return
    if any(cluster.nodes for key, cluster in view.snapshot.clusters.items() if key.service == service):
        return
    known = sorted({*view.services, *registered(view.source)})
    if service in known:
        return
    near = difflib.get_close_matches(service, known, n=1)
    raise Failure(
        f'nobody knows a service "{service}": it has no document and no instance at {view.name}',
        f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(known[:20]) or 'none'}",
        "`proxyless services` lists them",
    )
