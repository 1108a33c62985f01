"""Password hashes: yescrypt, as Debian's login has them, by libcrypt. Python 3.13 has no module for it any more.

A hash takes about 30 ms of a processor and 16 MB, and other threads run meanwhile: ctypes lets go of the interpreter,
and crypt_ra(3) keeps what it works with in memory of the call's own.
"""

from __future__ import annotations

import ctypes
import functools
import hmac
import re

from services.common.errors import HostError, InputError

BYTES_MAX = 511
"""Of a password in UTF-8: libcrypt's CRYPT_MAX_PASSPHRASE_SIZE is 512, its final zero included (crypt(5))."""

_HASH = re.compile(r"\$y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}")
_LIBRARY = "libcrypt.so.1"
_NOBODY = "$y$j9T$......................$" + "." * 43


def hash_password(password: str) -> str:
    """A new hash of `password`, with a fresh salt of the system's. Raises InputError("password.form"), HostError."""
    secret = _secret(password)
    setting = _text(_library().crypt_gensalt_ra(b"$y$", 0, None, 0), "crypt_gensalt_ra")
    return _crypt(secret, setting)


def verify_password(password: str, hash: str | None) -> bool:
    """Whether `hash` is of `password`. Without a hash it is not, and takes as long to say so.

    Raises HostError where libcrypt is missing or fails.
    """
    try:
        secret = _secret(password)
    except InputError:
        return False
    known = hash is not None and is_hash(hash)
    setting = hash if hash is not None and known else _NOBODY
    return hmac.compare_digest(_crypt(secret, setting).encode(), setting.encode()) and known


def is_hash(text: str) -> bool:
    """Whether `text` is a whole yescrypt hash: what locks an account ("!", "*") is none."""
    return _HASH.fullmatch(text) is not None


def _secret(password: str) -> bytes:
    try:
        secret = password.encode()
    except UnicodeEncodeError as error:
        raise InputError("password.form", "the password has a letter that is no letter of Unicode") from error
    if not secret:
        raise InputError("password.form", "the password is empty")
    if b"\0" in secret:
        raise InputError("password.form", "the password has a zero byte")
    if len(secret) > BYTES_MAX:
        raise InputError("password.form", f"the password has {len(secret)} bytes; {BYTES_MAX} is the most")
    return secret


def _crypt(secret: bytes, setting: str) -> str:
    data, size = ctypes.c_void_p(), ctypes.c_int(0)
    library = _library()
    try:
        address = library.crypt_ra(secret, setting.encode(), ctypes.byref(data), ctypes.byref(size))
        found = None if not address else ctypes.string_at(address).decode("ascii", "replace")
    finally:
        if data:
            ctypes.memset(data, 0, size.value)  # the password's copy in it
            library.free(data)
    if found is None or not is_hash(found):
        raise HostError("host.libcrypt", f"{_LIBRARY} made no hash: it lacks yescrypt, or memory")
    return found


def _text(address: int | None, function: str) -> str:
    """A string that is the caller's to free."""
    if not address:
        raise HostError("host.libcrypt", f"{function} of {_LIBRARY} failed: {ctypes.get_errno()}")
    text = ctypes.string_at(address).decode("ascii")
    _library().free(ctypes.c_void_p(address))
    return text


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
        library.crypt_ra.restype = ctypes.c_void_p
        library.crypt_ra.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.POINTER(ctypes.c_int),
        ]
        library.crypt_gensalt_ra.restype = ctypes.c_void_p
        library.crypt_gensalt_ra.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int]
        library.free.restype = None  # libc's: libcrypt needs it too
        library.free.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError) as error:
        raise HostError(
            "host.libcrypt", f"there is no {_LIBRARY} with crypt_ra", hint="apt install libcrypt1"
        ) from error
    return library
