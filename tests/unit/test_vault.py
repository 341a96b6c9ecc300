"""The vault: what it seals only it can open, for what it was sealed, and nobody can alter it."""

import base64
import multiprocessing
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PublicKey, SealedBox
from pydantic import SecretStr

from promptjobs.db.vault import KEY_FILE, Vault
from promptjobs.errors import InvalidRequest, OptionInvalid, SecretUnreadable

VAULT = Vault(b"a" * 32)
OTHER = Vault(b"b" * 32)
TEXT = st.text(st.characters(codec="utf-8"))


@given(secret=TEXT, context=TEXT)
def test_what_was_sealed_is_opened_for_the_same_context(secret: str, context: str) -> None:
    sealed = VAULT.seal(secret, context)
    assert VAULT.unseal(sealed, context).get_secret_value() == secret
    assert sealed.isascii()
    assert sealed != VAULT.seal(secret, context), "equal secrets cannot be told from their sealed texts"


@given(secret=TEXT, context=TEXT, another=TEXT)
def test_what_was_sealed_for_another_context_is_refused(secret: str, context: str, another: str) -> None:
    """Also where one context begins with the other, or the secret looks like a part of it."""
    for wrong in {another, f"{context}:", f"{context}{secret}", context[:-1]} - {context}:
        with pytest.raises(SecretUnreadable):
            VAULT.unseal(VAULT.seal(secret, context), wrong)


@given(secret=TEXT, at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_what_was_altered_by_a_single_bit_is_refused(secret: str, at: int, bit: int) -> None:
    version, name, text = VAULT.seal(secret, "context").split(".")
    box = bytearray(base64.urlsafe_b64decode(text))
    box[at % len(box)] ^= 1 << bit
    with pytest.raises(SecretUnreadable):
        VAULT.unseal(f"{version}.{name}.{base64.urlsafe_b64encode(box).decode()}", "context")


@given(TEXT)
def test_what_was_never_sealed_is_refused(text: str) -> None:
    for wrong in (text, f"v1.{text}", ".".join([*VAULT.seal("x", "c").split(".")[:2], text])):
        with pytest.raises(SecretUnreadable):
            VAULT.unseal(wrong, "c")


def test_another_key_opens_nothing_and_the_error_shows_nothing() -> None:
    with pytest.raises(SecretUnreadable) as refused:
        OTHER.unseal(VAULT.seal("canary-secret", "context"), "context")
    assert "PROMPTJOBS_SECRET_KEY" in str(refused.value)
    assert "canary" not in repr(refused.value)


def test_the_same_key_opens_what_another_process_has_sealed() -> None:
    assert Vault(b"a" * 32).unseal(VAULT.seal("x", "c"), "c").get_secret_value() == "x"


# --- sealed boxes ----------------------------------------------------------------------------------------------------


def box_for(vault: Vault, secret: bytes) -> str:
    """What a client sends."""
    public = PublicKey(base64.b64decode(vault.public_key))
    return base64.b64encode(SealedBox(public).encrypt(secret)).decode()


@given(TEXT)
def test_what_a_client_has_sealed_is_opened(secret: str) -> None:
    assert VAULT.open_sealed_box(box_for(VAULT, secret.encode())) == secret


@pytest.mark.parametrize(
    "ciphertext",
    [
        "",
        "not base64!",
        base64.b64encode(b"x" * 100).decode(),
        box_for(OTHER, b"canary"),
        box_for(VAULT, b"\xff\xfe"),
        "é" * 100,
    ],
    ids=["nothing", "no base64", "no box", "for another", "no text", "no ascii"],
)
def test_a_box_that_is_not_for_us_is_refused_with_its_field(ciphertext: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        VAULT.open_sealed_box(ciphertext)
    assert refused.value.param == "ciphertext_b64"


def test_keys_for_boxes_and_for_storage_differ() -> None:
    assert base64.b64decode(VAULT.public_key) != b"a" * 32
    assert len(base64.b64decode(VAULT.public_key)) == 32


# --- the key ---------------------------------------------------------------------------------------------------------


def test_a_given_key_is_used_and_no_file_is_made(tmp_path: Path) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        vault = Vault.open(SecretStr(encode(b"\xfb" * 32).decode() + "\n"), tmp_path)
        assert vault.public_key == Vault(b"\xfb" * 32).public_key
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", "short", base64.b64encode(b"x" * 31).decode(), "é" * 44])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str, tmp_path: Path) -> None:
    with pytest.raises(OptionInvalid, match="32 random bytes") as refused:
        Vault.open(SecretStr(key), tmp_path)
    assert not key or key not in str(refused.value)


def test_the_key_file_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = Vault.open(None, tmp_path / "data")
    file = tmp_path / "data" / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Vault.open(None, tmp_path / "data").public_key == first.public_key
    assert [path.name for path in file.parent.iterdir()] == [KEY_FILE]


def test_a_broken_key_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("broken")
    with pytest.raises(OptionInvalid, match=KEY_FILE):
        Vault.open(None, tmp_path)
    assert (tmp_path / KEY_FILE).read_text() == "broken"


def open_together(data_dir: Path, together: Barrier, names: "multiprocessing.SimpleQueue[str]") -> None:
    together.wait(30)
    names.put(Vault.open(None, data_dir).public_key)


def test_processes_that_make_the_key_at_the_same_time_get_the_same_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_ in range(5):
        names, together = context.SimpleQueue(), context.Barrier(4)
        racing = [
            context.Process(target=open_together, args=(tmp_path / str(round_), together, names)) for _ in range(4)
        ]
        for process in racing:
            process.start()
        found = {names.get() for _ in racing}
        for process in racing:
            process.join(30)
        assert len(found) == 1
