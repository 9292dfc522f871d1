"""Domain errors, and the one table between them and gRPC: error ↔ status and `google.rpc.ErrorInfo` reason, both ways.

A handler raises a `RagkeepError`; the server's interceptor turns it into a status with details; a channel's caller gets the
same class back from `from_rpc_error`. The reasons and what to do about each are documented in `errors.proto`.
"""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ragkeep.errors.v1 import errors_pb2

DOMAIN = "ragkeep"
# gRPC loses the whole status when trailers pass 8 KiB, so the text is capped well below.
MAX_MESSAGE_BYTES = 1024

_Code = grpc.StatusCode


class RagkeepError(Exception):
    """A failure with a stable reason. `message` is for the caller: a sentence that helps, never an engine's own words.

    `field` names the request's field at fault, `retry_after_s` says when to come again, `metadata` adds facts for machines.
    """

    reason = "INTERNAL"
    code = _Code.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        retry_after_s: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = metadata or {}


class PeerUnknown(RagkeepError):
    reason, code = "PEER_UNKNOWN", _Code.UNAUTHENTICATED


class NotAllowed(RagkeepError):
    reason, code = "NOT_ALLOWED", _Code.PERMISSION_DENIED


class TenantNotAllowed(RagkeepError):
    reason, code = "TENANT_NOT_ALLOWED", _Code.PERMISSION_DENIED


class TokenInvalid(RagkeepError):
    reason, code = "TOKEN_INVALID", _Code.UNAUTHENTICATED


class TokenExpired(TokenInvalid):
    reason = "TOKEN_EXPIRED"


class TenantInactive(RagkeepError):
    reason, code = "TENANT_INACTIVE", _Code.PERMISSION_DENIED


class InvalidRequest(RagkeepError):
    reason, code = "INVALID_REQUEST", _Code.INVALID_ARGUMENT


class QuestionEmpty(InvalidRequest):
    reason = "QUESTION_EMPTY"


class QuestionTooLong(InvalidRequest):
    reason = "QUESTION_TOO_LONG"


class LimitOutOfRange(InvalidRequest):
    reason = "LIMIT_OUT_OF_RANGE"


class FilterFieldUnknown(InvalidRequest):
    reason = "FILTER_FIELD_UNKNOWN"


class FilterTypeWrong(InvalidRequest):
    reason = "FILTER_TYPE_WRONG"


class TextInvalid(InvalidRequest):
    reason = "TEXT_INVALID"


class TextTooLong(InvalidRequest):
    reason = "TEXT_TOO_LONG"


class ContextTooSmall(InvalidRequest):
    reason = "CONTEXT_TOO_SMALL"


class RequestTooLarge(InvalidRequest):
    reason = "REQUEST_TOO_LARGE"


class ModelNotAllowed(InvalidRequest):
    reason = "MODEL_NOT_ALLOWED"


class TemplateInvalid(InvalidRequest):
    reason = "TEMPLATE_INVALID"


class FieldSealed(InvalidRequest):
    reason = "FIELD_SEALED"


class SealingUnavailable(RagkeepError):
    reason, code = "SEALING_UNAVAILABLE", _Code.FAILED_PRECONDITION


class SealingKeyMissing(RagkeepError):
    reason, code = "SEALING_KEY_MISSING", _Code.FAILED_PRECONDITION


class SealedValueDamaged(RagkeepError):
    reason, code = "SEALED_VALUE_DAMAGED", _Code.DATA_LOSS


class CollectionUnknown(RagkeepError):
    reason, code = "COLLECTION_UNKNOWN", _Code.NOT_FOUND


class DocumentUnknown(RagkeepError):
    reason, code = "DOCUMENT_UNKNOWN", _Code.NOT_FOUND


class TenantUnknown(RagkeepError):
    reason, code = "TENANT_UNKNOWN", _Code.NOT_FOUND


class TenantActive(RagkeepError):
    reason, code = "TENANT_ACTIVE", _Code.FAILED_PRECONDITION


class TenantExists(RagkeepError):
    reason, code = "TENANT_EXISTS", _Code.ALREADY_EXISTS


class ModelNotInstalled(RagkeepError):
    reason, code = "MODEL_NOT_INSTALLED", _Code.FAILED_PRECONDITION


class ModelUnknown(RagkeepError):
    reason, code = "MODEL_UNKNOWN", _Code.NOT_FOUND


class CollectionExists(RagkeepError):
    reason, code = "COLLECTION_EXISTS", _Code.ALREADY_EXISTS


class CollectionChanged(RagkeepError):
    reason, code = "COLLECTION_CHANGED", _Code.ABORTED


class CollectionInUse(RagkeepError):
    reason, code = "COLLECTION_IN_USE", _Code.FAILED_PRECONDITION


class CollectionFixed(RagkeepError):
    reason, code = "COLLECTION_FIXED", _Code.FAILED_PRECONDITION


class CatalogueTooNew(RagkeepError):
    reason, code = "CATALOGUE_TOO_NEW", _Code.FAILED_PRECONDITION


class EmbeddingSpaceMismatch(RagkeepError):
    reason, code = "EMBEDDING_SPACE_MISMATCH", _Code.FAILED_PRECONDITION


class AnalyzerMismatch(RagkeepError):
    reason, code = "ANALYZER_MISMATCH", _Code.FAILED_PRECONDITION


class ModelUnsuitable(RagkeepError):
    reason, code = "MODEL_UNSUITABLE", _Code.FAILED_PRECONDITION


class ModelBuiltIn(RagkeepError):
    reason, code = "MODEL_BUILT_IN", _Code.FAILED_PRECONDITION


class PullNotAllowed(RagkeepError):
    reason, code = "PULL_NOT_ALLOWED", _Code.FAILED_PRECONDITION


class EngineUnreachable(RagkeepError):
    reason, code = "ENGINE_UNREACHABLE", _Code.UNAVAILABLE


class EngineFailed(RagkeepError):
    reason, code = "ENGINE_FAILED", _Code.INTERNAL


class Overloaded(RagkeepError):
    reason, code = "OVERLOADED", _Code.RESOURCE_EXHAUSTED


class QuotaExceeded(RagkeepError):
    reason, code = "QUOTA_EXCEEDED", _Code.RESOURCE_EXHAUSTED


class NotReady(RagkeepError):
    reason, code = "NOT_READY", _Code.UNAVAILABLE


class DeadlineExceeded(RagkeepError):
    reason, code = "DEADLINE_EXCEEDED", _Code.DEADLINE_EXCEEDED


class StorageFull(RagkeepError):
    reason, code = "STORAGE_FULL", _Code.RESOURCE_EXHAUSTED


class ModelOutOfMemory(RagkeepError):
    reason, code = "MODEL_OUT_OF_MEMORY", _Code.RESOURCE_EXHAUSTED


class RegistryFailed(RagkeepError):
    reason, code = "REGISTRY_FAILED", _Code.UNAVAILABLE


class AuditUnavailable(RagkeepError):
    reason, code = "AUDIT_UNAVAILABLE", _Code.UNAVAILABLE


class Internal(RagkeepError):
    reason, code = "INTERNAL", _Code.INTERNAL


class DocumentRejected(RagkeepError):
    """One document is not taken. An outcome in a response, not the call's status."""

    code = _Code.INVALID_ARGUMENT

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _subclasses(cls: type[RagkeepError]) -> list[type[RagkeepError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


# What a caller is refused for, as against what a server cannot do just now.
REFUSALS = (PeerUnknown, NotAllowed, TenantNotAllowed, TenantInactive, TokenInvalid)
ERRORS: dict[str, type[RagkeepError]] = {
    cls.reason: cls for cls in _subclasses(RagkeepError) if cls not in (RagkeepError, DocumentRejected)
}
OUTCOME_REASONS = frozenset(
    {
        "DOCUMENT_ID_INVALID",
        "FIELD_MISSING",
        "FIELD_UNKNOWN",
        "FIELD_TYPE_WRONG",
        "DUPLICATE_ID",
        "DOCUMENT_TOO_LARGE",
        "ROW_INVALID",
        "DOCUMENT_HIDDEN",
    }
)
REASONS = frozenset(name.removeprefix("REASON_") for name, number in errors_pb2.Reason.items() if number)


def _capped(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= MAX_MESSAGE_BYTES else data[: MAX_MESSAGE_BYTES - 4].decode("utf-8", "ignore") + " …"


def to_status(error: RagkeepError, request_id: str = "") -> status_pb2.Status:
    """The error as a `google.rpc.Status` with ErrorInfo and, where they apply, BadRequest, RetryInfo and RequestInfo."""
    info = error_details_pb2.ErrorInfo(
        domain=DOMAIN,
        reason=error.reason,
        metadata={key: _capped(value)[:200] for key, value in list(error.metadata.items())[:8]},
    )
    details = [info]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field[:200], description=_capped(error.message))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(retry)
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=request_id[:128]))
    packed = []
    for detail in details:
        anything = Any()
        anything.Pack(detail)
        packed.append(anything)
    return status_pb2.Status(code=error.code.value[0], message=_capped(error.message), details=packed)


def from_status(status: status_pb2.Status) -> RagkeepError:
    """The domain error a status stands for. A reason that is not known, or none, is judged by the status alone."""
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    reason, retry_after, field = "", None, ""
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) and detail.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR) and detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
    cls = ERRORS.get(reason) or _BY_CODE.get(status.code, Internal)
    return cls(status.message, field=field, retry_after_s=retry_after, metadata=dict(info.metadata))


# For what gRPC itself reports, where there is no ErrorInfo.
_BY_CODE: dict[int, type[RagkeepError]] = {
    code_pb2.UNAUTHENTICATED: PeerUnknown,
    code_pb2.PERMISSION_DENIED: NotAllowed,
    code_pb2.INVALID_ARGUMENT: InvalidRequest,
    code_pb2.OUT_OF_RANGE: InvalidRequest,
    code_pb2.NOT_FOUND: CollectionUnknown,
    code_pb2.UNAVAILABLE: NotReady,
    code_pb2.DEADLINE_EXCEEDED: DeadlineExceeded,
    code_pb2.RESOURCE_EXHAUSTED: Overloaded,
}


def error_of(reason: str, message: str, *, field: str = "") -> RagkeepError:
    """The error with a reason that came in a response; InvalidRequest for one that is not known."""
    return ERRORS.get(reason, InvalidRequest)(message, field=field)


def from_rpc_error(error: grpc.aio.AioRpcError) -> RagkeepError:
    """The domain error that a failed call stands for; `grpc.aio.AioRpcError` stays its `__cause__` when raised from it."""
    status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            parsed = status_pb2.Status()
            try:
                parsed.ParseFromString(value if isinstance(value, bytes) else value.encode("latin-1"))
            except Exception:  # a peer's junk must not hide the status itself
                break
            status.details.extend(parsed.details)
    return from_status(status)
