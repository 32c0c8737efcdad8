"""The TLS identity of a node's lanes: a certificate made at start, pinned by its fingerprint,
gone at the end.

It says nothing about who the node is: the session, which is authenticated, hands the fingerprint
to the one peer that may dial. Names and dates in the certificate are therefore constant, and
nobody reads them.

Source: RFC 8446 (TLS 1.3), RFC 5280.
"""

from __future__ import annotations

import datetime
import ssl
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from p2phub.digest import sha256

_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "p2phub lane")])
_VALID_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_VALID_UNTIL = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)  # RFC 5280: no end


class LaneIdentity:
    """A fresh key and certificate, in a TLS context that shows them."""

    def __init__(self) -> None:
        pem, self.fingerprint = certificate_pem()
        self.context = _server_context(pem)


def certificate_pem() -> tuple[bytes, bytes]:
    """A fresh P-256 key with its self-signed certificate, in PEM, and its fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())  # The quickest to sign with: 30 us.
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_UNTIL)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    return pem, sha256(certificate.public_bytes(serialization.Encoding.DER))


def dialling_context() -> ssl.SSLContext:
    """TLS 1.3 without any certificate authority: the caller must compare the fingerprint itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _server_context(key_and_certificate: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A resumption ticket would lie unread at a dialler that only sends, and its closing would then
    # reset the connection and lose the last bytes.
    context.num_tickets = 0
    # Python's ssl reads keys from files only. This one is the user's alone, for a moment.
    with tempfile.NamedTemporaryFile(prefix="p2phub-lane-") as file:
        file.write(key_and_certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context
