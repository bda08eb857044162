"""`python -m osremed`."""

import sys

from osremed.cli import main

sys.exit(main())
