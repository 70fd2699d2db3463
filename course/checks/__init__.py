"""The checks of the exercises, out of the notebooks: a module a notebook, a function an exercise."""
