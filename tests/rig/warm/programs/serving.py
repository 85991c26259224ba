"""`python -m gateway`, as a warm interpreter runs it: it has imported before what serving takes."""

import gateway.app
import gateway.housekeeping
import gateway.server  # noqa: F401
from gateway.cli import main

if __name__ == "__main__":
    main()
