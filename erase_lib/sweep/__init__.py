"""A grid of parameters → run folders → one table; starts without PyTorch."""
