"""The checks of the exercises, a module a notebook and a function an exercise."""
