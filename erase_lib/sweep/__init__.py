"""A grid of parameters → run folders → one table; starts without PyTorch."""

from erase_lib.sweep.notebook import finish, start

__all__ = ["finish", "start"]
