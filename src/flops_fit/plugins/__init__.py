"""The user's code: import it, call it, and identify it by its source and the files it reads."""
