"""Statements: what was signed, by whom, and only once. Signatures are ssh-keygen's."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import manifest as manifests
from services.common import signing, statement
from services.common.errors import IntegrityError
from services.common.manifest import Manifest
from services.common.signing import Signer
from services.common.statement import Publication, Statement

VERSION = "20261101.0123456789ab"
OTHER = "20261101.ba9876543210"
MANIFEST = manifests.encode(
    Manifest(
        role="nfsroot",
        version=VERSION,
        recipe_id="a" * 64,
        tree_id="b" * 64,
        root_hash="c" * 64,
        epoch=0,
        artefacts={},
        packages=[],
        wheels=[],
    )
)
STATEMENT = Statement(
    channel="stable",
    sequence=7,
    role="nfsroot",
    version=VERSION,
    manifest_sha256=hashlib.sha256(MANIFEST).hexdigest(),
    published_at="2026-11-26T00:00:00Z",
    by="anna",
    why="a new compiler",
    hall="final",
)
TEXT = statement.encode(STATEMENT).decode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("anna", "ben"):
        signing.new_key(folder / name, comment=name)
    return {name: folder / name for name in ("anna", "ben")}


@pytest.fixture(scope="module")
def anna(keys: dict[str, Path]) -> Signer:
    return Signer("anna", signing.read_public(keys["anna"]))


def publication(key: Path, text: str = TEXT, namespace: str = statement.NAMESPACE) -> Publication:
    return Publication(id=1, statement=text, signatures=[signing.sign(text.encode(), key, namespace).decode()])


def refusal(published: Publication, signers: list[Signer], *, last: int = 6, hall: str | None = None) -> str:
    with pytest.raises(IntegrityError) as caught:
        statement.verify(published, signers, last_sequence=last, hall=hall)
    return caught.value.code


def test_a_signed_statement_is_what_was_said(keys: dict[str, Path], anna: Signer) -> None:
    assert statement.verify(publication(keys["anna"]), [anna], last_sequence=6, hall="final") == STATEMENT
    assert statement.signers_of(publication(keys["anna"]), [anna]) == ["anna"]


def test_another_key_is_refused(keys: dict[str, Path], anna: Signer) -> None:
    assert refusal(publication(keys["ben"]), [anna]) == "publish.signature"
    assert refusal(publication(keys["anna"]), []) == "publish.signature"
    assert refusal(Publication(id=1, statement=TEXT, signatures=[]), [anna]) == "publish.signature"


def test_a_signature_of_another_kind_of_document_is_refused(keys: dict[str, Path], anna: Signer) -> None:
    assert refusal(publication(keys["anna"], namespace=manifests.SIGNATURE_NAMESPACE), [anna]) == "publish.signature"


def test_a_key_that_is_no_longer_trusted_is_refused_whatever_time_the_statement_claims(
    keys: dict[str, Path], anna: Signer
) -> None:
    ended = msgspec.structs.replace(anna, valid_before=datetime.now(UTC) - timedelta(seconds=5))
    text = statement.encode(msgspec.structs.replace(STATEMENT, published_at="2001-01-01T00:00:00Z")).decode()
    assert refusal(publication(keys["anna"], text), [ended]) == "publish.signature"


def test_a_bad_signature_beside_a_good_one_does_no_harm(keys: dict[str, Path], anna: Signer) -> None:
    good, bad = publication(keys["anna"]), publication(keys["ben"])
    both = msgspec.structs.replace(good, signatures=[*bad.signatures, "nonsense", *good.signatures])
    assert statement.verify(both, [anna], last_sequence=0) == STATEMENT


@pytest.mark.parametrize("last", [7, 8, 1000])
def test_an_old_statement_once_more_is_refused(keys: dict[str, Path], anna: Signer, last: int) -> None:
    assert refusal(publication(keys["anna"]), [anna], last=last) == "publish.sequence"


def test_a_statement_for_another_hall_is_refused(keys: dict[str, Path], anna: Signer) -> None:
    assert refusal(publication(keys["anna"]), [anna], hall="semifinal") == "publish.hall"


@pytest.mark.parametrize("field", sorted(json.loads(TEXT)))
def test_a_statement_that_was_changed_in_any_field_is_refused(keys: dict[str, Path], anna: Signer, field: str) -> None:
    said = json.loads(TEXT)
    value = said[field]
    said[field] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}x"
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    changed = msgspec.structs.replace(publication(keys["anna"]), statement=text)
    assert refusal(changed, [anna]) == "publish.signature"


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(",", ", "),
        TEXT + "\n",
        TEXT.replace('"sequence":7', '"sequence":7,"sequence":7'),
        TEXT.replace('"sequence":7', '"sequence":0'),
        TEXT.replace('"sequence":7', '"sequence":"7"'),
        TEXT.replace('"why":', '"wy":'),
        TEXT.replace("stable", "../etc"),
        TEXT.replace("nfsroot", "../etc"),
        TEXT.replace(VERSION, "20261301.0123456789ab"),
        TEXT.replace("2026-11-26T00:00:00Z", "yesterday"),
        "",
        "[]",
    ],
)
def test_only_the_canonical_form_of_a_sound_statement_is_one(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        statement.decode(text)
    assert caught.value.code == "publish.statement"


_words = st.text(max_size=100)


@given(
    st.builds(
        Statement,
        channel=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
        sequence=st.integers(1, 2**53 - 1),
        role=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True),
        version=st.just(VERSION),
        manifest_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        published_at=st.datetimes(min_value=datetime(1000, 1, 1)).map(lambda at: statement.now(at.replace(tzinfo=UTC))),
        by=_words.filter(bool),
        why=_words,
        allow_downgrade=st.booleans(),
    )
)
def test_every_sound_statement_is_read_as_it_was_written(said: Statement) -> None:
    assert statement.decode(statement.encode(said).decode()) == said


def test_a_manifest_is_taken_when_it_is_the_one_that_was_meant() -> None:
    assert statement.check_manifest(STATEMENT, MANIFEST).root_hash == "c" * 64


def test_another_manifest_is_refused() -> None:
    changed = MANIFEST.replace(b"c" * 64, b"d" * 64)
    renamed = msgspec.structs.replace(STATEMENT, version=OTHER)
    for said, data in ((STATEMENT, changed), (renamed, MANIFEST)):
        with pytest.raises(IntegrityError) as caught:
            statement.check_manifest(said, data)
        assert caught.value.code == "publish.manifest"


def test_a_step_back_is_an_older_lock_or_a_version_that_was_left() -> None:
    older = "20261031.0123456789ab"
    assert statement.downgrade(VERSION, None, []) is None
    assert statement.downgrade(VERSION, VERSION, [VERSION]) is None
    assert statement.downgrade(OTHER, VERSION, [VERSION]) is None
    assert statement.downgrade(VERSION, older, [older]) is None
    assert statement.downgrade(older, VERSION, []) == f"{older} is older than {VERSION}"
    assert statement.downgrade(VERSION, OTHER, [VERSION, OTHER]) == f"{VERSION} was on the channel before {OTHER}"
