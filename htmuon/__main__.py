"""`python -m htmuon`: the command line, where no script of that name is on the path, as under torchrun."""

import sys

from htmuon.cli import main

if __name__ == "__main__":
    sys.exit(main())
