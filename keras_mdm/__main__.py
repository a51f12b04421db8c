"""`python -m keras_mdm`: the same as the command `keras-mdm`."""

import sys

from keras_mdm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
