"""`python -m mine_fast` is the command `mine-fast`."""

import sys

from mine_fast.cli import main

sys.exit(main())
