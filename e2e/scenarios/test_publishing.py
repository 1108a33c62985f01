"""Publishing to gw: the command over its sockets, a session over TLS, what nginx serves, and a depot that dies."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from builder.store import Store
from e2e.lab import Lab
from e2e.pool import Labs
from services.common import manifest as manifests
from services.common import signing
from services.common.manifest import Artefact, Manifest
from services.common.signing import Signer
from services.common.versions import Ref
from services.depot.client import Depot
from services.depot.schema import SERVED

ROOT = Path(__file__).parents[2]
GW = "192.168.1.254"
SMALL = "20261121.000000000000"
OVERRIDE = "/run/backline/hall/override.toml"
KILL_AT = "until [ $(stat --format=%s {file} 2>/dev/null || echo 0) -gt {size} ]; do :; done; kill -KILL {pid}"

pytestmark = [pytest.mark.lan(topology="hall", seats=2), pytest.mark.images]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that signs what is published."""
    path = tmp_path_factory.mktemp("keys") / "anna"
    signing.new_key(path, comment="anna")
    return path


@pytest.fixture(autouse=True)
def _trusted(lab: Lab, key: Path) -> Iterator[None]:
    """A hall that trusts our signer."""
    gw = lab["gw"]
    gw.wait_for_unit("nginx.service")
    gw.wait_for_unit("backline-depot.service")
    lab["web"].wait_for_address()
    (signer,) = lab.hall.data.trust.signers
    line = signing.read_public(key).format()
    gw.put(OVERRIDE, lab.hall.text.replace(signer.key, line, 1))
    gw.succeeds("systemctl", "reload", "backline-hall.service")
    yield
    gw.succeeds("rm", "-f", OVERRIDE)
    gw.succeeds("systemctl", "reload", "backline-hall.service")


def command(lab: Lab, key: Path, store: Path, *words: str) -> subprocess.Popen[str]:
    """`backline publish`, as root beside gw's sockets."""
    argv = [sys.executable, "-m", "services.common.main", "publish", *words, "--json", "--store", str(store)]
    argv += ["--address", lab["gw"].service("depot"), "--netboot", lab["gw"].service("netboot")]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "BACKLINE_BUILD_SIGNING_KEY": str(key)}
    return subprocess.Popen(
        argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def fetch(lab: Lab, node: str, path: str, **how: Any) -> httpx2.Response:
    """What a server of the hall is given by the depot's name, over plain HTTP."""
    headers = {"host": "depot", **how.pop("headers", {})}
    return lab[node].http("GET", f"http://{GW}{path}", headers=headers, **how)


def asked(lab: Lab, method: str, path: str, **how: Any) -> httpx2.Response:
    """What web is answered over TLS by the depot's name."""
    context = ssl.create_default_context(cadata=lab.hall.data.trust.ca)
    headers = {"host": "depot.prolo", **how.pop("headers", {})}
    return lab["web"].http(method, f"https://{GW}{path}", verify=context, headers=headers, seconds=30, **how)


def the_image(lab: Lab, labs: Labs) -> tuple[Store, Ref]:
    """The store, and the version of rhfs that this lab runs: a whole image of a server."""
    assert labs.settings is not None
    store = Store(labs.settings.store_path)
    ref = store.current("rhfs")
    assert ref is not None
    return store, ref


def test_a_whole_image_is_published_though_the_depot_is_killed_meanwhile(lab: Lab, labs: Labs, key: Path) -> None:
    gw = lab["gw"]
    store, ref = the_image(lab, labs)
    manifest = store.manifest(ref.role, ref.version)
    incoming = f"/var/lib/backline-depot/incoming/{ref.role}/{ref.version}/root.erofs"
    pid = gw.unit("backline-depot.service").main_pid
    # From inside, and without asking systemd: the whole of it takes a third of a second.
    killing = gw.run_in_background(["sh", "-c", KILL_AT.format(file=incoming, size=20_000_000, pid=pid)])
    first = command(lab, key, store.root, f"{ref.role}@{ref.version}", "--channel", "servers")
    _, err = first.communicate(timeout=60)
    assert killing.wait(timeout=60) == 0
    assert first.returncode == 4, err  # out of reach
    gw.wait_for_unit("backline-depot.service")
    assert _size(lab, incoming) > 0
    done = finished(command(lab, key, store.root, f"{ref.role}@{ref.version}", "--channel", "servers"))
    full = sum(manifest.artefacts[name].size for name in SERVED if name in manifest.artefacts)
    assert (done["sequence"], done["full"]) == (1, full)
    assert 0 < done["uploaded"] < full - 20_000_000
    path = f"/files/images/{ref.role}/{ref.version}"
    assert hashlib.sha256(fetch(lab, "rhfs01", f"{path}/root.erofs", seconds=60).content).hexdigest() == (
        manifest.artefacts["root.erofs"].sha256
    )
    part = fetch(lab, "rhfs01", f"{path}/root.erofs", headers={"range": "bytes=4096-8191"})
    assert part.status_code == 206
    assert part.content == (store.find(ref.role, ref.version) / "root.erofs").read_bytes()[4096:8192]
    (signer,) = lab.hall.data.trust.signers
    signature = fetch(lab, "rhfs01", f"{path}/{manifests.NAME}.{signer.name}.sig").content
    data = fetch(lab, "rhfs01", f"{path}/{manifests.NAME}").content
    trusted = [Signer("anna", signing.read_public(key))]
    assert signing.verify(data, signature, trusted, manifests.SIGNATURE_NAMESPACE) == "anna"


def test_an_iron_pulls_what_was_published_over_tls(lab: Lab, labs: Labs) -> None:
    """Of rhfs01 the host alone matters, which was told of its hall as `backline host init` does."""
    _, ref = the_image(lab, labs)
    host, told = lab["rhfs01"], "/etc/credstore/backline.hall"
    pull = ["backline", "machine", "pull", ref.role, "--channel", "servers"]
    host.put(told, lab.hall.text, mode=0o600)
    try:
        refused = host.fails(*pull)
        assert "sign" in refused.stderr, refused.stderr  # that hall does not trust who published
        host.put(told, lab["gw"].get(OVERRIDE), mode=0o600)
        assert host.run(pull, seconds=120).stdout.strip() == f"{ref.role}@{ref.version}"
        assert "is here already" in host.succeeds(*pull)
        assert ref.version in host.succeeds("backline", "machine", "images")
    finally:
        host.run(["backline", "machine", "drop-image", f"{ref.role}@{ref.version}"], check=False)
        host.succeeds("rm", "-f", told)


def _size(lab: Lab, path: str) -> int:
    done = lab["gw"].run(["stat", "--format=%s", path], check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def small() -> tuple[dict[str, bytes], bytes]:
    """The files of a small version, and its manifest."""
    files = {name: hashlib.shake_256(name.encode()).digest(1_000_000) for name in SERVED}
    artefacts = {name: Artefact(len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    made = Manifest(
        role="nfsroot",
        version=SMALL,
        recipe_id="0" * 64,
        tree_id="0" * 64,
        root_hash="0" * 64,
        epoch=0,
        artefacts=artefacts,
        packages=[],
        wheels=[],
    )
    return files, manifests.encode(made)


def test_an_administrator_publishes_from_elsewhere_by_session(lab: Lab, key: Path, tmp_path: Path) -> None:
    files, manifest = small()
    (person,) = lab.hall.data.administrators
    challenge = asked(lab, "POST", "/v1/session/challenge", json={"name": person.name}).json()["challenge"]
    signature = signing.sign(challenge.encode(), lab.hall.key_in(tmp_path), "backline-login").decode()
    answer = asked(lab, "POST", "/v1/session", json={"challenge": challenge, "signature": signature}).json()
    session = {"authorization": f"Bearer {answer['token']}"}
    signatures = [signing.sign(manifest, key, manifests.SIGNATURE_NAMESPACE).decode()]
    new = {"role": "nfsroot", "version": SMALL, "manifest": manifest.decode(), "signatures": signatures}
    missing = asked(lab, "POST", "/v1/versions", json=new, headers=session).json()["missing"]
    assert set(missing) == set(SERVED)
    for name in missing:
        body = {**session, "content-type": "application/octet-stream"}
        put = asked(lab, "PUT", f"/v1/versions/nfsroot/{SMALL}/{name}", content=files[name], headers=body)
        assert put.json() == {"name": name, "bytes": len(files[name])}
    assert asked(lab, "POST", f"/v1/versions/nfsroot/{SMALL}/complete", headers=session).status_code == 200
    assert fetch(lab, "rhfs01", f"/files/images/nfsroot/{SMALL}/initrd").content == files["initrd"]


def test_who_has_no_session_changes_nothing_and_files_are_read_only(lab: Lab) -> None:
    assert asked(lab, "POST", "/v1/versions", json={}).json()["code"] == "auth.anonymous"
    for method in ("PUT", "DELETE", "POST"):
        answer = lab["web"].http(
            method,
            f"http://{GW}/files/images/rhfs/x",
            headers={"host": "depot"},
            content=b"x" if method == "PUT" else None,
        )
        assert answer.status_code == 403, method
    for path in ("/files/", "/files/images/", "/files/../depot.db", "/files/..%2fdepot.db", "/files../depot.db"):
        assert fetch(lab, "web", path).status_code in (400, 403, 404), path


def test_the_world_gets_nothing(lab: Lab) -> None:
    answer = lab["gw"].http("GET", "http://198.51.100.2/files/images/", headers={"host": "depot"})
    assert answer.status_code == 403


def test_receivers_are_found_by_name_and_the_depot_runs_as_itself(lab: Lab) -> None:
    assert GW in lab["rhfs01"].succeeds("getent", "hosts", "depot.prolo")
    with Depot(lab["gw"].service("depot")) as depot:
        assert depot.channel("anything").hall == lab.hall.data.site.name
    pid = lab["gw"].unit("backline-depot.service").main_pid
    assert lab["gw"].succeeds("ps", "-o", "user=", "-p", str(pid)) == "backline-depot"
    began = time.monotonic()
    lab["gw"].succeeds("systemctl", "restart", "backline-depot.service")
    assert time.monotonic() - began < 20
