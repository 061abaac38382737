"""``python -m npadv`` is ``npadv``."""

import sys

from npadv.cli import main

if __name__ == "__main__":
    sys.exit(main())
