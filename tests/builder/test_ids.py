"""Static ids: one table, nothing twice, and an id that came out of nowhere is named with its package."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import ids
from builder.config import known_services
from builder.ids import Id
from services.common.errors import BacklineError, InputError

ROOT = Path(__file__).resolve().parents[2]
MASTERS = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}
SSHD = Id(name="sshd", uid=206, group="nogroup", home="/run/sshd", needs=["openssh-server"])
BIND = Id(name="bind", uid=220, gid=220, home="/var/cache/bind", needs=["bind9", "bind9-extra"])
CERT = Id(name="ssl-cert", gid=224, members=["bind"], needs=["ssl-cert"])


def load(root: Path, *rows: str) -> list[Id]:
    (root / "images").mkdir(exist_ok=True)
    (root / ids.NAME).write_text("id = [\n" + "".join(f"    {{ {row} }},\n" for row in rows) + "]\n")
    return ids.load(root)


def refused(root: Path, *rows: str) -> InputError:
    with pytest.raises(InputError) as caught:
        load(root, *rows)
    return caught.value


A = 'name = "a", uid = 200, gid = 200, needs = ["a"]'


def test_the_table_is_sorted_by_name(tmp_path: Path) -> None:
    found = load(tmp_path, 'name = "b", gid = 201, needs = ["b"]', A)
    assert [entry.name for entry in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ('name = "b", uid = 200, gid = 201, needs = ["b"]', "ids.twice"),
        ('name = "b", uid = 201, gid = 200, needs = ["b"]', "ids.twice"),
        ('name = "a", uid = 201, gid = 201, needs = ["b"]', "ids.invalid"),
        ('name = "b", needs = ["b"]', "ids.invalid"),
        ('name = "b", uid = 201, needs = ["b"]', "ids.invalid"),
        ('name = "b", uid = "201", gid = 201, needs = ["b"]', "ids.invalid"),
        ('name = "b", uid = 201, gid = 201, need = ["b"]', "ids.invalid"),
        ('name = "b", uid = 201, gid = 201', "ids.invalid"),
        ('name = "b" uid = 201', "ids.syntax"),
    ],
)
def test_a_mistake_in_the_table_has_its_line(tmp_path: Path, row: str, code: str) -> None:
    error = refused(tmp_path, A, row)
    assert (error.code, (error.where or "").rpartition(":")[2]) == (code, "3")


def test_the_same_number_may_be_a_user_and_another_group(tmp_path: Path) -> None:
    found = load(tmp_path, 'name = "a", uid = 200, gid = 201, needs = ["a"]', 'name = "b", gid = 200, needs = ["b"]')
    assert len(found) == 2


def test_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        ids.load(tmp_path)
    assert caught.value.code == "ids.missing"


@pytest.mark.parametrize("present", [{"bind9"}, {"bind9-extra", "other"}])
def test_an_entry_is_there_with_any_package_that_needs_it(present: set[str]) -> None:
    assert ids.select([BIND, SSHD], present) == [BIND]


def test_accounts_come_after_debians_own() -> None:
    passwd = ids.render([BIND], MASTERS)["passwd"]
    assert passwd == MASTERS["passwd"] + "bind:x:220:220::/var/cache/bind:/usr/sbin/nologin\n"


def test_a_user_may_have_a_group_of_debians() -> None:
    assert "sshd:x:206:65534::/run/sshd:" in ids.render([SSHD], MASTERS)["passwd"]


def test_a_user_may_have_a_group_of_the_table() -> None:
    user = Id(name="tls", uid=230, group="ssl-cert", needs=["tls"])
    assert "tls:x:230:224:" in ids.render([CERT, user], MASTERS)["passwd"]


def test_a_group_that_is_nowhere_is_named() -> None:
    with pytest.raises(InputError) as caught:
        ids.render([Id(name="tls", uid=230, group="nowhere", needs=["tls"])], MASTERS)
    assert caught.value.code == "ids.group"
    assert "nowhere" in caught.value.message


def test_a_group_has_its_members() -> None:
    assert ids.render([CERT], MASTERS)["group"].endswith("ssl-cert:x:224:bind\n")


# The finished tree


def finished(root: Path, entries: list[Id], *, passwd: str = "", group: str = "") -> Path:
    (root / "etc").mkdir(exist_ok=True)
    rendered = ids.render(entries, MASTERS)
    (root / "etc/passwd").write_text(rendered["passwd"] + passwd)
    (root / "etc/group").write_text(rendered["group"] + group)
    return root


def dynamic(root: Path) -> BacklineError:
    with pytest.raises(BacklineError) as caught:
        ids.check(root, [BIND], MASTERS)
    return caught.value


def test_a_tree_with_the_tables_ids_passes(tmp_path: Path) -> None:
    ids.check(finished(tmp_path, [BIND]), [BIND], MASTERS)


@pytest.mark.parametrize(
    ("passwd", "group", "line"),
    [
        ("kea:x:998:998::/:/bin/sh\n", "", "user kea (998) is not in the table"),
        ("", "kea:x:998:\n", "group kea (998) is not in the table"),
    ],
)
def test_an_id_out_of_nowhere_is_named(tmp_path: Path, passwd: str, group: str, line: str) -> None:
    error = dynamic(finished(tmp_path, [BIND], passwd=passwd, group=group))
    assert error.code == "ids.dynamic"
    assert line in error.message


def test_an_id_that_moved_is_named_with_the_one_it_should_have(tmp_path: Path) -> None:
    moved = Id(name="bind", uid=999, gid=220, needs=["bind9"])
    assert "user bind (999) should be 220" in dynamic(finished(tmp_path, [moved])).message


def test_a_packages_script_is_named_as_the_maker(tmp_path: Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "kea-common:amd64.postinst").write_text("adduser --system kea\n")
    (info / "other.postinst").write_text("echo kea-ctrl\n")
    error = dynamic(finished(tmp_path, [BIND], passwd="kea:x:998:998::/:/bin/sh\n"))
    assert "made by package kea-common" in error.message


def test_a_sysusers_file_is_named_as_the_maker(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/sysusers.d"
    folder.mkdir(parents=True)
    (folder / "kea.conf").write_text("u kea - -\n")
    error = dynamic(finished(tmp_path, [BIND], passwd="kea:x:998:998::/:/bin/sh\n"))
    assert "made by usr/lib/sysusers.d/kea.conf" in error.message


# The real table


def test_the_real_tables_packages_have_ids_below_400() -> None:
    services = set(known_services(ROOT))
    packages = [entry for entry in ids.load(ROOT) if not set(entry.needs) & services]
    assert [entry.name for entry in packages if not 200 <= (entry.uid or entry.gid or 0) < 400] == []


def test_the_real_tables_groups_all_exist() -> None:
    rendered = ids.render(ids.load(ROOT), MASTERS)
    assert len(rendered["passwd"].splitlines()) > 10
