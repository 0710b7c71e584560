import sys

from angarium.testing.simulation.run import main

if __name__ == "__main__":
    sys.exit(main())
