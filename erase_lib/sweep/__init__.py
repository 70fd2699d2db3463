"""A grid of parameters → run folders → one table; starts without PyTorch."""

from erase_lib.doors import guard
from erase_lib.sweep.grid import expand, settings
from erase_lib.sweep.run import DONE, finish, git_commit, run_notebook, start
from erase_lib.sweep.table import collect, question

guard(__name__)
