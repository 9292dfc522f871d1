"""What of an installation needs its operator though its processes run: certificates that cannot be used, files that were not
taken over, the HTTPS edge."""

from __future__ import annotations

import datetime as dt
import http.client
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from ragkeep_client.certificates import Certificates, way_out
from ragkeep_client.folder import DataFolder, State
from ragkeep_client.log_lines import parse
from ragkeep_client.supervision import former
from ragkeep_runtime.policy import Policy

_NOT_TAKEN_OVER, _TAKEN_OVER = "file_not_taken_over", "file_taken_over"
# Looked at as they lie there, which says more than that some look found them broken.
_LOOKED_AT = frozenset({"policy", "certificate"})


@dataclass(frozen=True, slots=True)
class Attention:
    """Something that is not as it should be, and what helps."""

    about: str  # a service, or a file by what it is for
    message: str  # sentences


@dataclass(frozen=True, slots=True)
class HttpsLook:
    """The HTTPS edge, as who comes to it finds it now."""

    address: str
    ready: bool
    missing: str  # sentences; empty: nothing


def unusable_certificates(folder: DataFolder) -> dict[str, str]:
    """What is wrong with the folder's certificates, by the name of each that cannot be used."""
    certificates = Certificates(folder.certificates)
    try:
        found = certificates.show()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "a file there is no certificate"
        return {"certificates": f"{certificates.folder} cannot be read: {why}. `ragkeep certs renew` makes what is missing."}
    return {
        one.name: f"Its certificate cannot be used: {one.fault} (valid from {one.valid_from:%Y-%m-%d %H:%M} to "
        f"{one.valid_until:%Y-%m-%d %H:%M} UTC). {way_out(one)} makes a new one."
        for one in found
        if one.fault
    }


def files_not_taken_over(folder: DataFolder, state: State) -> list[Attention]:
    """Changed files that are broken, so that what they held before is still in force."""
    found = []
    try:
        Policy.parse(folder.policy.read_bytes())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        message = f"{folder.policy} is not in force, the one before it still is: {why}. `ragkeep policy check` tells all."
        found.append(Attention("policy", message))
    for service, one in state.services.items():
        # The log alone would do, and be long to read.
        for what in sorted(_counted(one.health) - _LOOKED_AT):
            if why := _still(folder.logs / f"{service}.log", what):
                message = f"{why} is not in force, the one before it still is. `ragkeep logs {service}` tells since when."
                found.append(Attention(what, message))
    return found


def look_at_https(address: str) -> HttpsLook:
    """Whether a handshake is answered, with a certificate that is valid now."""
    target = urlsplit(address)
    try:
        # Not verified: the site may have put its own there, and nothing but the dates is believed.
        shown = ssl.get_server_certificate((target.hostname or "", target.port or 443), timeout=2)
        certificate = x509.load_pem_x509_certificate(shown.encode())
    except (OSError, ValueError):
        return HttpsLook(address, False, "It does not answer.")
    until = certificate.not_valid_after_utc
    if until < dt.datetime.now(dt.UTC):
        why = f"Its certificate ended on {until:%Y-%m-%d} at {until:%H:%M} UTC: browsers and programs refuse it."
        return HttpsLook(address, False, f"{why} `ragkeep certs renew` makes the folder's own anew.")
    return HttpsLook(address, True, "")


def _counted(health: str) -> set[str]:
    """For which files a process says that it found them broken since it began."""
    from prometheus_client.parser import text_string_to_metric_families

    host, _, port = health.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return set()
    finally:
        connection.close()
    families = text_string_to_metric_families(text)
    samples = [one for family in families for one in family.samples if one.name == "ragkeep_file_not_taken_over_total"]
    return {one.labels["what"] for one in samples if one.value}


def _still(log: Path, what: str) -> str:
    """The file that is broken, and how; empty where a later one was taken over."""
    last = ""
    for raw in _lines(log):
        if what.encode() not in raw:
            continue
        event = parse("", raw).event or {}
        if event.get("what") == what and event.get("event") in (_NOT_TAKEN_OVER, _TAKEN_OVER):
            named = f"{event.get('file', f'The file for {what}')} ({event.get('error', 'broken')})"
            last = named if event["event"] == _NOT_TAKEN_OVER else ""
    return last


def _lines(log: Path) -> Iterator[bytes]:
    for path in (former(log), log):
        try:
            with path.open("rb") as lines:
                yield from lines
        except FileNotFoundError:
            continue
