"""A grid of parameters → run folders → one table; starts without PyTorch."""

from erase_lib.sweep.grid import expand
from erase_lib.sweep.notebook import finish, settings, start
from erase_lib.sweep.run import DONE, run_notebook
from erase_lib.sweep.table import collect, question
