"""The iPXE scripts that machines run. Pure text.

How iPXE reads a script (its core/exec.c): a line is split at white space; a word that begins with `#` ends the line,
and the words `||`, `&&` and `;` end a command; only then is `${...}` expanded, so what a setting holds is never split
again. There is no quoting. Therefore:

- whatever is not ours goes into a script through `word` (one argument, or a ValueError) or `say` (text on the screen,
  where everything that could mean something is replaced), and nowhere else;
- what a person types at the menu stays in a setting, and leaves iPXE as `${...:uristring}`.

A script for a machine that may boot names one version in every address and argument. iPXE tries the root file servers
in turn; kernel, initrd and the first root of the command line come from the same one.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from netboot.decide import Decision
from netboot.machines import Known, Switch
from netboot.schema import Outcome

TYPE = "text/plain; charset=us-ascii"
HALL_TOML = "/etc/backline/hall.toml"
LLDP_SECONDS = 60
MENU_SECONDS = 60
WIDTH = 76
COMMAND_LINE_MAX = 2047
"""Bytes of a kernel command line (Linux on x86, COMMAND_LINE_SIZE)."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/,=@+~-]*")
_OPTION = re.compile(r"[A-Za-z0-9_][!-~]*")
_REPLACED = str.maketrans({"|": "/", "&": "+", ";": ",", "#": "=", "$": "S", "{": "(", "}": ")", "\\": "/", "`": "'"})
_RESERVED = ("backline.", "initrd=", "systemd.hostname=")


@dataclass(frozen=True)
class Place:
    """What scripts are told about the hall: its name, and gw's address as the machine reaches it."""

    hall: str
    gateway: str


def word(value: object) -> str:
    """`value` as one argument. Raises ValueError for what would be more than that, or something else."""
    text = str(value)
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text!r} cannot stand in a script")
    return text


def options_problem(options: str) -> str | None:
    """Why `options` cannot be words of a command line that goes through iPXE, or None."""
    for each in options.split(" "):
        if not each:
            continue
        if not _OPTION.fullmatch(each) or "${" in each:
            return f"{each!r} would mean something to iPXE, or is not plain ASCII"
        if each.startswith(_RESERVED):
            return f"{each.partition('=')[0]} is netboot's own to say"
    return None


def plain(text: str) -> str:
    """Text of others as ASCII that means nothing to iPXE, in one line; accents fall away."""
    flat = unicodedata.normalize("NFKD", text).translate(_REPLACED)
    kept = (
        char if " " <= char <= "~" else " " if char.isspace() else "" if unicodedata.combining(char) else "?"
        for char in flat
    )
    return " ".join("".join(kept).split())


def say(text: str, *, width: int = WIDTH) -> list[str]:
    """Commands that show `text`, which may be anybody's, in as many lines as it takes."""
    lines = textwrap.wrap(plain(text), width, break_on_hyphens=False)
    # iPXE's echo takes options, and only before its first other word.
    return [f"echo {': ' if line.startswith('-') else ''}{line}" for line in lines] or ["echo"]


def _script(*lines: str) -> str:
    return "\n".join(("#!ipxe", *lines)) + "\n"


# A machine that mdb knows


def boot(machine: Known, decision: Decision, boot_id: str, place: Place, options: str = "") -> str:
    """Load and start exactly one version; its kernel gets the version's own words after `options`.

    Raises ValueError where a part of it cannot stand in a script.
    """
    version = decision.version
    assert version is not None
    options = f"{options} {version.options}"
    path = f"/images/{word(version.role)}/{word(version.version)}"
    lines = [f"echo Backline: {word(machine.hostname)} boots {version.role} {version.version}"]
    for number, server in enumerate(decision.servers):
        turn = [server, *(other for other in decision.servers if other is not server)]
        words = [
            "initrd=initrd.magic",  # how iPXE calls all of its initrds together, for UEFI
            "backline.root=" + ",".join(f"nfs:{word(each.address)}:{path}" for each in turn),
            f"backline.roothash={word(version.root_hash)}",
            f"backline.role={version.role}",
            f"backline.version={version.version}",
            f"backline.boot={word(boot_id)}",
            f"backline.netboot=http://{word(place.gateway)}",
            f"systemd.hostname={machine.hostname}",
            *options.split(),
        ]
        if problem := options_problem(options):
            raise ValueError(problem)
        if len(" ".join(words)) > COMMAND_LINE_MAX:
            raise ValueError(f"the command line has more than {COMMAND_LINE_MAX} bytes")
        base, otherwise = f"http://{server.address}{path}", f"goto rfs_{number + 1}"
        lines += [
            f":rfs_{number}",
            f"echo From {word(server.hostname)}, {server.address}",
            "imgfree",
            f"kernel {base}/vmlinuz {' '.join(words)} || {otherwise}",
            f"initrd {base}/initrd || {otherwise}",
            f"initrd http://{place.gateway}/hall.toml {HALL_TOML} mode=644 || goto failed",
            "boot || goto failed",
        ]
    return _script(
        *lines,
        f":rfs_{len(decision.servers)}",
        f"echo Backline: no root file server sends {version.version}",
        ":failed",
        "echo Backline: this machine could not be started, trying again in 10 s",
        "sleep 10",
        "reboot",
    )


_WAITS = {
    Outcome.FAULTY: (60, "This machine is marked as faulty:"),
    Outcome.WAIT: (5, "This machine does not have its own address yet:"),
    Outcome.NOT_READY: (5, "netboot has just started and does not know the machines yet."),
    Outcome.NO_VERSION: (30, "There is nothing to boot for this machine:"),
    Outcome.NOT_HELD: (10, "The version of this machine is not on its root file server yet:"),
    Outcome.NO_SERVER: (20, "No root file server for this machine:"),
    Outcome.BAD_RECORD: (60, "mdb has a record of this machine that cannot be used:"),
}


def refusal(outcome: Outcome, detail: str, *, hostname: str = "", more: Sequence[str] = ()) -> str:
    """Show why a machine does not boot, wait, and have it ask again."""
    seconds, title = _WAITS[outcome]
    return _script(
        *say(f"Backline: {hostname}" if hostname else "Backline"),
        *say(title),
        *(line for text in (detail, *more) if text for line in say(text)),
        *say(f"Looking again in {seconds} s. {'' if outcome is Outcome.FAULTY else 'An administrator: backline why'}"),
        f"sleep {seconds}",
        "reboot",
    )


def slow_down() -> str:
    """For an address that asks more often than any machine does."""
    return _script(*say("Backline: too many questions from this address, waiting for 20 s"), "sleep 20", "reboot")


def unknown() -> str:
    """For a MAC address that mdb does not know: back to the menu of /bootstrap, or a message where there is none."""
    return _script(
        "iseq ${backline} menu && set answer alien ||",
        "iseq ${backline} menu && exit 0 ||",
        *say("Backline: mdb does not know this machine. Start it over the network again to register it."),
        "sleep 30",
        "reboot",
    )


# The script that every machine begins with


def bootstrap(place: Place, switches: Sequence[Switch], rooms: Sequence[str]) -> str:
    """Ask netboot for this machine's script; register a machine that nobody knows."""
    usable = [switch for switch in switches if _usable(switch)]
    rooms = [room for room in rooms if _WORD.fullmatch(room)][:20]
    return _script(
        "echo",
        *say(f"Backline, {place.hall}"),
        "echo This is ${netX/mac}, ${netX/ip}",
        "set backline menu",
        "set tries:int32 0",
        ":ask",
        "set answer none",
        "chain --autofree boot/${netX/mac:hexhyp} || goto no_answer",
        "iseq ${answer} alien && goto alien ||",
        ":no_answer",
        "inc tries",
        # The lease may be an old one by now, and netboot elsewhere.
        "iseq ${tries} 12 && reboot ||",
        "echo netboot does not answer, asking again",
        "sleep 5",
        "goto ask",
        *_menu(lldp=bool(usable)),
        *_by_lldp(usable),
        *_by_hand(rooms),
        *_summary(),
    )


def _usable(switch: Switch) -> bool:
    return bool(_WORD.fullmatch(switch.room) and _WORD.fullmatch(switch.chassis))


# Debian 13's iPXE knows LLDP in its UEFI builds only: the BIOS ones count its frames as of no known protocol.
_LLDP_ITEM = [
    "iseq ${platform} efi && item --key l lldp Register it; its switch says where it is (LLDP) ||",
    "iseq ${platform} efi || item --gap (Switches are heard by machines that boot with UEFI alone.)",
]


def _menu(*, lldp: bool) -> list[str]:
    return [
        ":alien",
        "set code",
        "set answer none",
        "menu Backline does not know this machine, ${netX/mac}",
        *(_LLDP_ITEM if lldp else []),
        "item --key h hand Register it; type where it is",
        "item --key c swap Register a known machine again, with an administrator's code",
        "item --gap",
        "item --key a again Ask again",
        "item --key r restart Restart",
        "item --key s console iPXE's shell",
        f"choose --timeout {MENU_SECONDS * 1000} --default again choice || goto again",
        "goto ${choice}",
        ":again",
        "set tries:int32 0",
        "goto ask",
        ":restart",
        "reboot",
        ":console",
        "shell",
        "goto alien",
    ]


def _by_lldp(switches: Sequence[Switch]) -> list[str]:
    """Wait for a frame of a switch that mdb knows. Hosts send LLDP too: any other chassis id is passed over."""
    lines = [
        ":lldp",
        f"echo Waiting for the switch to name itself, up to {LLDP_SECONDS} s (Ctrl-C: type it instead)",
        "set tries:int32 0",
        "set heard",
        ":lldp_wait",
        # The first chassis id TLV (type 1) of subtype 4, a MAC address, from its second byte to its end.
        "set chassis ${netX.lldp/4.1.0.1.0:hex}",
        *(f"iseq ${{chassis}} {word(switch.chassis)} && goto sw_{index} ||" for index, switch in enumerate(switches)),
        "iseq ${chassis} ${heard} || echo Heard ${chassis}, which is no switch of this hall",
        "set heard ${chassis}",
        "inc tries",
        f"iseq ${{tries}} {LLDP_SECONDS} && goto lldp_late ||",
        "sleep 1 || goto hand",
        "goto lldp_wait",
        ":lldp_late",
        f"echo No switch of this hall has named itself within {LLDP_SECONDS} s",
        "prompt --timeout 10000 Press a key, or wait, to type where this machine is ||",
        "goto hand",
    ]
    for index, switch in enumerate(switches):
        lines += [
            f":sw_{index}",
            *say(f"Switch {switch.name}: room {switch.room}, rfs {switch.rfs}, hfs {switch.hfs}"),
            f"set rfs {int(switch.rfs)}",
            f"set hfs {int(switch.hfs)}",
            f"set room {word(switch.room)}",
            "set kind user",
            "goto lldp_port",
        ]
    # What the port says of itself helps whoever stands there; it is shown, and not used.
    return [*lines, ":lldp_port", "echo Port ${netX.lldp/4.0.0.0:string}", "goto name"] if switches else []


def _by_hand(rooms: Sequence[str]) -> list[str]:
    return [
        ":swap",
        "echo -n The code that mdb shows for the machine: ${} && read code || goto alien",
        "isset ${code} || goto alien",
        # mdb keeps what is left empty.
        *(f"set {name}" for name in ("seat", "rfs", "hfs", "room", "kind")),
        "echo -n Its host name (empty: as it was): ${} && read seat || goto alien",
        "goto summary",
        ":hand",
        "echo -n Number of its root file server, rfs: ${} && read rfs || goto alien",
        "echo -n Number of its home file server, hfs: ${} && read hfs || goto alien",
        "menu Room",
        *(f"item in_{index} {room}" for index, room in enumerate(map(word, rooms))),
        "item room Another one",
        "choose choice || goto alien",
        "goto ${choice}",
        ":room",
        "echo -n Room: ${} && read room || goto alien",
        "goto type",
        *(line for index, room in enumerate(rooms) for line in (f":in_{index}", f"set room {room}", "goto type")),
        ":type",
        "menu What is it for?",
        "item user A contestant's seat",
        "item orga An organizer's seat",
        "item cluster A machine of a cluster",
        "choose kind || goto alien",
        ":name",
        "echo -n Host name: ${} && read seat || goto alien",
        "isset ${seat} || goto name",
    ]


def _summary() -> list[str]:
    parts = (
        "hostname=${seat:uristring}",
        "mac=${netX/mac:hexhyp}",
        "rfs=${rfs:uristring}",
        "hfs=${hfs:uristring}",
        "room=${room:uristring}",
        "type=${kind:uristring}",
        "code=${code:uristring}",
    )
    return [
        ":summary",
        "menu Register this machine?",
        "item --gap Host name: ${seat}",
        "item --gap Room: ${room}, type: ${kind}, rfs: ${rfs}, hfs: ${hfs}",
        "item --gap MAC address: ${netX/mac}",
        "item --gap",
        "item --key y confirm Yes, register it and restart",
        "item --key h hand No, type it again",
        "item --key n alien No, back to the menu",
        "choose choice || goto alien",
        "goto ${choice}",
        ":confirm",
        "set answer none",
        f"chain --autofree register?{'&'.join(parts)} || goto no_register",
        "iseq ${answer} refused && goto refused ||",
        ":no_register",
        "echo netboot does not answer",
        ":refused",
        "prompt --timeout 30000 Press a key, or wait, for the menu ||",
        "goto summary",
    ]


# Answers to a registration


def registered(hostname: str, address: str, *, seconds: int) -> str:
    """It is known now: have it start again, under its own address."""
    return _script(
        *say(f"Backline: registered as {hostname}, {address}. Restarting in {seconds} s."), f"sleep {seconds}", "reboot"
    )


def not_registered(message: str, hint: str | None) -> str:
    """It is not: say why, and go back to where it was asked."""
    return _script(
        *say("Backline: this machine was not registered."),
        *say(message),
        *(say(hint) if hint else []),
        "iseq ${backline} menu && set answer refused ||",
        "iseq ${backline} menu && exit 0 ||",
        "sleep 30",
        "reboot",
    )
