"""What a channel of the mesh asks of its endpoints' channels, and the channel arguments that come of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

from proxyless.model.traffic import Connection


@dataclass(frozen=True, slots=True)
class Profile:
    """What a mesh channel asks of its endpoint channels. Equal profiles share connections."""

    authority: str
    credentials: Any = None
    options: tuple[tuple[str, Any], ...] = ()
    compression: Any = None
    _root: Profile | None = field(default=None, compare=False, repr=False)

    @property
    def root(self) -> Profile:
        """That of the mesh channel for which this one was made."""
        return self._root or self

    def named(self, authority: str) -> Profile:
        """The same, under another authority."""
        options = tuple((name, value) for name, value in self.options if name != "grpc.default_authority")
        return replace(self, authority=authority, options=options, _root=self.root)

    def having(self, *options: tuple[str, Any]) -> Profile:
        """The same, with these options as well."""
        return replace(self, options=(*self.options, *options), _root=self.root)

    def arguments(self, connection: Connection) -> list[tuple[str, Any]]:
        """Channel arguments: ours, and over them whatever the user set."""
        wait = int(connection.connect_timeout * 1000)
        arguments: dict[str, Any] = {
            "grpc.service_config_disable_resolution": 1,  # the mesh's documents rule, not DNS TXT records
            "grpc.enable_http_proxy": 0,  # http_proxy in the environment must not capture endpoints
            # The mesh alone tries again, under one budget; A6's transparent retry is `balance`'s. And C-core's retry
            # filter, even with no policy to follow, takes grpc-previous-rpc-attempts out of what is sent, and costs 4 %
            # of a call.
            "grpc.enable_retries": 0,
            "grpc.default_authority": self.authority,
            "grpc.primary_user_agent": "proxyless",
            # "min_reconnect_backoff is the connect timeout" (`channel_arg_names.h`): 20 s by default, in
            # which a black-holed endpoint would eat the whole deadline of every call sent to it.
            "grpc.min_reconnect_backoff_ms": max(wait, 10),
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.max_reconnect_backoff_ms": 5000,  # 120 s by default: a returned endpoint would stay cold
            "grpc.client_idle_timeout_ms": int(connection.idle_timeout * 1000) or 2**31 - 1,
        }
        if connection.keepalive_time:
            arguments["grpc.keepalive_time_ms"] = int(connection.keepalive_time * 1000)
            arguments["grpc.keepalive_timeout_ms"] = int(connection.keepalive_timeout * 1000)
        arguments.update(self.options)
        # After a fork, arguments that no channel of the parent had keep the child off its dead connections.
        arguments["proxyless.process"] = os.getpid()
        return list(arguments.items())
