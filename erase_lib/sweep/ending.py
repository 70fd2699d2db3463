"""How a command ends: in one line where something went wrong, whatever its streams are."""

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from subprocess import CalledProcessError

from erase_lib.errors import EraseError
from erase_lib.files import handled

Main = Callable[[Sequence[str] | None], int | None]


def one_line(main: Main, bad: int = 1, name: str = "") -> Callable[..., int]:
    """A command line of which what went wrong is one line, and the exit status not 0: `bad` for bad
    input, a file that cannot be read or written, or a run that failed; 128 + a signal's."""

    @wraps(main)
    def ended(arguments: Sequence[str] | None = None) -> int:
        caught: list[int] = []

        def end(number: int, _: object) -> None:
            caught.append(number)
            if len(caught) == 1:  # another would cut short how it ends
                raise KeyboardInterrupt

        with _streams():
            try:
                with handled(end):
                    status = main(arguments) or 0
                    print(end="", flush=True)
                    return status
            except KeyboardInterrupt:
                said = "interrupted; what is done is kept, start it again"
                caught = caught or [signal.SIGINT]
            except BrokenPipeError:  # nobody reads on: `| head`
                return 141
            except OSError as error:
                said = f"{error.strerror or error}: {error.filename or 'a file'}"
            except (RuntimeError, CalledProcessError, ValueError) as error:
                said = str(error) or type(error).__name__
            print(name + str(EraseError(" ".join(said.split()))), file=sys.stderr)
            return 128 + caught[0] if caught else bad

    return ended


@contextmanager
def _streams() -> Iterator[None]:
    """Within the block stdout and stderr are there, and take every letter, in any locale."""
    if sys.stdout is None or sys.stderr is None:  # 2>&-: a notebook's kernel ends without
        # the other one; where neither is, a file that has no name and is gone in the end
        stream = sys.stdout or sys.stderr or tempfile.TemporaryFile("w")
        sys.stdout = sys.stderr = stream
        with suppress(OSError):  # a notebook's, which is no file
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
                os.set_inheritable(number, True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # Python would try again as it ends, and complain
                with suppress(OSError):
                    stream.close()
