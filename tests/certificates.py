"""Certificates of an authority of the tests' own, in files as an operator has them. No test module."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """Two authorities that know nothing of each other, and whom they vouch for.

    Attributes:
        ca: of `server` and `client`.
        server: of 127.0.0.1 and localhost.
        other_ca: of `stranger`.
    """

    ca: Path
    server: Pair
    client: Pair
    other_ca: Path
    stranger: Pair


def make_certificates(folder: Path) -> Certificates:
    def authority(name: str) -> tuple[trustme.CA, Path]:
        made, file = trustme.CA(), folder / f"{name}.pem"
        made.cert_pem.write_to_path(str(file))
        return made, file

    def pair(ca: trustme.CA, name: str, *identities: str) -> Pair:
        made = ca.issue_cert(*identities)
        files = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        made.private_key_pem.write_to_path(str(files.key))
        for one in made.cert_chain_pems:
            one.write_to_path(str(files.certificate), append=True)
        return files

    ca, ca_file = authority("ca")
    other, other_file = authority("other-ca")
    return Certificates(
        ca=ca_file,
        server=pair(ca, "server", "127.0.0.1", "localhost"),
        client=pair(ca, "client", "shop.internal"),
        other_ca=other_file,
        stranger=pair(other, "stranger", "127.0.0.1"),
    )
