"""``python -m ernie_cli.flags [DIRECTORY]`` writes the documents of the flags; default ``docs``."""

import sys
from pathlib import Path

from ernie_cli.flags.document import write_documents

if __name__ == "__main__":
    write_documents(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
