"""What builds the data and the embedded model, and what is timed; the workbook runs without."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from subprocess import CalledProcessError

from erase_lib.errors import EraseError

Main = Callable[[Sequence[str] | None], int | None]


def one_line(main: Main) -> Callable[..., int]:
    """A command line of which what went wrong is one line, and the exit status not 0: 1 for bad
    input, a file that cannot be read or written, or a run that failed; 130 for Ctrl-C."""

    @wraps(main)
    def ended(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments) or 0
        except KeyboardInterrupt:
            said, status = "interrupted; what is done is kept, start it again", 130
        except (EraseError, RuntimeError, CalledProcessError) as error:
            said, status = str(error), 1
        except OSError as error:
            said, status = f"{error.strerror or error}: {error.filename or 'a file'}", 1
        print(" ".join(said.split()), file=sys.stderr)
        return status

    return ended
