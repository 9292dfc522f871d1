"""The one table between domain errors and gRPC."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2

from ragkeep.errors.v1 import errors_pb2
from ragkeep_runtime import errors


def test_every_reason_of_the_contract_has_an_error_or_is_an_outcome() -> None:
    """No reason is documented without being raised by something, and none is raised undocumented."""
    assert set(errors.ERRORS) | errors.OUTCOME_REASONS == errors.REASONS
    assert not set(errors.ERRORS) & errors.OUTCOME_REASONS


def test_the_status_in_the_contracts_comment_is_the_errors_status() -> None:
    """`[NOT_FOUND]` beside a reason is what callers get."""
    import pathlib

    text = pathlib.Path("protos/ragkeep/errors/v1/errors.proto").read_text()
    for reason, cls in errors.ERRORS.items():
        comment = text.split(f"REASON_{reason} = ")[0].rsplit(";", 1)[-1]
        assert f"[{cls.code.name}]" in comment, reason


@pytest.mark.parametrize("reason", sorted(errors.ERRORS))
def test_an_error_survives_the_way_over_the_wire(reason: str) -> None:
    """Class, message, field, time to retry and metadata arrive as they were sent."""
    sent = errors.ERRORS[reason]("It helps.", field="limit", retry_after_s=1.5, metadata={"engine": "ollama"})
    got = errors.from_status(errors.to_status(sent, "abc"))
    assert type(got) is type(sent)
    assert (got.message, got.field, got.retry_after_s, got.metadata) == ("It helps.", "limit", 1.5, {"engine": "ollama"})


def test_an_unknown_reason_is_judged_by_the_status() -> None:
    """A newer server's reason does not confuse an older client."""
    status = errors.to_status(errors.CollectionUnknown("no"))
    del status.details[:]
    detail = Any()
    detail.Pack(error_details_pb2.ErrorInfo(domain="ragkeep", reason="FROM_THE_FUTURE"))
    status.details.append(detail)
    assert type(errors.from_status(status)) is errors.CollectionUnknown


def test_a_long_message_does_not_push_the_status_out_of_the_trailers() -> None:
    """gRPC drops everything past 8 KiB, the status code included."""
    status = errors.to_status(errors.InvalidRequest("长" * 10_000, field="x" * 5000, metadata={"a": "b" * 9000}))
    assert status.ByteSize() < 4096
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert errors_pb2.Reason.Value("REASON_INVALID_REQUEST")
