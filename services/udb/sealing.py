"""Passwords that can be given back: sealed with a key that is not in the database, by AES-256-GCM of libcrypto.

Promises: what is sealed for one user opens for that user alone, with that key alone, and not at all when a bit of it
was changed (NIST SP 800-38D; the user's id is the additional data). Nonces are random, 96 bits of them: a key is good
for 2^32 passwords. Images have no cryptography package, and Python's own modules have no cipher; why it is this one
stands in docs/decisions/passwords-given-back.md.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import functools
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from services.common.credentials import read_credential
from services.common.errors import HostError, IntegrityError

CREDENTIAL = "udb.key"
KEY_BYTES = 32
_LIBRARY = "libcrypto.so.3"
_NONCE, _TAG = 12, 16
_FORM = b"\x01"
_GET_TAG, _SET_TAG = 0x10, 0x11  # EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG of openssl/evp.h
_LONGEST = 4096


class Seal:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise HostError("udb.key", f"the key for passwords has {len(key)} bytes, not {KEY_BYTES}")
        self._key = key

    @classmethod
    def of_this_service(cls, environ: Mapping[str, str] | None = None) -> Seal | None:
        """With the key in the systemd credential udb.key; None without that. Raises HostError("udb.key")."""
        key = read_credential(CREDENTIAL, code="udb.key", what="the key for passwords", environ=environ)
        return None if key is None else cls(key)

    def close(self, password: str, *, user: int) -> str:
        """`password` sealed for the user with that id, as a text."""
        plain = password.encode()
        nonce = secrets.token_bytes(_NONCE)
        library = _library()
        with _context() as context:
            _ok(library.EVP_EncryptInit_ex(context, library.EVP_aes_256_gcm(), None, self._key, nonce))
            _update(library.EVP_EncryptUpdate, context, _about(user), keep=False)
            sealed = _update(library.EVP_EncryptUpdate, context, plain)
            _ok(library.EVP_EncryptFinal_ex(context, ctypes.create_string_buffer(16), ctypes.byref(ctypes.c_int())))
            tag = ctypes.create_string_buffer(_TAG)
            _ok(library.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, _TAG, tag))
        return base64.b64encode(_FORM + nonce + sealed + tag.raw).decode()

    def open(self, sealed: str, *, user: int) -> str:
        """The password. Raises IntegrityError("udb.sealed") for what is not of this key, of this user, or whole."""
        try:
            whole = base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _broken() from error
        if whole[:1] != _FORM or not 1 + _NONCE + _TAG < len(whole) < _LONGEST:
            raise _broken()
        nonce, body, tag = whole[1 : 1 + _NONCE], whole[1 + _NONCE : -_TAG], whole[-_TAG:]
        library = _library()
        with _context() as context:
            _ok(library.EVP_DecryptInit_ex(context, library.EVP_aes_256_gcm(), None, self._key, nonce))
            _update(library.EVP_DecryptUpdate, context, _about(user), keep=False)
            plain = _update(library.EVP_DecryptUpdate, context, body)
            _ok(library.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, _TAG, tag))
            rest = ctypes.create_string_buffer(16)
            if library.EVP_DecryptFinal_ex(context, rest, ctypes.byref(ctypes.c_int())) != 1:
                raise _broken()
        return plain.decode()


def _about(user: int) -> bytes:
    return b"backline udb password of user %d" % user


def _broken() -> IntegrityError:
    return IntegrityError(
        "udb.sealed",
        "the password was sealed with another key, or was changed since",
        hint="give udb the key that it had, or set a new password; logging in still works",
    )


@contextmanager
def _context() -> Iterator[ctypes.c_void_p]:
    library = _library()
    context = ctypes.c_void_p(library.EVP_CIPHER_CTX_new())
    if not context:
        raise HostError("host.libcrypto", f"{_LIBRARY} has no memory left")
    try:
        yield context
    finally:
        library.EVP_CIPHER_CTX_free(context)


def _update(function: ctypes._NamedFuncPointer, context: ctypes.c_void_p, data: bytes, *, keep: bool = True) -> bytes:
    """What the cipher makes of `data`; without `keep` it is additional data, which makes nothing."""
    out = ctypes.create_string_buffer(len(data) + 16) if keep else None
    length = ctypes.c_int(0)
    _ok(function(context, out, ctypes.byref(length), data, len(data)))
    return b"" if out is None else out.raw[: length.value]


def _ok(result: int) -> None:
    if result != 1:
        raise HostError("host.libcrypto", f"{_LIBRARY} refuses to work")


@functools.cache
def _library() -> ctypes.CDLL:
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    updates = [pointer, pointer, ctypes.POINTER(number), text, number]
    finals = [pointer, pointer, ctypes.POINTER(number)]
    signatures: dict[str, tuple[object, list[object]]] = {
        "EVP_CIPHER_CTX_new": (pointer, []),
        "EVP_CIPHER_CTX_free": (None, [pointer]),
        "EVP_aes_256_gcm": (pointer, []),
        "EVP_EncryptInit_ex": (number, [pointer, pointer, pointer, text, text]),
        "EVP_DecryptInit_ex": (number, [pointer, pointer, pointer, text, text]),
        "EVP_EncryptUpdate": (number, list(updates)),
        "EVP_DecryptUpdate": (number, list(updates)),
        "EVP_EncryptFinal_ex": (number, list(finals)),
        "EVP_DecryptFinal_ex": (number, list(finals)),
        "EVP_CIPHER_CTX_ctrl": (number, [pointer, number, number, pointer]),
    }
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise HostError(
            "host.libcrypto", f"there is no {_LIBRARY} with AES-GCM", hint="apt install libssl3t64"
        ) from error
    return library
