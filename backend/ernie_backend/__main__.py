"""``python -m ernie_backend``: see ``process``."""

from __future__ import annotations

import sys

from ernie_backend.service.process import main

sys.exit(main())
