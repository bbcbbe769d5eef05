"""What callers catch: errors of configuration, and refusals that look like every other failed call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import grpc

from proxyless.model.findings import Finding

_NAMES = {code.value[0]: code for code in grpc.StatusCode}


class ConfigError(ValueError):
    """Something that was configured can't be: a document, a source URL, an argument.

    `findings` holds all that is wrong, each with its path and, where the text is YAML, its line.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        lines = [message, *(f"  {finding}" for finding in findings)]
        super().__init__("\n".join(lines))
        self.findings = tuple(findings)


class Finished(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that is over, as grpcio shows one: there is nothing to cancel, to wait for or to be told of later."""

    def is_active(self) -> bool:
        """Never: the call is over."""
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]  # grpcio returns None too
        """None, as for every finished call."""
        return None

    def cancel(self) -> bool:
        """There is nothing to cancel."""
        return False

    def add_callback(self, callback: Any) -> bool:
        """Refused, as by every finished call: `callback` will not be called."""
        return False

    def cancelled(self) -> bool:
        """Never cancelled."""
        return False

    def running(self) -> bool:
        """Never running."""
        return False

    def done(self) -> bool:
        """Always done."""
        return True

    def add_done_callback(self, fn: Any) -> None:
        """Calls `fn` at once: the call is over."""
        fn(self)


class MeshRpcError(grpc.RpcError, Finished):
    """The mesh refused the call by its own decision (CONTRACT section 6); nothing was heard from an endpoint.

    It is a `grpc.RpcError` and a finished `grpc.Call`, so code that handles failed calls handles it.
    `reason` is the word that `proxyless-reason` in the trailing metadata has too: `no_route`,
    `no_endpoints`, `circuit_open`, `limit`, `deadline`, `fault`, `rate_limit`, `direct_response`,
    `not_ready`; and of calls that never began, `closed` (their channel is) and `metadata` (no peer may see theirs).
    """

    def __init__(self, code: int, reason: str, details: str) -> None:
        # Not super(): on asyncio that is grpcio's, which (1.81 and before) takes no fewer than its own arguments.
        Exception.__init__(self, details)
        self._code = _NAMES[int(code)]
        self._details = details
        self.reason = reason

    def code(self) -> grpc.StatusCode:
        """The gRPC status code."""
        return self._code

    def details(self) -> str:
        """`proxyless: <reason>: <what and where>`."""
        return self._details

    def initial_metadata(self) -> Any:
        """Empty: no server answered."""
        return ()

    def trailing_metadata(self) -> Any:
        """`proxyless-reason` alone."""
        return (("proxyless-reason", self.reason),)

    def debug_error_string(self) -> str:
        """The details again: there is no transport to tell of."""
        return self._details

    def result(self, timeout: float | None = None) -> NoReturn:
        """Raises this error."""
        raise self

    def exception(self, timeout: float | None = None) -> MeshRpcError:
        """This error."""
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        """Where it was raised, if it was."""
        return self.__traceback__

    def __str__(self) -> str:
        return (
            f"<{type(self).__name__} of RPC that terminated with:\n"
            f"\tstatus = {self._code}\n"
            f'\tdetails = "{self._details}"\n'
            f'\tdebug_error_string = "{self._details}"\n>'
        )

    __repr__ = __str__

    def __reduce__(self) -> Any:
        return type(self), (self._code.value[0], self.reason, self._details)


class AioMeshRpcError(MeshRpcError, grpc.aio.AioRpcError):
    """The same refusal on asyncio, where failed calls are `grpc.aio.AioRpcError`s."""

    def __init__(self, code: int, reason: str, details: str) -> None:
        trailing = grpc.aio.Metadata(("proxyless-reason", reason))
        grpc.aio.AioRpcError.__init__(self, _NAMES[int(code)], grpc.aio.Metadata(), trailing, details, details)
        MeshRpcError.__init__(self, code, reason, details)

    def initial_metadata(self) -> Any:
        """Empty: no server answered."""
        return grpc.aio.Metadata()

    def trailing_metadata(self) -> Any:
        """`proxyless-reason` alone."""
        return grpc.aio.Metadata(("proxyless-reason", self.reason))


class InvalidMetadata(MeshRpcError, ValueError):
    """Metadata that no connection may see: INTERNAL, as from grpcio, and a ValueError, for it is a mistake."""


class AioInvalidMetadata(AioMeshRpcError, ValueError):
    """The same on asyncio."""
