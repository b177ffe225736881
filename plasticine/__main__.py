"""``python -m plasticine``."""

from plasticine.cli import main

if __name__ == "__main__":
    main()
