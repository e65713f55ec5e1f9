"""`python -m gradc`: the command line. Its code is in gradc.runtime.command."""

from gradc.runtime.command import main

if __name__ == "__main__":
    raise SystemExit(main())
