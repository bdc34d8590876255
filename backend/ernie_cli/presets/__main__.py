"""``python -m ernie_cli.presets model_repository`` writes the entries of the table."""

import sys
from pathlib import Path

from ernie_cli.presets.rows import ENTRIES, entry_parameters
from ernie_cli.triton.run_directory import write_entry

if __name__ == "__main__":
    for name in ENTRIES:
        write_entry(Path(sys.argv[1], name), entry_parameters(name))
