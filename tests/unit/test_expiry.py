"""Certificates near their end: warned of in good time, and not before."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ragkeep_runtime.expiry import THRESHOLDS, ExpiryWatch
from tests.pki import Authority

DAY = dt.timedelta(days=1)


class Clock:
    """Says the time that it is set to."""

    def __init__(self) -> None:
        self.now = dt.datetime.now(dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.now


def _warnings(watch: ExpiryWatch, clock: Clock, life: dt.timedelta, step: dt.timedelta) -> list[tuple[dt.timedelta, str]]:
    """(left, level) of each that is said during a lifetime, and some time after."""
    began, said = clock.now, []
    while clock.now < began + life * 1.2:
        with capture_logs() as logs:
            watch.look()
        said += [(began + life - clock.now, line["log_level"]) for line in logs if line["event"] == "certificate_expires"]
        clock.now += step
    return said


@pytest.mark.parametrize(
    ("life", "at"),
    [
        (365 * DAY, [30 * DAY, 7 * DAY, DAY]),
        (90 * DAY, [22.5 * DAY, 7 * DAY, DAY]),
        (7 * DAY, [1.75 * DAY, 0.875 * DAY, 7 * DAY / 24]),
        (DAY, [DAY / 4, DAY / 8, DAY / 24]),
        (DAY / 24, [DAY / 96, DAY / 192, DAY / 576]),
    ],
    ids=["year", "quarter", "week", "day", "hour"],
)
def test_each_threshold_is_said_once_and_the_end_as_an_error(
    tmp_path: Path, life: dt.timedelta, at: list[dt.timedelta]
) -> None:
    """30 days, 7 days and 1 day ahead; less for one that lives less, and never before three quarters of its life."""
    identity = Authority(tmp_path).issue("leaf", uris=["spiffe://ragkeep.internal/x"], days=life / DAY, age_days=0)
    clock = Clock()
    watch, step = ExpiryWatch({"own": identity.cert}, {}, clock), life / 960
    said = _warnings(watch, clock, life, step)
    assert [level for _, level in said] == ["warning"] * 3 + ["error"]
    for (left, _), wanted in zip(said, [*at, dt.timedelta()], strict=True):
        assert wanted - step - dt.timedelta(seconds=2) <= left <= wanted + dt.timedelta(seconds=2)
    assert said[0][0] <= life / 4 + dt.timedelta(seconds=2)


def test_a_renewed_certificate_is_quiet_and_then_warned_of_again(tmp_path: Path) -> None:
    """What was said of the former does not count for it."""
    authority, clock = Authority(tmp_path), Clock()
    identity = authority.issue("leaf", days=0.1, age_days=1)
    watch = ExpiryWatch({"own": identity.cert}, {}, clock)
    for days, said in ((0.1, 1), (5.0, 0), (0.1, 1)):
        authority.issue("leaf", days=days, age_days=1)
        with capture_logs() as logs:
            watch.look()
            watch.look()
        assert len(logs) == said


def test_every_authority_of_a_bundle_is_watched_apart(tmp_path: Path) -> None:
    """The one of two that ends is named by its fingerprint; a chain behind a leaf is not the leaf."""
    a, b = Authority(tmp_path / "a", days=0.01), Authority(tmp_path / "b", days=900)
    bundle, leaf = tmp_path / "bundle.crt", a.issue("leaf", days=5).cert
    bundle.write_bytes(a.ca.read_bytes() + b.ca.read_bytes())
    leaf.write_bytes(leaf.read_bytes() + a.ca.read_bytes())
    watch = ExpiryWatch({"own": leaf}, {"authorities": bundle})
    with capture_logs() as logs:
        watch.look()
    left = {(which, mark): seconds for which, mark, seconds in watch.left()}
    assert len(left) == 3
    assert [(line["which"], line["file"]) for line in logs] == [("authorities", "bundle.crt")]
    assert left["authorities", logs[0]["fingerprint"]] < 0.02 * 86400
    assert 4 * 86400 < left["own", ""] < 6 * 86400


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_a_file_that_cannot_be_read_is_watched_as_it_was(tmp_path: Path, content: bytes | None) -> None:
    """The process still uses the former one, whose time goes on."""
    identity = Authority(tmp_path).issue("leaf", days=5)
    clock = Clock()
    watch = ExpiryWatch({"own": identity.cert}, {}, clock)
    watch.look()
    if content is None:
        identity.cert.unlink()
    else:
        identity.cert.write_bytes(content)
    clock.now += 6 * DAY
    with capture_logs() as logs:
        watch.look()
    assert [line["log_level"] for line in logs] == ["error"]
    assert watch.left()[0][2] < 0


def test_who_renews_after_two_thirds_never_hears_of_it() -> None:
    """As cert-manager does: the first share is less than the third that is left then."""
    assert max(share for _, share in THRESHOLDS) < 1 / 3
