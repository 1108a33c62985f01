"""Calls to systemd through pystemd (0.13.2 in Debian 13's images, 0.15.3 elsewhere; both behave the same here).

Every call opens a connection of its own: sd-bus connections must not be shared between threads, connecting costs a
millisecond, and a bus that was restarted is no special case. Methods are called directly, without pystemd's objects:
those introspect the whole manager first.

pystemd holds the interpreter's lock while it waits, so a call stops every thread until systemd has answered: usually
for a few milliseconds, at worst for sd-bus's 25 s. A service sets SYSTEMD_BUS_TIMEOUT well below its WatchdogSec.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from pystemd.dbusexc import (
    DBusAccessDeniedError,
    DBusAuthFailedError,
    DBusBaseError,
    DBusFileNotFoundError,
    DBusInteractiveAuthorizationRequiredError,
    DBusInvalidArgsError,
    DBusNoSuchUnitError,
    DBusTimedOutError,
    DBusTimeoutError,
    DBusUnknownObjectError,
)
from pystemd.dbuslib import DBus, DBusAddress, apply_signature
from pystemd.systemd1.unit_signatures import KNOWN_UNIT_SIGNATURES, signature_array

from services.common.bus.model import (
    SYSTEM_BUS,
    BusError,
    PropertyValue,
    TransientService,
    UnitDetails,
    UnitStatus,
    is_unit_name,
)
from services.common.errors import BacklineError, BusyError, MissingError, UsageError

_DESTINATION = b"org.freedesktop.systemd1"
_PATH = b"/org/freedesktop/systemd1"
_MANAGER = b"org.freedesktop.systemd1.Manager"
_PROPERTIES = b"org.freedesktop.DBus.Properties"
_UNIT = b"org.freedesktop.systemd1.Unit"
_JOB = b"org.freedesktop.systemd1.Job"
_SERVICE = b"org.freedesktop.systemd1.Service"
_DENIED = (DBusAccessDeniedError, DBusAuthFailedError, DBusInteractiveAuthorizationRequiredError)
# Properties that pystemd's table has not; all of type t (org.freedesktop.systemd1(5)).
for _name in (b"CPUWeight", b"StartupCPUWeight", b"IOWeight", b"StartupIOWeight", b"MemoryMin"):
    KNOWN_UNIT_SIGNATURES.setdefault(_name, b"t")
_UNREACHABLE = "Could not open a bus to DBus"


class SystemdManager:
    """The systemd behind a bus address; the system's own without one. Implements `model.Manager`.

    Another machine's is `unix:path=/proc/<leader's pid>/root/run/dbus/system_bus_socket`.
    """

    def __init__(self, address: str = SYSTEM_BUS) -> None:
        self.address = address

    def list_units(self, *, states: Sequence[str] = (), patterns: Sequence[str] = ()) -> list[UnitStatus]:
        """Loaded units, by name."""
        with self._bus() as bus:
            arguments = _strings(states) + _strings(patterns)
            rows = _call(bus, b"ListUnitsByPatterns", arguments)
        units = []
        for row in cast(Sequence[Sequence[bytes]], rows):
            name, description, load, active, sub = (_text(cell) for cell in row[:5])
            units.append(UnitStatus(name, description, load, active, sub))
        return sorted(units, key=lambda unit: unit.name)

    def unit(self, name: str) -> UnitDetails:
        """One unit. Raises MissingError("unit.unknown")."""
        with self._bus(name) as bus:
            path = cast(bytes, _call(bus, b"LoadUnit", _arguments(b"s", [name.encode()])))

            def read(interface: bytes, key: bytes, signature: bytes) -> object:
                return cast(object, bus.get_property(_DESTINATION, path, interface, key, signature))

            def text(key: bytes) -> str:
                return _text(cast(bytes, read(_UNIT, key, b"s")))

            if text(b"LoadState") == "not-found":
                raise _unknown(name)
            process: dict[str, object] = {}
            if name.endswith(".service"):
                process["main_pid"] = read(_SERVICE, b"MainPID", b"u")
                process["restarts"] = read(_SERVICE, b"NRestarts", b"u")
                process["result"] = _text(cast(bytes, read(_SERVICE, b"Result", b"s")))
            return UnitDetails(
                name=text(b"Id"),
                description=text(b"Description"),
                load=text(b"LoadState"),
                active=text(b"ActiveState"),
                sub=text(b"SubState"),
                file_state=text(b"UnitFileState"),
                active_since=cast(int, read(_UNIT, b"ActiveEnterTimestamp", b"t")) / 1_000_000,
                invocation=_octets(read(_UNIT, b"InvocationID", b"ay")).hex(),
                main_pid=cast(int, process.get("main_pid", 0)),
                result=cast(str, process.get("result", "")),
                restarts=cast(int, process.get("restarts", 0)),
                fragment=text(b"FragmentPath"),
            )

    def start(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a start."""
        return self._job(b"StartUnit", name, mode)

    def stop(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a stop."""
        return self._job(b"StopUnit", name, mode)

    def restart(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a restart."""
        return self._job(b"RestartUnit", name, mode)

    def reload(self, name: str, *, mode: str = "replace") -> str:
        """Enqueue a reload."""
        return self._job(b"ReloadUnit", name, mode)

    def start_transient(self, service: TransientService, *, mode: str = "fail") -> str:
        """Create and start a transient service."""
        properties = transient_properties(service)
        arguments = _arguments(b"ss", [service.name.encode(), mode.encode()])
        arguments += [*signature_array(properties), (ord(b"a"), b"(sa(sv))"), (-1, None)]
        with self._bus(service.name) as bus:
            return _text(cast(bytes, _call(bus, b"StartTransientUnit", arguments)))

    def job_goes_on(self, job: str) -> bool:
        """Whether its object is there."""
        with self._bus() as bus:
            try:
                bus.get_property(_DESTINATION, job.encode(), _JOB, b"State", b"s")
            except DBusUnknownObjectError:
                return False
        return True

    def cancel(self, job: str) -> None:
        """Cancel a job, unless it has ended."""
        number = job.rpartition("/")[2]
        with self._bus() as bus:
            try:
                _call(bus, b"CancelJob", _arguments(b"u", [int(number)]))
            except DBusBaseError as error:
                if "does not exist" not in _words(error):  # NoSuchJob has no class of its own in pystemd
                    raise

    def system_state(self) -> str:
        """SystemState."""
        with self._bus() as bus:
            return _text(cast(bytes, bus.get_property(_DESTINATION, _PATH, _MANAGER, b"SystemState", b"s")))

    def reload_manager(self) -> None:
        """daemon-reload."""
        with self._bus() as bus:
            _call(bus, b"Reload", [])

    def reset_failed(self, name: str) -> None:
        """Forget that a unit has failed, unless it is gone."""
        with self._bus(name) as bus, contextlib.suppress(DBusNoSuchUnitError):
            _call(bus, b"ResetFailedUnit", _arguments(b"s", [name.encode()]))

    def enable(self, name: str) -> None:
        """Make the unit's links, for good, without taking a name away from another unit."""
        with self._bus(name) as bus:
            _call(bus, b"EnableUnitFiles", _arguments(b"asbb", [[name.encode()], False, False]))

    def disable(self, name: str) -> None:
        """Remove the links that lead to the unit."""
        with self._bus(name) as bus:
            _call(bus, b"DisableUnitFiles", _arguments(b"asb", [[name.encode()], False]))

    def properties(self, name: str) -> dict[str, object]:
        """Every property of a unit."""
        with self._bus(name) as bus:
            path = cast(bytes, _call(bus, b"LoadUnit", _arguments(b"s", [name.encode()])))
            body = bus.call_method(_DESTINATION, path, _PROPERTIES, b"GetAll", _arguments(b"s", [b""])).body
        found = {_text(key): _plain(value) for key, value in cast(Mapping[bytes, object], body).items()}
        if found.get("LoadState") == "not-found":
            raise _unknown(name)
        return found

    def set_properties(self, name: str, properties: Mapping[str, PropertyValue]) -> None:
        """Change properties until the next boot. Raises UsageError("unit.properties")."""
        arguments = _arguments(b"sb", [name.encode(), True])
        arguments += signature_array(_named(properties))
        with self._bus(name) as bus:
            _call(bus, b"SetUnitProperties", arguments)

    def _job(self, method: bytes, name: str, mode: str) -> str:
        with self._bus(name) as bus:
            return _text(cast(bytes, _call(bus, method, _arguments(b"ss", [name.encode(), mode.encode()]))))

    @contextlib.contextmanager
    def _bus(self, unit: str | None = None) -> Iterator[DBus]:
        if unit is not None and not is_unit_name(unit):
            raise UsageError("unit.name", f"{unit!r} is not the name of a unit")
        opened = False
        try:
            # pystemd 0.15 asks for peer_to_peer, 0.13 has it as an option: both take it by position.
            with DBusAddress(self.address.encode(), False) as bus:  # noqa: FBT003
                opened = True
                yield bus
        except DBusBaseError as error:
            raise self._explain(error, unit, opened=opened) from error

    def _explain(self, error: DBusBaseError, unit: str | None, *, opened: bool) -> BacklineError:
        text = _words(error)
        if not opened:
            return BusError(
                "bus.unreachable", f"no answer from the bus at {self.address}", hint="is dbus.service running?"
            )
        if isinstance(error, DBusNoSuchUnitError | DBusFileNotFoundError) and unit is not None:
            return _unknown(unit)
        if isinstance(error, _DENIED):
            return BusError("bus.denied", f"systemd refused: {text}", hint="run it as root")
        if isinstance(error, DBusTimeoutError | DBusTimedOutError):
            return BusError("bus.late", "systemd did not answer in time")
        if isinstance(error, DBusInvalidArgsError):
            return UsageError("unit.arguments", f"systemd refused: {text}")
        if "already loaded" in text or "has a fragment file" in text:
            return BusyError("unit.exists", f"unit {unit} exists: {text}")
        return BusError("bus.failed", f"systemd refused: {text}")


def transient_properties(service: TransientService) -> dict[bytes, object]:
    """The D-Bus properties of a transient service. Raises UsageError("unit.properties")."""
    if not service.argv or not service.argv[0].startswith("/"):
        raise UsageError("unit.properties", "the program of a transient unit is an absolute path")
    argv = [word.encode() for word in service.argv]
    properties: dict[bytes, object] = {
        b"Description": (service.description or service.name).encode(),
        b"Type": b"oneshot" if service.oneshot else b"exec",
        b"ExecStart": [(argv[0], tuple(argv), False)],
    }
    if service.user is not None:
        properties[b"User"] = service.user.encode()
    if service.environment:
        properties[b"Environment"] = [f"{key}={value}".encode() for key, value in service.environment.items()]
    if service.working_directory is not None:
        properties[b"WorkingDirectory"] = service.working_directory.encode()
    if service.slice is not None:
        properties[b"Slice"] = service.slice.encode()
    if service.remain_after_exit:
        properties[b"RemainAfterExit"] = True
    properties.update(_named(service.properties))
    return properties


def _named(properties: Mapping[str, PropertyValue]) -> dict[bytes, object]:
    """Properties as pystemd takes them. Raises UsageError("unit.properties") for one that it does not know."""
    found: dict[bytes, object] = {}
    for key, value in properties.items():
        name = key.encode()
        if name not in cast(Mapping[bytes, object], KNOWN_UNIT_SIGNATURES):
            raise UsageError("unit.properties", f"pystemd does not know the property {key}")
        found[name] = _property(value)
    return found


def _property(value: PropertyValue) -> object:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, int):
        return value
    return [item.encode() for item in value]


def _call(bus: DBus, method: bytes, arguments: list[tuple[int, object]]) -> object:
    return cast(object, bus.call_method(_DESTINATION, _PATH, _MANAGER, method, arguments).body)


def _arguments(signature: bytes, values: list[object]) -> list[tuple[int, object]]:
    apply = cast(Callable[[bytes, list[object]], list[tuple[int, object]]], apply_signature)
    return apply(signature, values)


def _strings(values: Sequence[str]) -> list[tuple[int, object]]:
    return _arguments(b"as", [[value.encode() for value in values]])


def _words(error: DBusBaseError) -> str:
    raw = error.err_message  # bytes from the bus, text from pystemd itself
    return (_text(raw) if isinstance(raw, bytes) else str(raw)).strip() or type(error).__name__


def _plain(value: object) -> object:
    """A value of a property as JSON can hold it."""
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _octets(value: object) -> bytes:
    """An `ay` of pystemd: bytes, or a list of numbers or of single bytes."""
    if isinstance(value, bytes):
        return value
    return b"".join(item if isinstance(item, bytes) else bytes([item]) for item in cast(Sequence[int | bytes], value))


def _unknown(name: str) -> MissingError:
    return MissingError("unit.unknown", f"there is no unit {name}")
