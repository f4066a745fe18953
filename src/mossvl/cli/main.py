"""The command `mossvl`: its subcommands, and the error line and exit code of every failure."""

import errno
import io
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from mossvl.cli.ask import ask
from mossvl.cli.bench import bench
from mossvl.cli.doctor import doctor
from mossvl.cli.flags import with_flags
from mossvl.cli.frames import frames
from mossvl.cli.inspect import inspect
from mossvl.cli.quantize import quantize
from mossvl.cli.replay import replay
from mossvl.cli.report import report
from mossvl.cli.run import RunCommand, run
from mossvl.cli.serve import serve
from mossvl.cli.stopping import Stopped, stoppable
from mossvl.cli.train import merge, train
from mossvl.cli.watch import watch
from mossvl.errors import MossVLError

FAILED, MISUSED = 1, 2
BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended."""
PATIENCE = 1.0
"""Seconds to wait for threads that load media at exit."""


def complain(message: str) -> None:
    """Print an error as one line on stderr."""
    print(f"mossvl: error: {' '.join(message.split(chr(10)))}", file=sys.stderr)


class Commands(TyperGroup):
    """Turns expected errors into one line; only bugs print a traceback."""

    def invoke(self, ctx: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # The terminal's encoding may lack a character.
        try:
            with stoppable():
                return super().invoke(ctx)
        except MossVLError as error:
            complain(str(error))
            raise typer.Exit(MISUSED) from error
        except KeyboardInterrupt as error:
            complain("stopped" + "".join(f": {note}" for note in getattr(error, "__notes__", ())))
            raise typer.Exit(error.exit_code if isinstance(error, Stopped) else 130) from error
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":
                raise
            complain(f"out of memory; lower --max-frames, --max-pixels or --vision-chunked-length ({error})")
            raise typer.Exit(FAILED) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                _discard_stdout()
                raise typer.Exit(BROKEN_PIPE) from error
            complain(str(error))
            raise typer.Exit(FAILED) from error


def _discard_stdout() -> None:
    """Redirect a closed stdout, whose buffer would raise again when it is flushed at exit."""
    with suppress(io.UnsupportedOperation, ValueError):  # stdout is a buffer in memory.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


commands = typer.Typer(
    cls=Commands,
    name="mossvl",
    help="Ask MOSS-VL about images and videos.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (ask, watch, replay, run, serve, frames, inspect, train, merge, quantize, bench, report, doctor):
    commands.command(cls=RunCommand if command is run else None)(with_flags(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        from mossvl.version import __version__

        print(f"mossvl {__version__}")
        raise typer.Exit


@commands.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Ask MOSS-VL about images and videos."""


class Notes(logging.Formatter):
    """Begins the package's own warnings as all of its lines on stderr begin."""

    def format(self, record: logging.LogRecord) -> str:
        told = super().format(record)
        return f"mossvl: {told}" if record.name.partition(".")[0] == "mossvl" else told


def app() -> NoReturn:
    """Entry point of the installed command."""
    if logging.lastResort is not None:  # What is logged while nothing has set up a log, as a server does.
        logging.lastResort.setFormatter(Notes())
    code: int | str | None = 0
    try:
        commands(prog_name="mossvl")
    except SystemExit as ended:
        code = ended.code
    if code and _media_threads_linger():
        # At exit, Python would kill the threads within a decoder, which may abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else FAILED)
    sys.exit(code)


def _media_threads_linger() -> bool:
    """Whether threads that load media are still alive after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    lingering = [thread for thread in threading.enumerate() if thread.name == "mossvl-media"]
    for thread in lingering:
        thread.join(max(0, deadline - time.monotonic()))
    return any(thread.is_alive() for thread in lingering)
