"""The `cpmv` command: `main` finds the verb and turns mistakes into one line; a module a verb, imported when called."""
