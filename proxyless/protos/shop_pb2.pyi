from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetProductRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Product(_message.Message):
    __slots__ = ("id", "name", "price_cents", "served_by", "version")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRICE_CENTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    price_cents: int
    served_by: str
    version: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., price_cents: _Optional[int] = ..., served_by: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ListProductsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ImportSummary(_message.Message):
    __slots__ = ("imported", "served_by", "version")
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    imported: int
    served_by: str
    version: str
    def __init__(self, imported: _Optional[int] = ..., served_by: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("text", "served_by", "version")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    text: str
    served_by: str
    version: str
    def __init__(self, text: _Optional[str] = ..., served_by: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("product_id", "limit")
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    product_id: str
    limit: int
    def __init__(self, product_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class RecommendReply(_message.Message):
    __slots__ = ("product_ids", "served_by", "version")
    PRODUCT_IDS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    product_ids: _containers.RepeatedScalarFieldContainer[str]
    served_by: str
    version: str
    def __init__(self, product_ids: _Optional[_Iterable[str]] = ..., served_by: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...
