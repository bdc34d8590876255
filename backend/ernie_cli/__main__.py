"""``python -m ernie_cli`` is the command ``ernie-triton``."""

from ernie_cli.main import main

if __name__ == "__main__":
    main()
