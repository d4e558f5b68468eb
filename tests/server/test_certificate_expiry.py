"""When certificates end."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import trustme

from shoal.server.certificate_expiry import expiry_of
from shoal.server.metrics import REGISTRY
from shoal.server.tls import Certificates


def _certificate(place: Path, days: int) -> tuple[Path, Path]:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    issued = trustme.CA().issue_cert("shoal.test", not_after=end)
    chain, key = place / f"{days}.crt", place / f"{days}.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return chain, key


def _in_days(days: int) -> object:
    now = datetime.datetime.now(datetime.UTC)
    return pytest.approx((now + datetime.timedelta(days=days)).timestamp(), abs=600)


@pytest.mark.parametrize("days", [1, 400, 20_000])  # the last in the other kind of time
def test_the_end_is_that_of_the_certificate(tmp_path: Path, days: int) -> None:
    chain, _ = _certificate(tmp_path, days)
    assert expiry_of(chain.read_bytes()) == _in_days(days)


def test_a_chain_ends_with_its_first_certificate_to_end(tmp_path: Path) -> None:
    chains = [_certificate(tmp_path, days)[0].read_bytes() for days in (30, 3, 300)]
    assert expiry_of(b"\n".join(chains)) == _in_days(3)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_none_has_no_end(text: bytes) -> None:
    assert expiry_of(text) is None


def test_the_end_is_told_when_certificates_are_read_and_read_again(tmp_path: Path) -> None:
    def told() -> float | None:
        labels = {"use": "public"}
        return REGISTRY.get_sample_value("shoal_certificate_expiry_timestamp_seconds", labels)

    chain, key = _certificate(tmp_path, 10)
    certificates = Certificates(chain, key, use="public")
    assert told() == _in_days(10)

    for new, old in zip(_certificate(tmp_path, 100), (chain, key), strict=True):
        new.replace(old)
    certificates.current()
    assert told() == _in_days(100)
