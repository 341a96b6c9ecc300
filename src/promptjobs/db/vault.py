"""Seals secrets before they are stored, and opens what clients have sealed for us."""

import base64
import hashlib
import os
import secrets
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox
from nacl.secret import SecretBox
from pydantic import SecretStr

from promptjobs.errors import InvalidRequest, OptionInvalid, SecretUnreadable

KEY_BYTES = 32
KEY_FILE = "secret.key"
VERSION = "v1"


class Vault:
    """One per process. Every process of a service needs the same key: what one seals, another has to open.

    A sealed text names the key by a fingerprint: `v1.<fingerprint>.<base64>`. The context (of which job or
    organisation the secret is) is sealed with it, so that a row that is copied to another place cannot be opened there.
    """

    def __init__(self, key: bytes) -> None:
        """key: 32 random bytes."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a secret key has {KEY_BYTES} bytes, got {len(key)}")
        self._box = SecretBox(_derived(key, b"promptjobs box"))
        self._private = PrivateKey(_derived(key, b"promptjobs sealed"))
        self._fingerprint = hashlib.blake2b(key, digest_size=6, person=b"promptjobs name").hexdigest()

    @classmethod
    def open(cls, key: SecretStr | None, data_dir: Path) -> "Vault":
        """With the key that is given, in base64, or else that of the data directory, which is made where it is missing.

        Raises OptionInvalid.
        """
        if key is None:
            return cls(_key_of_file(data_dir / KEY_FILE))
        return cls(_decoded(key.get_secret_value(), "PROMPTJOBS_SECRET_KEY"))

    def seal(self, secret: str, context: str) -> str:
        """The secret as it may be stored. context: what it belongs to, which `open` has to name too."""
        sealed = self._box.encrypt(_bound(secret, context))
        return f"{VERSION}.{self._fingerprint}.{base64.urlsafe_b64encode(bytes(sealed)).decode()}"

    def unseal(self, sealed: str, context: str) -> SecretStr:
        """Raises SecretUnreadable for what was sealed with another key, for another context, or was altered."""
        try:
            version, fingerprint, text = sealed.split(".")
            if (version, fingerprint) != (VERSION, self._fingerprint):
                raise SecretUnreadable
            opened = self._box.decrypt(base64.urlsafe_b64decode(text))
        except (ValueError, CryptoError) as error:
            raise SecretUnreadable from error
        prefix = _bound("", context)
        if not opened.startswith(prefix):
            raise SecretUnreadable
        return SecretStr(opened[len(prefix) :].decode())

    @property
    def public_key(self) -> str:
        """For clients that seal a secret for us (libsodium.sealedbox.v1): 32 bytes in base64."""
        return base64.b64encode(bytes(self._private.public_key)).decode()

    def open_sealed_box(self, ciphertext: str) -> str:
        """What a client has sealed with `public_key`, in base64. Raises InvalidRequest."""
        try:
            opened = SealedBox(self._private).decrypt(base64.b64decode(ciphertext, validate=True))
            return opened.decode()
        except (ValueError, CryptoError) as error:
            raise InvalidRequest("it was not sealed with this service's public key", "ciphertext_b64") from error


def _derived(key: bytes, purpose: bytes) -> bytes:
    """A key of its own for each use."""
    return hashlib.blake2b(purpose, key=key, digest_size=KEY_BYTES).digest()


def _bound(secret: str, context: str) -> bytes:
    return f"{len(context)}:{context}:{secret}".encode()


def _decoded(text: str, name: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), altchars=b"-_" if {"-", "_"} & set(text) else None, validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise OptionInvalid(name, f"expected {KEY_BYTES} random bytes in base64 (openssl rand -base64 {KEY_BYTES})")
    return key


def _key_of_file(path: Path) -> bytes:
    """The key in the file. The file that is complete first wins, whoever else makes one at the same time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(building, path)
        except FileExistsError:
            pass
        finally:
            building.unlink()
    try:
        return _decoded(path.read_bytes().decode("ascii", "replace"), str(path))
    except OSError as error:
        raise OptionInvalid(str(path), f"it cannot be read: {error.strerror}") from error
