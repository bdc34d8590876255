"""``python -m ernie_backend.parallel``: one rank other than 0; see ``rank_worker``."""

from __future__ import annotations

import sys

from ernie_backend.parallel.rank_worker import main

sys.exit(main())
