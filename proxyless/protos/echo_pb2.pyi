from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EchoRequest(_message.Message):
    __slots__ = ("message", "payload", "count", "delay_ms", "fail_code", "fail_details", "fail_after", "fail_times", "fail_key", "fail_rich", "echo_metadata", "initial_metadata", "trailing_metadata")
    class InitialMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class TrailingMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    FAIL_CODE_FIELD_NUMBER: _ClassVar[int]
    FAIL_DETAILS_FIELD_NUMBER: _ClassVar[int]
    FAIL_AFTER_FIELD_NUMBER: _ClassVar[int]
    FAIL_TIMES_FIELD_NUMBER: _ClassVar[int]
    FAIL_KEY_FIELD_NUMBER: _ClassVar[int]
    FAIL_RICH_FIELD_NUMBER: _ClassVar[int]
    ECHO_METADATA_FIELD_NUMBER: _ClassVar[int]
    INITIAL_METADATA_FIELD_NUMBER: _ClassVar[int]
    TRAILING_METADATA_FIELD_NUMBER: _ClassVar[int]
    message: str
    payload: bytes
    count: int
    delay_ms: int
    fail_code: int
    fail_details: str
    fail_after: int
    fail_times: int
    fail_key: str
    fail_rich: bool
    echo_metadata: _containers.RepeatedScalarFieldContainer[str]
    initial_metadata: _containers.ScalarMap[str, str]
    trailing_metadata: _containers.ScalarMap[str, str]
    def __init__(self, message: _Optional[str] = ..., payload: _Optional[bytes] = ..., count: _Optional[int] = ..., delay_ms: _Optional[int] = ..., fail_code: _Optional[int] = ..., fail_details: _Optional[str] = ..., fail_after: _Optional[int] = ..., fail_times: _Optional[int] = ..., fail_key: _Optional[str] = ..., fail_rich: _Optional[bool] = ..., echo_metadata: _Optional[_Iterable[str]] = ..., initial_metadata: _Optional[_Mapping[str, str]] = ..., trailing_metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class EchoReply(_message.Message):
    __slots__ = ("message", "payload", "served_by", "version", "metadata", "attempt", "sequence", "remaining_ms")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    message: str
    payload: bytes
    served_by: str
    version: str
    metadata: _containers.ScalarMap[str, str]
    attempt: int
    sequence: int
    remaining_ms: int
    def __init__(self, message: _Optional[str] = ..., payload: _Optional[bytes] = ..., served_by: _Optional[str] = ..., version: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., attempt: _Optional[int] = ..., sequence: _Optional[int] = ..., remaining_ms: _Optional[int] = ...) -> None: ...
