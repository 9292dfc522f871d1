"""Certificates that come to their end: a metric, and a warning in good time, for files of any lifetime."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from ragkeep_runtime.logs import get_logger

# Warned at the lesser of a time and a share of the lifetime: who renews after two thirds of it never hears of it.
THRESHOLDS = (
    (dt.timedelta(days=30), 1 / 4),
    (dt.timedelta(days=7), 1 / 8),
    (dt.timedelta(days=1), 1 / 24),
)
# How often files and clock are looked at, in seconds.
EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Watched:
    which: str  # what the file is for
    file: str
    fingerprint: str  # the first 16 hexadecimal digits of SHA-256; empty for a leaf, which changes often
    begins: dt.datetime
    ends: dt.datetime

    @property
    def passed_at(self) -> list[dt.datetime]:
        """When each threshold is passed, and the end."""
        lifetime = self.ends - self.begins
        return [*(self.ends - min(time, lifetime * share) for time, share in THRESHOLDS), self.ends]


class ExpiryWatch:
    """Watches PEM files. One that cannot be read is watched as it was before: that it is not taken over is said by those who
    use it."""

    def __init__(
        self,
        leaves: Mapping[str, Path],  # by what they are for; of a chain, the first certificate
        bundles: Mapping[str, Path],  # every certificate in them, told apart by fingerprint
        clock: Callable[[], dt.datetime] | None = None,
    ) -> None:
        self._leaves = dict(leaves)
        self._bundles = dict(bundles)
        self._clock = clock or (lambda: dt.datetime.now(dt.UTC))
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._watched: dict[str, list[_Watched]] = {}
        self._said: dict[_Watched, int] = {}

    def look(self) -> None:
        """Reads what changed, and warns of what is near its end: once for each threshold that is passed."""
        for which, path in (*self._leaves.items(), *self._bundles.items()):
            self._read(which, path)
        every = [one for found in self._watched.values() for one in found]
        self._said = {one: count for one, count in self._said.items() if one in every}
        now = self._clock()
        for one in every:
            passed = sum(at <= now for at in one.passed_at)
            if passed > self._said.get(one, 0):
                _say(one, passed > len(THRESHOLDS), now)
            self._said[one] = passed

    def left(self) -> list[tuple[str, str, float]]:
        """(which, fingerprint, seconds to the end) of each; negative afterwards."""
        now = self._clock()
        every = [one for found in self._watched.values() for one in found]
        return [(one.which, one.fingerprint, (one.ends - now).total_seconds()) for one in every]

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            try:
                self.look()
            except Exception:  # whatever it is, the next certificate must not be missed for it
                get_logger().exception("certificates_not_watched")
            await asyncio.sleep(EVERY_S)

    def show(self) -> None:
        """Makes the metric of it; once in a process."""

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(seconds, {"which": which, "fingerprint": mark}) for which, mark, seconds in self.left()]

        metrics.get_meter("ragkeep").create_observable_gauge(
            "ragkeep_certificate_expiry_seconds",
            [observe],
            description="Seconds until a certificate ends; negative once it has.",
        )

    def _read(self, which: str, path: Path) -> None:
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp == self._stamps.get(which):
                return
            certificates = x509.load_pem_x509_certificates(path.read_bytes())
            if which in self._leaves:
                found = [_Watched(which, path.name, "", *_times(certificates[0]))]
            else:
                found = [_Watched(which, path.name, _fingerprint(one), *_times(one)) for one in certificates]
        except (OSError, ValueError):
            return
        self._watched[which], self._stamps[which] = found, stamp


def invalid_now(path: Path) -> str:
    """Why the clock forbids the certificate of a PEM file, to be said behind its name; empty: it does not, or there is none."""
    try:
        begins, ends = _times(x509.load_pem_x509_certificate(path.read_bytes()))
    except (OSError, ValueError):
        return ""
    now = dt.datetime.now(dt.UTC)
    if now > ends:
        return f"ended on {ends:%Y-%m-%d} at {ends:%H:%M} UTC"
    return f"is not valid yet: it begins on {begins:%Y-%m-%d} at {begins:%H:%M} UTC" if now < begins else ""


def _times(certificate: x509.Certificate) -> tuple[dt.datetime, dt.datetime]:
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def _say(one: _Watched, expired: bool, now: dt.datetime) -> None:
    log = get_logger()
    (log.error if expired else log.warning)(
        "certificate_expires",
        which=one.which,
        file=one.file,
        fingerprint=one.fingerprint,
        ends=one.ends.isoformat(),
        seconds_left=round((one.ends - now).total_seconds()),
    )
