"""``python -m ernie_backend``: see ``process``."""

from __future__ import annotations

import sys

from ernie_backend.process import main

sys.exit(main())
