"""`backline seat`: what units of a seat run."""

from __future__ import annotations

import argparse

from services.common.errors import Exit

SUMMARY = "what a seat tells netboot, and how users log in; its units and PAM run it"


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `backline seat`."""
    root = argparse.ArgumentParser(prog=prog, description="What a seat tells netboot, and how users log in.")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    text = "wait until the seat is up, then tell netboot so, with its ssh host key"
    commands.add_parser("report", help=text, description=text).set_defaults(run=_report)
    text = "tell netboot every 15 s how the seat is and who is logged in, and restart when it asks for that"
    commands.add_parser("heartbeat", help=text, description=text).set_defaults(run=_heartbeat)
    text = "one stage of a login, for pam_exec: asks presence, and opens the home; a password comes on standard input"
    commands.add_parser("login", help=text, description=text).set_defaults(run=_login)
    text = "open the lock of a user's screen, for pam_exec of a locker; the password comes on standard input"
    commands.add_parser("unlock", help=text, description=text).set_defaults(run=_unlock)
    text = "answer one locker, on the connection that is standard input; its socket's unit runs it"
    commands.add_parser("lock", help=text, description=text).set_defaults(run=_lock)
    text = "hold users to hall.toml's bandwidth on every network card, and have what the seat sends come first"
    commands.add_parser("bandwidth", help=text, description=text).set_defaults(run=_bandwidth)
    text = "show a new message of the day: start the greeter anew, unless somebody is there"
    commands.add_parser("message", help=text, description=text).set_defaults(run=_message)
    text = "log out whose sessions presence has ended, as the heartbeat was told"
    commands.add_parser("end", help=text, description=text).set_defaults(run=_end)
    text = "the home of a user: open it, close it, or close it when he has no session"
    home = commands.add_parser("home", help=text, description=text)
    home.add_argument("what", metavar="open|close|check", choices=("open", "close", "check"))
    home.add_argument("uid", metavar="UID", type=int)
    home.set_defaults(run=_home)
    return root


def _login(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.seat import login

    return login.main()


def _unlock(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.seat import lock

    return lock.main()


def _lock(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.seat import lock

    return lock.main_serve()


def _bandwidth(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.seat import bandwidth

    mbit = bandwidth.limit()
    found = bandwidth.cards()
    bandwidth.install(found, mbit)
    print(f"users send and receive {mbit} Mbit/s at most, on {', '.join(found) or 'no card'}")
    return int(Exit.OK)


def _message(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.seat import message

    shown = message.show()
    print("the greeter shows it" if shown else "somebody is there: the next greeter shows it")
    return int(Exit.OK)


def _end(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.common import log
    from services.seat import ended

    log.setup("backline-seat-end")
    return int(Exit.OK if ended.log_out() else Exit.FAILED)


def _home(arguments: argparse.Namespace) -> int:
    from services.common import log
    from services.seat import home

    log.setup("backline-seat-home")
    if arguments.what == "open":
        home.open_home(arguments.uid, home.Memory())
    elif arguments.what == "close":
        home.close_home(arguments.uid, home.Memory())
    elif home.check_home(arguments.uid):
        print(f"uid {arguments.uid} was let in and has no session: his home was closed")
    return int(Exit.OK)


def _report(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from services.seat import report

    boot = report.find_boot()
    if boot is None:
        print("netboot has not started this system: there is nobody to tell")
        return int(Exit.OK)
    system = report.wait_for_system()
    report.send(boot, report.document(system))
    print(f"netboot knows that boot {boot.id} is up ({system.detail})")
    return int(Exit.OK)


def _heartbeat(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    import signal

    from services.common import log
    from services.seat import report
    from services.seat.heartbeat import Heart

    log.setup("backline-seat-heartbeat")
    boot = report.find_boot()
    if boot is None:
        print("netboot has not started this system: there is nobody to tell")
        return int(Exit.OK)
    heart = Heart(boot)
    signal.signal(signal.SIGTERM, lambda *_: heart.stopped.set())
    heart.run()
    return int(Exit.OK)
