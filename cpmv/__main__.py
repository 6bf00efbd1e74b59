"""`python -m cpmv` is the `cpmv` command."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
